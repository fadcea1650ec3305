"""``start`` (runtime.md, Start)."""

from __future__ import annotations

import contextlib
import os

from capsa.errors import CapsaError, Conflict, HookFailed, LaunchFailed
from capsa.runtime.container import Container
from capsa.runtime.verb import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capsa.cli.options import Options
    from capsa.runtime.verb import Settings


def start(settings: Settings, options: Options) -> int:
    """``capsa-runtime start ID``."""
    container = Container(settings.root, options.arguments[0])
    with container.locked():
        begin(settings, container)
    return 0


def begin(settings: Settings, container: Container) -> None:
    """Let a created, locked container execute its program; raises `Conflict` in any other state, `LaunchFailed`.

    The process of one that cannot be started ends; one whose hooks fail is gone (runtime.md, Lifecycle).
    """
    from capsa.platform.linux import door

    status = container.status()
    if status != "created":
        raise Conflict(f"cannot start container {container.id}: it is {status}, not created")
    try:
        channel = door.knock(container.door)
    except OSError as error:
        raise LaunchFailed(f"container {container.id} does not wait to be started: {error.strerror}") from error
    try:
        os.unlink(container.door)
        door.start(channel, lambda fd: door.listener_of(container.spec, container.state("created"))(fd))
        if b"poststart" in container.config:
            _after(container)
    except HookFailed:
        from capsa.runtime import removal

        removal.remove(settings, container, force=True)
        raise
    except BaseException:
        with contextlib.suppress(OSError, CapsaError):
            container.cgroup().kill()
        raise
    finally:
        channel.close()


def _after(container: Container) -> None:
    """The poststart hooks."""
    wanted = container.spec.hooks
    if wanted is not None and wanted.poststart:
        import msgspec

        from capsa.platform.linux import hooks

        told = msgspec.structs.replace(container.state("created"), status="running")
        hooks.run("poststart", wanted.poststart, told, where=container.record.bundle)


VERBS = {"start": Verb("start", "ID", "Execute the program of a created container", "", start)}
