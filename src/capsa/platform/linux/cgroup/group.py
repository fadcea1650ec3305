"""A container's cgroup, in every hierarchy at once."""

from __future__ import annotations

import contextlib
import errno
import os
import time

from capsa.errors import CapsaError, Conflict, InvalidArgument, NotFound, Unsupported, reason
from capsa.platform.linux.cgroup import bpf, devices, files, kill, oom, plan
from capsa.platform.linux.cgroup.hierarchy import Hierarchy, Layout, layout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from capsa.oci.runtime import DeviceRule, Resources
    from capsa.platform.linux.cgroup.setting import Setting
    from capsa.platform.linux.cgroup.stats import Stats

_REMOVAL = 5.0  # seconds that remove() waits for processes that are about to end


class Mount:
    """A hierarchy to show to a container: mounted as ``cgroup2``, or as ``cgroup`` with ``options`` (``cpu,cpuacct``).

    ``name`` is its directory below ``/sys/fs/cgroup`` (empty where v2 alone is used: then it is that directory itself),
    ``source`` the container's own cgroup, as a directory of the host.
    """

    __slots__ = ("name", "options", "source", "version")

    def __init__(self, version: int, name: str, options: str, source: str) -> None:
        self.version = version
        self.name = name
        self.options = options
        self.source = source


class Entry:
    """The way into a cgroup for the calling process, opened beforehand.

    Moving a process makes the kernel wait for an RCU grace period, about 10 ms, with two exceptions: on v1 a single
    thread that moves itself (0.2 ms for all hierarchies), on v2 being born there (``CLONE_INTO_CGROUP`` with
    `Cgroup.fd`). So the parent makes the entry, clones into `Cgroup.fd`, and the child calls ``join(unified=False)``
    while it has a single thread and before it does ``unshare(CLONE_NEWCGROUP)``. It also works in a child that is in a
    new user namespace: the kernel asks who opened the files.
    """

    def __init__(self, v1: list[int], v2: int | None) -> None:
        self._v1, self._v2 = v1, v2

    def join(self, unified: bool = True) -> None:
        """Move the calling thread, the only one of its process; ``unified=False`` after ``CLONE_INTO_CGROUP``.

        Raises `CapsaError`, naming the cgroup.
        """
        descriptors = self._v1
        if unified and self._v2 is not None:
            descriptors = [*descriptors, self._v2]
        for descriptor in descriptors:
            try:
                os.write(descriptor, b"0")
            except OSError as error:
                where = os.readlink(f"/proc/self/fd/{descriptor}").rpartition("/")[0]
                raise CapsaError(f"cannot enter cgroup {where}: {reason(error)}") from error

    def close(self) -> None:
        """Close its files; they are close-on-exec."""
        for descriptor in self._v1:
            os.close(descriptor)
        if self._v2 is not None:
            os.close(self._v2)
        self._v1, self._v2 = [], None

    def __enter__(self) -> Entry:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Cgroup:
    """The cgroup ``path`` (``/capsa/ID``) in all hierarchies of the machine that a container needs.

    Made by `create` or `open`. A hierarchy outside of the core (cpuset, hugetlb, …) is joined once something is asked
    of it.
    Methods raise `CapsaError` (`InvalidArgument`, `Unsupported`, `Conflict`, `NotFound`) with the file and the value in
    the message.
    """

    def __init__(self, path: str, where: Layout) -> None:
        self.path = normalised(path)
        self.layout = where
        self._fd: int | None = None

    # ---- making ----

    @classmethod
    def create(
        cls,
        path: str,
        resources: Resources | None = None,
        where: Layout | None = None,
        *,
        everywhere: bool = False,
    ) -> Cgroup:
        """Make it and apply ``resources``; nothing is left of it after an error. ``everywhere``: in all hierarchies.

        An empty cgroup of that name is replaced; one with processes or sub-cgroups is a `Conflict`.
        """
        cgroup = cls(path, where or layout())
        cgroup._create(resources, everywhere=everywhere, taken=False)
        return cgroup

    @classmethod
    def take(cls, path: str, resources: Resources | None = None, where: Layout | None = None) -> Cgroup:
        """`create`, everywhere, for one that a service manager has made: what is there of it stays, with its processes.

        Raises `NotFound` where nothing is.
        """
        cgroup = cls.open(path, where)
        cgroup._create(resources, everywhere=True, taken=True)
        return cgroup

    def _create(self, resources: Resources | None, *, everywhere: bool, taken: bool) -> None:
        made: list[str] = []
        try:
            for hierarchy in self.layout.all:
                if (everywhere or hierarchy.joined) and not (taken and os.path.isdir(self.directory(hierarchy))):
                    self._make(hierarchy, made)
            settings = plan.plan(resources, self.layout, lambda file: None) if resources is not None else []
            self._apply(settings, made)
            self._limit_devices(resources.devices if resources is not None else [], fresh=True)
        except BaseException:
            self.close()
            for directory in reversed(made):
                files.rmdir(directory)
            raise

    @classmethod
    def open(cls, path: str, where: Layout | None = None) -> Cgroup:
        """One that exists; raises `NotFound`."""
        cgroup = cls(path, where or layout())
        if not cgroup.exists():
            raise NotFound(f"no such cgroup: {cgroup.path}")
        return cgroup

    def exists(self) -> bool:
        """Whether it is there in any hierarchy."""
        return any(os.path.isdir(self.directory(hierarchy)) for hierarchy in self.layout.all)

    def directory(self, hierarchy: Hierarchy) -> str:
        """Its directory in a hierarchy, whether or not it exists."""
        return hierarchy.mount + self.path

    def _make(self, hierarchy: Hierarchy, made: list[str]) -> None:
        directory = self.directory(hierarchy)
        parent = directory.rpartition("/")[0]
        if hierarchy.version == 2:
            files.delegate(hierarchy, parent, files.WANTED, made)
        try:
            os.mkdir(directory, 0o755)
        except FileNotFoundError:
            files.make_parents(hierarchy.mount, parent, made)
            os.mkdir(directory, 0o755)
        except FileExistsError:
            if files.populated(directory) or files.children(directory):
                raise Conflict(f"cgroup {self.path} is in use already ({directory}); choose another one") from None
            files.rmdir(directory)
            os.mkdir(directory, 0o755)
        except OSError as error:
            raise CapsaError(f"cannot make cgroup {directory}: {reason(error)}") from error
        made.append(directory)
        if "cpuset" in hierarchy.controllers and hierarchy.version == 1:
            files.inherit_cpuset(hierarchy.mount, directory)

    def _adopt(self, hierarchy: Hierarchy, made: list[str]) -> None:
        """Join a hierarchy with all processes that are in the others already."""
        self._make(hierarchy, made)
        moved: set[int] = set()
        while new := set(self.pids()) - moved:
            for pid in new:
                files.enter(self.directory(hierarchy), pid)
            moved |= new

    # ---- limits ----

    def update(self, resources: Resources) -> None:
        """Apply other limits; what ``resources`` does not mention stays. After an error all is as before."""
        with_devices = bool(resources.devices)
        settings = plan.plan(resources, self.layout, self.read)
        if resources.memory is not None and resources.memory.check_before_update and resources.memory.limit:
            used = self.stats().memory.usage
            if 0 < resources.memory.limit < used:
                raise InvalidArgument(f"memory.limit: {resources.memory.limit} is below what is in use, {used} bytes")
        before: list[tuple[str, str]] = []
        made: list[str] = []
        try:
            self._apply(settings, made, before)
            if with_devices:
                self._limit_devices(resources.devices, fresh=False)
        except BaseException:
            files.restore(before)
            raise

    def read(self, file: str) -> str | None:
        """What a control file says, in whichever hierarchy has it; ``None`` if none does."""
        for hierarchy in self.layout.all:
            text = files.read(f"{self.directory(hierarchy)}/{file}")
            if text is not None:
                return text.strip()
        return None

    def _apply(self, settings: Iterable[Setting], made: list[str], before: list[tuple[str, str]] | None = None) -> None:
        """Write settings; those refused are tried again after the others, as some bound one another."""
        pending = list(settings)
        last: CapsaError | None = None
        while pending:
            refused: list[Setting] = []
            for setting in pending:
                try:
                    self._write(setting, made, before)
                except InvalidArgument as error:
                    refused.append(setting)
                    last = last if len(refused) > 1 else error
            if last is not None and len(refused) == len(pending):
                raise last
            pending, last = refused, None

    def _write(self, setting: Setting, made: list[str], before: list[tuple[str, str]] | None) -> None:
        controller = setting.controller
        # Files of the core itself (cgroup.max.depth), as `unified` may name them.
        hierarchy = self.layout.v2 if controller == "cgroup" else self.layout.where(controller)
        if hierarchy is None:
            if setting.optional:
                return
            raise Unsupported(f"{setting.wanted}: this machine has no cgroup controller {controller!r} (leave it out)")
        directory = self.directory(hierarchy)
        if hierarchy.version == 2 and controller not in files.WANTED and controller != "cgroup":
            files.delegate(hierarchy, directory.rpartition("/")[0], (controller,), made, required=True)
        elif not hierarchy.core and not os.path.isdir(directory):
            self._adopt(hierarchy, made)
        for file, value in setting.choices:
            path = f"{directory}/{file}"
            old = files.read(path) if before is not None else None
            try:
                files.write(path, value)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise files.refusal(self.path, directory, setting, file, value, error) from error
            if before is not None and old is not None:
                before.append((path, old))
            return
        if not setting.optional:
            raise Unsupported(
                f"{setting.wanted}: this kernel has no {' nor '.join(file for file, _ in setting.choices)}"
                f" (cgroup {self.path})"
            )

    def _limit_devices(self, wanted: Sequence[DeviceRule], fresh: bool) -> None:
        rules = devices.effective(wanted)
        hierarchy = self.layout.first("devices")
        if hierarchy is not None:
            devices.limit(self.directory(hierarchy), rules, fresh)
            return
        descriptor = self.fd
        if descriptor is None or (fresh and devices.unrestricted(rules)):
            return
        try:
            if devices.unrestricted(rules):
                bpf.detach(descriptor)
            else:
                (bpf.first if fresh else bpf.attach)(descriptor, devices.program(rules))
        except OSError as error:
            raise Unsupported(
                f"cannot limit the devices of cgroup {self.path}: {error.filename}: {reason(error)} (it needs"
                " CAP_SYS_ADMIN and CONFIG_CGROUP_BPF)"
            ) from error

    # ---- processes ----

    @property
    def fd(self) -> int | None:
        """A file descriptor of its v2 directory, for ``CLONE_INTO_CGROUP``; ``None`` on pure v1.

        On a hybrid machine the v1 hierarchies are still to be entered (`entry`). It is closed by `close`.
        """
        if self._fd is None and self.layout.v2 is not None:
            try:
                self._fd = os.open(self.directory(self.layout.v2), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except FileNotFoundError:
                return None
        return self._fd

    def close(self) -> None:
        """Close `fd`; the cgroup stays."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def entry(self) -> Entry:
        """Open the way in for a process that is about to be made; raises `NotFound`."""
        v1: list[int] = []
        unified: int | None = None
        try:
            for hierarchy in self.layout.v1:
                try:
                    # "tasks" rather than "cgroup.procs": only for a single thread the kernel skips the wait.
                    v1.append(os.open(f"{self.directory(hierarchy)}/tasks", os.O_WRONLY | os.O_CLOEXEC))
                except FileNotFoundError:
                    if hierarchy.core:
                        raise
            if self.layout.v2 is not None:
                unified = os.open(f"{self.directory(self.layout.v2)}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
        except OSError as error:
            Entry(v1, unified).close()
            raise NotFound(f"cannot enter cgroup {self.path}: {error.filename}: {reason(error)}") from error
        return Entry(v1, unified)

    def join(self) -> None:
        """Move the calling, single-threaded process into it."""
        with self.entry() as entry:
            entry.join()

    def add(self, pid: int) -> None:
        """Move process ``pid`` into it with all threads. Takes some 10 ms: see `Entry` for the fast way."""
        for hierarchy in self.layout.all:
            try:
                files.enter(self.directory(hierarchy), pid)
            except FileNotFoundError as error:
                if hierarchy.core:
                    raise NotFound(f"no such cgroup: {self.directory(hierarchy)}") from error
            except ProcessLookupError as error:
                raise NotFound(f"no such process: {pid}") from error
            except OSError as error:
                raise CapsaError(
                    f"cannot move process {pid} into cgroup {self.directory(hierarchy)}: {reason(error)}"
                ) from error

    def pids(self) -> list[int]:
        """All its processes, those in sub-cgroups too, as ids of the caller's pid namespace; none if it is gone."""
        hierarchy = self.layout.v2 or self.layout.first("pids") or self.layout.v1[0]
        return files.pids(self.directory(hierarchy))

    def freeze(self) -> None:
        """Stop all processes; returns when they are; if some do not within seconds, thaws and raises `Conflict`."""
        kill.freeze(self._freezer())

    def thaw(self) -> None:
        """Let them go on."""
        kill.thaw(self._freezer())

    def frozen(self) -> bool:
        """Whether it is frozen, or about to be."""
        return kill.frozen(self._freezer())

    def freezer(self) -> str:
        """The file that says ``1`` (v2), ``FROZEN`` or ``FREEZING`` (v1) while it is frozen; it need not be there."""
        if self.layout.v2 is not None:
            path = f"{self.directory(self.layout.v2)}/cgroup.freeze"
            if os.path.exists(path):
                return path
        hierarchy = self.layout.first("freezer")
        return f"{self.directory(hierarchy)}/freezer.state" if hierarchy is not None else ""

    def kill(self) -> None:
        """Send SIGKILL to every process in it, also while frozen; returns at once, they end soon."""
        if self.layout.v2 is not None and kill.at_once(self.directory(self.layout.v2)):
            return
        kill.one_by_one(self.pids, self._freezer() if self.exists() else "")

    def _freezer(self) -> str:
        """The directory in which to freeze: v2, else v1's freezer."""
        if self.layout.v2 is not None:
            directory = self.directory(self.layout.v2)
            if os.path.exists(f"{directory}/cgroup.freeze"):
                return directory
        hierarchy = self.layout.first("freezer")
        if hierarchy is None:
            raise Unsupported(f"cannot freeze cgroup {self.path}: neither cgroup v2 nor a freezer is mounted")
        directory = self.directory(hierarchy)
        if not os.path.isdir(directory):
            self._adopt(hierarchy, [])
        return directory

    # ---- looking ----

    def stats(self) -> Stats:
        """What it uses and may use."""
        from capsa.platform.linux.cgroup import stats  # few processes ever ask

        return stats.collect(self.path, self.layout)

    def oom_kills(self) -> int:
        """How many of its processes the kernel has ended for lack of memory."""
        hierarchy = self.layout.where("memory")
        return oom.kills(hierarchy.version, self.directory(hierarchy)) if hierarchy is not None else 0

    def oom_watch(self) -> int | None:
        """A non-blocking file descriptor that becomes readable when that number may have grown (also at removal).

        Read it empty (4096 bytes at once), then ask `oom_kills`. ``None`` without a memory controller.
        """
        hierarchy = self.layout.where("memory")
        return oom.watch(hierarchy.version, self.directory(hierarchy)) if hierarchy is not None else None

    def mounts(self) -> list[Mount]:
        """The hierarchies it is in, to be shown in a container."""
        found = []
        for hierarchy in self.layout.all:
            source = self.directory(hierarchy)
            if not os.path.isdir(source):
                continue
            options = f"none,name={hierarchy.name}" if hierarchy.name else ",".join(hierarchy.controllers)
            if hierarchy.version == 2:
                found.append(Mount(2, "unified" if self.layout.v1 else "", "", source))
            else:
                found.append(Mount(1, hierarchy.mount.rpartition("/")[2], options, source))
        return found

    # ---- removing ----

    def remove(self) -> None:
        """Remove it and its sub-cgroups, waiting a little for processes that are ending; fine if it is gone.

        Raises `Conflict` if processes are left.
        """
        self.close()
        deadline = 0.0
        pause = 0.0005
        for hierarchy in self.layout.all:
            directory = self.directory(hierarchy)
            while True:
                try:
                    os.rmdir(directory)
                    break
                except FileNotFoundError:
                    break
                except OSError as error:
                    if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
                        raise CapsaError(f"cannot remove cgroup {directory}: {reason(error)}") from error
                    if files.remove_children(directory):
                        continue
                    now = time.monotonic()
                    deadline = deadline or now + _REMOVAL
                    if now > deadline:
                        left = ", ".join(map(str, files.pids(directory)[:10])) or "none that is visible here"
                        raise Conflict(f"cgroup {directory} still has processes: {left} (end them first)") from error
                    time.sleep(pause)
                    pause = min(pause * 2, 0.05)


def prime() -> None:
    """What each process that makes cgroups would do first, done once in the one that forks them.

    Finds the hierarchies; on v2 loads the device program of a container without rules of its own, which then is shared.
    """
    found = layout()
    if found.v2 is not None and found.first("devices") is None:
        with contextlib.suppress(OSError):  # whoever really needs it reports that
            bpf.keep(devices.program(devices.effective([])))


def remove_parent(path: str, where: Layout | None = None) -> None:
    """Remove the cgroup ``path`` (``/capsa``) from each hierarchy in which it is empty."""
    path = normalised(path)
    for hierarchy in (where or layout()).all:
        files.rmdir(hierarchy.mount + path)


def normalised(path: str) -> str:
    """A cgroup path from a specification, as an absolute one below the mount points.

    A relative one counts from there as well, so that the same value always means the same place (config-linux.md,
    Cgroups Path). Raises `InvalidArgument` for one that leads elsewhere or to the root.
    """
    parts: Sequence[str] = [part for part in path.split("/") if part not in ("", ".")]
    if not parts or ".." in parts or any(char in path for char in "\0\n"):
        raise InvalidArgument(f"cgroup path {path!r} does not name a cgroup below the root (write it like /capsa/NAME)")
    return "/" + "/".join(parts)
