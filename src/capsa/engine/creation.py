"""Creating a container: the request, merged with its image's configuration, becomes a row and a bundle directory."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from capsa.engine import genode, links, mounts, seccomp, spec, validation
from capsa.engine.config import Config, Create, EndpointConfig, Healthcheck, HostConfig
from capsa.engine.container import Container, Document, State
from capsa.engine.limits import swap_limit
from capsa.engine.names import check_container, new_id
from capsa.errors import CapsaError, InvalidArgument, NotFound, reason
from capsa.oci.image import ContainerConfig

if TYPE_CHECKING:
    from capsa.engine.engine import Engine

DEFAULT_NETWORK = "bridge"
_CONFIG = tuple(field.name for field in msgspec.structs.fields(Config))


class Created(msgspec.Struct):
    """The new container, and what its creator should know."""

    container: Container
    warnings: list[str]


def create(engine: Engine, wanted: Create, name: str = "", platform: str = "") -> Created:
    """Create a container; raises what is wrong with ``wanted``, leaving nothing behind."""
    if name:
        name = check_container(name)
        engine.containers.name_taken(name)
    wanted.host_config.runtime = wanted.host_config.runtime or wanted.runtime
    validation.check(wanted)
    if not wanted.image:
        raise InvalidArgument("No image was specified: Config.Image is empty")
    image = engine.images.resolve(wanted.image)
    image_config = engine.images.config(image.id)
    if platform:
        from capsa.image.platforms import check

        check(image_config, platform, wanted.image)
    config = merge(wanted, image_config.config)
    host = wanted.host_config
    if image_config.os == genode.OS:
        genode.check(config, host, wanted.networking_config.endpoints_config)
    complete(host, config)
    command = [*(config.entrypoint or ()), *(config.cmd or ())]
    if not command or not command[0]:
        raise InvalidArgument("no command specified")
    identity = new_id()
    if not config.hostname and not host.network_mode.startswith("container:") and host.network_mode != "host":
        config.hostname = identity[:12]
    seccomp.policy(host, spec.capabilities(host, engine.capabilities))
    endpoints = endpoints_of(wanted, host)
    with _named():
        engine.check_joins(host, endpoints)
        links.check(engine, host)
    document = Document(
        created=time.time_ns(),
        image=image.id,
        image_name=wanted.image,
        platform=str(image_config.os or "linux"),
        path=command[0],
        args=command[1:],
        config=config,
        host=host,
        endpoints=endpoints,
    )
    with _named():
        document.mounts, made = mounts.resolve(
            config, host, engine.volumes, engine.containers.find, lambda name: engine.images.resolve(name).id
        )
    bundle = engine.containers.directory / identity
    try:
        _make_bundle(bundle)
        container = Container(identity, name or engine.containers.free_name(), document, State(), bundle)
        engine.containers.add(container)
    except BaseException:
        shutil.rmtree(bundle, ignore_errors=True)
        for volume in made:
            engine.volumes.remove(volume, force=True)
        raise
    return Created(container, warnings(host))


@contextmanager
def _named() -> Iterator[None]:
    """What is named beside the image and is not there: a 404 would make docker's client pull the image."""
    try:
        yield
    except NotFound as error:
        raise InvalidArgument(str(error)) from None


def merge(wanted: Create, image: ContainerConfig) -> Config:
    """The request's configuration with what it leaves to the image."""
    config = Config(**{name: getattr(wanted, name) for name in _CONFIG})
    if config.entrypoint == [""]:
        config.entrypoint = []
        reset = True
    else:
        reset = config.entrypoint is not None and bool(config.entrypoint)
    if not config.entrypoint and not reset:
        config.entrypoint = list(image.entrypoint) or None
        if not config.cmd:
            config.cmd = list(image.cmd) or None
    variables = {entry.partition("=")[0] for entry in config.env}
    config.env = [*(entry for entry in image.env if entry.partition("=")[0] not in variables), *config.env]
    config.labels = {**image.labels, **config.labels}
    config.exposed_ports = {**{_with_protocol(port): {} for port in image.exposed_ports}, **config.exposed_ports}
    config.volumes = {**{path: {} for path in image.volumes}, **config.volumes}
    config.user = config.user or image.user
    config.working_dir = config.working_dir or image.working_dir
    config.stop_signal = config.stop_signal or image.stop_signal
    if config.stop_timeout is None:
        config.stop_timeout = image.stop_timeout
    config.shell = config.shell or list(image.shell)
    config.healthcheck = _merge_health(config.healthcheck, image)
    validation.check_config(config)
    return config


def _with_protocol(port: str) -> str:
    return port if "/" in port else f"{port}/tcp"


def _merge_health(own: Healthcheck | None, image: ContainerConfig) -> Healthcheck | None:
    base = image.healthcheck
    if base is None:
        return own
    inherited = Healthcheck(
        test=list(base.test),
        interval=base.interval,
        timeout=base.timeout,
        retries=base.retries,
        start_period=base.start_period,
        start_interval=base.start_interval,
    )
    if own is None:
        return inherited
    for field in msgspec.structs.fields(Healthcheck):
        if not getattr(own, field.name):
            setattr(own, field.name, getattr(inherited, field.name))
    return own


def complete(host: HostConfig, config: Config) -> None:
    """Put Docker's defaults where nothing was said, so that inspection shows what holds."""
    host.network_mode = host.network_mode or "default"
    if host.network_mode == "default":
        host.network_mode = DEFAULT_NETWORK
    if config.network_disabled and host.network_mode != "host" and not host.network_mode.startswith("container:"):
        host.network_mode = "none"
    host.ipc_mode = host.ipc_mode or "private"
    host.cgroupns_mode = host.cgroupns_mode or "private"
    host.log_config.type = host.log_config.type or "json-file"
    host.restart_policy.name = host.restart_policy.name or "no"
    host.runtime = host.runtime or "capsa"
    if host.ipc_mode == "private" and not host.shm_size:
        host.shm_size = 64 << 20
    host.pid_mode = "" if host.pid_mode == "private" else host.pid_mode
    host.uts_mode = "" if host.uts_mode == "private" else host.uts_mode
    host.port_bindings = {_with_protocol(port): bindings for port, bindings in host.port_bindings.items()}
    for port in host.port_bindings:
        config.exposed_ports.setdefault(port, {})
    if host.memory:
        host.memory_swap = swap_limit(host)
    if host.pids_limit is not None and host.pids_limit <= 0:
        host.pids_limit = None


def endpoints_of(wanted: Create, host: HostConfig) -> dict[str, EndpointConfig]:
    """The networks to be in, the main one first, by the names that were used for them."""
    mode = host.network_mode
    given = dict(wanted.networking_config.endpoints_config)
    if mode == "none" and not wanted.network_disabled and given.keys() - {"none"}:
        raise InvalidArgument("container cannot be connected to the network none and to others")
    if mode in ("host", "none") or mode.startswith("container:"):
        return {}
    main = given.pop(mode, None)
    if main is None and mode == DEFAULT_NETWORK:
        main = given.pop("default", None)
    main = main or EndpointConfig()
    if wanted.mac_address and not main.mac_address:
        main.mac_address = wanted.mac_address
    return {mode: main, **given}


def warnings(host: HostConfig) -> list[str]:
    """What was accepted and may surprise."""
    found = []
    if host.oom_kill_disable and not host.memory:
        found.append(
            "OOM killer is disabled for the container, but no memory limit is set: it can exhaust the machine."
        )
    if host.network_mode == "host" and host.port_bindings:
        found.append("Published ports are discarded when using host network mode")
    return found


def _make_bundle(bundle: Path) -> None:
    try:
        os.mkdir(bundle, 0o710)
        os.mkdir(bundle / "upper", 0o755)
        os.mkdir(bundle / "work", 0o700)
    except OSError as error:
        raise CapsaError(f"cannot make the container's directory {bundle}: {reason(error)}") from error
