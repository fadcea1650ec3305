"""Network devices of the host that move into a container (config-linux.md, Network Devices)."""

from __future__ import annotations

import contextlib
import os

from capsa.errors import InvalidArgument, LaunchFailed
from capsa.sys import namespace
from capsa.sys.namespace import FLAGS
from capsa.sys.netlink import Netlink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from capsa.oci.runtime import NetDevice


class NetDevices:
    """Those that have moved, until that is final (`close`) or taken back (`give_back`)."""

    def __init__(self, pid: int, space: int | None = None) -> None:
        """``pid``: a process of the container; ``space``: its network namespace, where it has not got to it yet."""
        self._own = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._space = -1
        self._moved: list[tuple[str, str, list[str]]] = []
        try:
            self._space = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC) if space is None else os.dup(space)
            self._outside = Netlink()
            namespace.setns(self._space, FLAGS["network"])
            try:
                self._inside = Netlink()
            finally:
                namespace.setns(self._own, FLAGS["network"])
        except BaseException:
            os.close(self._own)
            if self._space >= 0:
                os.close(self._space)
            raise

    def move(self, wanted: Mapping[str, NetDevice]) -> None:
        """Move them in, under their new names, with their lasting addresses, and up; raises `LaunchFailed`."""
        for name, device in wanted.items():
            try:
                self._move(name, device.name or name)
            except OSError as error:
                raise LaunchFailed(
                    f"cannot move the network device {name} into the container: {error.strerror}"
                ) from error

    def _move(self, name: str, inside: str) -> None:
        addresses = self._outside.lasting_addresses(name)
        before = {link.ifindex for link in self._inside.links()}
        try:
            self._outside.move(name, inside, self._space)
        finally:  # the kernel may have moved it and then be unable to rename it
            found = [link.name for link in self._inside.links() if link.ifindex not in before]
            self._moved += [(name, each, addresses) for each in found]
        self._inside.configure(found[0], addresses, link_local=True)

    def give_back(self) -> None:
        """Move them out again, as far as they are there: the container is not to be."""
        for name, inside, addresses in reversed(self._moved):
            with contextlib.suppress(OSError):
                self._inside.move(inside, name, self._own)
                self._outside.configure(name, addresses, link_local=True)
        self.close()

    def close(self) -> None:
        """They stay where they are."""
        if self._own >= 0:
            self._moved = []
            self._outside.close()
            self._inside.close()
            os.close(self._own)
            os.close(self._space)
            self._own = -1


def check(wanted: Mapping[str, NetDevice], apart: bool) -> None:
    """Raises `InvalidArgument` for names that cannot be, or where the container is not ``apart`` from the host."""
    if wanted and not apart:
        raise InvalidArgument("netDevices need a network namespace of the container's own: add one to its namespaces")
    for name, device in wanted.items():
        for each in (name, device.name or name):
            if (
                not 0 < len(each.encode()) < 16
                or each in (".", "..")
                or "/" in each
                or ":" in each
                or each.split() != [each]
            ):
                raise InvalidArgument(f"{each!r} in netDevices is no name of a network device")
        if "%" in device.name.replace("%d", "", 1) or "%" in name:
            raise InvalidArgument(f"{device.name or name!r} in netDevices: one %d at most stands for a number")
