"""Where the snapshot of the `capsa` command is made, and where it goes on: ``python -P awake.py SCRIPT``.

It has loaded all verbs but those that take time anyway (``OTHERS`` in ``.ci/launcher``). With a locale that is not
UTF-8 it starts Python after all, with the console script SCRIPT.
"""

from __future__ import annotations

import gc
import importlib
import io
import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_NOT = frozenset({"engine", "hid", "make"})


def load() -> None:
    """Import all that verbs need."""
    from capsa.cli import help, main

    modules = {*main.VERBS.values(), *(module for group in main.GROUPS.values() for module in group.values())}
    for name in sorted(modules - _NOT):
        importlib.import_module(f"capsa.cli.{name}")
    assert help.overview()
    for name in ("absent", "progress", "table", "template"):
        importlib.import_module(f"capsa.cli.{name}")


def locale() -> str:
    """The caller's, by what decides about characters (setlocale(3)); empty for that of a machine that has none."""
    return next((found for name in ("LC_ALL", "LC_CTYPE", "LANG") if (found := os.environ.get(name))), "")


def is_usual() -> bool:
    """Whether its characters are UTF-8, as they were here when Python started."""
    return locale() in ("", "C", "POSIX") or locale().lower().replace("-", "").endswith(".utf8")


def streams() -> None:
    """The standard streams as Python makes them (its ``create_stdio``)."""
    unbuffered = bool(os.environ.get("PYTHONUNBUFFERED"))
    errors = "surrogateescape" if locale() in ("", "C", "POSIX", "C.UTF-8", "C.utf8") else "strict"
    for fd, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            continue
        raw = io.FileIO(fd, mode, closefd=False)
        lines = name == "stderr" or raw.isatty()
        buffer: Any = io.BufferedReader(raw) if mode == "r" else raw if unbuffered else io.BufferedWriter(raw)
        stream = io.TextIOWrapper(
            buffer,
            "utf-8",
            "backslashreplace" if name == "stderr" else errors,
            newline=None if mode == "r" else "\n",
            line_buffering=lines,
            write_through=unbuffered and mode == "w",
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


if __name__ == "__main__":
    script = sys.argv[1]
    load()
    from capsa.cli.main import main
    from capsa.start import identity

    gc.collect()
    gc.freeze()
    identity.adopt(identity.stop())
    if not is_usual():
        os.execv(sys.executable, [sys.executable, script, *sys.argv[1:]])  # noqa: S606
    sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
    streams()
    time.tzset()
    if "random" in sys.modules:
        sys.modules["random"].seed()
    main()
