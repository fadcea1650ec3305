"""A sub-init that is there before its container: most of what a start takes is done in advance.

There is one at most, made when nothing else is to be done. It is an `init` like all others, with a quota that ordinary
containers fit in, the routes that they have, and no component but file servers (`compile.waiting`). These have been
given nothing yet: the directory that they are to serve is empty, and they look at it when the container does. The
container that it becomes the sub-init of is written into its configuration, and keeps the quota, what it does not need
included: so none is made once half of all is taken. Genode calls such a container what its sub-init was called before.
"""

from __future__ import annotations

import time

from capsa.errors import LaunchFailed
from capsa.platform.genode import budget, compile, file_servers
from capsa.platform.genode.budget import Quota
from capsa.platform.genode.bundle import Bundle
from capsa.platform.genode.directory import Directory
from capsa.platform.genode.equipment import Equipment

PREFIX = "sub-"
VERSION = 1  # of its own configuration, while it waits
QUIET_SECONDS = 0.25  # without a launch or another change, until one is made
REST_SECONDS = 30.0  # until the next, where one could not be made, or has had a fault
ROOM = Quota(20 * compile.SPARE.ram, 20 * compile.SPARE.caps)  # that has to be left for others
SETTLE_SECONDS = 5.0  # until its file servers are there, or will not be
COMPONENTS = 8  # for whose files core has to have room as well, so that a container can be started beside it


def affordable(left: Quota, used: int, limit: int) -> bool:
    """Whether there is room for one: by what the Genode has ``left``, and by core's open files."""
    try:
        budget.check_descriptors(COMPONENTS, used, limit, "")
    except LaunchFailed:
        return False
    return ROOM.fits(left)


class Reserve:
    """The one that waits, if there is one, and those that are about to go."""

    def __init__(self, directory: Directory, has: Equipment, *, files: bool = False) -> None:
        """``files``: this Genode has what it takes for file servers to wait as well."""
        self.name = ""
        self.files = files
        self._made = 0.0
        self._there: list[str] = []
        self._directory = directory
        self._has = has
        self._dropped: dict[str, int] = {}  # by the configuration of all that is without them
        self._not_before = 0.0

    @property
    def entries(self) -> list[compile.Entry]:
        """Its part of the configuration of all containers."""
        return [compile.spare(self.name)] if self.name else []

    @property
    def resting(self) -> bool:
        """Whether none is to be made for a while."""
        return time.monotonic() < self._not_before

    def make(self, name: str) -> None:
        """Have one of that name with the next configuration of all; raises `LaunchFailed`."""
        self._directory.write_container(name, compile.waiting(name, files=self.files, has=self._has), VERSION)
        self.name = name
        self._made = time.monotonic()

    def suits(self, made: Bundle) -> bool:
        """Whether it can become the sub-init of ``made``; not before it has answered the configuration that it has."""
        if not self.name or not compile.suits_spare(made):
            return False
        there = self.there()
        return bool(there) and (not made.files or not self.files or set(file_servers.NAMES) <= set(there))

    def there(self) -> list[str]:
        """Its components that have begun, as it says, an empty name for itself; none before it has said anything.

        A report that is being written is no report: what the one before said holds.
        """
        state = self._directory.state_of(self.name) if self.name else None
        if state is not None and state.version == str(VERSION):
            begun = (each for each in state.children.values() if each.id is not None and each.exited is None)
            self._there = ["", *(each.name for each in begun if not each.incomplete)]
        return self._there

    @property
    def crippled(self) -> bool:
        """Whether file servers should wait in it, and do not."""
        there = self.there() if self.files and time.monotonic() - self._made > SETTLE_SECONDS else []
        return bool(there) and not set(file_servers.NAMES) <= set(there)

    def take(self) -> str:
        """The name of the one that has become a container's."""
        name, self.name = self.name, ""
        self._there = []
        return name

    def drop(self, version: int) -> None:
        """It goes with that configuration of all, the next one: others need its quota, or it is of no use."""
        if self.name:
            self._dropped[self.take()] = version

    def rest(self) -> None:
        """Make none for a while."""
        self._not_before = time.monotonic() + REST_SECONDS

    def overdue(self, version: int) -> bool:
        """Whether one is still there that is to go, if that is the newest configuration."""
        return any(each > version for each in self._dropped.values())

    def gone(self, reported: int) -> list[str]:
        """Those that have gone, now that this configuration is in effect."""
        found = [name for name, version in self._dropped.items() if version <= reported]
        for name in found:
            del self._dropped[name]
        return found
