"""The zygote: a small single-threaded process that sub-inits are forked from.

It imported all that a sub-init needs and froze it, so that a fork takes a fraction of a millisecond and the child
shares nearly all its memory. It knows nothing of containers: it keeps one sub-init in reserve, which waits on the
engine's socket for a launch and says when it has got one; when its container has begun, or is over already, or takes
its time, the zygote forks the next. So forking costs a launch nothing, and the zygote, whose every touched page would
cost each sub-init that page, does next to nothing. It ends when its engine does; the sub-inits live on.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import sys
import time

from capsa.platform import packets
from capsa.platform.linux import subinit
from capsa.platform.protocol import Failure, Status
from capsa.sys import process
from capsa.sys.title import set_title

LAUNCH = 0.05  # seconds that a launch has the processors to itself before the next reserve is made
PAUSE = 0.1  # seconds, after a fork that failed or a reserve that died
DEAD = 3  # reserves that died one after the other, until a launch is not kept waiting for the next


def main() -> None:
    """Serve the launches that arrive on the packet socket that the first argument names; see `capsa.runtime.zygote`."""
    engine = int(sys.argv[1])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C in the engine's terminal is the engine's
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    subinit.warm_up()
    set_title("capsa: zygote")
    gc.collect()
    gc.freeze()
    gc.disable()
    dead = 0
    while True:
        taken, take = os.pipe2(os.O_CLOEXEC)
        try:
            child = process.clone()
        except OSError as error:
            os.close(taken)
            os.close(take)
            if not _refuse(engine, f"cannot fork a sub-init: {error}"):
                return
            time.sleep(PAUSE)
            continue
        if child == 0:
            os.close(taken)
            subinit.main(engine, take)
            os._exit(0)
        os.close(take)
        word = os.read(taken, 1)
        if word == subinit.TAKEN:
            select.select([taken], [], [], LAUNCH)
        os.close(taken)
        if word == subinit.NO_ENGINE:
            return
        dead = 0 if word else dead + 1
        if dead:
            time.sleep(PAUSE)
            waits = dead >= DEAD and select.select([engine], [], [], 0)[0]
            if waits and not _refuse(engine, "each sub-init ends before it takes the launch: is there memory for one?"):
                return
        with contextlib.suppress(ChildProcessError):  # the reserve died, and there is no other
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def _refuse(engine: int, message: str) -> bool:
    """Answer the next launch; False if there is no engine any more."""
    with socket.socket(fileno=os.dup(engine)) as end:
        packet = packets.receive(end)
    if packet is None:
        return False
    failure = Failure(message=message, kind="LaunchFailed", code=128)
    with socket.socket(fileno=packet[1][0]) as control, contextlib.suppress(OSError):
        packets.send(control, Status(state="failed", failure=failure))
    for fd in packet[1][1:]:
        os.close(fd)
    return True
