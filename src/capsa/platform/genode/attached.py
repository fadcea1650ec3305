"""A Genode that somebody else has started, on this machine or another: all that is shared are two directories.

In ``config`` go the configurations, and as ROM modules the programs and files of images; in ``report`` come the
reports, and what components write to LOG, where the Genode has a server for that. docs/genode.md has the configuration
that it needs. It has no directories and no network devices of this host, and its processes cannot be looked at.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import sys
import time
from pathlib import Path

import msgspec

from capsa.errors import CapsaError, Conflict, LaunchFailed, Unavailable, Unsupported, reason
from capsa.platform.genode import bundle, compile, file_servers, nodes
from capsa.platform.genode.directory import Directory, schemas_of
from capsa.platform.genode.host import GenodeHost, Settings
from capsa.platform.genode.log_file import LogFile
from capsa.platform.genode.member import Member
from capsa.platform.genode.output import Lines
from capsa.platform.loop import READ
from capsa.platform.protocol import Launch
from capsa.sys.inotify import IN_CREATE, IN_MODIFY
from capsa.vfs.tree import CopyOnWrite

LOG = "log"
ANSWER_SECONDS = 8.0  # for the first report
ASK_SECONDS = 10.0  # between reports, while containers run: nothing else would tell that it is gone
_NOWHERE = "no output: this Genode has no LOG server that writes to the file 'log' in its directory of reports"


class AttachedHost(GenodeHost):
    """One Genode by two directories, and all containers on it."""

    gone = "the Genode that the container ran on is not heard of any more"
    keeps_spare = False  # its configurations and reports may go a long way, and others use it

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._log = LogFile(Path(settings.report) / LOG)
        self._lines = Lines("")
        # Beyond all that an earlier one has asked for: reports on that are not taken for answers, no name comes again.
        before = self._directory.state()
        earlier = int(before.version) if before is not None and before.version.isdecimal() else 0
        self._deployment.version = self._named = max(int(time.time()), earlier + 1)

    @staticmethod
    def _shared(settings: Settings) -> Directory:
        config = Path(settings.binaries)
        return Directory(config, Path(settings.report), schemas_of(config))

    @property
    def notice(self) -> str:
        """As of `capsa.platform.genode.member.Machine`."""
        return "" if self._log.there else _NOWHERE

    def start(self) -> None:
        """Take the directories, and wait for the first answer; raises `CapsaError`."""
        self._lock()
        self._clear()
        reports = self._directory.report / compile.CONTAINERS
        reports.mkdir(exist_ok=True)
        self.loop.watch(self._inotify.fileno(), READ, self._changed)
        self._watch(reports, "")
        self._watched[self._inotify.add(self._directory.report, IN_CREATE | IN_MODIFY)] = LOG
        self._deployment.write_now()
        deadline = time.monotonic() + ANSWER_SECONDS
        while not self._deployment.answered:
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"the Genode does not answer: there is no report on version {self._deployment.version} of "
                    f"{self._directory.config / compile.CONTAINERS} in {reports / compile.REPORT}"
                )
            self.loop.turn(0.1)
        self._listen()

    def _lock(self) -> None:
        """One at a time writes to it; the lock ends with the process."""
        lock = os.open(self._directory.config, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            raise Conflict(f"another engine is attached to the Genode of {self._directory.config}") from error

    def _clear(self) -> None:
        """Take away what is left of containers."""
        for entry in os.listdir(self._directory.config):
            if entry.startswith((compile.CONFIG_PREFIX, nodes.ROM_PREFIX)):
                os.unlink(self._directory.config / entry)

    def _tick(self) -> None:
        super()._tick()
        asked = self._deployment
        if asked.answered and self.members and time.monotonic() - asked.written_at > ASK_SECONDS:
            try:
                asked.write()
            except CapsaError as error:
                print(f"cannot ask the Genode for a report: {error}", file=sys.stderr, flush=True)
                asked.written_at = time.monotonic()

    def _end(self) -> None:
        super()._end()
        self._log.close()
        try:
            self._deployment.write_now()  # all have been withdrawn: none of them comes back with the Genode
            self._clear()
        except (CapsaError, OSError) as error:
            print(f"what containers left behind cannot be taken away: {error}", file=sys.stderr, flush=True)

    # -- what containers need of it

    def _placed(self, made: bundle.Bundle, launch: Launch) -> bundle.Bundle:
        if launch.interfaces:
            raise Unsupported(
                "a Genode that the engine is attached to has no networks of this host: use --network none"
            )
        if "Nic" in made.services:
            raise Unsupported(
                "the component asks for Nic (org.genode.services), and a Genode that the engine is attached to has no "
                "networks of this host: leave Nic out"
            )
        if made.volumes:
            raise Unsupported(
                f"a Genode that the engine is attached to has no directories of this host: leave the volume or mount "
                f"{made.volumes[0].target} out"
            )
        return msgspec.structs.replace(made, volatile=True)

    def _tree(self, made: bundle.Bundle, root: CopyOnWrite, archive: str) -> file_servers.Tree:
        return file_servers.Tree(archive, "")

    def _offer(self, content: str) -> None:
        """Put a file of the pool where the Genode finds it: as a whole, and not by a link that leads elsewhere."""
        source, target = self._images.path(content), self._directory.config / (nodes.ROM_PREFIX + content)
        if target.exists():
            return
        part = f"{target}.new"
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(part)
            try:
                os.link(source, part)
            except OSError:
                shutil.copyfile(source, part)
            os.rename(part, target)
        except OSError as error:
            raise LaunchFailed(f"cannot hand {target} to the Genode: {reason(error)}") from error

    def forget(self, member: Member) -> None:
        """As of `capsa.platform.genode.member.Machine`."""
        super().forget(member)
        needed = {content for each in self.members.values() for content in _contents(each)}
        for content in _contents(member) - needed:
            with contextlib.suppress(OSError):
                os.unlink(self._directory.config / (nodes.ROM_PREFIX + content))

    # -- what Genode says

    def _changed(self, events: int) -> None:
        super()._changed(events)
        self._output(READ)  # after what has happened was taken, or what is written in between would wait for the next

    def _output(self, _events: int) -> None:
        for data in self._log.read():
            for line in self._lines.feed(data):
                self._wrote(line)

    def _find_faulted(self, what: str) -> None:
        """Its processes are not here to be looked at: a component that has had a fault misses heartbeats."""


def _contents(member: Member) -> set[str]:
    archive = [member.tree.image] if member.tree is not None else []
    return {*(content for _name, content in member.bundle.roms), *archive}
