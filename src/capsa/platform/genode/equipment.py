"""What a Genode has beyond what every Genode needs, as far as containers' files go: plugins of its VFS."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

_FILES = {
    "cow": "the files of an image cannot be changed",
    "random": "there is no /dev/random and no /dev/urandom",
    "pipe": "there is no /dev/pipe",
}


class Equipment(msgspec.Struct, frozen=True):
    """Which plugins there are: each adds something to the tree of a container that has files."""

    cow: bool = False
    random: bool = False
    pipe: bool = False

    def lacks(self) -> Iterator[str]:
        """What containers are without, and what of a Genode would change that: a sentence each."""
        for plugin, without in _FILES.items():
            if not getattr(self, plugin):
                yield f"{without}: this Genode has no {_library(plugin)}"


def equipment(directory: Path) -> Equipment:
    """Of the Genode whose programs, or ROM modules of ours, are in ``directory``."""
    return Equipment(**{plugin: (directory / _library(plugin)).is_file() for plugin in _FILES})


def _library(plugin: str) -> str:
    return f"vfs_{plugin}.lib.so"
