"""Launching a container: everything that its platform needs, reserved in order, given back if one step fails."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING

from capsa.engine import copyup, devices, genode, links, logdriver, networking, seccomp, users
from capsa.engine import spec as compiler
from capsa.engine.container import Container
from capsa.errors import CapsaError, Conflict, InvalidArgument, LaunchFailed, NotFound, reason
from capsa.oci.runtime import Spec, dumps
from capsa.platform.protocol import Attach, Launch
from capsa.vfs.tree import CopyOnWrite

if TYPE_CHECKING:
    from capsa.engine.engine import Engine
    from capsa.platform.sandbox import Sandbox


async def launch(engine: Engine, container: Container) -> Sandbox:
    """Make the container's sandbox and run it; raises with nothing reserved and nothing running."""
    layers = layers_of(engine, container)
    await engine.volume_mounts.hold(container)
    try:
        return await _launch(engine, container, layers)
    except Exception:
        await engine.volume_mounts.release(container)
        raise


async def _launch(engine: Engine, container: Container, layers: list[str]) -> Sandbox:
    await _fill_volumes(container, layers)
    connected = networking.connect(engine, container)
    try:
        with open(container.bundle / "config.json", "wb", buffering=0) as file:
            file.write(dumps(specification(engine, container, layers)))
        waiting, container.waiting = container.waiting, []
        try:
            message = _message(engine, container, connected, layers, [each.attach for each in waiting])
            fds = [each.end.fileno() for each in waiting] + [held.fileno() for held in connected.held]
            return await engine.platform_of(container).launch(message, fds)
        finally:
            for each in waiting:
                each.end.close()
    except OSError as error:
        networking.release(engine, container)
        raise CapsaError(f"cannot prepare container {container.name}: {error.filename}: {reason(error)}") from error
    except Exception:  # a launch that is only cancelled goes on in its sub-init: the next engine takes it up
        networking.release(engine, container)
        raise
    finally:
        _close(connected.held)


def _close(held: list[socket.socket]) -> None:
    for each in held:
        each.close()


async def _fill_volumes(container: Container, layers: list[str]) -> None:
    for point in container.document.mounts:
        if point.type == "volume" and point.copy:
            await copyup.fill(Path(point.source), layers[::-1], point.destination)


def layers_of(engine: Engine, container: Container) -> list[str]:
    """The directories that its files come from, lowest first."""
    layers = [str(path) for path in engine.images.layers(container.document.image)]
    return layers if container.document.platform == genode.OS else [engine.places, *layers]


def specification(engine: Engine, container: Container, layers: list[str]) -> Spec:
    """The ``config.json`` of a container of these layers (directories, lowest first), as things are now."""
    host = container.host
    known = users.accounts(layers[::-1], str(container.bundle / "upper"))
    user, home = users.resolve(container.config.user, host.group_add, known)
    nodes, rules = devices.given(host)
    around = compiler.Surroundings(
        engine=engine.name,
        id=container.id,
        hostname=engine.hostname_of(container),
        user=user,
        home=home,
        seccomp=seccomp.policy(host, compiler.capabilities(host, engine.capabilities)),
        files={} if genode.native(container.document) else networking.write_files(engine, container),
        images=mounted_images(engine, container),
        devices=nodes,
        device_rules=rules,
        capabilities=engine.capabilities,
        network_path=_join(engine, host.network_mode, "net"),
        pid_path=_join(engine, host.pid_mode, "pid"),
        ipc_path=_join(engine, host.ipc_mode, "ipc"),
        shm=_shm(engine, container),
        links=links.environment(engine, container),
    )
    document = compiler.compile(container.document, around)
    if genode.native(container.document):
        document.annotations |= genode.settings(container.config, host)
    return document


def mounted_images(engine: Engine, container: Container) -> dict[str, list[str]]:
    """The layers of the images that a container mounts, lowest first, by id."""
    wanted = {point.name for point in container.document.mounts if point.type == "image"}
    return {image: [str(path) for path in engine.images.layers(image)] for image in wanted}


def _join(engine: Engine, mode: str, namespace: str) -> str:
    """The namespace of the container that ``mode`` (``container:NAME``) names."""
    reference = networking.joined(mode)
    if not reference:
        return ""
    try:
        other = engine.containers.find(reference)
    except NotFound as error:
        raise Conflict(f"cannot join the {namespace} namespace: {error}") from error
    if not other.running:
        what = {"net": "network", "ipc": "IPC", "pid": "PID"}[namespace]
        raise Conflict(f"cannot join {what} of a non running container: {other.id}")
    if namespace == "ipc" and other.host.ipc_mode not in ("shareable", "host"):
        raise InvalidArgument(
            f"can't join IPC of container {other.id}: non-shareable IPC "
            "(hint: use IpcMode:shareable for the donor container)"
        )
    return f"/proc/{other.state.pid}/ns/{namespace}"


def _shm(engine: Engine, container: Container) -> str:
    """A host directory for /dev/shm, where it is shared."""
    mode = container.host.ipc_mode
    if mode == "host":
        return "/dev/shm"  # noqa: S108
    if mode == "shareable":
        path = engine.run / "shm" / container.id
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o1777)
        return str(path)
    reference = networking.joined(mode)
    if not reference:
        return ""
    return _shm(engine, engine.containers.find(reference))


def _message(
    engine: Engine,
    container: Container,
    connected: networking.Connected,
    layers: list[str],
    attach: list[Attach],
) -> Launch:
    return Launch(
        id=container.id,
        bundle=str(container.bundle),
        control=str(engine.run / "containers" / container.id / "control"),
        cache=str(engine.root / "cache" / "seccomp"),
        root=root_of(container, layers),
        stdin=container.config.open_stdin,
        stdin_once=container.config.stdin_once,
        log=logdriver.log(container),
        interfaces=connected.interfaces,
        attach=attach,
        held=len(connected.held),
        init=bool(container.host.init),
        names=connected.names,
    )


def root_of(container: Container, layers: list[str]) -> CopyOnWrite:
    """Its root file system."""
    return CopyOnWrite(layers=tuple(layers), upper=str(container.bundle / "upper"), work=str(container.bundle / "work"))


def explain(error: CapsaError) -> tuple[int, str]:
    """The exit code that Docker gives a container that could not be started, and the sentence in its state."""
    return (error.code, str(error)) if isinstance(error, LaunchFailed) else (128, str(error))
