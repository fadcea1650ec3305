"""The sockets on which a container's name server is asked, at the host's end of one of its networks.

A component asks its own router, which forwards the queries to them. They are the container's alone: the kernel drops
what does not come from its address there, and nobody else can send from that, or gets the answer.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import random
import socket
import struct

from capsa.errors import LaunchFailed, reason
from capsa.platform.protocol import Interface

PORTS = range(32768, 49152)  # nic_router forwards to no higher ones
TRIES = 50
_SIOCGIFADDR = 0x8915
_SO_ATTACH_FILTER, _SO_LOCK_FILTER = 26, 44
# linux/filter.h: load the word at an offset, compare it, return how many bytes pass.
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
_SOURCE = 0x1_0000_0000 - 0x100000 + 12  # of the IPv4 header: SKF_NET_OFF
_ALL = 0xFFFFFFFF


class NameSockets:
    """UDP and TCP, of the same address and port."""

    def __init__(self, interface: Interface) -> None:
        """For the container that is in a network by ``interface``; raises `LaunchFailed`."""
        self.link = interface.name
        asker = interface.addresses[0].partition("/")[0]
        try:
            self.address = address_of(interface.bridge)
            self.datagrams, self.listener = _pair(self.address, asker)
            self.port: int = self.datagrams.getsockname()[1]
        except OSError as error:
            raise LaunchFailed(f"cannot serve names in the network of {interface.bridge}: {reason(error)}") from error

    @property
    def descriptors(self) -> list[int]:
        """Both of them."""
        return [self.datagrams.fileno(), self.listener.fileno()]

    def close(self) -> None:
        """They are of no use any more."""
        self.datagrams.close()
        self.listener.close()


def address_of(device: str) -> str:
    """The IPv4 address of a device of the host; raises `OSError`."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        found = fcntl.ioctl(asking, _SIOCGIFADDR, struct.pack("16s24x", device.encode()))
    return socket.inet_ntoa(found[20:24])


def _pair(address: str, asker: str) -> tuple[socket.socket, socket.socket]:
    with contextlib.ExitStack() as stack:
        for port in random.sample(PORTS, TRIES):
            datagrams = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            listener = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            for each in (datagrams, listener):
                _hear_only(each, asker)
            try:
                datagrams.bind((address, port))
                listener.bind((address, port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                stack.close()
                continue
            listener.listen(16)
            stack.pop_all()
            return datagrams, listener
    raise OSError(errno.EADDRINUSE, "no port is free")


def _hear_only(each: socket.socket, asker: str) -> None:
    """Let the kernel drop what comes from another address."""
    (source,) = struct.unpack("!I", socket.inet_aton(asker))
    program = b"".join(
        struct.pack("=HBBI", *instruction)
        for instruction in ((_LOAD, 0, 0, _SOURCE), (_EQUAL, 0, 1, source), (_RETURN, 0, 0, _ALL), (_RETURN, 0, 0, 0))
    )
    kept = ctypes.create_string_buffer(program, len(program))
    each.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(program) // 8, ctypes.addressof(kept)))
    each.setsockopt(socket.SOL_SOCKET, _SO_LOCK_FILTER, 1)
