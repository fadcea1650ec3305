"""What a Genode has beyond what every Genode needs: plugins of its VFS, and drivers that serve one container each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from capsa.errors import Unsupported
from capsa.platform.genode.bundle import NO_TERMINAL, TERMINAL, Bundle
from capsa.platform.genode.drivers import NODES, PROGRAMS

_PLUGINS = {
    "cow": "the files of an image cannot be changed",
    "random": "there is no /dev/random and no /dev/urandom",
    "pipe": "there is no /dev/pipe",
}


class Equipment(msgspec.Struct, frozen=True):
    """Which plugins there are, each of which adds something to the tree of a container that has files.

    ``drivers``: services for which there is a driver. ``attached``: whoever has started it knows what services it has.
    """

    cow: bool = False
    random: bool = False
    pipe: bool = False
    drivers: tuple[str, ...] = ()
    attached: bool = False

    def lacks(self) -> Iterator[str]:
        """What containers are without, and what of a Genode would change that: a sentence each."""
        for plugin, without in _PLUGINS.items():
            if not getattr(self, plugin):
                yield f"{without}: this Genode has no {_library(plugin)}"

    def withholds(self, made: Bundle) -> Iterator[str]:
        """What this container asks for and does not get, likewise."""
        for service in made.absent:
            without = f" and no /dev/{NODES[service]}" if made.files else ""
            yield f"there is no service {service}{without}: this Genode has no {PROGRAMS[service]}"

    def provide(self, made: Bundle) -> Bundle:
        """The same container, with the drivers that it needs here."""
        wanted = [each for each in PROGRAMS if each in made.services and not self.attached]
        return msgspec.structs.replace(
            made,
            drivers=tuple(each for each in wanted if each in self.drivers),
            absent=tuple(each for each in wanted if each not in self.drivers),
        )

    def check_input(self, made: Bundle) -> None:
        """Raises `Unsupported` where nobody can be at a terminal of the component."""
        if TERMINAL in made.drivers:
            return
        if TERMINAL not in made.services:
            why = f"components on Genode have input by a Terminal session: it has to ask for one ({NO_TERMINAL})"
        elif self.attached:
            why = "a Genode that the engine is attached to has its own terminals"
        else:
            why = f"this Genode has no {PROGRAMS[TERMINAL]}"
        raise Unsupported(f"{why}: leave --interactive and --tty out")


def equipment(directory: Path, *, attached: bool = False) -> Equipment:
    """Of the Genode whose programs, or where ``attached`` ROM modules of ours, are in ``directory``."""
    plugins = {plugin: (directory / _library(plugin)).is_file() for plugin in _PLUGINS}
    drivers = tuple(each for each, program in PROGRAMS.items() if (directory / program).is_file())
    return Equipment(**plugins, drivers=drivers, attached=attached)


def _library(plugin: str) -> str:
    return f"vfs_{plugin}.lib.so"
