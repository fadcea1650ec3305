"""Running an engine: its lock, its sockets, its signals (``capsa engine``)."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import logging
import os
import resource
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from capsa.engine.engine import Engine
from capsa.engine.listen import Listener, Settings, listen, ready
from capsa.errors import CapsaError, Conflict, reason

if TYPE_CHECKING:
    from capsa.platform.genode.platform import Place


def run(root: Path, run: Path, settings: Settings, genode: Place | None = None) -> int:
    """Serve until SIGTERM or SIGINT; containers live on. Returns the exit code. ``genode``: see `Engine`.

    Raises `CapsaError` where the engine cannot run: another one has the directories or the socket.
    """
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    os.umask(0o022)
    _directories(root, run)
    with _locked(root, run):
        asyncio.run(_serve(root.resolve(), run.resolve(), settings, genode))
    return 0


def _directories(root: Path, run: Path) -> None:
    for path, mode in ((root, 0o710), (run, 0o711)):  # the latter has the socket, which its group may use
        try:
            path.mkdir(parents=True, exist_ok=True, mode=mode)
        except OSError as error:
            raise CapsaError(f"cannot make the directory {path}: {reason(error)}") from error


@contextlib.contextmanager
def _locked(root: Path, run: Path):  # type: ignore[no-untyped-def]
    """Hold both directories' locks as long as the engine runs."""
    held = []
    try:
        for path in dict.fromkeys((root / "engine.lock", run / "engine.lock")):
            try:
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except OSError as error:
                raise CapsaError(f"cannot open {path}: {reason(error)}") from error
            held.append(fd)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Conflict(f"another engine uses {path.parent}; stop it, or use other --root and --run") from None
        yield
    finally:
        for fd in held:
            os.close(fd)


async def _serve(root: Path, run: Path, settings: Settings, genode: Place | None) -> None:
    from capsa.api.docker.server import Api

    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    engine = Engine(root, run, genode)
    listeners: list[Listener] = listen(settings)
    try:
        await engine.start()
        _allow_many_files()
        api = Api(engine)
        for listener in listeners:
            await api.listen(listener.socket, listener.context)
            engine.log.info("listening on %s", listener.name)
            if listener.warning:
                engine.warnings.append(listener.warning)
        ready()
        gc.collect()
        gc.freeze()
        await ended.wait()
        engine.log.info("ending; containers live on")
        await api.close()
    finally:
        await engine.close()
        for listener in listeners:
            listener.close()


def _allow_many_files() -> None:
    """Each client has a descriptor, an attached one two more: as many as the machine allows.

    Containers keep the limit that the engine was started with, see `LinuxPlatform`.
    """
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
