"""Health checks: a command run in the container at intervals (Docker Engine API, ``HealthConfig``)."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

import msgspec

from capsa.engine.config import Healthcheck
from capsa.engine.container import Container
from capsa.engine.exec import ExecConfig
from capsa.engine.times import rfc3339
from capsa.errors import CapsaError
from capsa.platform import protocol

if TYPE_CHECKING:
    from capsa.engine.engine import Engine
    from capsa.engine.exec import Exec

INTERVAL = 30.0
TIMEOUT = 30.0
START_INTERVAL = 5.0
RETRIES = 3
KEPT = 5
OUTPUT = 4096


class Probe(msgspec.Struct):
    """One run of the check."""

    began: int
    ended: int
    exit_code: int
    output: str


class Health:
    """The health of one container: ``starting``, ``healthy`` or ``unhealthy``."""

    def __init__(self) -> None:
        self.status = "starting"
        self.streak = 0
        self.log: list[Probe] = []
        self.task: asyncio.Task[None] | None = None

    def describe(self) -> str:
        """As ``docker ps`` puts it."""
        return "health: starting" if self.status == "starting" else self.status

    def document(self) -> dict[str, Any]:
        """As inspection shows it."""
        return {
            "Status": self.status,
            "FailingStreak": self.streak,
            "Log": [
                {
                    "Start": rfc3339(probe.began),
                    "End": rfc3339(probe.ended),
                    "ExitCode": probe.exit_code,
                    "Output": probe.output,
                }
                for probe in self.log
            ],
        }


class HealthChecks:
    """Runs the checks of all containers that have one."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def began(self, container: Container) -> None:
        """The container runs."""
        check = container.config.healthcheck
        if check is None or not check.test or check.test[0] == "NONE" or len(check.test) < 2:
            container.health = None
            return
        health = Health()
        container.health = health
        health.task = asyncio.ensure_future(self._watch(container, health, check))

    def ended(self, container: Container) -> None:
        """It does not run any more."""
        if container.health is not None and container.health.task is not None:
            container.health.task.cancel()
            container.health.task = None

    def close(self) -> None:
        """Stop all checks; containers live on."""
        for container in self._engine.containers:
            self.ended(container)

    async def _watch(self, container: Container, health: Health, check: Healthcheck) -> None:
        interval = check.interval / 1e9 or INTERVAL
        begun = time.monotonic()
        start_period = check.start_period / 1e9
        while True:
            starting = health.status == "starting" and time.monotonic() - begun < start_period
            await asyncio.sleep((check.start_interval / 1e9 or START_INTERVAL) if starting else interval)
            if container.state.status != "running":
                continue
            probe = await self._probe(container, check)
            health.log = [*health.log[1 - KEPT :], probe]
            before = health.status
            if probe.exit_code == 0:
                health.streak = 0
                health.status = "healthy"
            elif not starting:
                health.streak += 1
                if health.streak >= (check.retries or RETRIES):
                    health.status = "unhealthy"
            if health.status != before:
                self._engine.events.container(f"health_status: {health.status}", container)

    async def _probe(self, container: Container, check: Healthcheck) -> Probe:
        command = check.test[1:]
        if check.test[0] == "CMD-SHELL":
            command = [*(container.config.shell or ["/bin/sh", "-c"]), check.test[1]]
        began = time.time_ns()
        output = bytearray()
        run: Exec | None = None
        try:
            async with asyncio.timeout(check.timeout / 1e9 or TIMEOUT):
                config = ExecConfig(cmd=command, attach_stdout=True, attach_stderr=True, tty=False)
                run = self._engine.execs.create(container, config)
                ours, theirs = self._engine.stream_pair()
                with ours:
                    await self._engine.execs.start(run, theirs)
                    loop = asyncio.get_running_loop()
                    while data := await loop.sock_recv(ours, 1 << 16):
                        output += data[: OUTPUT * 2 - len(output)]
                code = await run.ended()
        except TimeoutError:
            if run is not None:
                await self._kill(container, run)
            text = f"Health check exceeded timeout ({(check.timeout / 1e9 or TIMEOUT):g}s)"
            return Probe(began, time.time_ns(), -1, text)
        except (CapsaError, OSError) as error:
            return Probe(began, time.time_ns(), -1, str(error))
        return Probe(began, time.time_ns(), code, _plain(bytes(output))[:OUTPUT])

    async def _kill(self, container: Container, run: Exec) -> None:
        """End a probe, which may not even run yet; the next one does not begin before."""
        with contextlib.suppress(CapsaError, TimeoutError):  # it has just ended, or its container has
            async with asyncio.timeout(TIMEOUT):
                if run.start is not None:
                    await asyncio.wait([run.start])
                if run.running and container.sandbox is not None:
                    await container.sandbox.request(protocol.Signal(signal=9, exec=run.id))
                    await run.ended()


def _plain(frames: bytes) -> str:
    """The text in multiplexed frames."""
    text = bytearray()
    position = 0
    while position + 8 <= len(frames):
        length = int.from_bytes(frames[position + 4 : position + 8], "big")
        text += frames[position + 8 : position + 8 + length]
        position += 8 + length
    return text.decode(errors="replace")
