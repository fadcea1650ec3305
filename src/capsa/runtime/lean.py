"""What modules import and this program has no use for, left out: two thirds of the time until a container is made.

Three quarters of what would be imported are for what nothing here does: msgspec takes annotations of any kind and knows
formats besides JSON, ``socket`` and ``signal`` turn every constant into an enumeration (``enum``, ``re``), ``datetime``
is there once in Python and once in C. So while the modules of a verb are imported (`load`), smaller ones stand in the
place of these; afterwards whoever needs the real ones imports them. Modules that few containers need are not even read
before somebody looks into them (`LATER`).

Another msgspec than those that were tried, or one in another Python, is imported as usual, with all that it imports.
"""

from __future__ import annotations

import gc
import sys

from capsa.runtime import stand_ins, together

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import ModuleType
    from typing import Any
else:
    ModuleType = type(sys)

LATER = (
    "capsa.platform.linux.cgroup.bpf",
    "capsa.platform.linux.cgroup.devices",
    "capsa.platform.linux.cgroup.kill",
    "capsa.platform.linux.cgroup.oom",
    "capsa.platform.linux.cgroup.plan",
    "capsa.platform.linux.cgroup.v1",
    "capsa.platform.linux.cgroup.v2",
    "capsa.platform.linux.entering",
    "capsa.platform.linux.hooks",
    "capsa.platform.linux.idmap",
    "capsa.platform.linux.interfaces",
    "capsa.platform.linux.nameserver",
    "capsa.platform.linux.netdevices",
    "capsa.platform.linux.reaper",
    "capsa.platform.linux.seccomp",
    "capsa.sys.netlink",
)
"""Modules that are read once somebody looks into them: their users import them as modules, not names of theirs.

The processes that are made import nothing (`birth.guard`): what they look into has to be read before, see
`capsa.platform.linux.container._read_ahead`.
"""
_KNOWN = ("0.20", "0.21", "0.22")
# From 3.14 on msgspec asks for annotations by ``annotationlib``, which needs a real ``enum``.
_PYTHONS = ((3, 11), (3, 12), (3, 13))
# Whose types are decoded: with another ``typing`` than msgspec has got to know, that would not do.
_TYPED = ("msgspec", "capsa.oci.runtime")


def import_os() -> None:
    """Import ``os``, on which all else rests, without the abstract classes that it needs for ``os.environ``."""
    if sys.version_info[:2] in _PYTHONS and "os" not in sys.modules:
        _with_stand_ins(("os",), stand_ins.for_os())


def load(names: tuple[str, ...], *, types: bool = True, plainly: bool = False) -> None:
    """Import the modules ``names``, and msgspec before them (``types``), with stand-ins for what they import.

    ``plainly``: with `plain` in the place of msgspec, which there is for the types of a specification alone.
    A verb that hardly ever needs msgspec calls this again where it does.
    """
    if "msgspec" in sys.modules:
        return
    gc.disable()  # all of this stays, and few calls take long enough for anything else to matter (`collect`)
    with together.finder() as finder:  # one and the same file until all of it is read
        if plainly and _is_plain(finder):
            types = False
        if types:
            names = (*_TYPED, *names)
        if types and not _is_known():
            for name in names:
                __import__(name)
            return
        if types:
            _placed.update(stand_ins.make() | stand_ins.for_msgspec())
        for name in LATER:
            if name not in names:
                sys.modules.setdefault(name, _Later(name))
        _with_stand_ins(names)


def more(names: Iterable[str]) -> None:
    """Import these as well, after `load`; what was put off is read now."""
    with together.finder():
        for name in names:
            module = sys.modules.get(name)
            if isinstance(module, _Later):
                module._read()
            elif module is None:
                _with_stand_ins((name,))


def collect() -> None:
    """From now on garbage is looked for again: this process stays for as long as a container."""
    gc.freeze()
    gc.enable()


def _is_plain(finder: together.Finder | together.Nothing) -> bool:
    """Whether there is what `plain` needs, which then is msgspec."""
    from capsa.runtime import plain

    if not finder.prefer(plain.TYPES, plain.VARIANT):
        return False
    sys.modules.update(dict.fromkeys(plain.NAMES, plain))
    return True


def _is_known() -> bool:
    """Whether msgspec is one that was tried with the stand-ins. Asks its file: it cannot be imported a second time."""
    if sys.version_info[:2] not in _PYTHONS:
        return False
    try:
        with open(f"{sys.path[-1]}/msgspec/_version.py") as file:
            text = file.read()
    except OSError:
        return False
    return any(f"version = '{known}." in text for known in _KNOWN)


def _with_stand_ins(names: Iterable[str], made: dict[str, ModuleType | None] | None = None) -> None:
    if made is None:
        if not _placed:
            _placed.update(stand_ins.make())
        made = _placed
    placed = {name: module for name, module in made.items() if name not in sys.modules}
    sys.modules.update(placed)  # type: ignore[arg-type]
    try:
        with together.finder() as finder:
            for name in names:
                if name not in sys.modules:
                    finder.provide(name)
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
        self._read()
        return getattr(self, name)

    def _read(self) -> None:
        self.__class__ = ModuleType  # type: ignore[assignment]
        del sys.modules[self.__name__]
        _with_stand_ins((self.__name__,))
        self.__dict__.update(sys.modules[self.__name__].__dict__)
