"""The inner side of a `door`: a container's process that waits to be started."""

from __future__ import annotations

import contextlib
import os
import signal
import socket

from capsa.platform.linux.channel import Channel, Gone
from capsa.sys import process as calls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

# What ends a program by default. To the first process of a pid namespace the kernel delivers only what it handles.
_ENDING = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM)


def wait(door: int, channel: Channel) -> None:
    """Live on without the parent until somebody knocks and says "start"; ``channel`` leads to him then."""
    for number in _ENDING:
        signal.signal(number, _end)
    calls.prctl(calls.PR_SET_PDEATHSIG, 0)
    channel.send("waiting")
    with socket.socket(fileno=door) as listener:
        while True:
            channel.change(listener.accept()[0])
            with contextlib.suppress(Gone, ValueError):
                channel.expect("start")
                return


def _end(number: int, _frame: object) -> NoReturn:
    os._exit(128 + number)
