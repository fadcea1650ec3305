"""Who is called what in which network, and who may know."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Iterator
from typing import Any, NamedTuple

from capsa.network.dns import message
from capsa.network.dns.message import Query, Record


class Endpoint(NamedTuple):
    """A container's place in a network.

    ``names`` in lower case, the container's own first; ``links``: other containers' names by what this one calls them.
    """

    id: str
    network: str
    network_name: str
    container: str
    names: tuple[str, ...]
    addresses: tuple[bytes, ...]
    links: dict[str, str]


class Zone:
    """All endpoints of all networks with name service."""

    def __init__(self) -> None:
        self._endpoints: dict[str, Endpoint] = {}
        self._of_container: dict[str, dict[str, Endpoint]] = {}
        self._of_name: dict[tuple[str, str], dict[str, Endpoint]] = {}
        self._of_address: dict[tuple[str, bytes], Endpoint] = {}
        self._turn = itertools.count()

    def add(self, endpoint: Endpoint) -> None:
        """Make it known; replaces what was known of the same id."""
        self.remove(endpoint.id)
        self._endpoints[endpoint.id] = endpoint
        self._of_container.setdefault(endpoint.container, {})[endpoint.id] = endpoint
        for name in endpoint.names:
            self._of_name.setdefault((endpoint.network, name), {})[endpoint.id] = endpoint
        for address in endpoint.addresses:
            self._of_address[endpoint.network, address] = endpoint

    def remove(self, identity: str) -> None:
        """Forget the endpoint with this id, if it is known."""
        endpoint = self._endpoints.pop(identity, None)
        if endpoint is None:
            return
        _drop(self._of_container, endpoint.container, identity)
        for name in endpoint.names:
            _drop(self._of_name, (endpoint.network, name), identity)
        for address in endpoint.addresses:
            if self._of_address.get((endpoint.network, address)) is endpoint:
                del self._of_address[endpoint.network, address]

    def lookup(self, container: str, query: Query) -> list[Record] | None:
        """The records that answer the query of ``container``, None where it is not about its networks.

        A name that is known has no records of other types than its addresses: an empty list.
        """
        if query.domain != message.IN:
            return None
        if query.kind == message.PTR:
            return self._reverse(container, query.name)
        found = self._find(container, query.name)
        if not found:
            return None
        start = next(self._turn) % len(found)
        return [
            (kind, address)
            for endpoint in found[start:] + found[:start]
            for address in endpoint.addresses
            for kind in (message.A if len(address) == 4 else message.AAAA,)
            if query.kind in (kind, message.ANY)
        ]

    def _find(self, container: str, name: str) -> list[Endpoint]:
        """The endpoints called so: by the whole name, else by ``NAME.NETWORK``."""
        mine = self._of_container.get(container, {}).values()
        for wanted, network in _readings(name):
            for endpoint in mine:
                if network and endpoint.network_name.lower() != network:
                    continue
                known = endpoint.links.get(wanted, wanted)
                found = self._of_name.get((endpoint.network, known))
                if found:
                    return list(found.values())
        return []

    def _reverse(self, container: str, name: str) -> list[Record] | None:
        address = message.reverse_address(name)
        for mine in self._of_container.get(container, {}).values() if address else ():
            found = self._of_address.get((mine.network, address))
            if found is not None:
                try:
                    return [(message.PTR, message.host_name(f"{found.names[0]}.{found.network_name}"))]
                except ValueError:
                    return []
        return None


def _readings(name: str) -> Iterator[tuple[str, str]]:
    """A name, and the network that it may be qualified with: both may have dots of their own."""
    yield name, ""
    for place, character in enumerate(name):
        if character == ".":
            yield name[:place], name[place + 1 :]


def _drop(table: dict[Any, dict[str, Endpoint]], key: Any, identity: str) -> None:
    entries = table.get(key)
    if entries is not None:
        entries.pop(identity, None)
        if not entries:
            del table[key]


def packed(address: str) -> bytes:
    """An address (with or without prefix length) as the wire has it."""
    text = address.partition("/")[0]
    return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)
