"""What a Genode has beyond what every Genode needs: plugins of its VFS, and drivers that serve one container each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from capsa.platform.genode.bundle import Bundle

_PLUGINS = {
    "cow": "the files of an image cannot be changed",
    "random": "there is no /dev/random and no /dev/urandom",
    "pipe": "there is no /dev/pipe",
}
# Programs of base-linux, by the service that they provide from what Linux has.
DRIVERS = {"Rtc": "linux_rtc"}
_NODES = {"Rtc": "rtc"}


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
            without = f" and no /dev/{_NODES[service]}" if made.files else ""
            yield f"there is no service {service}{without}: this Genode has no {DRIVERS[service]}"

    def provide(self, made: Bundle) -> Bundle:
        """The same container, with the drivers that it needs here."""
        wanted = [each for each in DRIVERS if each in made.services and not self.attached]
        return msgspec.structs.replace(
            made,
            drivers=tuple((each, DRIVERS[each]) for each in wanted if each in self.drivers),
            absent=tuple(each for each in wanted if each not in self.drivers),
        )


def equipment(directory: Path, *, attached: bool = False) -> Equipment:
    """Of the Genode whose programs, or where ``attached`` ROM modules of ours, are in ``directory``."""
    plugins = {plugin: (directory / _library(plugin)).is_file() for plugin in _PLUGINS}
    drivers = tuple(each for each, program in DRIVERS.items() if (directory / program).is_file())
    return Equipment(**plugins, drivers=drivers, attached=attached)


def devices(made: Bundle) -> Iterator[str]:
    """The nodes in ``/dev`` that belong to services which the container has."""
    for service, name in _NODES.items():
        if service in made.services and service not in made.absent:
            yield name


def _library(plugin: str) -> str:
    return f"vfs_{plugin}.lib.so"
