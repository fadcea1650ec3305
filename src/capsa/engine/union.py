"""Looking into a container's file tree without mounting it: image layers below a writable directory.

A name is looked up layer by layer as overlayfs would do it: the uppermost layer that has it wins, a character
device 0:0 hides it, an opaque directory hides what lies below, directories merge. Symbolic links are resolved in the
tree (an absolute one begins at its root again), never on the host: each step opens one component with ``O_NOFOLLOW``
below a directory that is held open, so that a container that runs cannot lead the engine out of its tree.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import PurePosixPath

from capsa.errors import InvalidArgument

_LINKS = 40
_OPAQUE = ("trusted.overlay.opaque", "user.overlay.opaque")
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Union:
    """A read-only view of directories stacked on each other."""

    def __init__(self, layers: Sequence[str]) -> None:
        """``layers`` are host directories, uppermost first; one that does not exist is an empty one."""
        self._roots: list[int] = []
        for layer in layers:
            try:
                self._roots.append(os.open(layer, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
            except FileNotFoundError:
                continue
            except BaseException:
                self.close()
                raise

    def __enter__(self) -> Union:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the layers."""
        while self._roots:
            os.close(self._roots.pop())

    def read(self, path: str, limit: int = 4 << 20) -> bytes | None:
        """The content of a regular file, None if there is none; raises `InvalidArgument` above ``limit`` bytes."""
        with self._locate(path) as (parents, name):
            if not name:
                return None
            for parent in parents:
                try:
                    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
                except FileNotFoundError:
                    continue
                except OSError:
                    return None
                try:
                    status = os.fstat(fd)
                    if not stat.S_ISREG(status.st_mode):  # opening a device or a fifo would have effects
                        return None
                    if status.st_size > limit:
                        raise InvalidArgument(f"{path} in the image is larger than {limit >> 20} MiB")
                    with open(f"/proc/self/fd/{fd}", "rb", buffering=0) as file:
                        return file.read(limit)
                finally:
                    os.close(fd)
        return None

    @contextmanager
    def directory(self, path: str) -> Iterator[list[int]]:
        """The directories that make up ``path``, uppermost first, as open file descriptors; empty if it is none."""
        with self._locate(path) as (parents, name):
            found = down(parents, name) if name else [os.dup(parent) for parent in parents]
        try:
            yield found
        finally:
            for fd in found:
                os.close(fd)

    @contextmanager
    def _locate(self, path: str) -> Iterator[tuple[list[int], str]]:
        """The merged directory that holds the last component (no link any more), and that component's name."""
        pending = [part for part in PurePosixPath("/" + path).parts[1:] if part != "."][::-1]
        stack: list[list[int]] = [[os.dup(root) for root in self._roots]]
        links = 0
        name = ""
        try:
            while pending:
                part = pending.pop()
                if part == "..":
                    if len(stack) > 1:
                        _close(stack.pop())
                    continue
                target = _link(stack[-1], part)
                if target is not None:
                    links += 1
                    if links > _LINKS:
                        break
                    if target.startswith("/"):
                        while len(stack) > 1:
                            _close(stack.pop())
                    pending += [step for step in PurePosixPath(target).parts[::-1] if step not in ("/", ".")]
                    continue
                if not pending:
                    name = part
                    break
                stack.append(down(stack[-1], part))
            if links > _LINKS:
                yield [], ""
            else:
                yield stack[-1], name
        finally:
            for level in stack:
                _close(level)


def _close(level: list[int]) -> None:
    for fd in level:
        os.close(fd)


def _link(level: list[int], name: str) -> str | None:
    for parent in level:
        try:
            return os.readlink(name, dir_fd=parent)
        except FileNotFoundError:
            continue
        except OSError:
            return None
    return None


def down(level: list[int], name: str) -> list[int]:
    """The directories called ``name`` that are visible in a merged directory."""
    found: list[int] = []
    for parent in level:
        try:
            fd = os.open(name, _DIRECTORY, dir_fd=parent)
        except FileNotFoundError:
            continue
        except OSError:  # a file, a whiteout, a link: it hides what lies below
            break
        found.append(fd)
        if opaque(fd):
            break
    return found


def opaque(fd: int) -> bool:
    """Whether a directory (opened with O_PATH or not) hides those below it."""
    for name in _OPAQUE:
        try:
            if os.getxattr(f"/proc/self/fd/{fd}", name) == b"y":
                return True
        except OSError:
            continue
    return False


def merged(level: list[int]) -> dict[str, int]:
    """The names visible in a merged directory, each with the number of the layer it comes from."""
    names: dict[str, int] = {}
    for number, fd in enumerate(level):
        readable = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for name in os.listdir(readable):
                names.setdefault(name, number)
        finally:
            os.close(readable)
    hidden = [name for name, number in names.items() if _whiteout(level[number], name)]
    for name in hidden:
        del names[name]
    return names


def _whiteout(parent: int, name: str) -> bool:
    status = os.stat(name, dir_fd=parent, follow_symlinks=False)
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0
