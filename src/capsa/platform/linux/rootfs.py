"""Executes the steps of `capsa.vfs.linux` in the container's first process, inside its own mount namespace.

Everything below the root is a descriptor (`inroot`): a mount lands on what was looked at, not on what a path leads to a
moment later. Two passes: `Rootfs.build` up to the point where hooks may have a look, `Rootfs.finish` for masks and
locks.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from capsa.errors import CapsaError, LaunchFailed, Unsupported, reason
from capsa.platform.linux import copyup, devices, inroot, sources
from capsa.platform.linux.cgroup import Mount as CgroupMount
from capsa.sys import mount
from capsa.sys import path as paths
from capsa.sys.call import failed
from capsa.vfs import linux as steps
from capsa.vfs.tree import IDRange

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

_RECEIVING = (mount.MS_PRIVATE, mount.MS_SLAVE)
IDMap = tuple[tuple[IDRange, ...], tuple[IDRange, ...]]

# What may be mounted on inside proc: files that tell about the machine, which lxcfs and its like replace. Everything
# else there decides about security.
_PROC_FILES = frozenset(
    "/proc/" + name
    for name in (
        *("cpuinfo", "diskstats", "loadavg", "meminfo", "slabinfo", "stat", "swaps", "uptime"),
        *("sys/kernel/ns_last_pid", "sys/crypto/fips_enabled"),
    )
)


class Rootfs:
    """A root file system in the making.

    ``cgroups`` are to be shown where the tree has a `Budget`. ``id_maps`` are user namespaces for id-mapped mounts.
    ``user_namespace``: the process is in one, so it may not make device nodes. ``shared``: the mount namespace is the
    host's, and the root is a mount of its own there (`shared_mounts`). ``in_place``: the root is mounted where it is,
    so that hooks find under its name what the container will.
    """

    def __init__(
        self,
        plan: Sequence[steps.Step],
        *,
        cgroups: Sequence[CgroupMount],
        id_maps: Mapping[IDMap, int],
        user_namespace: bool = False,
        shared: bool = False,
        in_place: bool = False,
    ) -> None:
        self.plan = list(plan)
        self.root = -1
        self.terminals: int | None = None
        self._dev: int | None = None
        self._covers: dict[bool, int] = {}
        self._cgroups = cgroups
        self._id_maps = id_maps
        self._user_namespace = user_namespace
        self._shared = shared
        self._in_place = in_place
        self._taken: dict[int, int] = {}
        self._do: dict[type, Callable[[Any], None]] = {
            steps.Take: self._take_root,
            steps.Union: self._union,
            steps.Make: self._make,
            steps.Attach: self._attach,
            steps.Stack: self._attach,
            steps.Groups: self._groups,
            steps.Alter: self._alter,
            steps.Device: self._device,
            steps.Link: self._link,
            steps.Freeze: self._freeze,
            steps.Mask: self._mask,
            steps.Protect: self._protect,
            steps.Seal: self._seal,
            steps.Propagate: self._propagate,
        }

    # ---- the passes ----

    def leave_host(self) -> None:
        """Cut the ties of the new mount namespace to the host's: nothing mounted here appears there.

        Mounts that are to stay shared with the host are taken before.
        """
        for number, step in enumerate(self.plan):
            if isinstance(step, steps.Attach) and step.early:
                self._named(step, self._take, number)
        mount.attributes(mount.AT_FDCWD, propagation=mount.MS_SLAVE, recursive=True, path="/")

    def prepare(self) -> None:
        """What takes the host's privileges, before the process enters a user namespace: the root, sources of binds.

        They are taken as detached mounts: the way to them may be closed to the user namespace's root.
        """
        for number, step in enumerate(self.plan):
            if isinstance(step, steps.Union):
                self._named(step, self._union, step)
                merged, self.root = self.root, mount.clone("", at=self.root)
                os.close(merged)
            elif isinstance(step, steps.Take):
                self._named(step, self._open_root, step)
            elif isinstance(step, steps.Attach | steps.Stack) and number not in self._taken:
                self._named(step, self._take, number)

    def build(self) -> None:
        """Everything up to the hooks."""
        for number, step in enumerate(self.plan):
            if number == 0:
                self._named(step, self._place_root if self.root >= 0 else self._do[type(step)], step)
                self._set_apart()
            elif not isinstance(step, steps.LATE):
                self._number = number
                self._named(step, self._do[type(step)], step)

    def directory(self, path: str) -> None:
        """Make a directory that is missing, while one can: the root may become read-only. Whoever needs it will say."""
        if path != "/":
            with contextlib.suppress(OSError):
                os.close(inroot.make(self.root, path))

    def finish(self) -> None:
        """Masks and locks."""
        for step in self.plan:
            if isinstance(step, steps.LATE) and not isinstance(step, steps.Propagate):
                self._named(step, self._do[type(step)], step)

    def pivot(self, exchange: bool = True) -> None:
        """Make it the root; the host's tree is gone afterwards. Then set the root's propagation.

        ``exchange=False`` is for a host whose root cannot be exchanged, a RAM disk: that stays below, covered for good.
        """
        os.fchdir(self.root)
        if exchange and not self._shared:
            # The old root is put on top of the new one and can then be taken off by the name it has: the working
            # directory.
            mount.pivot_root(".", ".")
            mount.umount(".")
        else:
            os.chroot(".")  # it lies on top of the old root already, see `_place_root`
        os.chdir("/")
        for step in self.plan:
            if isinstance(step, steps.Propagate):
                self._named(step, self._propagate, step)

    def close(self) -> None:
        """Close what it has open; for a process that does not execute a program."""
        for fd in (self.root, self.terminals, self._dev, *self._covers.values(), *self._taken.values()):
            if fd is not None and fd >= 0:
                os.close(fd)

    def _named(self, step: steps.Step, do: Callable[[Any], None], argument: Any) -> None:
        """Do it; a failure names the step."""
        try:
            do(argument)
        except OSError as error:
            about = f" ({error.filename})" if error.filename else ""
            raise LaunchFailed(f"cannot {step.title()}: {reason(error)}{about}") from error

    # ---- the root ----

    def _take_root(self, step: steps.Take) -> None:
        self._open_root(step)
        self._place_root(step)

    def _open_root(self, step: steps.Take) -> None:
        if not stat.S_ISDIR(os.stat(step.source).st_mode):
            raise failed("open", step.source, errno.ENOTDIR)
        if self._shared:
            self.root = os.open(step.source, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        else:
            self.root = mount.clone(step.source, recursive=True)

    def _place_root(self, step: steps.Step) -> None:
        """Put it on top of the host's root, where it hides nothing: this process stays below it until `pivot`."""
        if self._shared:
            return
        host = self._place(step)
        try:
            mount.attach(self.root, host, "/")
        finally:
            os.close(host)

    def _place(self, step: steps.Step) -> int:
        flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
        if self._in_place and isinstance(step, steps.Take):
            with contextlib.suppress(PermissionError):  # a user namespace's root may not reach it
                return os.open(step.source, flags)
        return os.open("/", flags)

    def _union(self, step: steps.Union) -> None:
        self.root = sources.overlay(step.chains, step.upper, step.work)

    # ---- mounts ----

    def _target(self, path: str, *, directory: bool = True, links: bool = True) -> int:
        """The place for a mount, made if need be; never inside proc, save for a few files."""
        if directory and self._is_device(path):
            with contextlib.suppress(FileExistsError):
                os.mkdir(path[5:], 0o755, dir_fd=self._dev)
                return os.open(path[5:], os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._dev)
        target = inroot.make(self.root, path, directory=directory, links=links)
        if path not in _PROC_FILES and paths.file_system(target) == paths.PROC_SUPER_MAGIC:
            os.close(target)
            raise CapsaError(f"a mount at {path} would lie inside proc, which is not allowed")
        found = os.fstat(target)
        if self._dev is not None and os.path.samestat(found, os.fstat(self._dev)):
            os.close(self._dev)
            self._dev = None  # it will be covered, whatever path leads there
        if stat.S_ISDIR(found.st_mode) != directory:
            os.close(target)
            what = "a directory cannot be mounted on a file" if directory else "a file cannot be mounted on a directory"
            raise CapsaError(f"cannot mount at {path}: {what}; mount the other kind, or somewhere else")
        return target

    def _make(self, step: steps.Make) -> None:
        options = step.options
        if step.keep_mode:
            options += (("mode", self._covered_mode(step.path)),)
        try:
            target = self._target(step.path, links=not step.exact)
        except OSError as error:
            if error.errno == errno.ELOOP and step.exact:
                raise CapsaError(
                    f"{step.path} of the image is a symbolic link: {step.kind} needs a directory"
                ) from error
            raise
        try:
            made = self._file_system(step, options)
            try:
                if step.copy_up:
                    copyup.copy(target, made)
                mount.attach(made, target, step.path)
                self._change(made, step.change)
            except BaseException:
                os.close(made)
                raise
        finally:
            os.close(target)
        if step.kind == "devpts":
            self.terminals = made
        elif step.path == "/dev":
            self._dev = made
        else:
            os.close(made)

    def _file_system(self, step: steps.Make, options: tuple[tuple[str, str], ...]) -> int:
        try:
            return mount.create(step.kind, options, source=step.source, attributes=step.attributes)
        except PermissionError:
            if step.kind != "sysfs" or not self._user_namespace:
                raise
            # Its own sysfs takes a network namespace that is owned by the user namespace; the host's will have to do.
            made = mount.clone("/sys", recursive=True)
            mount.attributes(made, set=step.attributes, recursive=True)
            return made

    def _covered_mode(self, path: str) -> str:
        found = inroot.find(self.root, path)
        if found is None:
            return "1777"
        mode = stat.S_IMODE(os.fstat(found).st_mode)
        os.close(found)
        return f"{mode:04o}"

    def _take(self, number: int) -> None:
        """Open the source of a bind, or the layers of an image, as a detached mount."""
        step = self.plan[number]
        if isinstance(step, steps.Stack):
            self._taken[number] = sources.stack(step.chains, step.subdir)
            return
        assert isinstance(step, steps.Attach)
        source = sources.inside(step.source, step.subdir, recursive=step.recursive)
        self._taken[number] = source
        if step.uid_map:
            fd = self._id_maps[step.uid_map, step.gid_map]
            try:
                mount.attributes(source, user_namespace=fd, recursive=step.id_map_recursive, path="")
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                raise Unsupported(f"this kernel cannot map the ids of {step.source}: not on its file system") from error

    def _attach(self, step: steps.Attach | steps.Stack) -> None:
        if self._number not in self._taken:
            self._take(self._number)
        source = self._taken.pop(self._number)
        if isinstance(step, steps.Attach) and step.early:
            source = sources.renewed(source, recursive=step.recursive)
        try:
            target = self._target(step.path, directory=stat.S_ISDIR(os.fstat(source).st_mode))
            try:
                if step.path == "/proc" and paths.file_system(source) != paths.PROC_SUPER_MAGIC:
                    raise CapsaError("only proc itself can be mounted at /proc")
                mount.attach(source, target, step.path)
            finally:
                os.close(target)
            self._change(source, step.change)
        finally:
            os.close(source)

    def _groups(self, step: steps.Groups) -> None:
        target = self._target(step.path)
        try:
            if [group.version for group in self._cgroups] == [2]:
                self._group(self._cgroups[0].source, target, step.change)
                return
            attributes = step.change.set & ~mount.ATTR_RDONLY  # until all is in there
            made = mount.create("tmpfs", (("mode", "0755"),), source="tmpfs", attributes=attributes)
            try:
                self._all_groups(made, target, step)
            finally:
                os.close(made)
        finally:
            os.close(target)

    def _all_groups(self, made: int, target: int, step: steps.Groups) -> None:
        """The hierarchies of v1 in a directory of their own, and v2 beside them where there is one."""
        mount.attach(made, target, step.path)
        for group in self._cgroups:
            os.mkdir(group.name, 0o755, dir_fd=made)
            own = mount.clone(group.source)
            try:
                mount.attach(own, made, group.source, name=group.name)
            finally:
                os.close(own)
            controllers = group.options.split(",") if group.version == 1 else []
            for controller in controllers if len(controllers) > 1 and group.name == group.options else []:
                os.symlink(group.name, controller, dir_fd=made)
        self._change(made, step.change, below=True)

    def _group(self, source: str, target: int, change: steps.Change) -> None:
        own = mount.clone(source)
        try:
            mount.attach(own, target, source)
            self._change(own, change)
        finally:
            os.close(own)

    def _alter(self, step: steps.Alter) -> None:
        target = paths.open_in_root(self.root, step.path, os.O_PATH)
        try:
            self._change(target, step.change)
        finally:
            os.close(target)

    @staticmethod
    def _change(mounted: int, change: steps.Change, *, below: bool = False) -> None:
        """Change a mount, and all mounts in it alike (``below``)."""
        if not change:
            return
        if change.deep_set or change.deep_clear or change.deep_propagation:
            mount.attributes(
                mounted,
                set=change.deep_set,
                clear=change.deep_clear,
                propagation=change.deep_propagation,
                recursive=True,
            )
        if change.set or change.clear or change.propagation:
            mount.attributes(
                mounted, set=change.set, clear=change.clear, propagation=change.propagation, recursive=below
            )

    # ---- devices and links ----

    def _device(self, step: steps.Device) -> None:
        borrowed = self._user_namespace and step.device.kind != "p"
        make = devices.borrow if borrowed else devices.make
        self._inside(step.device.path, lambda above, name: make(step.device, above, name))

    def _link(self, step: steps.Link) -> None:
        with contextlib.suppress(FileExistsError):
            self._inside(step.path, lambda above, name: os.symlink(step.target, name, dir_fd=above))

    def _inside(self, path: str, make: Callable[[int, str], None]) -> None:
        """Call ``make`` with the directory of ``path`` and the name in it."""
        if self._is_device(path):
            assert self._dev is not None
            make(self._dev, path[5:])
            return
        above, name = inroot.parent(self.root, path)
        try:
            make(above, name)
        finally:
            os.close(above)

    def _is_device(self, path: str) -> bool:
        """Whether it is a name in the ``/dev`` that was made here, which nobody else has seen yet."""
        name = path[5:] if path.startswith("/dev/") else ""
        return self._dev is not None and name not in ("", ".", "..") and "/" not in name

    # ---- masks and locks ----

    def _mask(self, step: steps.Mask) -> None:
        target = inroot.find(self.root, step.path)
        if target is None:
            return
        try:
            directory = stat.S_ISDIR(os.fstat(target).st_mode)
            known = self._covers.get(directory)
            cover = mount.clone("", at=known) if known is not None else self._cover(directory)
            mount.attach(cover, target, step.path)
            if known is None:
                self._covers[directory] = cover
            else:
                os.close(cover)
        finally:
            os.close(target)

    @staticmethod
    def _cover(directory: bool) -> int:
        """What masks: an empty directory, or the null device; read-only, or root could change the host's device."""
        attributes = mount.ATTR_RDONLY | mount.ATTR_NOSUID | mount.ATTR_NOEXEC
        if directory:
            return mount.create("tmpfs", source="tmpfs", attributes=attributes | mount.ATTR_NODEV)
        null = mount.clone("/dev/null")
        mount.attributes(null, set=attributes)
        return null

    def _protect(self, step: steps.Protect) -> None:
        target = inroot.find(self.root, step.path)
        if target is None:
            return
        try:
            own = mount.clone("", at=target, recursive=True)
            try:
                mount.attributes(own, set=mount.ATTR_RDONLY, recursive=True)
                mount.attach(own, target, step.path)
            finally:
                os.close(own)
        finally:
            os.close(target)

    def _freeze(self, step: steps.Freeze) -> None:
        target = paths.open_in_root(self.root, step.path, os.O_PATH)
        try:
            mount.attributes(target, set=mount.ATTR_RDONLY)
        finally:
            os.close(target)

    def _seal(self, step: steps.Seal) -> None:
        mount.attributes(self.root, set=mount.ATTR_RDONLY)

    def _set_apart(self) -> None:
        """A root that is to be private or a slave is so with all below before anything is mounted on it.

        What is mounted then has the propagation that is asked for it, or is private anyway.
        """
        for step in self.plan:
            if isinstance(step, steps.Propagate) and step.recursive and step.propagation in _RECEIVING:
                self._named(step, self._spread, step)

    def _spread(self, step: steps.Propagate) -> None:
        mount.attributes(self.root, propagation=step.propagation, recursive=True)

    def _propagate(self, step: steps.Propagate) -> None:
        recursive = step.recursive and step.propagation not in _RECEIVING  # see `_set_apart`
        mount.attributes(mount.AT_FDCWD, propagation=step.propagation, recursive=recursive, path="/")
