"""The loopback interface, by ``ioctl(2)``: a request of netlink, and its module, would take several times as long."""

from __future__ import annotations

import fcntl
import socket
import struct

from capsa.sys.call import failed

_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1
_ifreq = struct.Struct("=16sh22x")


def up() -> None:
    """Bring it up in the caller's network namespace; raises `OSError`."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            fcntl.ioctl(any_socket, _SIOCSIFFLAGS, _ifreq.pack(b"lo", _IFF_UP))
        except OSError as error:
            raise failed("SIOCSIFFLAGS", "lo", error.errno) from error
