"""The two directories that a Genode is driven by: configurations go in, reports come out.

Of a Genode that is started here they are in ``host/`` of its working directory. Configurations are written whole and
by rename: a torn one would silently end every component.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from capsa import hid
from capsa.errors import CapsaError, LaunchFailed, reason
from capsa.platform.genode.compile import CONFIG_PREFIX, CONTAINERS, REPORT
from capsa.platform.genode.nodes import SEED_PREFIX
from capsa.platform.genode.report import State, read

MOST = 1 << 20  # bytes of a report
CHECKED = ("init", "nic_router")
SEED_BYTES = 32  # what the plugin `random` takes, written as digits


class Directory:
    """``config`` and ``report`` of one Genode."""

    def __init__(
        self, config: Path, report: Path, schemas: Mapping[str, hid.Schema] | None = None, roms: Path | None = None
    ) -> None:
        """``schemas`` of programs, where the Genode brings them along; ``roms``: where ROM modules are, if apart."""
        self.config = config
        self.report = report
        self._schemas = schemas or {}
        self._roms = roms or config

    def write_containers(self, document: hid.Node, version: int) -> None:
        """The configuration of all containers; the report on it repeats ``version``.

        Raises `LaunchFailed` and leaves what was there.
        """
        self._write(CONTAINERS, document, version)

    def write_container(self, name: str, document: hid.Node, version: int) -> None:
        """That of one container's sub-init, likewise; raises `LaunchFailed`."""
        self._write(CONFIG_PREFIX + name, document, version)

    def prepare_container(self, name: str, *, seed: bool = True) -> Path:
        """What a sub-init finds when it begins: where its reports go (returned), and a ``seed`` for random bytes."""
        where = self.reports_of(name)
        where.mkdir(exist_ok=True)
        if not seed:
            return where
        owner = self._roms.stat()  # where somebody else has started the Genode, it is theirs to read
        with open(self._roms / (SEED_PREFIX + name), "w", opener=_private) as file:
            os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
            file.write(os.urandom(SEED_BYTES).hex())
        return where

    def forget_container(self, name: str) -> None:
        """Its sub-init is gone: so are its configuration, its seed and its reports."""
        for path in (self.config / (CONFIG_PREFIX + name), self._roms / (SEED_PREFIX + name)):
            with contextlib.suppress(OSError):
                os.unlink(path)
        where = self.reports_of(name)
        with contextlib.suppress(OSError):
            for entry in os.listdir(where):
                os.unlink(where / entry)
            os.rmdir(where)

    def reports_of(self, name: str) -> Path:
        """Where the reports of a container's sub-init appear."""
        return self.report / CONTAINERS / name

    def state(self) -> State | None:
        """The newest report on all containers, if there is a whole one."""
        return self._read(self.report / CONTAINERS / REPORT)

    def state_of(self, name: str) -> State | None:
        """The newest report of a container's sub-init."""
        return self._read(self.reports_of(name) / REPORT)

    @staticmethod
    def _read(path: Path) -> State | None:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return None
        with open(fd, "rb", buffering=0) as file:
            return read(file.read(MOST) or b"")

    def _check(self, name: str, program: str, document: hid.Node) -> None:
        schema = self._schemas.get(program)
        if schema is not None and (problems := schema.check(document)):
            raise LaunchFailed(f"the configuration of {name} does not fit this Genode's schema: {problems[0]}")

    def _write(self, name: str, document: hid.Node, version: int) -> None:
        try:
            self._check(name, "init", document)
            for start in document.nodes("start"):
                binary, config = start.node("binary"), start.node("config")
                if config is not None:
                    self._check(f"{name} -> {start.name}", binary.name if binary else start.name, config)
            document.set("version", version)  # the schema of 26.02 does not know it, `init` does
            text = hid.write(document)
        except hid.HidError as error:
            raise LaunchFailed(f"the configuration of {name} cannot be written: {error}") from error
        path = self.config / name
        try:
            with open(f"{path}.new", "wb", buffering=0) as file:
                file.write(text.encode())
            os.rename(f"{path}.new", path)
        except OSError as error:
            raise LaunchFailed(f"cannot write {path}: {reason(error)}") from error


def schemas_of(binaries: Path) -> dict[str, hid.Schema]:
    """The schemas among a Genode's binaries that are there; raises `CapsaError` if one is broken."""
    found = {}
    for program in CHECKED:
        path = binaries / f"{program}.hsd"
        try:
            found[program] = hid.Schema.load(path.read_text())
        except FileNotFoundError:
            continue
        except (OSError, ValueError, hid.HidError) as error:
            raise CapsaError(f"cannot use the schema {path}: {error}") from error
    return found


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
