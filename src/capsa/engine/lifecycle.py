"""The life of containers: created, running, paused, restarting, exited; and what happens by itself.

What a client asks for takes the container's lock, so that two clients follow one another; what a sub-init reports
is taken at once. What is left of a run after its exit goes by itself (`capsa.engine.aftermath`).
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from typing import TYPE_CHECKING

from capsa.engine import launch, links, name_service, networking
from capsa.engine.aftermath import Aftermath
from capsa.engine.container import Container
from capsa.engine.validation import signal_number
from capsa.errors import CapsaError, Conflict, NotModified
from capsa.platform import protocol
from capsa.platform.protocol import Status

if TYPE_CHECKING:
    from capsa.engine.engine import Engine
    from capsa.platform.sandbox import Sandbox

STOP_SECONDS = 10
FIRST_DELAY = 0.1
LONGEST_DELAY = 60.0
STABLE_SECONDS = 10
CLOSE_SECONDS = 5.0


class LifeCycle:
    """What can be done with a container."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._containers = engine.containers
        self._events = engine.events
        self._tasks: set[asyncio.Task[None]] = set()
        self.aftermath = Aftermath(engine, self.spawn)

    # -- asked for by clients

    async def start(self, container: Container) -> None:
        """Start it; raises `NotModified` if it runs, `Conflict` where its state does not allow it, or why it failed."""
        async with container.lock:
            self._not_removing(container)
            match container.state.status:
                case "paused":
                    raise Conflict("cannot start a paused container, try unpause instead")
                case "running":
                    raise NotModified("container already started")
            self._forget_restart(container)
            container.state.stopped = False
            container.state.restart_count = 0
            container.restart_delay = 0.0
            await self._launch(container)

    async def stop(self, container: Container, timeout: int | None = None, signal_name: str = "") -> None:
        """Ask it to end, and after ``timeout`` seconds (-1: never) kill it; raises `NotModified` if it does not run."""
        async with container.lock:
            await self._stop(container, timeout, signal_name)

    async def restart(self, container: Container, timeout: int | None = None, signal_name: str = "") -> None:
        """Stop it if it runs, and start it."""
        async with container.lock:
            self._not_removing(container)
            if container.active:
                with contextlib.suppress(NotModified):
                    await self._stop(container, timeout, signal_name, restarting=True)
            self._forget_restart(container)
            container.state.stopped = False
            container.state.restart_count = 0
            container.restart_delay = 0.0
            await self._launch(container)
            self._events.container("restart", container)

    async def kill(self, container: Container, signal_name: str = "") -> None:
        """Send a signal to its first process; raises `Conflict` if it does not run.

        Between two runs there is nobody to send it to: what would end the container keeps it from starting again.
        """
        number = signal_number(signal_name or "KILL")
        deadly = number == signal.SIGKILL or number == signal_number(container.config.stop_signal or "TERM")
        if container.state.status == "restarting":
            async with container.lock:
                if container.state.status == "restarting":
                    if deadly:
                        self._give_up(container)
                    return
        self._running(container)
        container.state.stopped = container.state.stopped or deadly
        if container.state.status == "paused" and number == signal.SIGKILL:
            await self._request(container, protocol.Resume())
        await self._request(container, protocol.Signal(signal=number))
        self._events.container("kill", container, signal=str(number))
        if number == signal.SIGKILL:
            await container.ended()

    async def pause(self, container: Container) -> None:
        """Freeze all its processes."""
        async with container.lock:
            self._running(container)
            if container.state.status == "paused":
                raise Conflict(f"Container {container.id} is already paused")
            await self._request(container, protocol.Pause())
            self._events.container("pause", container)

    async def unpause(self, container: Container) -> None:
        """Thaw them."""
        async with container.lock:
            self._running(container)
            if container.state.status != "paused":
                raise Conflict(f"Container {container.id} is not paused")
            await self._request(container, protocol.Resume())
            self._events.container("unpause", container)

    async def resize(self, container: Container, height: int, width: int) -> None:
        """Set its terminal's size in characters."""
        self._running(container)
        await self._request(container, protocol.Resize(height=height, width=width))
        self._events.container("resize", container, height=str(height), width=str(width))

    async def remove(self, container: Container, *, force: bool = False, volumes: bool = False) -> None:
        """Remove it (a running one only with ``force``), with ``volumes`` its anonymous volumes, too."""
        if container.state.removing:
            raise Conflict(f"removal of container {container.id} is already in progress")
        if container.active and not force:
            state = "paused" if container.state.status == "paused" else container.state.status
            raise Conflict(
                f'cannot remove container "/{container.name}": container is {state}: stop the container before '
                "removing or force remove"
            )
        container.state.removing = True
        try:
            if container.running:  # before the lock: somebody may hold it who waits for an end that never comes
                container.state.stopped = True
                await self._kill(container)
            async with container.lock:
                self._forget_restart(container)
                container.state.stopped = True
                if container.running:
                    await self._kill(container)
                await self._remove(container, volumes)
        except BaseException:
            container.state.removing = False
            raise

    # -- inside the lock

    async def _launch(self, container: Container) -> None:
        if not self._containers.saved(container):
            self._containers.store(container)
        await self.aftermath.cleaned(container)
        state = container.state
        try:
            await self.aftermath.free(container)
            sandbox = await launch.launch(self._engine, container)
        except CapsaError as error:
            state.exit_code, state.error = launch.explain(error)
            state.status = "exited" if state.started_at else "created"
            state.pid = 0
            self._containers.save(container)
            container.wake_exits()
            if container.host.auto_remove:
                await self._remove(container, volumes=True)
            raise
        self.adopt(container, sandbox)
        name_service.attend(self._engine, container)
        links.follow(self._engine, container)

    async def _stop(
        self, container: Container, timeout: int | None, signal_name: str, *, restarting: bool = False
    ) -> None:
        self._not_removing(container)
        container.state.stopped = not restarting
        if container.state.status == "restarting":
            self._give_up(container, restarting=restarting)
            return
        if not container.running:
            raise NotModified("container already stopped")
        number = signal_number(signal_name or container.config.stop_signal or "TERM")
        if timeout is None:
            timeout = STOP_SECONDS if container.config.stop_timeout is None else container.config.stop_timeout
        if container.state.status == "paused":
            await self._request(container, protocol.Resume())
        ended = container.exited()
        try:
            with contextlib.suppress(Conflict):  # it ended by itself just now
                await self._request(container, protocol.Signal(signal=number))
            self._events.container("kill", container, signal=str(number))
            try:
                await asyncio.wait_for(asyncio.shield(ended), timeout if timeout >= 0 else None)
            except TimeoutError:
                if container.running:
                    await self._kill(container)
        finally:
            ended.cancel()
        self._events.container("stop", container)

    async def _kill(self, container: Container) -> None:
        if container.state.status == "paused":
            await self._request(container, protocol.Resume())
        with contextlib.suppress(Conflict):
            await self._request(container, protocol.Signal(signal=signal.SIGKILL))
        self._events.container("kill", container, signal=str(int(signal.SIGKILL)))
        await container.ended()

    async def _remove(self, container: Container, volumes: bool) -> None:
        if container.document.mounts:
            await self.aftermath.free(container)
        else:  # nobody else has to do with what it had mounted, and that takes as long as the disk
            await self.aftermath.cleaned(container)
        container.drop_waiting()
        try:
            self._containers.remove(container)
        except CapsaError:  # a full disk: its files make room; without them its row means nothing
            await self._engine.remove_files(container)
            self._containers.remove(container)
        networking.release(self._engine, container)
        self._engine.execs.forget(container)
        self._events.container("destroy", container)
        container.wake_removals()
        if volumes:
            points = container.document.mounts
            anonymous = [point.name for point in points if point.type == "volume" and point.anonymous]
            for name in self._engine.volumes.remove_unused(anonymous):
                self._events.volume("destroy", name)
        if container.unmounting is not None:
            self._engine.remove_control(container)
        self._engine.remove_bundle(container)

    def _running(self, container: Container) -> None:
        if container.state.status == "restarting":
            raise Conflict(f"Container {container.id} is restarting, wait until the container is running")
        if not container.running:
            raise Conflict(f"Container {container.id} is not running")

    @staticmethod
    def _not_removing(container: Container) -> None:
        if container.state.removing:
            raise Conflict("container is marked for removal and cannot be started")

    async def _request(self, container: Container, command: protocol.Command) -> None:
        if container.sandbox is None:
            raise Conflict(f"Container {container.id} is not running")
        await container.sandbox.request(command)

    # -- reported by sub-inits

    def adopt(self, container: Container, sandbox: Sandbox) -> None:
        """Listen to a sub-init, a new one or one that an earlier engine launched."""
        container.sandbox = sandbox
        sandbox.on_lost = lambda: self._lost(container, sandbox)
        sandbox.on_report = lambda report: self._report(container, sandbox, report)

    def _report(self, container: Container, sandbox: Sandbox, report: protocol.Report) -> None:
        if container.sandbox is not sandbox:
            return
        match report:
            case Status():
                self._status(container, report)
            case protocol.ExecExited():
                self._engine.execs.exited(container, report)
            case protocol.OutOfMemory():
                if not container.state.out_of_memory:
                    container.state.out_of_memory = True
                    self._events.container("oom", container)
            case protocol.Shortage():
                container.state.error = report.message
                self._containers.save(container)
                if report.message:
                    self._events.container("oom", container, resource=report.resource)
            case protocol.LogTrouble():
                if container.state.error != report.message:
                    self._engine.log.warning("container %s: %s", container.name, report.message)
                    container.state.error = report.message
                    self._containers.save(container)

    def _status(self, container: Container, status: Status) -> None:
        state = container.state
        if status.state in ("running", "paused"):
            if (state.status, state.pid, state.started_at) == (status.state, status.pid, status.started_at):
                return
            begins = not container.running
            state.status = "running" if status.state == "running" else "paused"
            state.pid = status.pid
            state.started_at = status.started_at
            if begins:
                state.exit_code = 0
                state.error = ""
                state.out_of_memory = False
            self._containers.save(container)
            if begins:
                self._joined(container, "connect", "mount")
                self._events.container("start", container)
                self._engine.health.began(container)
        elif status.state == "exited":
            self._exited(container, status, status.reason)

    def _exited(self, container: Container, status: Status, error: str = "") -> None:
        state = container.state
        ran = (status.finished_at - (status.started_at or state.started_at)) / 1e9
        state.pid = 0
        state.exit_code = status.exit_code
        state.finished_at = status.finished_at or time.time_ns()
        state.started_at = status.started_at or state.started_at
        state.out_of_memory = state.out_of_memory or status.out_of_memory
        state.error = error
        again = self._wants_restart(container, ran)
        state.status = "restarting" if again else "exited"
        state.restart_count += again
        self._containers.save(container)
        self._engine.health.ended(container)
        self._engine.execs.container_ended(container)
        self._events.container("die", container, exitCode=str(state.exit_code), execDuration=str(max(0, int(ran))))
        self._joined(container, "disconnect", "unmount")
        sandbox, container.sandbox = container.sandbox, None
        container.wake_exits()
        self.aftermath.begin(container, sandbox, then=lambda: self._go_on(container, again))

    def _go_on(self, container: Container, again: bool) -> None:
        """Its last run is cleaned up: what is to come by itself?"""
        if again and not self._engine.closing:
            self.begin_restart(container)
        elif container.host.auto_remove and not container.state.removing:
            self.begin_removal(container)

    def _joined(self, container: Container, network_action: str, volume_action: str) -> None:
        """Tell of the networks and volumes that it uses while it runs."""
        for endpoint in container.endpoints:
            with contextlib.suppress(CapsaError):
                self._events.network(network_action, self._engine.networks.get(endpoint.network), container)
        for point in container.document.mounts:
            if point.type == "volume":
                extra = {"container": container.id}
                if volume_action == "mount":
                    extra |= {
                        "destination": point.destination,
                        "propagation": point.propagation,
                        "read/write": "true" if point.writable else "false",
                    }
                self._events.volume(volume_action, point.name, **extra)

    def begin_restart(self, container: Container) -> None:
        """Start it again by itself, when its delay has passed."""
        loop = asyncio.get_running_loop()
        container.restarting = loop.call_later(
            container.restart_delay, lambda: self.spawn(self._start_again(container))
        )

    def begin_removal(self, container: Container) -> None:
        """Remove it by itself (``--rm``)."""
        self.spawn(self._remove_itself(container))

    async def _remove_itself(self, container: Container) -> None:
        if container.state.removing:
            return
        container.state.removing = True
        try:
            async with container.lock:
                if container.running:
                    container.state.removing = False
                    return
                await self._remove(container, volumes=True)
        except BaseException:  # it is there still, and somebody else may remove it
            container.state.removing = False
            raise

    def _lost(self, container: Container, sandbox: Sandbox) -> None:
        """The connection to the sub-init has ended without a word."""
        if container.sandbox is sandbox:
            sandbox.close()
            self.spawn(self._find_again(container, sandbox))

    async def _find_again(self, container: Container, sandbox: Sandbox) -> None:
        """Connect to it anew; if nobody is there, its container died with it, or dies now."""
        found = await self._engine.reconnect(container)
        if container.sandbox is not sandbox:
            if found is not None:
                found.close()
            return
        if found is not None:
            self._engine.log.warning("container %s: the connection to its sub-init broke and is anew", container.name)
            self._engine.execs.adopt(container, found.status.execs)
            self.adopt(container, found)
            name_service.attend(self._engine, container)
            return
        container.sandbox = None
        self._engine.remove_remains(container)
        kept = self._engine.kept_exit(container)
        if kept is not None:
            self._exited(container, kept, kept.reason)
        else:
            self._exited(container, killed(container), killed_error(container))

    def end_lost(self, container: Container) -> None:
        """At start-up: its sub-init is gone or silent; take the exit that it left, or say that it was killed."""
        kept = self._engine.kept_exit(container)
        if kept is not None:
            self._exited(container, kept, kept.reason)
        else:
            self._exited(container, killed(container), killed_error(container))

    # -- restart policies

    def _wants_restart(self, container: Container, ran: float) -> bool:
        policy, state = container.host.restart_policy, container.state
        if state.stopped or state.removing:
            return False
        match policy.name:
            case "always" | "unless-stopped":
                wanted = True
            case "on-failure":
                limit = policy.maximum_retry_count
                wanted = state.exit_code != 0 and (not limit or state.restart_count < limit)
            case _:
                wanted = False
        if wanted:
            stable = ran >= STABLE_SECONDS or not container.restart_delay
            container.restart_delay = FIRST_DELAY if stable else min(container.restart_delay * 2, LONGEST_DELAY)
        return wanted

    async def _start_again(self, container: Container) -> None:
        async with container.lock:
            container.restarting = None
            if container.state.status != "restarting" or container.state.removing:
                return
            try:
                await self._launch(container)
            except CapsaError as error:
                self._engine.log.warning("container %s cannot be started again: %s", container.name, error)

    def _give_up(self, container: Container, *, restarting: bool = False) -> None:
        """It waits for its next run: that is not to come (or at once, with ``restarting``)."""
        self._forget_restart(container)
        container.state.stopped = not restarting
        container.state.status = "exited"
        self._containers.save(container)
        container.wake_exits()

    @staticmethod
    def _forget_restart(container: Container) -> None:
        if container.restarting is not None:
            container.restarting.cancel()
            container.restarting = None

    def spawn(self, work: object) -> asyncio.Task[None]:
        """Do ``work`` (a coroutine) meanwhile; the engine's end waits for it."""
        task: asyncio.Task[None] = asyncio.ensure_future(work)  # type: ignore[call-overload]
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._engine.log.error("a container's housekeeping failed", exc_info=task.exception())

    async def settle(self) -> None:
        """Wait for what is under way."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def close(self) -> None:
        """For the engine's end: wait a while for what is under way; what takes longer is the next engine's."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self.settle()
        # All at once: whoever waits for an unmounting must not take the end of that wait for the end of the unmounting.
        late = [*self._tasks, *self.aftermath.unmounting]
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)


def killed_error(container: Container) -> str:
    """What inspection says about a container that went down with its sub-init."""
    return f"the sub-init of container {container.id[:12]} was killed, and its processes with it"


def killed(container: Container) -> Status:
    """The status of a container whose sub-init did not live to report one."""
    return Status(state="exited", exit_code=137, started_at=container.state.started_at, finished_at=time.time_ns())
