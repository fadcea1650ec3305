"""Where the snapshot of the `capsa` command is made, and where it goes on: ``python -P awake.py SCRIPT``.

It has loaded all verbs but those that take time anyway (``OTHERS`` in ``.ci/launcher``). With a locale that is not
UTF-8 it starts Python after all, with the console script SCRIPT.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import locale
import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

_NOT = frozenset({"engine", "hid", "make"})  # for these words the launcher starts Python
_PLAIN = frozenset({"C", "POSIX", "C.UTF-8", "C.utf8"})


def load() -> None:
    """Import all that verbs need."""
    from capsa.cli import help, main

    modules = {*main.VERBS.values(), *(module for group in main.GROUPS.values() for module in group.values())}
    for name in sorted(modules - _NOT):
        importlib.import_module(f"capsa.cli.{name}")
    help.overview()  # it imports when it is called
    for name in ("absent", "progress", "table", "template"):
        importlib.import_module(f"capsa.cli.{name}")


def is_usual() -> bool:
    """Whether the caller's characters are UTF-8, as they were here when Python started (setlocale(3))."""
    named = _locale_name()
    return named in _PLAIN or named.lower().replace("-", "").endswith(".utf8")


def _locale_name() -> str:
    return next((found for name in ("LC_ALL", "LC_CTYPE", "LANG") if (found := os.environ.get(name))), "C")


def _errors() -> str:
    """What Python does with bytes that are no characters, in standard input and output."""
    named = _locale_name()
    if named not in _PLAIN:
        with contextlib.suppress(locale.Error):
            locale.setlocale(locale.LC_CTYPE, "")
            return "strict"
    return "surrogateescape"


def streams() -> None:
    """The standard streams as Python makes them (its ``create_stdio``); raises `OSError` where that would not start."""
    unbuffered = bool(os.environ.get("PYTHONUNBUFFERED"))
    errors = _errors()
    for fd, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            continue
        raw = io.FileIO(fd, mode, closefd=False)
        buffer: Any = io.BufferedReader(raw) if mode == "r" else raw if unbuffered else io.BufferedWriter(raw)
        stream = io.TextIOWrapper(
            buffer,
            "utf-8",
            "backslashreplace" if name == "stderr" else errors,
            newline=None if mode == "r" else "\n",
            line_buffering=name == "stderr" or raw.isatty(),
            write_through=unbuffered and mode == "w",
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def start(script: str) -> NoReturn:
    """Start Python after all."""
    os.execv(sys.executable, [sys.executable, script, *sys.argv[1:]])  # noqa: S606


if __name__ == "__main__":
    script = sys.argv[1]
    load()
    from capsa.cli.main import main
    from capsa.start import identity

    gc.collect()
    gc.freeze()
    identity.adopt(identity.stop())
    sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
    if not is_usual():
        start(script)
    try:
        streams()
    except OSError:
        start(script)
    time.tzset()
    if "random" in sys.modules:  # which a process seeds once
        sys.modules["random"].seed()
    main()
