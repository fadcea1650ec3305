"""Small modules in the place of some of Python's library, see `lean`.

Each has what capsa's modules use of the real one, and a test compares; that of ``typing`` has what msgspec asks for.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import ModuleType
    from typing import Any
else:
    ModuleType = type(sys)

# In these the Python part adds nothing but enumerations, names, or a second implementation.
_ONLY_C = {"datetime": "_datetime", "signal": "_signal", "struct": "_struct"}
# What annotations of structures name, as they stand there; to evaluate an expression would take the compiler's memory.
_PLAIN = {"bool": bool, "bytes": bytes, "int": int, "str": str}
_FORMATS = ("_json_schema", "inspect", "msgpack", "toml", "yaml")
# Types of C, and what they are called in formats (ctypes.html, Fundamental data types), of a 64-bit machine.
_TYPES = {
    "c_char": "c",
    "c_char_p": "z",
    "c_int": "i",
    "c_int32": "i",
    "c_int64": "l",
    "c_long": "l",
    "c_uint": "I",
    "c_uint32": "I",
    "c_uint64": "L",
    "c_ushort": "H",
    "c_void_p": "P",
}


def make() -> dict[str, ModuleType | None]:
    """Those for capsa's own modules, by the name of what they stand for."""
    abstract = _abstract()
    placed: dict[str, ModuleType | None] = {name: _Lazily(name, part) for name, part in _ONLY_C.items()}
    placed |= {
        "__future__": _module("__future__", annotations=None),
        "_collections_abc": abstract,
        "collections": _module("collections", abc=abstract, deque=__import__("_collections").deque),
        "collections.abc": abstract,
        "contextlib": _contexts(),
        "ctypes": _CTypes("ctypes", "_ctypes", _ctypes),
        "socket": _Lazily("socket", "_socket", _socket),
    }
    return placed


def for_msgspec() -> dict[str, ModuleType | None]:
    """What msgspec wants besides; None is a module that is not there."""
    placed: dict[str, ModuleType | None] = {
        f"msgspec.{name}": _module(f"msgspec.{name}", schema=None, schema_components=None) for name in _FORMATS
    }
    return placed | {
        "decimal": _module("decimal", Decimal=type("Decimal", (), {})),
        "enum": _module("enum", Enum=type("Enum", (), {}), EnumMeta=type("EnumMeta", (type,), {})),
        "msgspec._utils": _utilities(),
        "re": _module("re", compile=None),
        "types": _module(
            "types", GenericAlias=type(list[int]), MethodType=type(_Form().__getitem__), UnionType=type(int | None)
        ),
        "typing": _Typing("typing"),
        "typing_extensions": None,
        "uuid": _module("uuid", UUID=type("UUID", (), {}), SafeUUID=type("SafeUUID", (), {"unknown": None})),
    }


def _module(name: str, **content: Any) -> ModuleType:
    module = ModuleType(name)
    module.__dict__.update(content)
    return module


class _Lazily(ModuleType):
    """A module whose ``part`` in C is what counts, with what ``add`` makes besides; neither is there before it is used.

    What is in C comes name by name, as some have hundreds.
    """

    _part: str
    _add: Callable[[ModuleType], dict[str, Any]] | None

    def __init__(self, name: str, part: str, add: Callable[[ModuleType], dict[str, Any]] | None = None) -> None:
        super().__init__(name)
        self._part, self._add = part, add

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if self._add is not None:
            make, self._add = self._add, None
            self.__dict__.update(make(self))
            return getattr(self, name)
        found = getattr(__import__(self._part), name)
        setattr(self, name, found)
        return found


def for_os() -> dict[str, ModuleType | None]:
    """What ``os`` needs, which takes twice as long to import as ``os`` itself."""
    return {"_collections_abc": _abstract(), "stat": __import__("_stat")}


def _abstract() -> ModuleType:
    """``_collections_abc``: what ``os.environ`` inherits, and names that others ask for."""
    return _module(
        "_collections_abc",
        Mapping=(dict, _Mapping),  # nobody inherits this one
        MutableMapping=_Mapping,
        MutableSequence=type("MutableSequence", (), {"register": staticmethod(id)}),
        _check_methods=_has,
    )


def _has(kind: type, *names: str) -> Any:
    """Whether ``kind`` has these methods, as ``__subclasshook__`` says it."""
    for name in names:
        if next((vars(each)[name] for each in kind.__mro__ if name in vars(each)), None) is None:
            return NotImplemented
    return True


class _Mapping:
    """``MutableMapping``: what makes a mapping of the methods for single keys."""

    def __contains__(self, key: object) -> bool:
        return self.get(key, self) is not self

    def get(self, key: Any, default: Any = None) -> Any:
        try:
            return self[key]  # type: ignore[index]
        except KeyError:
            return default

    def keys(self) -> list[Any]:
        return list(self)  # type: ignore[call-overload, no-any-return]

    def values(self) -> list[Any]:
        return [self[key] for key in self]  # type: ignore[attr-defined, index]

    def items(self) -> list[tuple[Any, Any]]:
        return [(key, self[key]) for key in self]  # type: ignore[attr-defined, index]


def _utilities() -> ModuleType:
    """What msgspec has in Python for itself: of that, structures without generics need only their annotations."""
    rest = ("call_annotate_forwardref", "convert_generic_alias", "get_dataclass_info", "get_type_hints")
    return _module(
        "msgspec._utils",
        **dict.fromkeys((*rest, "get_typeddict_info", "rebuild")),
        get_class_annotations=_annotations,
        _AnnotatedAlias=type("_AnnotatedAlias", (), {}),
        _CONCRETE_TYPES={kind: kind for kind in (list, tuple, set, frozenset, dict)},
    )


def _annotations(struct: Any) -> dict[str, Any]:
    """``msgspec._utils.get_class_annotations`` of a class that is not generic."""
    found: dict[str, Any] = {}
    for each in struct.__mro__:
        names = vars(each)
        for name, kind in names.get("__annotations__", {}).items():
            if name not in found:
                if isinstance(kind, str):
                    kind = _PLAIN.get(kind) or eval(kind, dict(names), vars(sys.modules[each.__module__]))  # noqa: S307
                found[name] = type(None) if kind is None else kind
    return found


def _contexts() -> ModuleType:
    """``contextlib`` without its abstract classes, and what is for coroutines."""
    return _module("contextlib", ExitStack=_ExitStack, contextmanager=_contextmanager, suppress=_Suppress)


class _Suppress:
    """``contextlib.suppress``."""

    def __init__(self, *kinds: type[BaseException]) -> None:
        self._kinds = kinds

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        return kind is not None and issubclass(kind, self._kinds)


def _contextmanager(function: Callable[..., Iterator[Any]]) -> Callable[..., _Generated]:
    """``contextlib.contextmanager``."""

    def make(*arguments: Any, **named: Any) -> _Generated:
        return _Generated(function(*arguments, **named))

    return make


class _Generated:
    """A context whose beginning and end are those of a generator."""

    def __init__(self, generator: Any) -> None:
        self._generator = generator

    def __enter__(self) -> Any:
        return next(self._generator)

    def __exit__(self, _kind: object, error: BaseException | None, trace: Any) -> bool:
        try:
            if error is None:
                next(self._generator)
            else:
                self._generator.throw(error)
        except StopIteration as stop:
            return stop is not error  # one that was raised inside goes on
        except BaseException as raised:
            # What a generator raises of StopIteration is a RuntimeError from that (PEP 479).
            if raised is error or (isinstance(error, StopIteration) and raised.__cause__ is error):
                error.__traceback__ = trace
                return False
            raise
        raise RuntimeError("generator didn't stop")


class _ExitStack:
    """``contextlib.ExitStack``."""

    def __init__(self) -> None:
        self._ends: list[Callable[..., Any]] = []

    def callback(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> None:
        def end(*_: object) -> None:
            function(*arguments, **named)

        self._ends.append(end)

    def push(self, end: Callable[..., Any]) -> None:
        self._ends.append(end)

    def enter_context(self, context: Any) -> Any:
        entered = context.__enter__()
        self._ends.append(context.__exit__)
        return entered

    def pop_all(self) -> _ExitStack:
        other = _ExitStack()
        other._ends, self._ends = self._ends, []
        return other

    def close(self) -> None:
        self.__exit__(None, None, None)

    def __enter__(self) -> _ExitStack:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        present = error
        while self._ends:
            end = self._ends.pop()
            try:
                if end(type(present) if present else None, present, present.__traceback__ if present else None):
                    present = None
            except BaseException as raised:
                present = raised
        if present is error:
            return False
        if present is None:
            return True
        raise present


def _socket(_module: ModuleType) -> dict[str, Any]:
    """``socket`` without its enumerations; sockets are those in C, with what the ones in Python add."""
    import _socket

    class Socket(_socket.socket):
        def __enter__(self) -> Socket:
            return self

        def __exit__(self, *_: object) -> None:
            self.close()

        def accept(self) -> tuple[Socket, Any]:
            fd, address = self._accept()  # type: ignore[attr-defined]
            return Socket(fileno=fd), address

    def send_fds(end: _socket.socket, data: Iterable[bytes], fds: Iterable[int]) -> int:
        from array import array

        return end.sendmsg(data, [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array("i", fds))])

    return {"socket": Socket, "send_fds": send_fds}


def _ctypes(module: Any) -> dict[str, Any]:
    """``ctypes`` as far as system calls take it."""
    import _ctypes as c

    function: Any = c.CFuncPtr

    class Library:
        flags = c.FUNCFLAG_CDECL

        def __init__(self, name: str | None, *, use_errno: bool = False) -> None:
            self._handle = c.dlopen(name, 0)  # type: ignore[arg-type]
            flags = self.flags | (c.FUNCFLAG_USE_ERRNO if use_errno else 0)
            self._kind: Any = type(function)("Function", (function,), {"_flags_": flags, "_restype_": module.c_int})

        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            found = self._kind((name, self))
            setattr(self, name, found)
            return found

    class PythonLibrary(Library):
        flags = c.FUNCFLAG_CDECL | c.FUNCFLAG_PYTHONAPI

    def create_string_buffer(init: bytes | int, size: int | None = None) -> Any:
        content = init if isinstance(init, bytes) else b""
        buffer = (module.c_char * (size or (len(init) + 1 if isinstance(init, bytes) else init)))()
        buffer.value = content
        return buffer

    return {
        "CDLL": Library,
        "PyDLL": PythonLibrary,
        "create_string_buffer": create_string_buffer,
        "pythonapi": PythonLibrary(None),
    }


class _CTypes(_Lazily):
    """``ctypes``, whose types are made when they are asked for: each is two classes, and few are."""

    def __getattr__(self, name: str) -> Any:
        if name not in _TYPES:
            return super().__getattr__(name)
        import _ctypes

        simple: Any = _ctypes._SimpleCData
        found = type(simple)(name, (simple,), {"_type_": _TYPES[name]})
        setattr(self, name, found)
        return found


class _Form:
    """``Literal``, ``Any``, …: something that can be told from others and takes arguments."""

    def __getitem__(self, arguments: Any) -> _Alias:
        return _Alias(self, arguments if isinstance(arguments, tuple) else (arguments,))


class _Alias:
    def __init__(self, origin: object, arguments: tuple[Any, ...]) -> None:
        self.__origin__ = origin
        self.__args__ = arguments


class _Typing(ModuleType):
    """``typing`` as far as msgspec asks for it: things to compare annotations with."""

    TYPE_CHECKING = False
    _CLASSES = ("Generic", "TypeVar", "_AnnotatedAlias", "_GenericAlias")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        found = type(name, (), {}) if name in self._CLASSES else _Form()
        setattr(self, name, found)
        return found
