"""The containers of one Genode as it is told of them: one configuration after the other, each answered by a report.

The configuration of all has a number, which the report on it repeats. What containers may have together is in here as
well: the report says it, and an `init` that has handed out too much would starve.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Mapping

from capsa.errors import CapsaError
from capsa.platform.genode import budget, compile
from capsa.platform.genode.budget import Quota
from capsa.platform.genode.directory import Directory
from capsa.platform.genode.member import Member
from capsa.platform.genode.report import State
from capsa.platform.genode.spare import Reserve

RESERVE = Quota(16 * budget.MIB, 300)
LATE_SECONDS = 5.0  # without a report on the newest configuration: it is said


class Deployment:
    """The configuration of ``members`` (by name) and of what waits in ``reserve``; ``most``: of all quotas together."""

    def __init__(self, directory: Directory, members: Mapping[str, Member], reserve: Reserve, most: Quota) -> None:
        self.version = 0
        self.reported = -1
        self.written_at = time.monotonic()
        self._directory = directory
        self._members = members
        self._reserve = reserve
        self._most = self._limit = most
        self._given = compile.CONFIGS  # to all that are in the newest configuration
        self._outdated = False
        self._complained = 0

    @property
    def answered(self) -> bool:
        """Whether there is a report on the newest configuration."""
        return self.reported == self.version

    def silence(self) -> float:
        """Seconds without an answer to the newest configuration, 0 if there is one; says so if they are many."""
        seconds = 0.0 if self.answered else time.monotonic() - self.written_at
        if seconds > LATE_SECONDS and self._complained != self.version:
            self._complained = self.version
            print(f"no report on configuration {self.version} for {seconds:.0f} s", file=sys.stderr, flush=True)
        return seconds

    def left(self) -> Quota:
        """What is left for others, a spare sub-init not counted."""
        left = self._limit - compile.CONFIGS - RESERVE
        for each in self._members.values():
            if each.active:  # what it is to have no more, it may have still
                left = left - each.quota.larger(each.granted)
        return left

    def take(self, state: State) -> None:
        """The newest report on all containers."""
        with contextlib.suppress(ValueError):
            self.reported = int(state.version)
        if state.ram.quota and self.answered:
            # What is handed out to children is not counted in it any more.
            self._limit = Quota(
                min(self._most.ram, state.ram.quota + self._given.ram),
                min(self._most.caps, state.caps.quota + self._given.caps),
            )

    # -- configurations

    def begin(self) -> None:
        """Write the first one, which the Genode finds when it starts; raises `LaunchFailed`."""
        self._directory.write_containers(compile.containers(self._entries()), self.version)

    def write(self) -> int:
        """Let the configuration be what is wanted now; the number that it has, or will have. Raises `LaunchFailed`.

        Not before the one that is there has been answered: on base-linux, a file that is replaced while `fs_rom` reads
        it may leave that waiting for ever, and with it every `init` that wants to know of it.
        """
        if not self.answered:
            self._outdated = True
            return self.version + 1
        self.write_now()
        return self.version

    def write_now(self) -> None:
        """Without waiting for an answer; raises `LaunchFailed`."""
        entries = self._entries()
        self._directory.write_containers(compile.containers(entries), self.version + 1)
        self.version += 1  # not before: nobody would ever answer one that could not be written
        self._outdated = False
        for each in self._members.values():
            each.granted = each.quota
        self._given = compile.CONFIGS
        for entry in entries:
            self._given = self._given + entry.quota
        self.written_at = time.monotonic()

    def write_if_possible(self, what: str) -> int:
        """As `write`; where less is wanted than before, a failure can wait until the next time."""
        try:
            return self.write()
        except CapsaError as error:
            print(f"{what} keeps what it had: {error}", file=sys.stderr, flush=True)
            return self.version + 1

    def catch_up(self) -> None:
        """Write what had to wait for the answer that is there now; raises `LaunchFailed`, and is not tried again."""
        if self._outdated and self.answered:
            self._outdated = False
            self.write_now()

    def _entries(self) -> list[compile.Entry]:
        return [*(each.entry() for each in self._members.values() if each.active), *self._reserve.entries]
