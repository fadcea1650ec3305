"""The container's process (config.md, Process): user, groups, limits, working directory, scheduling, and ``execve``."""

from __future__ import annotations

import contextlib
import errno
import os
import signal

from capsa.errors import InvalidArgument, LaunchFailed, reason
from capsa.oci.runtime import IOPriority, MemoryPolicy, Personality, Process, Rlimit, Scheduler, User
from capsa.platform.linux import capabilities, labels
from capsa.sys import credentials, schedule
from capsa.sys import process as calls

MOST_LISTED = 8192  # processors and memory nodes that a kernel may know
_DAC_OVERRIDE = capabilities.mask(["CAP_DAC_OVERRIDE"])
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def check(process: Process) -> None:
    """Refuse what cannot be meant, or what this kernel lacks; raises `CapsaError`."""
    if not process.args:
        raise InvalidArgument("the process has no args: name the program to run")
    for what, words in (("args", process.args), ("env", process.env)):
        for word in words:
            if "\0" in word:
                raise InvalidArgument(f"process.{what} has a zero byte: {word!r}")
    if not process.cwd.startswith("/") or "\0" in process.cwd:
        raise InvalidArgument(f"process.cwd has to be an absolute path, not {process.cwd!r}")
    labels.check(process)
    for limit in process.rlimits:
        _rlimit(limit)
    if process.scheduler is not None:
        _scheduler(process.scheduler)
    if process.io_priority is not None:
        _io_class(process.io_priority)


# ---- limits and scheduling ----


def _rlimit(limit: Rlimit) -> int:
    number = calls.RLIMITS.get(limit.type)
    if number is None:
        raise InvalidArgument(f"unknown resource limit {limit.type!r} (they are written like RLIMIT_NOFILE)")
    return number


def limit(rlimits: list[Rlimit], pid: int = 0) -> None:
    """Set the resource limits of a process, 0 for one's own; raises `LaunchFailed` naming the one that is refused."""
    for wanted in rlimits:
        try:
            calls.prlimit(pid, _rlimit(wanted), _signed(wanted.soft), _signed(wanted.hard))
        except OSError as error:
            why = "the soft limit is above the hard one" if error.errno == errno.EINVAL else reason(error)
            raise LaunchFailed(f"cannot set {wanted.type} to {wanted.soft}:{wanted.hard}: {why}") from error


def _signed(value: int) -> int:
    """Infinity is all ones in the specification; whatever is near it is meant so, too."""
    return -1 if value >= 1 << 63 or value < 0 else value


def _scheduler(wanted: Scheduler) -> tuple[int, int]:
    try:
        flags = sum(schedule.FLAGS[flag] for flag in wanted.flags)
        return schedule.POLICIES[wanted.policy], flags
    except KeyError as error:
        raise InvalidArgument(f"unknown scheduler policy or flag {error.args[0]!r}") from None


def _io_class(wanted: IOPriority) -> int:
    if wanted.class_ not in schedule.IO_CLASSES or not 0 <= wanted.priority <= 7:
        raise InvalidArgument(f"unknown I/O priority {wanted.class_} {wanted.priority}: a class and 0 to 7 are needed")
    return schedule.IO_CLASSES[wanted.class_]


def arrange(process: Process) -> None:
    """Scheduler and I/O priority of the calling process; raises `LaunchFailed`."""
    try:
        if process.scheduler is not None:
            policy, flags = _scheduler(process.scheduler)
            schedule.sched_setattr(
                policy,
                flags=flags,
                nice=process.scheduler.nice,
                priority=process.scheduler.priority,
                runtime=process.scheduler.runtime,
                deadline=process.scheduler.deadline,
                period=process.scheduler.period,
            )
        if process.io_priority is not None:
            schedule.ioprio_set(_io_class(process.io_priority), process.io_priority.priority)
    except OSError as error:
        raise LaunchFailed(f"cannot set the process's scheduling: {reason(error)} ({error.filename})") from error


def listed(text: str, what: str) -> set[int]:
    """The numbers of a list such as ``0-3,7`` of ``what``; raises `InvalidArgument`."""
    found: set[int] = set()
    try:
        for part in text.split(","):
            first, _, last = part.strip().partition("-")
            numbers = range(int(first), int(last or first) + 1)
            if not numbers or not 0 <= numbers[0] <= numbers[-1] < MOST_LISTED:
                raise ValueError
            found.update(numbers)
    except ValueError:
        raise InvalidArgument(f"{text!r} is no list of {what} (such as 0-3,7)") from None
    return found


def pin(text: str) -> None:
    """Run on these processors only (``execCPUAffinity``); raises `LaunchFailed`."""
    try:
        os.sched_setaffinity(0, listed(text, "processors"))
    except OSError as error:
        raise LaunchFailed(f"cannot run on the processors {text}: {reason(error)}") from error


def memory_policy(wanted: MemoryPolicy) -> None:
    """Say on which NUMA nodes its memory is to be; raises `CapsaError` (config-linux.md, Memory policy)."""
    unknown = [flag for flag in wanted.flags if flag not in schedule.MEMORY_FLAGS]
    if unknown or wanted.mode not in schedule.MEMORY_POLICIES:
        raise InvalidArgument(f"unknown memoryPolicy {' '.join([wanted.mode, *unknown])!r}: see set_mempolicy(2)")
    mode = schedule.MEMORY_POLICIES[wanted.mode]
    for flag in wanted.flags:
        mode |= schedule.MEMORY_FLAGS[flag]
    nodes = listed(wanted.nodes, "memory nodes") if wanted.nodes else ()
    try:
        schedule.set_mempolicy(mode, nodes)
    except OSError as error:
        about = " of nodes " + wanted.nodes if wanted.nodes else ""
        raise LaunchFailed(f"cannot set the memory policy {wanted.mode}{about}: {reason(error)}") from error


def personality(wanted: Personality) -> None:
    """Set the execution domain; raises `CapsaError`."""
    if wanted.domain not in schedule.PERSONALITIES or wanted.flags:
        raise InvalidArgument(f"unknown personality {' '.join([wanted.domain, *wanted.flags])!r}: use LINUX or LINUX32")
    try:
        schedule.personality(schedule.PERSONALITIES[wanted.domain])
    except OSError as error:
        raise LaunchFailed(f"cannot set the personality {wanted.domain}: {reason(error)}") from error


# ---- user and directory ----


def become(user: User, sets: capabilities.Sets) -> None:
    """Change to the user, its groups and the capabilities; raises `LaunchFailed`."""
    try:
        capabilities.limit_bounding(sets)
        credentials.keep_capabilities(True)
        if user.additional_gids or _may_set_groups():
            credentials.setgroups(user.additional_gids)
        credentials.setresgid(user.gid)
        credentials.setresuid(user.uid)
        capabilities.apply(sets)
        credentials.keep_capabilities(False)
    except OSError as error:
        raise LaunchFailed(f"cannot become user {user.uid}:{user.gid}: {reason(error)} ({error.filename})") from error


def _may_set_groups() -> bool:
    """An unprivileged user namespace may have given up setgroups; then having none is all one can have."""
    return len(os.getgroups()) > 0


def own_streams(uid: int) -> None:
    """Let the user reopen its standard streams (``/dev/stdout``): pipes and terminals become its own."""
    for fd in (0, 1, 2):
        try:
            found = os.fstat(fd)
            if found.st_uid != uid and found.st_rdev != os.makedev(1, 3):
                os.fchown(fd, uid, -1)
        except OSError as error:
            if error.errno not in (errno.EBADF, errno.EPERM, errno.EROFS, errno.EINVAL):
                raise


def try_directory(path: str, make: bool) -> bool:
    """Go to ``path``, as root; False if only the process's own user may know whether it can. ``make``: if it is not
    there.

    Raises `LaunchFailed`. Expects that no descriptor is open that leads out (``/proc/self/fd/7``).
    """
    try:
        try:
            os.chdir(path)
        except FileNotFoundError:
            if not make:
                raise
            os.makedirs(path, 0o755)
            os.chdir(path)
    except PermissionError:
        return False
    except OSError as error:
        raise _no_directory(path, error) from error
    _inside(path)
    return True


def _no_directory(path: str, error: OSError) -> LaunchFailed:
    code = 127 if error.errno == errno.ENOENT else 126
    return LaunchFailed(f"cannot use {path} as working directory: {reason(error)} (chdir)", code)


def change_directory(path: str) -> None:
    """Go to ``path`` as the process's own user; raises `LaunchFailed`."""
    try:
        os.chdir(path)
    except OSError as error:
        raise _no_directory(path, error) from error
    _inside(path)


def _inside(path: str) -> None:
    """The kernel calls a directory that cannot be reached from the root ``(unreachable)``, libc an error."""
    try:
        inside = os.getcwd().startswith("/")
    except OSError:
        inside = False
    if not inside:
        raise LaunchFailed(f"the working directory {path} is outside of the container's root")


# ---- execution ----


def environment(process: Process) -> list[str]:
    """``env`` with HOME added if it is missing, from the container's /etc/passwd; of equal names the last one counts.

    Programs would take the first one, and ``exec --env`` could change nothing that the container has.
    """
    found = {word.partition("=")[0]: word for word in process.env}
    if "HOME" not in found:
        found["HOME"] = f"HOME={_home(process.user.uid)}"
    return list(found.values())


def _home(uid: int) -> str:
    """The home directory of ``uid``; the file is the image's, so it is read with suspicion."""
    try:
        fd = os.open("/etc/passwd", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            data = os.read(fd, 1 << 20)
        finally:
            os.close(fd)
    except OSError:
        return "/"
    wanted = str(uid)
    for line in data.decode(errors="replace").splitlines():
        fields = line.split(":")
        if len(fields) >= 6 and fields[2] == wanted and fields[5].startswith("/"):
            return fields[5]
    return "/"


def candidates(name: str, env: list[str]) -> list[str]:
    """Where to look for program ``name``: itself if it has a slash, else in the directories of PATH."""
    if "/" in name:
        return [name]
    search = next((word[5:] for word in reversed(env) if word.startswith("PATH=")), DEFAULT_PATH)
    return [f"{directory or '.'}/{name}" for directory in search.split(":")]


def find(name: str, env: list[str], cwd: str) -> None:
    """Say early that a program does not exist; raises `LaunchFailed`. The last word has `execute`.

    Expects the container's root; relative paths start at ``cwd``.
    """
    if not any(os.path.lexists(os.path.join(cwd, path)) for path in candidates(name, env)):
        raise _missing(name)


def foresee(wanted: Process, sets: capabilities.Sets, env: list[str]) -> None:
    """Say early why the program could not be executed, as far as that can be told; raises `LaunchFailed`.

    Who creates a container and starts it in two steps expects this of the first (runtime.md, Create), and dockerd and
    podman make their exit codes 126 and 127 of it. Expects the container's root; the last word has `execute`.
    """
    try_directory(wanted.cwd, make=True)
    os.chdir("/")
    paths = [os.path.join(wanted.cwd, path) for path in candidates(wanted.args[0], env)]
    user = wanted.user
    with contextlib.ExitStack() as stack:
        if user.uid and not sets.effective & _DAC_OVERRIDE:
            try:
                stack.enter_context(credentials.real_ids(user.uid, user.gid, user.additional_gids))
            except OSError:
                return
        if any(os.path.isfile(path) and os.access(path, os.X_OK) for path in paths):
            return
    name = wanted.args[0]
    if not any(os.path.exists(path) for path in paths):
        raise _missing(name)
    if "/" in name and os.path.isdir(paths[0]):
        raise _directory(name)
    raise LaunchFailed(f'exec: "{name}": permission denied', 126)


def _directory(name: str) -> LaunchFailed:
    return LaunchFailed(f'exec: "{name}": is a directory: permission denied', 126)


def _missing(name: str) -> LaunchFailed:
    if "/" in name:
        return LaunchFailed(f'exec: "{name}": stat {name}: no such file or directory', 127)
    return LaunchFailed(f'exec: "{name}": executable file not found in $PATH', 127)


def reset_signals() -> None:
    """What is ignored or blocked stays so over ``execve``: undo what Python and the caller did."""
    calls.default_signals()
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def execute(args: list[str], env: list[str]) -> None:
    """Replace the process; returns only by raising `LaunchFailed` with code 126 or 127."""
    name = args[0]
    refusal: OSError | None = None
    for path in candidates(name, env):
        try:
            calls.execve(path, args, env)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR) and os.path.isfile(path):
                raise LaunchFailed(f'exec: "{path}": its interpreter is missing: {reason(error)}', 127) from error
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                continue
            refusal = refusal or error
            if error.errno != errno.EACCES:
                break
    if refusal is None:
        raise _missing(name)
    if refusal.errno == errno.EACCES and "/" in name and os.path.isdir(name):
        raise _directory(name)
    code = 126 if refusal.errno in (errno.EACCES, errno.EPERM, errno.ENOEXEC, errno.ELOOP, errno.ETXTBSY) else 128
    raise LaunchFailed(f'exec: "{name}": {reason(refusal)}', code)
