"""``cp``: files between this machine and a container, with the path rules of ``docker cp``.

What a path means depends on whether it is there, is a directory, and ends in ``/`` or ``/.``: the rules are in Docker's
documentation of ``docker container cp``, "Description".
"""

from __future__ import annotations

import base64
import json
import os
import posixpath
import stat
import sys

from capsa.cli.client import ApiError, Engine, quote
from capsa.cli.context import Context
from capsa.cli.options import Command, Options
from capsa.errors import CapsaError, reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

_DIRECTORY, _LINK, _DEVICE, _IRREGULAR = 1 << 31, 1 << 27, 1 << 26, 1 << 19
_LINKS = 10
_PIECE = 1 << 18


class _End:
    """One end of a copy: ``rename`` is the name that the archive's first component gets instead of the path's own."""

    def __init__(self, path: str, *, exists: bool = False, directory: bool = False, rename: str = "") -> None:
        self.path = path
        self.exists = exists
        self.directory = directory
        self.rename = rename


def _copy(context: Context, options: Options) -> int:
    source, target = options.arguments
    if not source:
        raise CapsaError("source can not be empty")
    if not target:
        raise CapsaError("destination can not be empty")
    (origin, source), (container, target) = _split(source), _split(target)
    quiet = options.switch("quiet") if options.given("quiet") else not sys.stdout.isatty()
    if origin and container:
        raise CapsaError("copying between containers is not supported")
    engine = context.engine()
    if origin:
        size = _out(engine, origin, source, target, follow=options.switch("follow-link"))
    elif container:
        follow, owner = options.switch("follow-link"), options.switch("archive")
        size = _in(engine, container, source, target, follow=follow, owner=owner)
    else:
        raise CapsaError("must specify at least one container source")
    if not quiet and target != "-":
        from capsa.cli.units import size as shown

        place = f"{container}:{target}" if container else target
        print(f"Successfully copied {shown(size)} to {place}", file=sys.stderr)
    return 0


def _split(text: str) -> tuple[str, str]:
    """The container, if one is named, and the path."""
    container, colon, path = text.partition(":")
    if text.startswith("/") or not colon or container.startswith("."):
        return "", text
    return container, path


# -- the path rules


def _parts(path: str) -> tuple[str, str]:
    """Directory and last component of the clean path; the latter is ``.`` where the path says so."""
    clean = posixpath.normpath(path)
    if _is_dot(path):
        return clean, "."
    return posixpath.dirname(clean) or ".", posixpath.basename(clean) or "/"


def _is_dot(path: str) -> bool:
    return posixpath.basename(path.rstrip("/")) == "."


def _says_directory(path: str) -> bool:
    return path.endswith("/") or _is_dot(path)


def _kept(clean: str, path: str) -> str:
    """``clean`` with the ``/`` or ``/.`` at the end that ``path`` has."""
    if _is_dot(path) and not _is_dot(clean):
        clean = clean.rstrip("/") + "/."
    return clean + "/" if path.endswith("/") and not clean.endswith("/") else clean


def _absolute(path: str) -> str:
    return _kept(os.path.abspath(path), path)


def _renamed(path: str, resolved: str) -> tuple[str, str]:
    """``resolved`` with the end of ``path``, and the name that ``path`` asked for where that is another."""
    resolved = _kept(resolved, path)
    name = posixpath.basename(path.rstrip("/"))
    return resolved, name if name != posixpath.basename(resolved.rstrip("/")) else ""


def _place(source: _End, target: _End) -> tuple[str, str]:
    """The directory to unpack into, and the name that the archive's first component gets, empty: its own."""
    directory, name = _parts(target.path)
    if target.exists and target.directory:
        return target.path, ""
    if target.exists and source.directory:
        raise CapsaError("cannot copy directory")
    if not target.exists and not source.directory and _says_directory(target.path):
        raise CapsaError("no such directory")
    return directory, name


# -- into a container


def _in(engine: Engine, container: str, source: str, target: str, *, follow: bool, owner: bool) -> int:
    end = _End(target)
    try:
        found = _stat(engine, container, target)
        if found["mode"] & _LINK:
            end.path = _beside(target, found["linkTarget"])
            found = _stat(engine, container, end.path)
    except ApiError:
        pass  # as docker: if its directory is not there either, the engine says so
    else:
        end.exists, end.directory = True, bool(found["mode"] & _DIRECTORY)
        if found["mode"] & (_DEVICE | _IRREGULAR):
            what = "a device" if found["mode"] & _DEVICE else "an irregular file"
            raise CapsaError(f'destination "{container}:{target}" must be a directory or a regular file: got {what}')
    counter = _Counter()
    body: Iterable[bytes]
    if source == "-":
        if not end.directory:
            raise CapsaError(f'destination "{container}:{target}" must be a directory')
        place, body = end.path, counter.watch(_input())
    else:
        begin = _local_source(_absolute(source), follow)
        place, name = _place(begin, end)
        body = counter.watch(_packed(begin, name))
    parameters = {"path": place, "noOverwriteDirNonDir": "true", "copyUIDGID": "true" if owner else None}
    headers = {"Content-Type": "application/x-tar"}
    engine.request("PUT", _archive(container), parameters, body=body, headers=headers, own=True).read()
    return counter.size


def _local_source(path: str, follow: bool) -> _End:
    try:
        if follow:
            resolved, name = _renamed(path, os.path.realpath(path, strict=True))
        else:
            above, last = posixpath.split(path)
            resolved, name = posixpath.join(os.path.realpath(above, strict=True), last), ""
            if path.endswith("/"):
                resolved, name = _renamed(path, resolved)
        status = os.lstat(resolved)
    except OSError as error:
        raise CapsaError(f"lstat {path}: {reason(error)}") from error
    return _End(resolved, exists=True, directory=stat.S_ISDIR(status.st_mode), rename=name)


def _packed(source: _End, name: str) -> Iterator[bytes]:
    """The archive of a local path; written in a thread, a few pieces ahead."""
    from capsa.image.pack import write_part

    directory, base = _parts(source.path)
    rename = os.fsencode(name or source.rename or base).strip(b"/")

    def work(put: Callable[[bytes], None]) -> None:
        try:
            above = os.open(directory, os.O_PATH | os.O_DIRECTORY)
        except OSError as error:
            raise CapsaError(f"cannot read {directory}: {reason(error)}") from error
        inner = b"" if base in (".", "/") else os.fsencode(base)
        out = _Gathered(put)
        write_part(above, inner, out, rename=rename, enter=lambda fd: True)
        out.flush()

    return _threaded(work)


def _threaded(work: Callable[[Callable[[bytes], None]], None]) -> Iterator[bytes]:
    """The pieces that ``work`` puts; raises what it raises."""
    import queue
    import threading

    pieces: queue.Queue[bytes | BaseException] = queue.Queue(4)
    ended = threading.Event()

    def put(piece: bytes) -> None:
        if ended.is_set():
            raise BrokenPipeError
        pieces.put(piece)

    def run() -> None:
        try:
            work(put)
            pieces.put(b"")
        except BaseException as error:
            pieces.put(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        while piece := pieces.get():
            if isinstance(piece, BaseException):
                raise piece
            yield piece
    finally:
        ended.set()


def _input() -> Iterator[bytes]:
    while piece := os.read(0, _PIECE):
        yield piece


# -- out of a container


def _out(engine: Engine, container: str, source: str, target: str, *, follow: bool) -> int:
    if target != "-":
        target = _absolute(target)
        _check_output(target)
    name = ""
    if follow:
        found = _stat(engine, container, source)
        if found["mode"] & _LINK:
            source, name = _renamed(source, _beside(source, found["linkTarget"]))
    response = engine.request("GET", _archive(container), {"path": source}, own=True)
    found = _decoded(response.headers.get("x-docker-container-path-stat", ""))
    counter = _Counter()
    if target == "-":
        from capsa.cli.streams import write

        for piece in counter.watch(response.chunks()):
            write(1, piece)
        return counter.size
    begin = _End(source, exists=True, directory=bool(found["mode"] & _DIRECTORY), rename=name)
    place, last = _place(begin, _local_target(target))
    _unpack(counter.watch(response.chunks()), place, begin, last)
    return counter.size


def _check_output(path: str) -> None:
    """As docker, before anything is asked for."""
    above = posixpath.dirname(posixpath.normpath(path))
    if not os.path.exists(above):
        raise CapsaError(f'invalid output path: directory "{above}" does not exist')
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise CapsaError(f"stat {path}: {reason(error)}") from error
    if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
        raise CapsaError(f'invalid output path: "{path}" must be a directory or a regular file: got a device')


def _local_target(path: str) -> _End:
    """Where links lead that are at ``path``; what they lead to need not be there."""
    end = path
    for _ in range(_LINKS + 1):
        try:
            mode = os.lstat(end).st_mode
        except FileNotFoundError:
            above = _parts(end)[0]
            if not os.path.isdir(above):
                raise CapsaError(f"{above}: not a directory") from None
            return _End(end)
        except OSError as error:
            raise CapsaError(f"lstat {end}: {reason(error)}") from error
        if not stat.S_ISLNK(mode):
            return _End(end, exists=True, directory=stat.S_ISDIR(mode))
        end = posixpath.join(_parts(end)[0], os.readlink(end))
    raise CapsaError(f"too many symlinks in {path}")


def _unpack(pieces: Iterator[bytes], place: str, source: _End, last: str) -> None:
    from capsa.image.extract import Beneath, Extractor
    from capsa.image.tar import TarReader

    base = _parts(source.path)[1]
    new = last or source.rename
    reader = TarReader(lambda: next(pieces, b""))
    old = b"" if base == "/" else os.fsencode(base)
    renamed = _Renamed(reader, old, os.fsencode(new)) if new and os.fsencode(new) != old else reader
    try:
        with Beneath(place) as tree:
            Extractor(tree, chown=False, replace=False).run(renamed)
        for _ in pieces:
            pass
    except OSError as error:
        raise CapsaError(f"cannot write below {place}: {reason(error)} ({error.filename})") from error


class _Renamed:
    """An archive whose names begin with ``new`` where they began with ``old``."""

    def __init__(self, reader: Any, old: bytes, new: bytes) -> None:
        self._reader = reader
        self._old = old
        self._new = new
        self.parts = reader.parts

    def __iter__(self) -> Iterator[Any]:
        for entry in self._reader:
            entry.name = self._name(entry.name)
            if entry.type == b"1":
                entry.link = self._name(entry.link)
            yield entry

    def _name(self, name: bytes) -> bytes:
        if not self._old:
            return self._new + b"/" + name.lstrip(b"/")
        rest = name[len(self._old) :]
        return self._new + rest if name.startswith(self._old) and rest[:1] in (b"", b"/") else name


# -- both ways


class _Gathered:
    """Puts small pieces together."""

    def __init__(self, put: Callable[[bytes], None]) -> None:
        self._put = put
        self._pieces: list[bytes] = []
        self._size = 0

    def write(self, data: bytes, /) -> None:
        self._pieces.append(bytes(data))
        self._size += len(data)
        if self._size >= _PIECE:
            self.flush()

    def flush(self) -> None:
        if self._size:
            self._put(b"".join(self._pieces))
        self._pieces, self._size = [], 0


class _Counter:
    """Counts what passes."""

    def __init__(self) -> None:
        self.size = 0

    def watch(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            self.size += len(piece)
            yield piece


def _archive(container: str) -> str:
    return f"/containers/{quote(container)}/archive"


def _stat(engine: Engine, container: str, path: str) -> dict[str, Any]:
    response = engine.request("HEAD", _archive(container), {"path": path})
    response.read()
    return _decoded(response.headers.get("x-docker-container-path-stat", ""))


def _decoded(header: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(base64.b64decode(header))
        found["mode"] |= 0
    except (ValueError, KeyError, TypeError):
        raise CapsaError("the engine does not say what is at that path") from None
    return found


def _beside(link: str, target: str) -> str:
    """Where a link in a container leads."""
    return posixpath.join(_parts(link)[0], target)


COMMANDS = {
    "cp": Command(
        "cp",
        "CONTAINER:SRC_PATH DEST_PATH|- | SRC_PATH|- CONTAINER:DEST_PATH",
        "Copy files between a container and this machine ('-' is a tar archive on standard input or output)",
        """
  -a, --archive       Give what is copied to the container's user
  -L, --follow-link   Copy what a symbolic link leads to
  -q, --quiet         Do not tell what was copied (the default without a terminal)
""",
        _copy,
        least=2,
        most=2,
        completes="containers",
    ),
}
