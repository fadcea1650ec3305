"""The devices of the host by which containers are in networks, and which components have them open."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable

import msgspec

from capsa.errors import LaunchFailed, Unsupported, reason
from capsa.platform.genode import network
from capsa.platform.protocol import Interface
from capsa.sys import tap
from capsa.sys.netlink import Netlink


class Tap(msgspec.Struct, frozen=True):
    """A device: the container that it leads to, and the component that has it open."""

    container: str
    driver: str


class Taps:
    """All of one Genode.

    Its driver would try for ever to write to a device that is down or gone: it is up before, and gone after it.
    """

    def __init__(self) -> None:
        self._known: dict[str, Tap] = {}

    def __bool__(self) -> bool:
        return bool(self._known)

    def plug(self, container: str, driver: str, interface: Interface) -> None:
        """Make the device that ``driver`` is going to open; raises `LaunchFailed`, `Unsupported`, and leaves none."""
        if interface.mtu > network.MOST_MTU:
            raise Unsupported(
                f"packets on Genode have at most {network.MOST_MTU} bytes, those of the network {interface.mtu}: "
                "make one with a smaller com.docker.network.driver.mtu"
            )
        name = interface.host_name
        try:
            tap.add(name)
            self._known[name] = Tap(container, driver)
            with Netlink() as netlink:
                netlink.attach(name, interface.bridge, interface.isolated)
                netlink.up(name)
        except OSError as error:
            if name in self._known:
                self.delete([name])
            raise LaunchFailed(f"cannot connect to {interface.bridge} by {name}: {reason(error)}") from error

    def unplug(self, gone: Callable[[Tap], bool]) -> None:
        """Delete the devices whose drivers are ``gone``."""
        if names := [name for name, each in self._known.items() if gone(each)]:
            self.delete(names)

    def delete(self, names: Iterable[str]) -> None:
        """Delete devices."""
        with Netlink() as netlink:
            for name in names:
                with contextlib.suppress(OSError):  # an engine may have deleted it
                    netlink.delete(name)
                del self._known[name]
