"""``/containers/ID/exec`` and ``/exec``: additional processes (Docker Engine API, "Exec")."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

from aiohttp import web

from capsa.api.docker.call import Call, answer, nothing
from capsa.api.docker.errors import explain
from capsa.api.docker.frames import Unframe, frame
from capsa.api.docker.relay import detach_keys
from capsa.api.docker.streams import hijack
from capsa.engine.config import Struct, parse
from capsa.engine.exec import Exec, ExecConfig, check_console
from capsa.errors import CapsaError

if TYPE_CHECKING:
    import socket

    from capsa.api.docker.router import Router


class Start(Struct):
    """The body of ``POST /exec/ID/start``."""

    detach: bool = False
    tty: bool = False
    console_size: list[int] = []


def routes(router: Router) -> None:
    """Serve them."""
    router.add("POST", "/containers/{}/exec", create)
    router.add("POST", "/exec/{}/start", start)
    router.add("POST", "/exec/{}/resize", resize)
    router.add("GET", "/exec/{}/json", inspect)


async def create(call: Call) -> web.StreamResponse:
    """Prepare a process."""
    container = call.engine.containers.find(call.name)
    config: ExecConfig = parse(await call.json(), ExecConfig, "the exec configuration")
    detach_keys(config.detach_keys)
    return answer({"Id": call.engine.execs.create(container, config).id}, 201)


async def start(call: Call) -> web.StreamResponse:
    """Run it, detached or connected with the client."""
    engine = call.engine
    which = engine.execs.find(call.name)
    wanted: Start = parse(await call.json() or {}, Start, "the exec's start")
    check_console(wanted.console_size)
    if wanted.detach:
        await engine.execs.start(which, None, wanted.console_size)
        return nothing(200)
    engine.execs.check_startable(which)
    ours, theirs = engine.stream_pair()
    response = await hijack(
        call.request,
        ours,
        stdin=which.config.attach_stdin,
        raw=wanted.tty,
        convert=_conversion(which.config.tty, wanted.tty),
        keys=detach_keys(which.config.detach_keys) if which.config.tty else b"",  # bytes of a pipe are not keys
        version=call.version,
        ended=lambda: _ended(which),
        starting=_start(call, which, theirs, wanted),
    )
    if response.detached:
        engine.events.container("exec_detach", which.container, execID=which.id)
    return response


def _conversion(terminal: bool, raw: bool) -> Callable[[bytes], bytes] | None:
    """From what a process with or without a terminal says to what its client wants to read."""
    if terminal == raw:
        return None
    return frame if terminal else Unframe()


async def _ended(which: Exec) -> None:
    if which.started:
        await which.ended()


async def _start(call: Call, which: Exec, end: socket.socket, wanted: Start) -> AsyncIterator[bytes]:
    """Start it; why that failed is output, since the answer's status is out already."""
    try:
        await call.engine.execs.start(which, end, wanted.console_size)
    except CapsaError as error:
        text = (explain(error)[1] + "\r\n").encode()
        yield text if wanted.tty else frame(text)


async def resize(call: Call) -> web.StreamResponse:
    """Resize its terminal."""
    height, width = call.size()
    await call.engine.execs.resize(call.engine.execs.find(call.name), height, width)
    return nothing(200)


async def inspect(call: Call) -> web.StreamResponse:
    """What it is and how it ended."""
    which = call.engine.execs.find(call.name)
    config = which.config
    entry = config.cmd[0] if config.cmd else ""
    found: dict[str, Any] = {
        "ID": which.id,
        "Running": which.running,
        "ExitCode": which.exit_code,
        "ProcessConfig": {
            "tty": config.tty,
            "entrypoint": entry,
            "arguments": config.cmd[1:],
            "privileged": config.privileged,
            "user": config.user,
        },
        "OpenStdin": config.attach_stdin,
        "OpenStderr": config.attach_stderr,
        "OpenStdout": config.attach_stdout,
        "CanRemove": which.exit_code is not None,
        "ContainerID": which.container.id,
        "DetachKeys": config.detach_keys,
        "Pid": which.pid,
    }
    return answer(found)
