"""Files into and out of containers (Docker Engine API, ``/containers/{id}/archive``) and whole trees (``/export``).

Each transfer is the work of a process of its own (`capsa.engine.archive_helpers`), which is killed when nobody waits
for it any more; the engine passes bytes on, no more than a pipe holds at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import AsyncIterable, AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from capsa.engine import genode, launch, spec, users
from capsa.engine.archive_helpers import Helper, Helpers
from capsa.engine.archive_view import View
from capsa.engine.archive_worker import Request, Stat
from capsa.errors import CapsaError, NotFound, Unavailable, Unsupported
from capsa.image.rmtree import remove_tree
from capsa.oci.runtime import Mount

if TYPE_CHECKING:
    from capsa.engine.container import Container
    from capsa.engine.engine import Engine

_MOST = 64
_REPORT_SECONDS = 5.0  # from the end of a first process until its sub-init has told so
_FILES = {"/etc/hosts": "hosts", "/etc/hostname": "hostname", "/etc/resolv.conf": "resolv.conf"}
_slots = asyncio.Semaphore(_MOST)


async def stat(engine: Engine, container: Container, path: str) -> Stat:
    """What is at ``path``; a link is not followed unless a slash follows. Raises `NotFound`, `InvalidArgument`."""
    async with _helper(engine, container, "stat", path) as process:
        return await process.head()


@contextlib.asynccontextmanager
async def read(engine: Engine, container: Container, path: str) -> AsyncIterator[tuple[Stat, AsyncIterator[bytes]]]:
    """What is at ``path``, and a tar archive of it; raises as `stat` does, and `CapsaError` within the archive."""
    async with _helper(engine, container, "read", path, linked=True) as process:
        yield await process.head(), process.rest()


@contextlib.asynccontextmanager
async def export(engine: Engine, container: Container) -> AsyncIterator[AsyncIterator[bytes]]:
    """The whole tree without what is mounted in it, as a tar archive; raises `CapsaError`, also within it."""
    async with _helper(engine, container, "export", "/", linked=True) as process:
        await process.head()
        yield process.rest()


@contextlib.asynccontextmanager
async def changes(engine: Engine, container: Container) -> AsyncIterator[AsyncIterator[bytes]]:
    """What the container changed, as JSON (``[{"Path": …, "Kind": …}, …]``, or null); raises `CapsaError`."""
    async with _helper(engine, container, "changes", "/", plain=True) as process:
        await process.head()
        yield process.rest()


@contextlib.asynccontextmanager
async def layer(engine: Engine, container: Container) -> AsyncIterator[AsyncIterator[bytes]]:
    """What the container changed, as a layer's tar; raises `InvalidArgument` if no layer can hold it, `CapsaError`."""
    async with _helper(engine, container, "layer", "/", plain=True) as process:
        await process.head()
        yield process.rest()


async def write(
    engine: Engine,
    container: Container,
    path: str,
    content: AsyncIterable[bytes],
    *,
    keep_owner: bool = False,
    replace: bool = True,
) -> None:
    """Unpack the archive ``content``, compressed or not, into the directory ``path``.

    ``keep_owner``: everything belongs to the container's user. Raises `NotFound`, `InvalidArgument`, `Forbidden` where
    it is read-only.
    """
    owner = _owner(engine, container) if keep_owner and container.config.user else None
    while True:
        async with contextlib.AsyncExitStack() as lock:
            alone = not container.running
            if alone:  # nobody may start it meanwhile: two mounts must not share a writable directory
                await lock.enter_async_context(container.lock)
                engine.containers.find(container.id)
                if container.running:
                    continue
            with contextlib.suppress(_Ended):
                async with _helper(
                    engine, container, "write", path, owner=owner, replace=replace, alone=alone
                ) as process:
                    await process.feed(content)
                    await process.head()
                    return


class _Ended(Exception):
    """The container ran when its lock was not taken, and has ended since."""


def _owner(engine: Engine, container: Container) -> tuple[int, int]:
    layers = [str(path) for path in engine.images.layers(container.document.image)]
    known = users.accounts(layers[::-1], str(container.bundle / "upper"))
    user, _home = users.resolve(container.config.user, [], known)
    return user.uid, user.gid


@contextlib.asynccontextmanager
async def _helper(
    engine: Engine,
    container: Container,
    action: str,
    path: str,
    *,
    owner: tuple[int, int] | None = None,
    replace: bool = True,
    linked: bool = False,
    plain: bool = False,
    alone: bool = False,
) -> AsyncIterator[Helper]:
    """One at work; it is gone when the block ends. ``linked``: it has to know hard links; ``plain``: no mounts.

    ``alone``: the caller has the container's lock, as one has to who writes and finds it not running (else `_Ended`).
    """
    _reachable(engine, container, action)
    native = container.document.platform == genode.OS
    async with _slots, contextlib.AsyncExitStack() as stack:
        ours = stack.enter_context(contextlib.ExitStack())
        namespace = -1
        if not plain and not (native and container.running):
            namespace = await _reach(engine, container, writing=action == "write")
            if namespace >= 0:
                ours.callback(os.close, namespace)
            elif action == "write" and not alone:
                raise _Ended
            else:
                await stack.enter_async_context(engine.volume_mounts.held(container, secrets.token_hex(8)))
        live = namespace >= 0
        request = Request(
            action=action,
            view=View() if live else _view(engine, container, action == "write"),
            path=path,
            owner=owner,
            replace=replace,
            places=[(point.destination, point.writable) for point in container.document.mounts],
            locked=_locked(container),
            links=engine.images.links(container.document.image) if linked else [],
            upper=str(container.bundle / "upper") if linked else "",
        )
        if native and request.view.keep:
            await asyncio.to_thread(_empty, container.bundle / "work")  # of a helper that was killed with its engine
            stack.push_async_callback(asyncio.to_thread, _empty, container.bundle / "work")
        if engine.helpers is None:
            engine.helpers = Helpers()
        run = container.state.started_at
        try:
            helper = await stack.enter_async_context(engine.helpers.helper(request, namespace, container.name))
            ours.close()  # now nobody but the helper keeps the container's files mounted
            if live:
                if container.state.started_at != run:
                    raise _just_ended(container)
                container.helpers.add(helper)
                stack.callback(container.helpers.discard, helper)
            yield helper
        except CapsaError as error:
            if container.id not in engine.containers:  # and that is why
                raise NotFound(f"No such container: {container.id}") from error
            raise


async def _reach(engine: Engine, container: Container, *, writing: bool) -> int:
    """The mount namespace of a container that runs, the caller's to close; -1 when nothing of its last run is mounted.

    Where somebody is ``writing``, that is: a copy from the last run may go on else.
    """
    while True:
        if not container.running:
            aftermath = engine.lifecycle.aftermath
            await (aftermath.free if writing else aftermath.unmounted)(container)
            if not container.running:
                return -1
        namespace = _namespace(container)
        if namespace is not None:
            return namespace
        try:
            async with asyncio.timeout(_REPORT_SECONDS):
                await container.ended()
        except TimeoutError:
            raise _just_ended(container) from None


def _reachable(engine: Engine, container: Container, action: str) -> None:
    """Raises `Unsupported` for files that are in the memory of a Genode elsewhere."""
    if not genode.native(container.document) or engine.genode is None or not engine.genode.attached:
        return
    if container.running or action == "write":
        raise Unsupported(
            f"what container {container.name} has of files is in the memory of the Genode that the engine is attached "
            "to, as long as it runs: it cannot be looked at or changed from here"
        )


def _locked(container: Container) -> str:
    """Why nothing can be written outside of its volumes."""
    if container.host.readonly_rootfs:
        return "container rootfs is marked read-only"
    if container.running and container.document.platform == genode.OS:
        return (
            f"the files of container {container.name} cannot be changed while it runs on Genode: stop it first, or "
            "copy into a volume"
        )
    return ""


def _empty(directory: Path) -> None:
    for entry in os.listdir(directory):
        remove_tree(directory / entry)


def _namespace(container: Container) -> int | None:
    """The mount namespace of a container that runs; None if it has ended, though its sub-init has not told so yet."""
    pid = container.state.pid
    try:
        namespace = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if container.id in Path(f"/proc/{pid}/cgroup").read_text():
            return namespace
    except OSError:
        pass
    os.close(namespace)  # of another process, which has its number now
    return None


def _just_ended(container: Container) -> Unavailable:
    return Unavailable(f"container {container.id} has just ended: try again")


def _view(engine: Engine, container: Container, keep: bool) -> View:
    bundle = container.bundle
    native = container.document.platform == genode.OS
    live = container.running and native
    return View(
        layers=launch.layers_of(engine, container),
        upper=str(bundle / "upper"),
        work=str(bundle / "work"),
        keep=keep and not live,
        mounts=_mounts(engine, container),
        marked=native,
        live=live,
    )


def _mounts(engine: Engine, container: Container) -> list[Mount]:
    """What is mounted into the tree of a container that does not run: all but what is in memory."""
    images = launch.mounted_images(engine, container)
    found = [
        spec.mount(msgspec.structs.replace(point, propagation=""), images.get(point.name, ()))
        for point in container.document.mounts
        if point.type != "tmpfs"
    ]
    taken = {mount.destination for mount in found}
    for destination, name in _FILES.items():
        source = container.bundle / name
        if destination not in taken and source.exists():
            found.append(spec.file(destination, str(source), container.host.readonly_rootfs))
    return sorted(found, key=lambda mount: mount.destination.count("/"))
