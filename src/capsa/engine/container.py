"""One container as the engine sees it: what was asked for, what it is now, and who waits for it."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from capsa.engine.config import Config, EndpointConfig, HostConfig
from capsa.engine.times import ago
from capsa.platform.protocol import Attach

if TYPE_CHECKING:
    from capsa.engine.archive_helpers import Helper
    from capsa.engine.exec import Exec
    from capsa.network.model import Binding, Endpoint
    from capsa.platform.sandbox import Sandbox

Status = Literal["created", "running", "paused", "restarting", "exited", "dead", "removing"]


class MountPoint(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A mount of a container, resolved: ``source`` is the path on the host, ``name`` the volume's or the image's id."""

    type: Literal["bind", "volume", "tmpfs", "image"]
    destination: str
    source: str = ""
    name: str = ""
    driver: str = ""
    mode: str = ""
    writable: bool = True
    propagation: str = ""
    options: list[str] = []
    subpath: str = ""
    anonymous: bool = False
    copy: bool = False
    from_mounts: bool = False


class Document(msgspec.Struct, kw_only=True):
    """What is stored of a container and hardly ever changes. ``created`` in nanoseconds since the epoch."""

    created: int
    image: str
    image_name: str
    platform: str
    path: str
    args: list[str]
    config: Config
    host: HostConfig
    endpoints: dict[str, EndpointConfig] = {}
    mounts: list[MountPoint] = []


class State(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What is stored of a container and changes with its life. Times in nanoseconds since the epoch, 0: never.

    ``stopped``: the user stopped it, so that restart policies leave it alone. ``removing``: a removal is under way.
    """

    status: Status = "created"
    pid: int = 0
    exit_code: int = 0
    error: str = ""
    out_of_memory: bool = False
    started_at: int = 0
    finished_at: int = 0
    restart_count: int = 0
    stopped: bool = False
    removing: bool = False


class Waiting(msgspec.Struct):
    """A stream that waits for the container's start; ``end`` goes to the sub-init, ``ours`` is the other one."""

    attach: Attach
    end: socket.socket
    ours: socket.socket


class Container:
    """A container. Only the engine's event loop touches it; ``lock`` serialises what changes its life cycle."""

    def __init__(self, identity: str, name: str, document: Document, state: State, bundle: Path) -> None:
        self.id = identity
        self.name = name
        self.document = document
        self.state = state
        self.bundle = bundle
        self.lock = asyncio.Lock()
        self.sandbox: Sandbox | None = None
        self.waiting: list[Waiting] = []
        self.execs: dict[str, Exec] = {}
        self.helpers: set[Helper] = set()
        """Those that see its files through its last run, and keep that's mounts."""
        self.cleaning: asyncio.Task[None] | None = None
        self.unmounting: asyncio.Task[None] | None = None
        self.restarting: asyncio.TimerHandle | None = None
        self.restart_delay = 0.0
        self.health: Any = None
        self.endpoints: list[Endpoint] = []
        self.waiting_ports: list[Binding] = []
        self._exits: set[asyncio.Future[int]] = set()
        self._removals: set[asyncio.Future[int]] = set()
        self.on_end: set[Callable[[], None]] = set()

    @property
    def config(self) -> Config:
        """What does not depend on the host."""
        return self.document.config

    @property
    def host(self) -> HostConfig:
        """What depends on the host."""
        return self.document.host

    @cached_property
    def command(self) -> str:
        """The command column of ``docker ps``; each list asks for all of them."""
        return " ".join((self.document.path, *(f"'{word}'" if " " in word else word for word in self.document.args)))

    @property
    def running(self) -> bool:
        """Its processes exist (also while they are paused)."""
        return self.state.status in ("running", "paused")

    @property
    def active(self) -> bool:
        """It runs, or is about to run again by its restart policy."""
        return self.state.status in ("running", "paused", "restarting")

    @property
    def log_path(self) -> Path:
        """Its log in Docker's json-file form."""
        return self.bundle / f"{self.id}-json.log"

    @property
    def logs(self) -> bool:
        """It has a log."""
        return self.host.log_config.type != "none"

    def exited(self) -> asyncio.Future[int]:
        """The next exit; its exit code. Whoever asks is told of every exit from now on."""
        return self._wait(self._exits)

    async def ended(self) -> None:
        """Wait until it does not run."""
        while self.running:
            await self.exited()

    def removed(self) -> asyncio.Future[int]:
        """The removal; the last exit code."""
        return self._wait(self._removals)

    @staticmethod
    def _wait(waiters: set[asyncio.Future[int]]) -> asyncio.Future[int]:
        waiter: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        waiters.add(waiter)
        waiter.add_done_callback(waiters.discard)
        return waiter

    def wake_exits(self) -> None:
        """The container's processes have ended."""
        for waiter in tuple(self._exits):
            if not waiter.done():
                waiter.set_result(self.state.exit_code)
        for callback in tuple(self.on_end):
            callback()

    def wake_removals(self) -> None:
        """The container is gone."""
        self.wake_exits()
        for waiter in tuple(self._removals):
            if not waiter.done():
                waiter.set_result(self.state.exit_code)

    def drop_waiting(self) -> None:
        """No start will come for the streams that wait for one."""
        for waiting in self.waiting:
            waiting.end.close()
        self.waiting.clear()

    def describe(self, now: int | None = None) -> str:
        """The status column of ``docker ps`` (``Up 5 minutes (Paused)``, ``Exited (0) 2 hours ago``)."""
        state = self.state
        now = now or time.time_ns()
        match state.status:
            case "running":
                health = f" ({self.health.describe()})" if self.health is not None else ""
                return f"Up {ago(state.started_at, now)}{health}"
            case "paused":
                return f"Up {ago(state.started_at, now)} (Paused)"
            case "restarting":
                return f"Restarting ({state.exit_code}) {ago(state.finished_at, now)} ago"
            case "exited":
                return f"Exited ({state.exit_code}) {ago(state.finished_at, now)} ago"
            case "dead":
                return "Dead"
            case "removing":
                return "Removal In Progress"
            case _:
                return "Created"
