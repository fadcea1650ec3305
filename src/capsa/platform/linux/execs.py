"""The additional processes of a container (``docker exec``), from their beginning to their end."""

from __future__ import annotations

import os
import socket
import time

from capsa.errors import Conflict, NotFound
from capsa.oci.runtime import Spec
from capsa.platform import protocol
from capsa.platform.connection import Answer, failure_of
from capsa.platform.linux import container, running
from capsa.platform.linux.cgroup import Cgroup
from capsa.platform.linux.pipes import Pipes
from capsa.platform.linux.running import Process
from capsa.platform.loop import READ, Loop
from capsa.platform.protocol import ExecExited, Failure, Started
from capsa.platform.streams import Streams

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Execs:
    """Those of one container, by the engine's ids for them."""

    def __init__(self, loop: Loop, on_end: Callable[[ExecExited, Streams], None]) -> None:
        """``on_end`` is told of each that has ended, and gets its streams, which may have something to deliver yet."""
        self._loop = loop
        self._on_end = on_end
        self._running: dict[str, Process] = {}
        self._under_way: set[int] = set()
        self._early_ends: dict[int, int] = {}

    def __bool__(self) -> bool:
        """Some run, or are about to."""
        return bool(self._running or self._under_way)

    def pids(self) -> dict[str, int]:
        """The process ids of those that run."""
        return {identity: process.pid for identity, process in self._running.items()}

    def get(self, identity: str) -> Process:
        """The one that runs; raises `NotFound`."""
        if identity not in self._running:
            raise NotFound(f"No such exec instance: {identity}")
        return self._running[identity]

    def signal(self, number: int) -> bool:
        """Send a signal to all; False if none runs."""
        for process in self._running.values():
            process.signal(number)
        return bool(self._running)

    def begin(
        self,
        command: protocol.Exec,
        ends: list[socket.socket],
        answer: Answer,
        *,
        spec: Spec,
        pid: int,
        cgroup: Cgroup,
        cache: str,
    ) -> None:
        """Begin one in the container whose main process is ``pid``; ``answer`` hears when it runs, or why it cannot.

        Takes ``ends``, the sockets to attach, over unless it raises.
        """
        if command.exec in self._running:
            raise Conflict(f"exec {command.exec} runs already")
        pipes = Pipes(command.process.terminal, command.stdin)
        try:
            birth = container.begin(command.process, spec=spec, pid=pid, cgroup=cgroup, stdio=pipes.theirs, cache=cache)
        except BaseException:
            pipes.close_ours()
            raise
        finally:
            pipes.close_theirs()
        self._under_way.add(birth.pid)

        def ready(_events: int) -> None:
            fd = birth.fileno()
            failure: Failure | None = None
            try:
                if not birth.advance():
                    return
                self._loop.forget(fd)
                birth.close()
            except Exception as error:
                self._loop.forget(fd)
                birth.abort()
                failure = failure_of(error)
            self._under_way.discard(birth.pid)
            status = self._early_ends.pop(birth.pid, None)
            assert birth.end is not None
            if failure is not None:
                os.close(birth.end)
                pipes.close_ours()
                for end in ends:
                    end.close()
                answer(failure)
                return
            streams = running.streams(self._loop, pipes.with_console(birth.console), close_stdin=True)
            self._running[command.exec] = Process(birth.pid, birth.end, streams)
            for end, wanted in zip(ends, command.attach, strict=True):
                streams.attach(end, wanted)
            answer(Started(pid=birth.pid))
            if status is not None:
                self.child_ended(birth.pid, status)

        self._loop.watch(birth.fileno(), READ, ready)

    def child_ended(self, pid: int, status: int) -> None:
        """A child of the sub-init has ended, with a status of waitpid(2); it may be none of these."""
        if pid in self._under_way:
            self._early_ends[pid] = status  # before we heard that it runs
            return
        for identity, process in self._running.items():
            if process.pid == pid:
                del self._running[identity]
                self._ended(identity, process, running.exit_code(status))
                return

    def _ended(self, identity: str, process: Process, code: int) -> None:
        process.exit_code = code
        os.close(process.end)
        process.streams.drain()
        process.streams.close()
        self._on_end(ExecExited(exec=identity, exit_code=code, at=time.time_ns()), process.streams)
