"""A container's file tree, for a helper process: the root as an open directory, and names in it.

Of a container that runs, the helper opens the root of its mount namespace and comes back at once, so that nothing of
the container's is ever looked up by the interpreter. The tree of one that does not run is mounted in a mount namespace
of the helper's own, with its volumes and files, and is gone with the process, however that ends.

All look-ups are the kernel's (``openat2(2)``, ``RESOLVE_IN_ROOT``): no link leads out of the root, not even one that is
put there at the same moment. File systems that show the kernel (proc, sysfs, cgroups) hold nothing to be copied and are
not there at all.
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat

import msgspec

from capsa.engine import markers
from capsa.oci.runtime import Mount
from capsa.platform.linux import inroot
from capsa.sys import mount, namespace
from capsa.sys import path as paths
from capsa.sys.call import failed

_KERNEL = frozenset(
    {
        0x9FA0,  # proc
        0x62656572,  # sysfs
        0x27E0EB,  # cgroup
        0x63677270,  # cgroup2
        0x1CD1,  # devpts
        0x19800202,  # mqueue
        0x64626720,  # debugfs
        0x74726163,  # tracefs
        0x73636673,  # securityfs
        0xCAFE4A11,  # bpf
        0x62656570,  # configfs
        0x6E736673,  # nsfs
        0xDE5E81E4,  # efivarfs
        0x42494E4D,  # binfmt_misc
        0x6165676C,  # pstore
        0x65735543,  # fusectl
        0xF97CFF8C,  # selinuxfs
    }
)
_LINKS = 255


class View(msgspec.Struct, kw_only=True):
    """How to get at the tree: ``namespace`` is the open mount namespace of a container that runs, else -1.

    ``layers`` lowest first. Without ``keep`` whatever is changed goes into memory, so that nothing of the container
    is. ``mounts`` are bind mounts, in order. ``marked``: ``upper`` is as `capsa.engine.markers` has it; what is to be
    kept is in `Root.writable` then. ``live``: somebody writes to ``upper``, which no overlay may do meanwhile.
    """

    namespace: int = -1
    layers: list[str] = []
    upper: str = ""
    work: str = ""
    keep: bool = False
    mounts: list[Mount] = []
    marked: bool = False
    live: bool = False


class Writable:
    """Where changes of a tree with markers are, and where they belong: open directories.

    ``before`` is what has been made for mounts.
    """

    def __init__(self, scratch: int, upper: int) -> None:
        self.scratch = scratch
        self.upper = upper
        self.before: markers.Known = {}

    def keep(self) -> None:
        """Put what was written where it belongs; raises `InvalidArgument`, `Unsupported`, and then nothing was."""
        markers.check(self.scratch, self.before)
        markers.apply(self.scratch, self.upper, self.before)


def root_of(view: View) -> Root:
    """The tree's root; raises `OSError`, `CapsaError`. The process must have one thread."""
    return _mounted(view) if view.namespace < 0 else Root(_root_in(view.namespace))


def _root_in(other: int) -> int:
    with namespace.mounts_kept():
        namespace.setns(other, namespace.FLAGS["mount"], "the container's mount namespace")
        return os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def _mounted(view: View) -> Root:
    from capsa.oci.runtime import VERSION, Spec
    from capsa.platform.linux.rootfs import Rootfs
    from capsa.vfs import compile as vfs
    from capsa.vfs.linux import lower
    from capsa.vfs.tree import CopyOnWrite, Tree

    namespace.unshare(namespace.FLAGS["mount"])
    mount.attributes(mount.AT_FDCWD, propagation=mount.MS_PRIVATE, recursive=True, path="/")
    layers, upper, work = view.layers, view.upper, view.work
    if not view.keep:
        _memory(view.work)
    if not view.keep or view.marked:
        layers, upper, work = [*layers, *_veil(view), upper], f"{view.work}/upper", f"{view.work}/work"
        os.mkdir(upper, 0o755)
        os.mkdir(work, 0o700)
        _like(view.upper, upper)
    writable = None
    if view.keep and view.marked:  # opened now: what is mounted covers them
        writable = Writable(
            os.open(upper, os.O_RDONLY | os.O_DIRECTORY), os.open(view.upper, os.O_RDONLY | os.O_DIRECTORY)
        )
    root = CopyOnWrite(layers=tuple(layers), upper=upper, work=work)
    places = vfs.tree(Spec(oci_version=VERSION, mounts=view.mounts), root).places
    made = Rootfs(lower(Tree(root=root, places=places)), cgroups=(), id_maps={})
    made.build()
    if view.live:
        mount.attributes(made.root, set=mount.ATTR_RDONLY)
    if writable is not None:
        writable.before = markers.known(writable.scratch)
    return Root(made.root, marked=view.marked, writable=writable)


def _veil(view: View) -> list[str]:
    """The layer that stands for the markers of the writable one; none where there are none."""
    if not view.marked:
        return []
    place = f"{view.work}/veil"
    os.mkdir(place)
    if view.keep:
        _memory(place)
    markers.veil(view.upper, place)
    return [place]


def _memory(path: str) -> None:
    """Cover a directory with an empty file system in memory."""
    memory = mount.create("tmpfs", (("mode", "0700"),), source="tmpfs")
    place = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    mount.attach(memory, place, path)
    os.close(place)
    os.close(memory)


def _like(source: str, target: str) -> None:
    """The upper directory's mode and owner are those of the tree's root."""
    status = os.stat(source)
    os.chown(target, status.st_uid, status.st_gid)
    os.chmod(target, stat.S_IMODE(status.st_mode))


def is_kernel(fd: int) -> bool:
    """Whether an open file lies on a file system that shows the kernel."""
    return paths.file_system(fd) & 0xFFFFFFFF in _KERNEL


class Root:
    """The names below an open root directory."""

    def __init__(self, fd: int, *, marked: bool = False, writable: Writable | None = None) -> None:
        """``marked``: there may be entries in it that stand for others (`capsa.engine.markers`): they are not there.

        ``writable``: what is written is lost until it is kept.
        """
        self.writable = writable
        self._fd = fd
        self._device = os.fstat(fd).st_dev if marked else None

    def hides(self, directory: int, name: bytes) -> bool:
        """Whether ``name`` in an open directory is nothing but a marker; what is mounted in the tree has none."""
        return (
            self._device is not None
            and markers.is_marker(os.fsdecode(name))
            and os.fstat(directory).st_dev == self._device
        )

    def find(self, path: str, flags: int = 0) -> int:
        """``path`` as a descriptor (``O_PATH``), links followed; raises `OSError` (ENOENT for the kernel's files)."""
        fd = paths.open_in_root(self._fd, path, flags | os.O_PATH)
        if is_kernel(fd) or self._leads_to_marker(path):
            os.close(fd)
            raise failed("open", path, errno.ENOENT)
        return fd

    def _leads_to_marker(self, path: str) -> bool:
        if self._device is None or markers.WHITEOUT not in (real := self.resolved(path)):
            return False
        above = ""
        for name in real.split("/")[1:]:
            if markers.is_marker(name):
                directory = paths.open_in_root(self._fd, above or "/", os.O_PATH)
                try:
                    if self.hides(directory, os.fsencode(name)):
                        return True
                finally:
                    os.close(directory)
            above += f"/{name}"
        return False

    def make(self, path: str) -> int:
        """The directory ``path``, made with all above it where it is missing."""
        above = path
        while True:  # refuses a place on the kernel's file systems before anything is made
            try:
                os.close(self.find(above))
                break
            except FileNotFoundError:
                if above == "/":
                    raise
                above = posixpath.dirname(above)
        fd = inroot.make(self._fd, path)
        if is_kernel(fd):
            os.close(fd)
            raise failed("open", path, errno.ENOENT)
        return fd

    def resolved(self, path: str) -> str:
        """``path`` with all links in it followed, from the root; parts that are not there stay as they are."""
        pending = path.split("/")[::-1]
        done: list[str] = []
        followed = 0
        while pending:
            name = pending.pop()
            if name in ("", "."):
                continue
            if name == "..":
                done[-1:] = []
                continue
            here = "/" + "/".join([*done, name])
            try:
                fd = paths.open_in_root(self._fd, here, os.O_PATH | os.O_NOFOLLOW)
            except (FileNotFoundError, NotADirectoryError):
                done.append(name)
                continue
            try:
                if not stat.S_ISLNK(os.fstat(fd).st_mode):
                    done.append(name)
                    continue
                target = os.readlink("", dir_fd=fd)
            finally:
                os.close(fd)
            followed += 1
            if followed > _LINKS:
                raise failed("open", path, errno.ELOOP)
            if target.startswith("/"):
                done = []
            pending += target.split("/")[::-1]
        return "/" + "/".join(done)
