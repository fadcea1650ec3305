"""A container's namespaces (config-linux.md, Namespaces): which are new, which are joined, and in what order."""

from __future__ import annotations

import contextlib
import os

from capsa.errors import InvalidArgument, LaunchFailed, reason
from capsa.oci.runtime import Linux
from capsa.sys import namespace
from capsa.sys.namespace import FLAGS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

# Joined first are those that need the host's privileges; the mount namespace goes last, for it takes the paths away.
_ORDER = ("network", "ipc", "uts", "time", "cgroup", "mount")


class Namespaces:
    """The plan: ``new`` is a mask of CLONE_NEW… flags, ``joined`` has paths by type."""

    def __init__(self, linux: Linux, *, share_mounts: bool = False) -> None:
        """From the specification; raises `InvalidArgument`.

        ``share_mounts``: the mount namespace may be the caller's.
        """
        self.new = 0
        self.joined: dict[str, str] = {}
        for wanted in linux.namespaces:
            if wanted.type in self.joined or self.new & FLAGS[wanted.type]:
                raise InvalidArgument(f"the {wanted.type} namespace is listed twice")
            if not wanted.path:
                self.new |= FLAGS[wanted.type]
            elif wanted.path.startswith("/"):
                self.joined[wanted.type] = wanted.path
            else:
                raise InvalidArgument(f"the path of the {wanted.type} namespace has to be absolute: {wanted.path}")
        self._check(linux, share_mounts)
        self.staged = self.has("user") or bool(linux.time_offsets)
        """Whether a process in between is needed: it prepares with the host's privileges, then makes the real one."""

    def _check(self, linux: Linux, share_mounts: bool) -> None:
        if (linux.uid_mappings or linux.gid_mappings) and not self.has("user"):
            raise InvalidArgument("uidMappings and gidMappings need a user namespace")
        if self.is_new("user") and not (linux.uid_mappings and linux.gid_mappings):
            raise InvalidArgument("a new user namespace needs uidMappings and gidMappings")
        if linux.time_offsets and not self.is_new("time"):
            raise InvalidArgument("timeOffsets need a new time namespace")
        if not self.has("mount") and self.has("user"):
            raise InvalidArgument("a container with a user namespace needs a mount namespace: add one")
        if not self.has("mount") and linux.time_offsets:
            raise InvalidArgument("timeOffsets need a mount namespace: add one")
        if not self.has("mount") and not share_mounts:
            raise InvalidArgument("a container without a mount namespace would change the host's mounts: add one")

    def has(self, kind: str) -> bool:
        """Whether the container has one that is not its caller's by default."""
        return kind in self.joined or self.is_new(kind)

    def is_new(self, kind: str) -> bool:
        """Whether one is made for it."""
        return bool(self.new & FLAGS[kind])

    def join(self, kinds: tuple[str, ...] = _ORDER) -> None:
        """Join those of ``kinds`` that have a path; raises `LaunchFailed` naming it."""
        for kind in kinds:
            path = self.joined.get(kind)
            if path is not None:
                with opened(kind, path) as fd:
                    enter(kind, fd, path)


@contextlib.contextmanager
def opened(kind: str, path: str) -> Iterator[int]:
    """The namespace file at ``path``."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise LaunchFailed(f"cannot join the {kind} namespace {path}: {reason(error)}") from error
    try:
        yield fd
    finally:
        os.close(fd)


def enter(kind: str, fd: int, path: str) -> None:
    """Join the namespace behind ``fd``; raises `LaunchFailed`."""
    try:
        namespace.setns(fd, FLAGS[kind], path)
    except OSError as error:
        raise LaunchFailed(f"cannot join the {kind} namespace {path}: {reason(error)}") from error
