"""What ``create``, ``run`` and ``exec`` have in the place of msgspec: structures, and JSON, in Python.

msgspec's extension and the sixty types of a specification take a tenth of the time and the memory of such a call. Here
a type of a specification is made when it is first needed, from a table (`types`) that `assembly` makes of msgspec's own
types. So there is one definition, and one judge: only what fits in every respect is decoded here. Whatever else it may
be, a wrong type or just a number that is no integer, the real msgspec is imported, and decodes or refuses it.

Other structures (``class X(msgspec.Struct)``) are their fields and no more. Nothing is checked when one is made, as the
type checker has done that, and nothing keeps a frozen one from being changed.
"""

from __future__ import annotations

import _json
import marshal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    Field = tuple[str, str, Any, bool, Any]
    """Its name, and that in JSON; its `Kind`; whether it has to be there; if not, what it is then, or a new one of."""
    Kind = str | tuple[str, Any]
    """A key of `_PLAIN`, ``any``, or a pair: ``none`` or a kind; ``list`` or ``dict`` of a kind; ``one`` of several
    words; a ``struct`` of that name."""

_PLAIN = {"str": str, "int": int, "bool": bool}
# SystemError: the reader has an exception from ``json.decoder``, which is not imported, and raises nothing instead.
_REFUSED = (ValueError, StopIteration, RecursionError, SystemError)
_DIGITS = 18  # of a number; one that has more may be no 64-bit integer
TYPES = "capsa.oci.runtime"
VARIANT = "capsa.oci.runtime:plain"  # the same with tables, in the file of `together`
NAMES = ("msgspec", "msgspec.json", "msgspec.structs")
_NEW: dict[str, Any] = {"list": list, "dict": dict}
_CLASS = type  # which is also a parameter of msgspec's


class DecodeError(ValueError):
    """``msgspec.DecodeError``, with the text that msgspec gives it."""


ValidationError = DecodeError


class _Doubt(ValueError):
    """Something that does not fit in every respect."""


class _Field:
    def __init__(self, factory: Callable[[], Any]) -> None:
        self.factory = factory


def field(*, default_factory: Callable[[], Any]) -> Any:
    """``msgspec.field``."""
    return _Field(default_factory)


class Struct:
    """``msgspec.Struct``. A default is an attribute of the class; what could be changed there is made for each anew."""

    __struct_fields__: tuple[str, ...] = ()
    _fields: tuple[Field, ...] = ()
    _omit = False
    _made: tuple[tuple[str, Callable[[], Any]], ...] = ()

    def __init_subclass__(cls, **_: Any) -> None:
        own = cls.__dict__.get("__annotations__")  # noqa: RUF063
        if own:
            cls.__struct_fields__ += tuple(own)
            for name in own:
                default = cls.__dict__.get(name)
                if type(default) is _Field:
                    cls._made += ((name, default.factory),)

    def __init__(self, *values: Any, **named: Any) -> None:
        self.__dict__ = named
        if values:
            named.update(zip(self.__struct_fields__, values, strict=False))
        for name, make in self._made:
            if name not in named:
                named[name] = make()

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.__struct_fields__)

    def __hash__(self) -> int:
        return hash((type(self), *(getattr(self, name) for name in self.__struct_fields__)))

    def __repr__(self) -> str:
        inner = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__struct_fields__)
        return f"{type(self).__name__}({inner})"


# ---- the types of a specification ----


def types(tables: dict[str, bytes]) -> Callable[[str], type[Struct]]:
    """``__getattr__`` of a module whose types have these ``tables``: whether defaults are left out, and the fields."""
    module = sys.modules[TYPES]

    def make(name: str) -> type[Struct]:
        if name not in tables:
            raise AttributeError(f"module {TYPES!r} has no attribute {name!r}")
        omit, fields = marshal.loads(tables[name])  # noqa: S302
        content = {each[0]: each[4] for each in fields if not each[3] and type(each[4]) is not tuple}
        found: Any = type(name, (Struct,), content)
        found.__module__ = TYPES
        found.__struct_fields__ = tuple(each[0] for each in fields)
        found._omit, found._fields = omit, fields
        found._made = tuple((each[0], _factory(*each[4])) for each in fields if type(each[4]) is tuple)
        module.__dict__[name] = found
        return found  # type: ignore[no-any-return]

    return make


def _factory(kind: str, name: str) -> Callable[[], Any]:
    return getattr(sys.modules[TYPES], name) if kind == "struct" else _NEW[kind]  # type: ignore[no-any-return]


def _fit(kind: Kind, value: Any) -> Any:
    """``value``, as it came from JSON, if it is of this kind; raises `_Doubt`."""
    if isinstance(kind, str):
        if kind != "any" and type(value) is not _PLAIN[kind]:
            raise _Doubt
        return value
    form, inner = kind
    if form == "none":
        return None if value is None else _fit(inner, value)
    if form == "list" and type(value) is list:
        return [_fit(inner, each) for each in value]
    if form == "dict" and type(value) is dict:
        return {name: _fit(inner, each) for name, each in value.items()}
    if form == "one" and type(value) is str and value in inner:
        return value
    if form == "struct" and type(value) is dict:
        return _structure(getattr(sys.modules[TYPES], inner), value)
    raise _Doubt


def _structure(kind: type[Struct], value: dict[str, Any]) -> Struct:
    found = object.__new__(kind)
    content = found.__dict__
    for name, wire, inner, required, _ in kind._fields:
        if wire in value:
            content[name] = _fit(inner, value[wire])
        elif required:
            raise _Doubt
    for name, make in kind._made:
        if name not in content:
            content[name] = make()
    return found


# ---- msgspec.structs ----


def replace(value: Any, **changes: Any) -> Any:
    """``msgspec.structs.replace``."""
    found = object.__new__(type(value))
    found.__dict__.update(value.__dict__, **changes)
    return found


def asdict(value: Struct) -> dict[str, Any]:
    """``msgspec.structs.asdict``."""
    return {name: getattr(value, name) for name in value.__struct_fields__}


# ---- msgspec.json ----


class _Scanner:
    """How Python's reader of JSON is set: what two readers may understand differently is in doubt."""

    strict = True
    object_hook = None

    def __init__(self) -> None:
        self.parse_float = self.parse_constant = self._refuse
        self.memo: dict[str, str] = {}
        self.scan: Callable[[str, int], tuple[Any, int]] = _json.make_scanner(self)  # type: ignore[arg-type]

    def _refuse(self, _: str) -> None:
        raise _Doubt

    def parse_int(self, text: str) -> int:
        if len(text) > _DIGITS:
            raise _Doubt
        return int(text)

    def object_pairs_hook(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise _Doubt
        return found

    def value(self, data: bytes) -> Any:
        """What ``data`` says; raises one of `_REFUSED`."""
        if b"\\ud" in data or b"\\uD" in data:  # halves of a character
            raise _Doubt
        text = data.decode().strip(" \t\n\r")
        found, end = self.scan(text, 0)
        if end != len(text):
            raise _Doubt
        return found


def decode(data: bytes, *, type: type[Any]) -> Any:
    """``msgspec.json.decode``, of a type of a specification."""
    try:
        return _fit(("struct", type.__name__), _Scanner().value(data))
    except _REFUSED:
        return _structure(type, _judged(data, type.__name__))


class Decoder:
    """``msgspec.json.Decoder``."""

    def __init__(self, type: type[Any]) -> None:
        self._type = type

    def decode(self, data: bytes) -> Any:
        """The structure; raises `DecodeError`."""
        return decode(data, type=self._type)


def _judged(data: bytes, name: str) -> dict[str, Any]:
    """What msgspec makes of ``data`` as type ``name``, as it would be in JSON; raises `DecodeError`."""
    above = sys.modules[TYPES.rpartition(".")[0]]
    put_off = {each: sys.modules.pop(each) for each in (*NAMES, TYPES)}
    # Without `together.Finder`: Python's own are classes.
    finders, sys.meta_path[:] = sys.meta_path[:], [each for each in sys.meta_path if isinstance(each, _CLASS)]
    try:
        import msgspec

        module = __import__(TYPES, fromlist=[name])
        try:
            decoded = msgspec.json.decode(data, type=getattr(module, name))
            content: dict[str, Any] = msgspec.to_builtins(decoded)
            return content
        except msgspec.DecodeError as error:
            raise DecodeError(str(error)) from None
    finally:
        sys.meta_path[:] = finders
        sys.modules.update(put_off)
        above.runtime = put_off[TYPES]  # type: ignore[attr-defined]


def encode(value: Any) -> bytes:
    """``msgspec.json.encode``, of types of a specification and what they are made of."""
    return "".join(_written(value, "", ":", "")).encode()


def format(data: bytes, *, indent: int) -> bytes:
    """``msgspec.json.format``."""
    return "".join(_written(_Scanner().scan(data.decode(), 0)[0], "\n", ": ", " " * indent)).encode()


def _written(value: Any, line: str, colon: str, indent: str) -> Iterable[str]:
    """As JSON, piece by piece; ``line`` is before what begins a new one, which is ``indent`` more inside."""
    if value is None or value is True or value is False:
        yield {None: "null", True: "true", False: "false"}[value]
    elif type(value) is str:
        yield _json.encode_basestring(value)
    elif type(value) is int:
        yield str(value)
    elif type(value) is list:
        yield from _enclosed("[]", (("", each) for each in value), line, colon, indent)
    else:
        items = value.items() if type(value) is dict else _given(value)
        named = ((_json.encode_basestring(name) + colon, each) for name, each in items)
        yield from _enclosed("{}", named, line, colon, indent)


def _enclosed(signs: str, items: Iterable[tuple[str, Any]], line: str, colon: str, indent: str) -> Iterable[str]:
    before = signs[0]
    for name, each in items:
        yield f"{before}{line}{indent}{name}"
        yield from _written(each, line + indent, colon, indent)
        before = ","
    yield f"{line}{signs[1]}" if before == "," else signs


def _given(value: Struct) -> Iterable[tuple[str, Any]]:
    """What JSON has of a type of a specification."""
    for name, wire, _, required, default in value._fields:
        each = getattr(value, name)
        if (
            required
            or not value._omit
            or each != (_NEW.get(default[0], tuple)() if type(default) is tuple else default)
        ):
            yield wire, each


structs = json = sys.modules[__name__]
