"""Making an image of a container (``docker commit``): its changes become a layer, its configuration the image's."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

import msgspec

from capsa.engine import archive, genode
from capsa.engine.config import Config
from capsa.errors import Conflict, Unsupported
from capsa.image.changes import apply
from capsa.oci.image import ContainerConfig, Healthcheck

if TYPE_CHECKING:
    from capsa.engine.container import Container
    from capsa.engine.engine import Engine
    from capsa.image.store import Image

_COMMON = frozenset(field.name for field in msgspec.structs.fields(ContainerConfig)) & frozenset(
    field.name for field in msgspec.structs.fields(Config)
)
_OWN = frozenset({"hostname", "domainname", "mac_address"})


async def commit(
    engine: Engine,
    container: Container,
    *,
    name: str = "",
    author: str = "",
    comment: str = "",
    pause: bool = True,
    config: Config | None = None,
    changes: Sequence[str] = (),
) -> Image:
    """Make an image called ``name``, if that is given; ``changes`` are Dockerfile instructions.

    ``config`` is the image's configuration, the container's where it says nothing. With ``pause`` a container that runs
    is frozen meanwhile. Raises `Conflict`, `InvalidArgument`, `Unsupported`, `CapsaError`.
    """
    if container.state.removing:
        raise Conflict(f"You cannot commit container {container.id} which is being removed")
    if container.state.status == "dead":
        raise Conflict(f"You cannot commit container {container.id} which is Dead")
    if pause and container.running and container.document.platform == genode.OS:
        raise Unsupported(
            f"container {container.name} cannot be paused meanwhile, as it runs on Genode: stop it first, or commit it "
            "without a pause (--pause=false)"
        )
    wanted = image_config(container.config if config is None else config)
    apply(wanted, changes)
    complete(wanted, image_config(container.config))
    async with contextlib.AsyncExitStack() as stack:
        if pause:
            await stack.enter_async_context(frozen(engine, container))
        return await engine.images.commit(
            await stack.enter_async_context(archive.layer(engine, container)),
            name=name,
            parent=container.document.image,
            config=wanted,
            author=author,
            comment=comment,
            created_by=" ".join(container.config.cmd or ()),
        )


@contextlib.asynccontextmanager
async def frozen(engine: Engine, container: Container) -> AsyncIterator[None]:
    """Pause the container for the block, if it runs."""
    paused = False
    if container.state.status == "running":
        with contextlib.suppress(Conflict):  # it ended, or was paused, just now
            await engine.lifecycle.pause(container)
            paused = True
    try:
        yield
    finally:
        if paused:
            with contextlib.suppress(Conflict):
                await engine.lifecycle.unpause(container)


def image_config(config: Config) -> ContainerConfig:
    """A container's configuration as an image has it: without what names one container."""
    values = {name: getattr(config, name) for name in _COMMON - _OWN}
    values["entrypoint"] = list(config.entrypoint or ())
    values["cmd"] = list(config.cmd or ())
    for name in ("env", "on_build", "shell"):
        values[name] = list(values[name])
    health = config.healthcheck
    values["healthcheck"] = health and Healthcheck(**msgspec.structs.asdict(health))
    return ContainerConfig(**values)


def complete(wanted: ContainerConfig, container: ContainerConfig) -> None:
    """Put the container's configuration where ``wanted`` says nothing."""
    wanted.user = wanted.user or container.user
    wanted.exposed_ports = {**container.exposed_ports, **wanted.exposed_ports}
    variables = {entry.partition("=")[0] for entry in wanted.env}
    wanted.env += [entry for entry in container.env if entry.partition("=")[0] not in variables]
    wanted.labels = {**container.labels, **wanted.labels}
    if not wanted.entrypoint:
        wanted.cmd = wanted.cmd or container.cmd
        wanted.entrypoint = container.entrypoint
    wanted.working_dir = wanted.working_dir or container.working_dir
    wanted.volumes = {**container.volumes, **wanted.volumes}
    wanted.stop_signal = wanted.stop_signal or container.stop_signal
    if wanted.stop_timeout is None:
        wanted.stop_timeout = container.stop_timeout
    wanted.shell = wanted.shell or container.shell
    if wanted.healthcheck is None:
        wanted.healthcheck = container.healthcheck
    elif container.healthcheck is not None:
        for field in msgspec.structs.fields(Healthcheck):
            if not getattr(wanted.healthcheck, field.name):
                setattr(wanted.healthcheck, field.name, getattr(container.healthcheck, field.name))
