"""What is left of a container's run when that is over, and how it goes.

In this order: the exit is stored and told (`capsa.engine.lifecycle`), so that neither a crash loses it nor a waiting
client waits for anything here. The sub-init is released and the addresses are given back: the run is `cleaned` up, the
next one may be planned. Then the sub-init unmounts, which takes as long as the disk; when it has hung up, everything
is `unmounted`. A copy of files that began during the run keeps its mounts, too; who cuts that off has the files `free`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from capsa.engine import networking
from capsa.errors import CapsaError, Unavailable
from capsa.platform import protocol

if TYPE_CHECKING:
    from capsa.engine.container import Container
    from capsa.engine.engine import Engine
    from capsa.platform.sandbox import Sandbox

RETRY_SECONDS = 0.5
UNMOUNT_SECONDS = 600.0  # that one waits for a busy disk, before a sentence says what for


class Aftermath:
    """Ends what runs have left; `Container.cleaning` and `Container.unmounting` say how far that is."""

    def __init__(self, engine: Engine, spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]) -> None:
        """``spawn`` makes a task that the engine's end waits for; it does not wait for those in `unmounting`."""
        self._engine = engine
        self._containers = engine.containers
        self._spawn = spawn
        self.unmounting: set[asyncio.Task[None]] = set()

    # -- who waits for it

    async def cleaned(self, container: Container) -> None:
        """Wait until nothing of an earlier run is left, except what is still being unmounted."""
        if container.cleaning is not None:
            await asyncio.shield(container.cleaning)

    async def unmounted(self, container: Container) -> None:
        """Wait until nothing of an earlier run is left; raises `Unavailable` if that takes too long."""
        await self.cleaned(container)
        if container.unmounting is None:
            return
        await asyncio.wait([container.unmounting], timeout=UNMOUNT_SECONDS)
        if self._engine.closing:
            raise Unavailable("the engine is ending")
        if container.unmounting is not None:
            raise Unavailable(
                f"what container {container.name} had mounted is still being unmounted after {UNMOUNT_SECONDS:.0f} "
                "seconds: try again when the disk has less to do"
            )

    async def free(self, container: Container) -> None:
        """`unmounted`; copies of files that began when it ran have that run mounted, too, and are cut off."""
        for helper in tuple(container.helpers):
            await helper.interrupt("it has ended since, and its files are wanted for something else")
        await self.unmounted(container)

    # -- what happens

    def begin(self, container: Container, sandbox: Sandbox | None, then: Callable[[], None]) -> None:
        """Its run is over, ``sandbox`` its sub-init, where that lives; ``then`` is called when it is cleaned up."""
        container.cleaning = self._spawn(self._clean(container, sandbox, then))

    async def _clean(self, container: Container, sandbox: Sandbox | None, then: Callable[[], None]) -> None:
        result: protocol.Result | None = protocol.Done()
        try:
            await self._stored(container)
            if sandbox is not None and (self._containers.saved(container) or container.state.removing):
                result = await self._release(container, sandbox)
            networking.release(self._engine, container)
            if sandbox is not None and sandbox.alive and not isinstance(result, protocol.Done):
                self.await_unmounting(container, sandbox, released=result is not None)
            else:
                await self._engine.volume_mounts.release(container)
        finally:
            container.cleaning = None
            if sandbox is not None and container.unmounting is None:
                sandbox.close()
        then()

    async def _release(self, container: Container, sandbox: Sandbox) -> protocol.Result | None:
        """The sub-init's answer; None if there is none: then its processes are ended all the same."""
        try:
            return await sandbox.request(protocol.Release())
        except CapsaError as error:
            self._engine.log.warning("container %s: %s", container.name, error)
            self._engine.remove_cgroup(container)
            if not sandbox.alive:
                self._engine.remove_control(container)
            return None

    def await_unmounting(self, container: Container, sandbox: Sandbox, *, released: bool) -> None:
        """Until its sub-init hangs up, something of its last run is mounted, and it cannot be started.

        One that was not ``released``, as it did not answer, is asked to go again and again.
        """
        container.unmounting = task = asyncio.ensure_future(self._unmount(container, sandbox, released))
        self.unmounting.add(task)
        task.add_done_callback(self.unmounting.discard)
        task.add_done_callback(self._unmounted)

    async def _unmount(self, container: Container, sandbox: Sandbox, released: bool) -> None:
        try:
            while not released and sandbox.alive:
                try:
                    released = isinstance(await sandbox.request(protocol.Release()), protocol.Unmounting)
                    if not released:  # it does not unmount by itself
                        sandbox.close()
                except CapsaError:
                    await asyncio.sleep(RETRY_SECONDS)
            await sandbox.ended()
            await self._engine.volume_mounts.release(container)
        finally:
            sandbox.close()
            container.unmounting = None

    async def _stored(self, container: Container) -> None:
        """Wait for room on the disk for the exit; until it is stored there the sub-init keeps it."""
        while not (self._containers.saved(container) or container.state.removing or self._engine.closing):
            await asyncio.sleep(RETRY_SECONDS)
            self._containers.save(container)

    def _unmounted(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self._engine.log.error("what was mounted is not given back", exc_info=task.exception())
