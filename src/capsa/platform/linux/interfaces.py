"""A container's network interfaces, from the host's side: veth pairs, and namespaces made beforehand."""

from __future__ import annotations

import contextlib
import os

from capsa.errors import LaunchFailed
from capsa.sys import loopback, namespace
from capsa.sys.namespace import FLAGS
from capsa.sys.netlink import Netlink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from capsa.platform.protocol import Interface


def new_network() -> int:
    """A network namespace of its own with its loopback interface up, as an open file; raises OSError."""
    own = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        namespace.unshare(FLAGS["network"])
        try:
            loopback.up()
            return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            namespace.setns(own, FLAGS["network"])
    finally:
        os.close(own)


def add(interfaces: Sequence[Interface], pid: int, space: int | None = None) -> None:
    """Make the veth pairs, the container's ends in its namespace already; raises `LaunchFailed`.

    ``space`` is its network namespace, where process ``pid`` may not have got to it yet.
    """
    with Netlink() as netlink:
        for one in interfaces:
            try:
                netlink.add_veth(one.host_name, one.bridge, one.name, one.mac, one.mtu, pid, space, one.isolated)
            except OSError as error:
                raise LaunchFailed(
                    f"cannot add the interface {one.name} ({one.host_name} at {one.bridge}): {error.strerror}"
                ) from error


def remove(interfaces: Sequence[Interface]) -> None:
    """Remove those that are there."""
    if not interfaces:
        return
    with Netlink() as netlink:
        for one in interfaces:
            with contextlib.suppress(OSError):
                netlink.delete(one.host_name)
