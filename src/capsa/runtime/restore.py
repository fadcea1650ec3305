"""``restore``: a container goes on from where ``checkpoint`` has written it down."""

from __future__ import annotations

import contextlib
import os
import stat

from capsa.errors import CapsaError, InvalidArgument, LaunchFailed, NotFound, Unsupported, reason
from capsa.platform.linux import hooks, idmap, inroot
from capsa.platform.linux.criu import client, mounts
from capsa.platform.linux.criu.client import Kind
from capsa.runtime import console, creation, images
from capsa.runtime.container import Container, process_began
from capsa.runtime.verb import Verb
from capsa.sys import mount as mounting
from capsa.sys import namespace
from capsa.sys import path as paths
from capsa.sys.namespace import FLAGS
from capsa.sys.netlink import Netlink
from capsa.vfs.compile import DEFAULT_DEVICES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from capsa.cli.options import Options
    from capsa.oci.runtime import Spec
    from capsa.platform.linux.cgroup import Cgroup
    from capsa.platform.linux.criu.wire import Value
    from capsa.runtime.verb import Settings

_TABLE = """
      --auto-dedup                   Free images as they are read
  -b, --bundle string                Directory of the bundle (default: the working directory)
      --console-socket string        Send the terminal's master side to this unix socket
  -d, --detach                       Return when the program runs
      --empty-ns list                Restore nothing of these namespaces (network, as in any case)
      --ext-unix-sk                  Allow unix sockets that were connected to outside
      --file-locks                   Lock files again
      --image-path string            Directory of the images (default "checkpoint")
      --keep                         Keep the container's state when it has ended
      --lsm-mount-context string     SELinux label of its mounts
      --lsm-profile string           Profile of its processes (TYPE:NAME)
      --manage-cgroups-mode string   "soft", "full", "strict" or "ignore" (default "soft")
      --no-subreaper                 Do not look after orphans of the container
      --pid-file string              Write the process id to this file
      --shell-job                    Allow the caller's terminal
      --tcp-established              Restore TCP connections
      --work-path string             Directory for CRIU's log (default: that of the images)
"""


_REFUSED = {"no-pivot": "CRIU always exchanges the root: put the root file system on something else than a RAM disk"}
_ATTRIBUTES = {
    "ro": mounting.ATTR_RDONLY,
    "nosuid": mounting.ATTR_NOSUID,
    "nodev": mounting.ATTR_NODEV,
    "noexec": mounting.ATTR_NOEXEC,
}


def restore(settings: Settings, options: Options) -> int:
    """``capsa-runtime restore ID``."""
    from capsa.runtime import foreground, removal

    container = Container(settings.root, options.arguments[0])
    detach = options.switch("detach")
    target = console.socket_of(options, required=detach)
    client.check(settings.criu)
    if not detach:
        foreground.prepare(subreaper=not options.switch("no-subreaper"))
    master = _Restoration(settings, options, container, target).run()
    if detach:
        return 0
    code = foreground.wait(container.record.pid, master)
    if not options.switch("keep"):
        with contextlib.suppress(NotFound), container.locked():
            removal.remove(settings, container, force=True)
    return code


class _Restoration:
    """One container on its way back."""

    def __init__(self, settings: Settings, options: Options, container: Container, target: str) -> None:
        self.settings = settings
        self.options = options
        self.container = container
        self.target = target
        self.bundle, self.config, self.spec = creation.specification(options)
        self.master: int | None = None
        if self.spec.process is not None and self.spec.process.terminal and options.switch("detach") and not target:
            raise InvalidArgument("the process has a terminal, and nobody would get it: name a --console-socket")
        if self.spec.linux is not None and self.spec.linux.net_devices:
            raise Unsupported("a container with network devices (linux.netDevices) cannot be restored")

    def run(self) -> int | None:
        """Do it; the master side of its terminal, if no socket wants it. After a failure nothing is left."""
        with contextlib.ExitStack() as undo, contextlib.ExitStack() as stack:
            where = images.Images(self.options, stack, make=False)
            self.note = note = images.Note.load(where.fd, where.path)
            self.container.make(self.config)
            undo.callback(self.container.remove)
            stack.enter_context(self.container.locked())
            self.container.keep()
            self.record = creation.record_of(self.settings, self.container, self.bundle, self.spec)
            self.record.rootfs = os.path.realpath(self.record.rootfs)
            self.container.save(self.record)
            with creation.group(self.record, self.container, self.spec, undo) as cgroup:
                self.record.freezer = cgroup.freezer()
                wanted, passed = self._options(where, note, cgroup, stack)
                self._ask(where, wanted, (*passed, where.fd, where.work_fd), cgroup)
            if pid_file := self.options.text("pid-file"):
                creation.write_pid(pid_file, self.record.pid)
            undo.pop_all()
        return self.master

    def _options(
        self, where: images.Images, note: images.Note, cgroup: Cgroup, stack: contextlib.ExitStack
    ) -> tuple[dict[str, Value], list[int]]:
        """What CRIU is told, and the descriptors it names."""
        rootfs = self.record.rootfs
        wanted = where.options(self.options, Kind.RESTORE) | {
            "root": rootfs,
            "rst_sibling": True,
            "evasive_devices": True,
            "ext_masters": True,
        }
        for name in ("lsm-profile", "lsm-mount-context"):
            if text := self.options.text(name):
                wanted[name.replace("-", "_")] = text
        external: list[Value] = [
            images.external(point, _source(self.spec, self.bundle, point, note, cgroup)) for point in note.mounts
        ]
        inherited: list[Value] = [{1: name, 2: number} for number, name in note.streams.items() if number in range(3)]
        joined: list[Value] = []
        passed: list[int] = []
        empty = FLAGS["network"]
        for space, path in images.namespaces(self.spec).items():
            if space in ("network", "pid"):
                try:
                    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                except OSError as error:
                    raise InvalidArgument(f"cannot open the {space} namespace {path}: {reason(error)}") from error
                stack.callback(os.close, fd)
                passed.append(fd)
                inherited.append({1: images.NETWORK_KEY if space == "network" else images.PID_KEY, 2: fd})
                empty &= ~FLAGS[space]
            elif space in ("ipc", "uts"):
                joined.append({1: space, 2: path})
            else:
                raise Unsupported(f"a container that joins a {space} namespace ({path}) cannot be restored")
        self._places(rootfs, note)
        return wanted | {"external": external, "inherit_fd": inherited, "join_ns": joined, "empty_ns": empty}, passed

    @staticmethod
    def _places(rootfs: str, note: images.Note) -> None:
        """Make the places to mount at that are missing, as creating the container had done."""
        try:
            root = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                for place, directory in note.places.items():
                    os.close(inroot.make(root, place, directory=directory))
            finally:
                os.close(root)
        except OSError as error:
            raise InvalidArgument(f"cannot prepare the root file system {rootfs}: {reason(error)}") from error

    def _ask(self, where: images.Images, wanted: dict[str, Value], passed: Sequence[int], cgroup: Cgroup) -> None:
        space = self._mounts(where)
        with cgroup.entry() as entry, where.explained(Kind.RESTORE, f"restore container {self.container.id}"):

            def first() -> None:
                entry.join(unified=cgroup.fd is None)
                namespace.setns(space, FLAGS["mount"])

            pid = client.ask(
                self.settings.criu,
                Kind.RESTORE,
                wanted,
                notified=self._notified,
                passed=passed,
                cgroup=cgroup.fd,
                first=first,
                quiet=False,
            )
        os.close(space)
        if pid != self.record.pid:
            raise CapsaError(f"CRIU has restored process {pid} and told of {self.record.pid}")

    def _mounts(self, where: images.Images) -> int:
        """A mount namespace for CRIU in which the root file system is a mount; it leaves nothing on the host.

        The directories of images are opened anew in it: CRIU cannot mount anything in those of another one.
        """
        rootfs = self.record.rootfs
        try:
            with self._readers() as readers, _elsewhere("mount", None):
                mounting.mount("", "/", "", mounting.MS_REC | mounting.MS_SLAVE)
                mounting.mount(rootfs, rootfs, "", mounting.MS_BIND | mounting.MS_REC)
                where.open_again(readers)
                return os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise CapsaError(f"cannot prepare the root file system {rootfs}: {reason(error)}") from error

    @contextlib.contextmanager
    def _readers(self) -> Iterator[int | None]:
        """A user namespace with the maps of the container's, if it has one: its processes read images as its root."""
        linux = self.spec.linux
        if linux is None or all(each.type != "user" for each in linux.namespaces):
            yield None
            return
        fd = idmap.namespace((idmap.ranges(linux.uid_mappings), idmap.ranges(linux.gid_mappings)))
        try:
            yield fd
        finally:
            os.close(fd)

    def _notified(self, point: str, pid: int, fds: Sequence[int]) -> None:
        if point == "setup-namespaces":
            self._namespaces(pid)
        elif point == "post-restore":
            self.record.pid, self.record.began = pid, process_began(pid)
            self.container.save(self.record)
            self._restrict(pid)
        elif point == "orphan-pts-master" and fds:
            if self.target:
                console.send(self.target, fds[0])
            elif self.master is None and not self.options.switch("detach"):
                self.master = os.dup(fds[0])
                os.set_inheritable(self.master, False)
        for fd in fds:
            os.close(fd)

    def _restrict(self, pid: int) -> None:
        """Make mounts read-only and so on that were, and are not: CRIU forgets it of the second bind of one source."""
        lost = mounts.lost(self.note.restrictions, images.mounted(pid))
        if not lost:
            return
        point = ""
        try:
            with _elsewhere("mount", f"/proc/{pid}/ns/mnt"):
                for point, words in lost.items():
                    fd = os.open(point, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
                    mounting.attributes(fd, set=sum(_ATTRIBUTES[word] for word in words))
                    os.close(fd)
        except OSError as error:
            raise LaunchFailed(f"cannot restrict the mount at {point} as it was: {reason(error)}") from error

    def _namespaces(self, pid: int) -> None:
        """What is done for new namespaces before anything else is restored: loopback, and hooks that add interfaces."""
        linux = self.spec.linux
        if linux is not None and any(each.type == "network" and not each.path for each in linux.namespaces):
            _loopback(pid)
        wanted = self.spec.hooks
        if wanted is not None:
            told = hooks.state(self.spec, self.container.id, self.bundle, "creating", pid)
            hooks.run("prestart", wanted.prestart, told)
            hooks.run("createRuntime", wanted.create_runtime, told)


def _loopback(pid: int) -> None:
    try:
        with _elsewhere("network", f"/proc/{pid}/ns/net"), Netlink() as netlink:
            netlink.up("lo")
    except OSError as error:
        raise LaunchFailed(f"cannot set up the container's loopback interface: {reason(error)}") from error


@contextlib.contextmanager
def _elsewhere(kind: str, path: str | None) -> Iterator[None]:
    """In another namespace, that at ``path`` or a new one, and back where we were; raises `OSError`."""
    own = os.open(f"/proc/self/ns/{'mnt' if kind == 'mount' else 'net'}", os.O_RDONLY | os.O_CLOEXEC)
    here = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if path is None:
            namespace.unshare(FLAGS[kind])
        else:
            theirs = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                namespace.setns(theirs, FLAGS[kind])
            finally:
                os.close(theirs)
        try:
            yield
        finally:
            namespace.setns(own, FLAGS[kind])
            os.fchdir(here)
    finally:
        os.close(own)
        os.close(here)


def _source(spec: Spec, bundle: str, point: str, note: images.Note, cgroup: Cgroup) -> str:
    """What is to be mounted at ``point``: the specification says so, not the images. Raises `InvalidArgument`."""
    destination = note.mounts[point]
    if point != os.path.normpath(point):  # the kernel writes none like it
        raise InvalidArgument(f"{images.NAME} has a mount at {point}, which is no place of one: take other images")
    if destination:
        for mount in spec.mounts:
            if mount.destination == destination:
                # Below it: what a recursive bind has brought along.
                places = (each for each in note.mounts if note.mounts[each] == destination and _within(point, each))
                source = os.path.normpath(os.path.join(bundle, mount.source))
                return _below(source, point.removeprefix(min(places, key=len)))
    elif spec.linux is not None and point in spec.linux.masked_paths:
        return "/dev/null"
    else:
        for mount in spec.mounts:
            if mount.type.startswith("cgroup") and _within(point, mount.destination):
                name = point.removeprefix(mount.destination).strip("/")
                for each in cgroup.mounts():
                    if each.name == name:
                        return each.source
        known = {each.path for each in DEFAULT_DEVICES}
        known |= {each.path for each in spec.linux.devices} if spec.linux is not None else set()
        with contextlib.suppress(OSError):
            if point in known and _is_device(point):
                return point
    raise InvalidArgument(f"the container had a mount at {point}, and the bundle says nothing of it")


def _is_device(path: str) -> bool:
    return stat.S_IFMT(os.lstat(path).st_mode) in (stat.S_IFCHR, stat.S_IFBLK)


def _below(source: str, rest: str) -> str:
    """The path of what is at ``rest`` in ``source``; links that a container may have put there lead nowhere."""
    if not rest:
        return source
    try:
        top = os.open(source, os.O_PATH | os.O_CLOEXEC)
        try:
            fd = paths.open_in_root(top, rest, os.O_PATH, links=False)
        finally:
            os.close(top)
        try:
            return os.readlink(f"/proc/self/fd/{fd}")
        finally:
            os.close(fd)
    except OSError as error:
        raise InvalidArgument(f"the container had a mount at {rest} in {source}: {reason(error)}") from error


def _within(point: str, place: str) -> bool:
    return point == place or point.startswith(f"{place}/")


VERBS = {
    "restore": Verb(
        "restore", "ID", "Let a container go on from a checkpoint", _TABLE, restore, refused=images.REFUSED | _REFUSED
    )
}
