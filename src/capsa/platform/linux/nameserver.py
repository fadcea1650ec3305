"""The sockets that a container's name server listens on: made inside its network namespace, served outside of it.

They belong to high ports of `ADDRESS`, and `capsa.sys.port_rewrite` makes them answer for port 53, so that a DNS server
in the container may have port 53 of all addresses.
"""

from __future__ import annotations

import socket

from capsa.errors import LaunchFailed, reason
from capsa.sys.port_rewrite import rewrite

ADDRESS = "127.0.0.11"  # Docker's, which configurations of nginx and others name
PORT = 53
BACKLOG = 64


def sockets() -> tuple[socket.socket, socket.socket]:
    """A UDP socket and a listening TCP socket in the caller's network namespace; raises `LaunchFailed`."""
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        datagrams.bind((ADDRESS, 0))
        listener.bind((ADDRESS, 0))
        listener.listen(BACKLOG)
        for each in (datagrams, listener):
            each.setblocking(False)
        ports = {each: held.getsockname()[1] for each, held in ((17, datagrams), (6, listener))}
        rewrite(ADDRESS, PORT, ports)
    except OSError as error:
        datagrams.close()
        listener.close()
        raise LaunchFailed(
            f"cannot make the container's name service at {ADDRESS}: {reason(error)} (it needs nf_tables in the kernel)"
        ) from error
    return datagrams, listener
