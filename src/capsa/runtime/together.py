"""The compiled modules of ``capsa-runtime`` in one file, which is read in a fraction of the time.

`assembly` makes the file, `use` has modules come from it. It lies with what Python itself compiles, and as there a
module that was changed since then is read from its source. Without the file all works, too. It consists of Python's
magic number, a mark of its own form, a table (marshal's format), and the modules' code one by one.

To find modules by Python's import system takes longer than to run them, so the table tells which ones each needs, and
those are there before it asks for them. Extensions have an entry as well: otherwise directories would be listed.
"""

import marshal
import posix
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import ModuleType

FORM = b"\2"  # another one with each change of `Row`: the file of an earlier version may still be there
HEAD = 9  # bytes: `magic`, and the length of the table
Row = tuple[str, bool, int, int, int, int, tuple[str, ...]]
"""Source, whether it is a package, the source's time and size, place and length (0: an extension), what it needs."""
_Known = tuple[int, int, int]


def path() -> str:
    """Where the file is."""
    return f"{__file__.rpartition('/')[0]}/__pycache__/together.{sys.implementation.cache_tag}.bin"


class Finder:
    """Finds modules in the file's ``table``.

    ``known`` tells this file from one that is made anew meanwhile, in which all has another place.
    """

    def __init__(self, file: str, known: _Known, table: dict[str, Row], start: int) -> None:
        self._file = file
        self._known = known
        self._table = table
        self._start = start
        self._fd = -1
        self._holders = 0

    def find_spec(self, name: str, _path: object = None, _target: object = None) -> "ModuleSpec | None":
        """The module ``name``, unless its source is newer."""
        row = self._table.get(name)
        return None if row is None or not _is_current(row) else self._spec(name, row)

    def _spec(self, name: str, row: Row) -> "ModuleSpec":
        source, package, _, _, _, length, _ = row
        kind = type(sys.__spec__)
        if not length:
            loader = sys.modules["_frozen_importlib_external"].ExtensionFileLoader(name, source)
            return kind(name, loader, origin=source)
        spec = kind(name, self, origin=source, is_package=package)  # type: ignore[arg-type]
        spec.has_location = True
        spec.cached = self._file
        if spec.submodule_search_locations is not None:
            spec.submodule_search_locations.append(source.rpartition("/")[0])
        return spec

    def create_module(self, _spec: "ModuleSpec") -> None:
        """Python makes it."""

    def exec_module(self, module: "ModuleType") -> None:
        """Read it, and run it; from its source if the file is another one by now, as after an upgrade."""
        source, _, _, _, place, length, needs = self._table[module.__name__]
        for need in needs:
            if need not in sys.modules:
                self.provide(need)
        code = self._read(self._start + place, length)
        made = compile(_content(source), source, "exec", dont_inherit=True) if code is None else marshal.loads(code)  # noqa: S302
        exec(made, module.__dict__)  # noqa: S102

    def prefer(self, name: str, variant: str) -> bool:
        """Have module ``name`` made of another entry, if that is there and up to date, and the file is held open."""
        row = self._table.get(variant)
        if row is None or self._fd < 0 or not _is_current(row):
            return False
        self._table[name] = row
        return True

    def provide(self, name: str) -> None:
        """Import ``name`` if it is one of these, as Python would, in a third of the time."""
        row = self._table.get(name)
        if row is None or not row[5] or not _is_current(row):
            return
        above, _, own = name.rpartition(".")
        if above and above not in sys.modules:
            self.provide(above)
            if above not in sys.modules or name in sys.modules:
                return
        module = type(sys)(name)  # without a ``__spec__``, which only Python's import system would look at
        module.__loader__ = self  # type: ignore[assignment]
        module.__file__ = row[0]
        module.__package__ = name if row[1] else above
        if row[1]:
            module.__path__ = [row[0].rpartition("/")[0]]
        sys.modules[name] = module
        try:
            self.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
        if above:
            setattr(sys.modules[above], own, module)

    def _open(self) -> int:
        """The file, if it is still the same one; -1 otherwise."""
        try:
            fd = posix.open(self._file, posix.O_RDONLY | posix.O_CLOEXEC)
        except OSError:
            return -1
        if _identity(fd) != self._known:
            posix.close(fd)
            return -1
        return fd

    def _read(self, place: int, length: int) -> bytes | None:
        held = self._fd >= 0
        fd = self._fd if held else self._open()
        if fd < 0:
            return None
        try:
            return posix.pread(fd, length, place)
        finally:
            if not held:
                posix.close(fd)

    def __enter__(self) -> "Finder":
        """Keep the file open: there is more to come."""
        if not self._holders:
            self._fd = self._open()
        self._holders += 1
        return self

    def __exit__(self, *_: object) -> None:
        """Have no descriptor open any more: ``--preserve-fds`` could take it for one of the caller's."""
        self._holders -= 1
        if not self._holders and self._fd >= 0:
            posix.close(self._fd)
            self._fd = -1


class Nothing:
    """In the place of a `Finder` where there is none."""

    def prefer(self, _name: str, _variant: str) -> bool:
        return False

    def provide(self, _name: str) -> None:
        pass

    def __enter__(self) -> "Nothing":
        return self

    def __exit__(self, *_: object) -> None:
        pass


def finder() -> "Finder | Nothing":
    """What finds modules in the file; a context in which many are imported."""
    return next((each for each in sys.meta_path if isinstance(each, Finder)), Nothing())


def _is_current(row: Row) -> bool:
    try:
        found = posix.stat(row[0])
    except OSError:
        return False
    return found.st_size == row[3] and found.st_mtime_ns == row[2]


def _identity(fd: int) -> _Known:
    found = posix.fstat(fd)
    return found.st_ino, found.st_mtime_ns, found.st_size  # devices may be numbered anew, see `capsa.start.snapshot`


def _content(source: str) -> bytes:
    with open(source, "rb") as file:
        return file.read()


def _opened() -> "tuple[int, dict[str, Row], int]":
    """The file, its table, and where the code begins; raises `OSError`, ValueError if it is of another Python."""
    fd = posix.open(path(), posix.O_RDONLY | posix.O_CLOEXEC)
    try:
        head = posix.read(fd, HEAD)
        length = int.from_bytes(head[5:], sys.byteorder)
        if head[:5] != magic():
            raise ValueError(f"{path()} is of another Python")
        return fd, marshal.loads(posix.read(fd, length)), HEAD + length  # noqa: S302
    except BaseException:
        posix.close(fd)
        raise


def use() -> None:
    """From now on, modules come from the file if it is there and of this Python."""
    try:
        fd, table, start = _opened()
    except (OSError, ValueError):
        return
    sys.meta_path.insert(0, Finder(path(), _identity(fd), table, start))
    posix.close(fd)


def sources() -> list[str]:
    """What the file was made of; raises `OSError`, ValueError."""
    fd, table, _ = _opened()
    posix.close(fd)
    return sorted({row[0] for row in table.values()})


def magic() -> bytes:
    """What the file begins with: as Python's compiled files do, and its own form."""
    number: bytes = sys.modules["_frozen_importlib_external"].MAGIC_NUMBER
    return number + FORM
