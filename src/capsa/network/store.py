"""Networks, endpoints and published ports in the database."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

import msgspec

from capsa.database import Database
from capsa.errors import CapsaError
from capsa.network.model import Binding, Endpoint, Network

_MIGRATIONS = [
    """
    CREATE TABLE networks (id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, bridge TEXT, data BLOB NOT NULL);
    CREATE UNIQUE INDEX networks_bridge ON networks (bridge) WHERE bridge != '';
    CREATE TABLE endpoints (
        id TEXT PRIMARY KEY,
        network TEXT NOT NULL REFERENCES networks (id),
        container TEXT NOT NULL,
        ipv4 TEXT,
        ipv6 TEXT,
        data BLOB NOT NULL,
        UNIQUE (network, container), UNIQUE (network, ipv4), UNIQUE (network, ipv6)
    ) WITHOUT ROWID;
    CREATE TABLE ports (
        endpoint TEXT NOT NULL REFERENCES endpoints (id) ON DELETE CASCADE,
        container_port INTEGER NOT NULL,
        protocol TEXT NOT NULL,
        host_ip TEXT NOT NULL,
        host_port INTEGER NOT NULL,
        PRIMARY KEY (protocol, host_ip, host_port)
    ) WITHOUT ROWID;
    CREATE INDEX ports_endpoint ON ports (endpoint)
    """,
]


class Store:
    """The tables of component ``network``."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._owed: list[tuple[str, tuple[str, ...]]] = []
        database.migrate("network", _MIGRATIONS)

    def networks(self) -> list[Network]:
        """All networks."""
        decode = msgspec.json.Decoder(Network).decode
        return [decode(row["data"]) for row in self._database.rows("SELECT data FROM networks")]

    def add_network(self, network: Network) -> None:
        """Add or replace a network."""
        self._database.execute(
            "INSERT INTO networks VALUES (?,?,?,?) ON CONFLICT (id) DO UPDATE SET data=excluded.data",
            (network.id, network.name, network.bridge, msgspec.json.encode(network)),
        )

    def remove_network(self, network: Network) -> None:
        """Remove a network that has no endpoints."""
        self._database.execute("DELETE FROM networks WHERE id=?", (network.id,))

    def endpoints(self) -> list[Endpoint]:
        """All endpoints."""
        decode = msgspec.json.Decoder(Endpoint).decode
        return [decode(row["data"]) for row in self._database.rows("SELECT data FROM endpoints")]

    def add_endpoint(self, endpoint: Endpoint) -> None:
        """Add an endpoint."""
        self._settle()
        self._database.execute(
            "INSERT INTO endpoints VALUES (?,?,?,?,?,?)",
            (
                endpoint.id,
                endpoint.network,
                endpoint.container,
                endpoint.address(4)[0] or None,
                endpoint.address(6)[0] or None,
                msgspec.json.encode(endpoint),
            ),
        )

    def change_endpoint(self, endpoint: Endpoint) -> None:
        """Store what has changed of an endpoint, its addresses aside."""
        self._database.execute("UPDATE endpoints SET data=? WHERE id=?", (msgspec.json.encode(endpoint), endpoint.id))

    def remove_endpoint(self, endpoint: Endpoint) -> None:
        """Remove an endpoint and its ports."""
        self._remove("DELETE FROM endpoints WHERE id=?", endpoint.id)

    def bindings(self) -> dict[str, list[Binding]]:
        """Published ports by endpoint."""
        found: dict[str, list[Binding]] = {}
        for row in self._database.rows("SELECT * FROM ports"):
            values: Mapping[str, object] = {key: row[key] for key in row.keys() if key != "endpoint"}  # noqa: SIM118
            found.setdefault(row["endpoint"], []).append(msgspec.convert(values, Binding))
        return found

    def add_bindings(self, endpoint: Endpoint, bindings: Sequence[Binding]) -> None:
        """Add published ports, all or none."""
        self._settle()
        with self._database.transaction():
            for each in bindings:
                self._database.execute(
                    "INSERT INTO ports VALUES (?,?,?,?,?)",
                    (endpoint.id, each.container_port, each.protocol, each.host_ip, each.host_port),
                )

    def remove_bindings(self, endpoint: Endpoint) -> None:
        """Remove the ports of an endpoint."""
        self._remove("DELETE FROM ports WHERE endpoint=?", endpoint.id)

    def _remove(self, statement: str, *parameters: str) -> None:
        """What a container had is given back, even if the disk is full: then the rows go before the next change."""
        self._owed.append((statement, parameters))
        with contextlib.suppress(CapsaError):
            self._settle()

    def _settle(self) -> None:
        while self._owed:
            self._database.execute(*self._owed[0])
            del self._owed[0]

    def clear(self) -> None:
        """Remove everything."""
        with self._database.transaction():
            for table in ("ports", "endpoints", "networks"):
                self._database.execute(f"DELETE FROM {table}")  # noqa: S608
