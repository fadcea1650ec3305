"""The sub-init: the parent of one container's processes.

It lives as long as the container, sleeps, and takes the exit codes of its children; if it is killed, they die with it.
All work is done by an attendant (`capsa.platform.linux.attendant`), a child that shares its file descriptors and is
there only while something happens. So this module is written to touch little: what a sleeping sub-init has touched of
the memory it shares with the zygote is what a container costs.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import struct
import sys

import msgspec

from capsa.platform import packets, protocol
from capsa.platform.linux import cgroup, interfaces, seccomp
from capsa.platform.linux.attendant import Attendant, Memory
from capsa.platform.linux.rehearsal import dress, rehearse
from capsa.platform.protocol import Launch, Status
from capsa.sys import process
from capsa.sys.title import prepare_title, set_title

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

CLONE_FILES = 0x400  # linux/sched.h
ASLEEP = 0  # an attendant's exit code: it will be needed again
OVER = 10  # the container was released, or could not be launched
SPECIALISED = 20  # rounds after which the interpreter has adapted its byte code
TAKEN = b"t"
NO_ENGINE = b"n"
SHORT_ID = 12  # length of the container's id that stands before what an attendant remembers

_launches = msgspec.json.Decoder(Launch)
_memories = msgspec.json.Decoder(Memory)
_requests = msgspec.json.Decoder(protocol.Request)


def warm_up() -> None:
    """Look up and touch, in the zygote, what every sub-init would otherwise have to for itself."""
    rehearse(SPECIALISED)
    dress(SPECIALISED)
    _requests.decode(b'{"number":1,"command":{"type":"pause"}}')
    msgspec.json.encode(Status(state="creating"))
    prepare_title()
    cgroup.prime()
    seccomp.libseccomp_version()


def main(engine: int, take: int) -> None:
    """Be the sub-init of the container whose launch arrives next on the socket ``engine``; returns when that is over.

    `TAKEN` or `NO_ENGINE` is written to ``take`` then, and it is closed when the container has begun, or is over.
    """
    os.setsid()
    process.prctl(process.PR_SET_CHILD_SUBREAPER, 1)
    epoll = select.epoll()
    reader, writer = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(reader, False)
    memory = os.memfd_create("attendant")
    own = os.getpid()
    attendant = process.clone(CLONE_FILES)
    if attendant == 0:
        _first(own, engine, take, epoll, reader, memory)
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid != attendant:
            os.write(writer, struct.pack("=ii", pid, status))
        elif status != ASLEEP:
            return
        else:
            set_title(f"capsa: sub-init {os.pread(memory, SHORT_ID, 0).decode()}")
            epoll.poll()
            attendant = process.clone(CLONE_FILES)
            if attendant == 0:
                _next(own, epoll, reader, memory)


def _first(parent: int, engine: int, take: int, epoll: select.epoll, children: int, memory: int) -> NoReturn:
    """The attendant that makes the container."""
    with _Life(parent):
        rehearse(1)
        network: int | None = None
        with contextlib.suppress(OSError):  # then the container gets one made, or hears why not
            network = interfaces.new_network()
        with socket.socket(fileno=engine) as end:
            packet = packets.receive(end)
        os.write(take, TAKEN if packet is not None else NO_ENGINE)
        if packet is None:
            os._exit(OVER)
        data, fds = packet
        launch = _launches.decode(data)
        set_title(f"capsa: sub-init {launch.id[:12]}")
        attendant = Attendant(launch, epoll, children)
        attendant.make(fds, network)
        attendant.settle()
        os.close(take)
        _work(attendant, memory)
    os._exit(OVER)


def _next(parent: int, epoll: select.epoll, children: int, memory: int) -> NoReturn:
    """The attendant that something has happened for."""
    with _Life(parent):
        remembered = _memories.decode(os.pread(memory, os.fstat(memory).st_size, SHORT_ID))
        set_title(f"capsa: sub-init {remembered.launch.id[:12]}")
        attendant = Attendant(remembered.launch, epoll, children)
        attendant.remember(remembered)
        _work(attendant, memory)
    os._exit(OVER)


def _work(attendant: Attendant, memory: int) -> None:
    left = attendant.run()
    if left is None:
        os._exit(OVER)
    os.ftruncate(memory, 0)
    os.pwrite(memory, left.launch.id[:SHORT_ID].ljust(SHORT_ID).encode() + msgspec.json.encode(left), 0)
    os._exit(ASLEEP)


class _Life:
    """What an attendant does not survive ends the sub-init, and with it the container; and the other way round."""

    def __init__(self, parent: int) -> None:
        self._parent = parent

    def __enter__(self) -> None:
        process.prctl(process.PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != self._parent:  # it died before that
            os._exit(1)

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            return
        sys.excepthook(*sys.exc_info())
        sys.stderr.flush()
        os._exit(1)
