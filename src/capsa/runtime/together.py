"""The compiled modules of ``capsa-runtime`` in one file, which halves what it takes to find and read them.

`write` makes it (``python -m capsa.runtime.together``, see the Makefile), `use` has modules come from it. It lies with
what Python itself compiles, and as there a module that was changed since then is read from its source. Without the file
all works, too. It consists of Python's magic number, a table (marshal's format), and the modules' code one by one.
"""

import marshal
import posix
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import ModuleType

_PACKAGES = ("oci", "platform", "platform/linux", "platform/linux/cgroup", "runtime", "sys", "vfs")
_MODULES = ("__init__", "cli/__init__", "cli/options", "errors")
_HEAD = 8  # bytes: the magic number, and the length of the table
_Row = tuple[str, bool, int, int, int, int]
_Known = tuple[int, int, int, int]


def path() -> str:
    """Where the file is."""
    return f"{__file__.rpartition('/')[0]}/__pycache__/together.{sys.implementation.cache_tag}.bin"


class Finder:
    """Finds modules in the file's ``table``: source, whether it is a package, its time and size, place and length.

    ``known`` tells this file from one that is made anew meanwhile, in which all has another place.
    """

    def __init__(self, file: str, known: _Known, table: dict[str, _Row], start: int) -> None:
        self._file = file
        self._known = known
        self._table = table
        self._start = start

    def find_spec(self, name: str, _path: object = None, _target: object = None) -> "ModuleSpec | None":
        """The module ``name``, unless its source is newer."""
        row = self._table.get(name)
        if row is None:
            return None
        source, package, time, size, _, _ = row
        try:
            found = posix.stat(source)
        except OSError:
            return None
        if found.st_size != size or found.st_mtime_ns != time:
            return None
        spec = type(sys.__spec__)(name, self, origin=source, is_package=package)  # type: ignore[arg-type]
        spec.has_location = True
        spec.cached = self._file
        if spec.submodule_search_locations is not None:
            spec.submodule_search_locations.append(source.rpartition("/")[0])
        return spec

    def create_module(self, _spec: "ModuleSpec") -> None:
        """Python makes it."""

    def exec_module(self, module: "ModuleType") -> None:
        """Read it, and run it; from its source if the file is another one by now, as after an upgrade."""
        source, _, _, _, place, length = self._table[module.__name__]
        code = self._read(self._start + place, length)
        made = compile(_content(source), source, "exec", dont_inherit=True) if code is None else marshal.loads(code)  # noqa: S302
        exec(made, module.__dict__)  # noqa: S102

    def _read(self, place: int, length: int) -> bytes | None:
        # No descriptor stays open: --preserve-fds could take it for one of the caller's.
        try:
            fd = posix.open(self._file, posix.O_RDONLY | posix.O_CLOEXEC)
        except OSError:
            return None
        try:
            return posix.pread(fd, length, place) if _identity(fd) == self._known else None
        finally:
            posix.close(fd)


def _identity(fd: int) -> _Known:
    found = posix.fstat(fd)
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size


def _content(source: str) -> bytes:
    with open(source, "rb") as file:
        return file.read()


def use() -> None:
    """From now on, modules come from the file if it is there and of this Python."""
    file = path()
    try:
        fd = posix.open(file, posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError:
        return
    try:
        head = posix.read(fd, _HEAD)
        length = int.from_bytes(head[4:], sys.byteorder)
        if head[:4] == _magic():
            table = marshal.loads(posix.read(fd, length))  # noqa: S302
            sys.meta_path.insert(0, Finder(file, _identity(fd), table, _HEAD + length))
    finally:
        posix.close(fd)


def _magic() -> bytes:
    magic: bytes = sys.modules["_frozen_importlib_external"].MAGIC_NUMBER
    return magic


def write() -> None:
    """Make the file anew; it appears whole."""
    import os
    from pathlib import Path

    top = Path(__file__).parents[1]
    sources = [top / f"{name}.py" for name in _MODULES]
    sources += [source for package in _PACKAGES for source in sorted((top / package).glob("*.py"))]
    table: dict[str, _Row] = {}
    codes: list[bytes] = []
    place = 0
    for source in sources:
        package = source.name == "__init__.py"
        parts = source.relative_to(top.parent).with_suffix("").parts
        known = source.stat()
        # Without docstrings: nothing here shows them, and they are a sixth of it.
        code = marshal.dumps(compile(source.read_bytes(), str(source), "exec", dont_inherit=True, optimize=2))
        row = (str(source), package, known.st_mtime_ns, known.st_size, place, len(code))
        table[".".join(parts[:-1] if package else parts)] = row
        codes.append(code)
        place += len(code)
    index = marshal.dumps(table)
    target = Path(path())
    target.parent.mkdir(exist_ok=True)
    hidden = target.with_suffix(f".{os.getpid()}")
    hidden.write_bytes(_magic() + len(index).to_bytes(4, sys.byteorder) + index + b"".join(codes))
    hidden.rename(target)


if __name__ == "__main__":
    write()
