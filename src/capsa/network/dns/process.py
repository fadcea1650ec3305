"""The process ``capsa: names``: answers the containers' queries of all networks, with no privileges at all.

The engine tells it who is in which network and hands it the containers' sockets, one JSON object a packet (`Zone`,
`Guest`). It ends when the engine does. What it parses is hostile, so it is nobody, in a process of its own.
"""

from __future__ import annotations

import array
import contextlib
import gc
import json
import os
import resource
import socket
import sys
from typing import Any

from capsa.network.dns.forward import HostServers
from capsa.network.dns.guest import Guest
from capsa.network.dns.loop import READ, Loop
from capsa.network.dns.zone import Endpoint, Zone, packed
from capsa.sys import process
from capsa.sys.title import set_title

PACKET = 200_000
NOBODY = 65534
DESCRIPTORS = 65536
MEMORY = 1 << 30


class Server:
    """All guests; does what the engine says on ``control``."""

    def __init__(self, loop: Loop, control: socket.socket) -> None:
        self.ended = False
        self._loop = loop
        self._control = control
        self._zone = Zone()
        self._host = HostServers()
        self._guests: dict[str, Guest] = {}
        control.setblocking(False)
        loop.watch(control.fileno(), READ, self._told)

    def _told(self, _events: int) -> None:
        for _ in range(64):
            try:
                data, ancillary, _flags, _ = self._control.recvmsg(
                    PACKET, socket.CMSG_SPACE(8), socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                return
            except OSError:
                data, ancillary = b"", []
            fds = array.array("i")
            for level, kind, content in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
            if not data:
                self.ended = True
                return
            self._obey(json.loads(data), [socket.socket(fileno=fd) for fd in fds])

    def _obey(self, told: dict[str, Any], sockets: list[socket.socket]) -> None:
        match told["do"]:
            case "join":
                self._zone.add(
                    Endpoint(
                        id=told["id"],
                        network=told["network"],
                        network_name=told["network_name"],
                        container=told["container"],
                        names=tuple(told["names"]),
                        addresses=tuple(packed(each) for each in told["addresses"]),
                        links=told["links"],
                    )
                )
            case "leave":
                self._zone.remove(told["id"])
            case "serve":
                if sockets:
                    self._stop(told["container"])
                    self._guests[told["container"]] = Guest(
                        self._loop, self._zone, self._host, told["container"], *sockets
                    )
                guest = self._guests.get(told["container"])
                if guest is not None:
                    guest.servers = told["servers"]
                    guest.forward = told["forward"]
                    guest.dotted = told["dotted"]
            case "stop":
                self._stop(told["container"])

    def _stop(self, container: str) -> None:
        guest = self._guests.pop(container, None)
        if guest is not None:
            guest.close()


def drop_privileges() -> None:
    """Be nobody, for good."""
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    process.prctl(process.PR_SET_NO_NEW_PRIVS, 1)
    process.prctl(process.PR_SET_DUMPABLE, 0)


def main() -> None:
    """``python -m capsa.network.dns.process FD``: serve the engine at the other end of the packet socket FD."""
    set_title("capsa: names")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, max(DESCRIPTORS, most)))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))  # of its log
    drop_privileges()
    loop = Loop()
    server = Server(loop, socket.socket(fileno=int(sys.argv[1])))
    gc.collect()
    gc.freeze()
    while not server.ended:
        loop.turn()


if __name__ == "__main__":
    main()
