"""Control files and directories: the few operations on them, each as few system calls as it takes."""

from __future__ import annotations

import contextlib
import errno
import os

from capsa.errors import CapsaError, Conflict, InvalidArgument, Unsupported, reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from capsa.platform.linux.cgroup.hierarchy import Hierarchy
    from capsa.platform.linux.cgroup.setting import Setting

# v2 controllers that a container always gets, where they are available.
WANTED = ("cpu", "io", "memory", "pids")


def write(path: str, value: str) -> None:
    """Write a control file in one go."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, value.encode())
    finally:
        os.close(descriptor)


def read(path: str) -> str | None:
    """Its contents; ``None`` if there is no such file or it cannot be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        chunks = []
        while chunk := os.read(descriptor, 65536):
            chunks.append(chunk)
        return b"".join(chunks).decode()
    except OSError:  # ENODEV: removed meanwhile, EOPNOTSUPP: a threaded cgroup
        return None
    finally:
        os.close(descriptor)


def restore(before: Sequence[tuple[str, str]]) -> None:
    """Write back what stood in files, the last one first, as far as that goes."""
    for _ in range(2):  # values may bound one another
        for path, old in reversed(before):
            for line in old.splitlines():
                with contextlib.suppress(OSError):
                    write(path, line)


def refusal(path: str, directory: str, setting: Setting, file: str, value: str, error: OSError) -> CapsaError:
    """Why the kernel did not take a value, in a sentence."""
    text = f"{setting.wanted}: cannot set {file} of cgroup {path} to {value!r}: {reason(error)}"
    if error.errno in (errno.EPERM, errno.EACCES, errno.EROFS):
        return CapsaError(f"{text} (it needs root, and control groups mounted writable)")
    if error.errno == errno.EOPNOTSUPP:
        return Unsupported(f"{text} (this kernel does not have it)")
    hint = ""
    if file in ("cpuset.cpus", "cpuset.mems"):
        above = directory.rpartition("/")[0]
        have = (
            read(f"{above}/{file}.effective") or read(f"{above}/{file}") or read(f"{above}/cpuset.effective_{file[7:]}")
        )
        hint = f" (there are {have.strip()})" if have else ""
    elif file.startswith("memory.") and error.errno == errno.EBUSY:
        used = read(f"{directory}/memory.usage_in_bytes") or read(f"{directory}/memory.current")
        hint = f" ({used.strip()} bytes are in use)" if used else ""
    elif "weight_device" in file or "throttle" in file or file.startswith("io."):
        hint = " (is there such a block device, and does its scheduler have this?)"
    elif file.startswith("cpu."):
        hint = " (a period is 1000 to 1000000, a quota at least 1000, both in microseconds; a parent may allow less)"
    return InvalidArgument(text + hint)


def enter(directory: str, pid: int) -> None:
    """Move a process; raises `OSError`."""
    write(f"{directory}/cgroup.procs", str(pid))


def children(directory: str) -> list[str]:
    """The sub-cgroups; none if it does not exist."""
    try:
        # A directory has a link for each sub-directory, beside its own two.
        if os.stat(directory).st_nlink == 2:
            return []
        with os.scandir(directory) as entries:
            return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def pids(directory: str) -> list[int]:
    """Processes of a cgroup and all below; those of other pid namespaces (0) are left out."""
    found = {int(line) for line in (read(f"{directory}/cgroup.procs") or "").split()} - {0}
    for child in children(directory):
        found.update(pids(child))
    return sorted(found)


def populated(directory: str) -> bool:
    """Whether there are processes in it, in sub-cgroups, or invisible ones."""
    return bool((read(f"{directory}/cgroup.procs") or "").strip()) or any(map(populated, children(directory)))


def rmdir(directory: str) -> None:
    """Remove a cgroup if it is there and empty."""
    with contextlib.suppress(OSError):
        os.rmdir(directory)


def remove_children(directory: str) -> bool:
    """Remove all empty cgroups below; whether any was removed."""
    removed = False
    for child in children(directory):
        removed |= remove_children(child)
        with contextlib.suppress(OSError):
            os.rmdir(child)
            removed = True
    return removed


def make_parents(mount: str, directory: str, made: list[str]) -> None:
    """Make the missing cgroups on the way from ``mount`` to ``directory``, noting them in ``made``."""
    missing = []
    while len(directory) > len(mount) and not os.path.isdir(directory):
        missing.append(directory)
        directory = directory.rpartition("/")[0]
    for path in reversed(missing):
        try:
            os.mkdir(path, 0o755)
            made.append(path)
        except FileExistsError:  # another container of this engine was first
            pass
        except OSError as error:
            raise CapsaError(f"cannot make cgroup {path}: {reason(error)}") from error


def inherit_cpuset(mount: str, directory: str) -> None:
    """Give a new v1 cpuset the CPUs and memory nodes of its parent: an empty one lets nobody in."""
    if len(directory) <= len(mount):
        return
    parent = directory.rpartition("/")[0]
    for file in ("cpuset.cpus", "cpuset.mems"):
        if (read(f"{directory}/{file}") or "").strip():
            continue
        value = (read(f"{parent}/{file}") or "").strip()
        if not value:
            inherit_cpuset(mount, parent)
            value = (read(f"{parent}/{file}") or "").strip()
        write(f"{directory}/{file}", value)


def delegate(
    hierarchy: Hierarchy, parent: str, controllers: Iterable[str], made: list[str], required: bool = False
) -> None:
    """Enable v2 controllers in ``parent`` and above, for the cgroups below it, making it where it is missing.

    Those that are not available are left out, unless ``required``: then raises `Unsupported`, or `Conflict` where
    processes in a cgroup on the way forbid it.
    """
    wanted = [name for name in controllers if name in hierarchy.controllers]
    if required and not wanted:
        raise Unsupported(f"this machine has no cgroup controller {', '.join(controllers)!r}")
    if not wanted:
        return
    enabled = read(f"{parent}/cgroup.subtree_control")
    if enabled is not None and set(wanted) <= set(enabled.split()):
        return
    if len(parent) > len(hierarchy.mount):
        above = parent.rpartition("/")[0]
        delegate(hierarchy, above, wanted, made, required)
        if enabled is None:
            make_parents(hierarchy.mount, parent, made)
    have = (enabled or "").split()
    _enable(hierarchy, parent, [name for name in wanted if name not in have], required)


# A cgroup with processes cannot give controllers to those below (no internal processes); the second one is what the
# kernel says where it already gave some that can.
_IN_THE_WAY = (errno.EBUSY, errno.EOPNOTSUPP)


def _enable(hierarchy: Hierarchy, directory: str, controllers: Sequence[str], required: bool) -> None:
    file = f"{directory}/cgroup.subtree_control"
    words = " ".join(f"+{name}" for name in controllers)
    try:
        try:
            write(file, words)
        except OSError as error:
            if error.errno not in _IN_THE_WAY or directory != hierarchy.mount:
                raise
            # The root that we see is that of a cgroup namespace (we are in a container ourselves): its processes have
            # to be in a leaf before anything below it can be limited.
            _evacuate(directory)
            write(file, words)
    except OSError as error:
        if error.errno in _IN_THE_WAY:
            raise Conflict(
                f"cannot enable {', '.join(controllers)} below cgroup {directory}: it has processes of its own"
                " (choose another cgroup path)"
            ) from error
        if required or error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise Unsupported(
                f"cannot enable {', '.join(controllers)} below cgroup {directory}: {reason(error)}"
            ) from error
        if len(controllers) > 1:
            for name in controllers:
                _enable(hierarchy, directory, [name], required)


def _evacuate(directory: str) -> None:
    leaf = f"{directory}/init"
    with contextlib.suppress(FileExistsError):
        os.mkdir(leaf, 0o755)
    for _ in range(10):
        left = (read(f"{directory}/cgroup.procs") or "").split()
        if not left:
            return
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                enter(leaf, int(pid))
