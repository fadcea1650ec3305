"""Additional components of a container on Genode, which an engine asks for (``exec``)."""

from __future__ import annotations

import time
from collections.abc import Mapping

from capsa.errors import LaunchFailed, Unsupported
from capsa.platform import protocol
from capsa.platform.connection import Answer, failure_of
from capsa.platform.genode import bundle
from capsa.platform.genode.bundle import NO_TERMINAL, TERMINAL, Bundle, Console, rom_name
from capsa.platform.genode.compile import Exec
from capsa.platform.genode.report import Child
from capsa.platform.genode.terminals import Terminal
from capsa.platform.protocol import Started
from capsa.platform.streams import STDOUT, Streams

INCOMPLETE_SECONDS = 1.0  # a session that is missing is missing for longer: reports may be behind


def wanted(command: protocol.Exec, made: Bundle, number: int, texts: Mapping[str, str]) -> Exec:
    """What a command asks for; raises `InvalidArgument`, `LaunchFailed`, `Unsupported`."""
    process = command.process
    if (command.stdin or process.terminal) and TERMINAL not in made.drivers:
        raise Unsupported(
            "additional components have no standard input and no terminal on Genode where the container's has none "
            f"({NO_TERMINAL})"
        )
    binary = rom_name(process.args[0]) if process.args else ""
    if binary not in dict(made.roms):
        raise LaunchFailed(f"there is no {binary or 'program'} in the image of the container", 127)
    environment = bundle.variables(process.env)
    return Exec(
        f"exec-{number}",
        binary,
        tuple(process.args),
        tuple(each for each in environment if each[0] != bundle.VARIABLE),
        bundle.config_of(dict(environment).get(bundle.VARIABLE, ""), texts),
        bundle.console_of(process),
    )


def line(text: bytes, console: Console) -> bytes:
    """A line of LOG for who is attached."""
    return text + (b"\r\n" if console.tty else b"\n")


def close(streams: Streams, terminal: Terminal | None) -> None:
    """A component has ended: take what it has written, and nothing more."""
    streams.drain()
    streams.close()
    if terminal is not None:
        terminal.close()


class Additional:
    """One of them; ``answer``: who waits until it runs."""

    def __init__(self, exec: str, wanted: Exec, streams: Streams, answer: Answer, terminal: Terminal | None) -> None:
        self.exec = exec
        self.wanted = wanted
        self.streams = streams
        self.answer: Answer | None = answer
        self._terminal = terminal
        self._lacking = 0.0  # since when something is missing that it needs

    def close(self) -> None:
        """It has ended, or never was."""
        close(self.streams, self._terminal)

    def wrote(self, text: bytes) -> None:
        """It has written a line to LOG."""
        self.streams.emit(STDOUT, line(text, self.wanted.console))

    def reported(self, child: Child) -> int | None:
        """What its sub-init says of it; its exit code, if it has ended or cannot begin."""
        if self.answer is not None and child.id is not None and not child.incomplete:
            self.answer(Started(pid=0))
            self.answer = None
        if child.incomplete:
            self._lacking = self._lacking or time.monotonic()
        if child.incomplete and self.answer is not None and time.monotonic() - self._lacking > INCOMPLETE_SECONDS:
            self.answer(failure_of(LaunchFailed("a ROM or a service that the component needs is not there", 127)))
            self.answer = None
            return 127
        return child.exited & 0xFF if child.exited is not None else None
