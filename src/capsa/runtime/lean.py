"""What modules import and this program has no use for, left out: two thirds of the time until a container is made.

Three quarters of what would be imported are for what nothing here does: msgspec takes annotations of any kind and knows
formats besides JSON, ``socket`` and ``signal`` turn every constant into an enumeration (``enum``, ``re``), ``datetime``
is there once in Python and once in C. So while the modules of a verb are imported (`load`), smaller ones stand in the
place of these; afterwards whoever needs the real ones imports them. Modules that few containers need are not even read
before somebody looks into them (`LATER`).

A stand-in has what capsa's modules use of the real one, and a test compares; that of ``typing`` what msgspec asks for.
An msgspec that asks for more is imported as usual.
"""

from __future__ import annotations

import gc
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import ModuleType
    from typing import Any
else:
    ModuleType = type(sys)

# In these the Python part adds nothing but enumerations, names, or a second implementation.
_ONLY_C = {"datetime": "_datetime", "signal": "_signal", "struct": "_struct"}
_FORMATS = ("_json_schema", "inspect", "msgpack", "toml", "yaml")
LATER = (
    "capsa.platform.linux.cgroup.bpf",
    "capsa.platform.linux.cgroup.kill",
    "capsa.platform.linux.cgroup.oom",
    "capsa.platform.linux.entering",
    "capsa.platform.linux.hooks",
    "capsa.platform.linux.idmap",
    "capsa.platform.linux.interfaces",
    "capsa.platform.linux.nameserver",
    "capsa.platform.linux.netdevices",
    "capsa.platform.linux.reaper",
    "capsa.sys.netlink",
)
"""Modules that are read once somebody looks into them: their users import them as modules, not names of theirs.

Only what the caller's side uses can be among them: the processes that it makes import nothing (`birth.guard`).
"""
# Whose types are decoded: with another ``typing`` than msgspec has got to know, that would not do.
_TYPED = ("msgspec", "capsa.oci.runtime")


def load(names: tuple[str, ...], *, types: bool = True) -> None:
    """Import the modules ``names``, and msgspec before them (``types``), with stand-ins for what they import."""
    if "msgspec" in sys.modules:
        return
    if types:
        names = (*_TYPED, *names)
    gc.disable()  # all of this stays
    before = set(sys.modules)
    for name in LATER:
        if name not in names:
            sys.modules.setdefault(name, _Later(name))
    try:
        _with_stand_ins(names)
    except (ImportError, AttributeError, TypeError):
        for name in set(sys.modules) - before:
            del sys.modules[name]
        for name in names:
            __import__(name)
    gc.freeze()
    gc.enable()


def _with_stand_ins(names: Iterable[str]) -> None:
    if not _placed:
        _placed.update(stand_ins())
    placed = {name: module for name, module in _placed.items() if name not in sys.modules}
    sys.modules.update(placed)  # type: ignore[arg-type]
    try:
        for name in names:
            __import__(name)
    finally:
        for name, module in placed.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]


# The same ones for all: msgspec knows ``Literal`` by being that one.
_placed: dict[str, ModuleType | None] = {}


class _Later(ModuleType):
    """A module that is read at the first look into it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        self.__class__ = ModuleType  # type: ignore[assignment]
        del sys.modules[self.__name__]
        _with_stand_ins((self.__name__,))
        self.__dict__.update(sys.modules[self.__name__].__dict__)
        return getattr(self, name)


# ---- the stand-ins ----


def stand_ins() -> dict[str, ModuleType | None]:
    """All of them, by the name of what they stand for; None is a module that is not there."""
    placed: dict[str, ModuleType | None] = {name: __import__(part) for name, part in _ONLY_C.items()}
    placed |= {f"msgspec.{name}": _module(f"msgspec.{name}", schema=None, schema_components=None) for name in _FORMATS}
    abstract = __import__("_collections_abc")
    placed |= {
        "__future__": _module("__future__", annotations=None),
        "collections": _module("collections", abc=abstract, deque=__import__("_collections").deque),
        "collections.abc": abstract,
        "decimal": _module("decimal", Decimal=type("Decimal", (), {})),
        "enum": _module("enum", Enum=type("Enum", (), {}), EnumMeta=type("EnumMeta", (type,), {})),
        "functools": _module("functools", wraps=_wraps),
        "re": _module("re", compile=None),
        "socket": _socket(),
        "typing": _Typing("typing"),
        "typing_extensions": None,
        "uuid": _module("uuid", UUID=type("UUID", (), {}), SafeUUID=type("SafeUUID", (), {"unknown": None})),
    }
    return placed


def _module(name: str, **content: Any) -> ModuleType:
    module = ModuleType(name)
    module.__dict__.update(content)
    return module


def _wraps(function: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """``functools.wraps``, of which ``contextlib`` makes use."""

    def renamed(wrapper: Callable[..., Any]) -> Callable[..., Any]:
        wrapper.__name__, wrapper.__doc__ = function.__name__, function.__doc__
        return wrapper

    return renamed


def _socket() -> ModuleType:
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

    module = _module("socket", socket=Socket, send_fds=send_fds)
    module.__dict__.update({name: value for name, value in vars(_socket).items() if not hasattr(module, name)})
    return module


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

    @staticmethod
    def ForwardRef(annotation: str, **_: object) -> str:
        return annotation

    @staticmethod
    def _eval_type(annotation: Any, variables: Any, others: Any, *_: object) -> Any:
        # What typing gets wrong, too, and swaps: the first are the class's own names.
        return eval(annotation, dict(others), variables) if isinstance(annotation, str) else annotation  # noqa: S307

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        found = type(name, (), {}) if name in self._CLASSES else _Form()
        setattr(self, name, found)
        return found
