"""At start-up: make database, disk and running sub-inits agree.

The sub-inits know what runs, ``exit.json`` in a bundle how it ended, the database what there is. A bundle without a row
is half a creation or half a removal and goes; a row without a bundle cannot run any more and goes, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING

from capsa.engine import name_service
from capsa.engine.container import Container
from capsa.errors import CapsaError

if TYPE_CHECKING:
    from capsa.engine.engine import Engine
    from capsa.platform.sandbox import Sandbox

_LAUNCH_SECONDS = 10.0
_AT_ONCE = 8  # sub-inits that are woken together: one that is silent holds up few, and many do not wait for a processor


async def reconcile(engine: Engine) -> None:
    """Take up all containers; restart those whose policy says so."""
    _remove_halves(engine)
    engine.volumes.forget_missing()
    for container in engine.containers:
        container.state.removing = False
    slots = asyncio.Semaphore(_AT_ONCE)
    await asyncio.gather(*(_take_up(engine, container, slots) for container in engine.containers))
    _end_strangers(engine)
    live = [container for container in engine.containers if container.running]
    try:
        engine.networks.restore(container.id for container in live)
    except CapsaError as error:  # containers have to be in somebody's hands in any case; the next change tries again
        engine.log.error("networks and published ports are as the last engine left them: %s", error)
    for container in live:
        container.endpoints = engine.networks.endpoints(container=container.id)
        name_service.take_up(engine, container)
    await engine.volume_mounts.reconcile(live)
    await engine.lifecycle.settle()
    for container in engine.containers:
        _policy(engine, container)


def _remove_halves(engine: Engine) -> None:
    from capsa.image.rmtree import remove_tree

    for entry in os.scandir(engine.containers.directory):
        if entry.name not in engine.containers:
            with contextlib.suppress(OSError):
                remove_tree(entry.path)
    for container in engine.containers:
        if not container.bundle.is_dir():
            engine.log.warning("container %s is removed: its directory %s is gone", container.name, container.bundle)
            engine.containers.remove(container)


async def _take_up(engine: Engine, container: Container, slots: asyncio.Semaphore) -> None:
    async with slots:
        sandbox = await engine.reconnect(container)
        if sandbox is not None and not await _launched(sandbox):
            _give_up(engine, container, sandbox)
            return
    if sandbox is not None:
        execs = sandbox.status.execs
        engine.lifecycle.adopt(container, sandbox)
        engine.execs.adopt(container, execs)
    elif container.running:
        _end_lost(engine, container)
    elif container.state.status == "created" and engine.kept_exit(container) is not None:
        _end_lost(engine, container)  # it was started, ran and ended while nobody looked
    elif engine.platform.control(container.id).parent.exists():
        engine.remove_remains(container)  # its sub-init was killed within a launch


def _end_lost(engine: Engine, container: Container) -> None:
    engine.lifecycle.end_lost(container)
    engine.remove_remains(container)


def _give_up(engine: Engine, container: Container, sandbox: Sandbox) -> None:
    """Its sub-init failed to launch it or says nothing: its processes end, whatever it is at.

    A silent one may be unmounting, which waits for the disk: it is not to be started again as long as that is there.
    """
    engine.remove_cgroup(container)
    if sandbox.alive and sandbox.status.state != "failed":
        engine.log.warning(
            "container %s: its sub-init does not answer; it can be started when that has ended", container.name
        )
        engine.lifecycle.aftermath.await_unmounting(container, sandbox, released=False)
    else:
        sandbox.close()
        engine.remove_control(container)
    if container.running:
        engine.lifecycle.end_lost(container)


async def _launched(sandbox: Sandbox) -> bool:
    """Whether it runs, or has run: the earlier engine may have gone down within a launch, and that is waited for."""
    try:
        async with asyncio.timeout(_LAUNCH_SECONDS):
            await sandbox.launched()
    except (CapsaError, TimeoutError):
        return False
    return True


def _end_strangers(engine: Engine) -> None:
    """Sockets of sub-inits that nobody knows: their containers were removed; nothing but the directory can be left."""
    for entry in os.scandir(engine.run / "containers"):
        if entry.name not in engine.containers:
            with contextlib.suppress(OSError):
                for name in os.listdir(entry.path):
                    os.unlink(os.path.join(entry.path, name))
                os.rmdir(entry.path)


def _policy(engine: Engine, container: Container) -> None:
    policy = container.host.restart_policy.name
    if container.host.auto_remove and not container.active and container.state.finished_at:
        engine.lifecycle.begin_removal(container)
        return
    if container.restarting is not None:
        return
    if container.active and container.state.status != "restarting":
        return
    ended_with_engine = container.state.status == "restarting"
    wanted = policy == "always" or (policy == "unless-stopped" and not container.state.stopped)
    if ended_with_engine or (wanted and container.state.started_at):
        container.state.status = "restarting"
        engine.lifecycle.begin_restart(container)
