"""``capsa engine``: run an engine in the foreground, or stop one."""

from __future__ import annotations

import os
import signal
import socket
import struct

from capsa.cli.context import DEFAULT_ROOT, DEFAULT_RUN, Context
from capsa.cli.options import Command, Options, UsageError
from capsa.errors import CapsaError, Unavailable, reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capsa.engine.listen import Certificates
    from capsa.platform.genode.platform import Place

STOP_PATIENCE = 30.0
"""Seconds for an engine to end after it was asked to."""


def _run(context: Context, options: Options) -> int:
    from pathlib import Path

    from capsa.engine import serve
    from capsa.engine.listen import Settings

    root = Path(options.text("root") or DEFAULT_ROOT)
    run = Path(options.text("run") or DEFAULT_RUN)
    hosts = options.all("host") or [f"unix://{run.absolute()}/docker.sock"]
    return serve.run(
        root.absolute(),
        run.absolute(),
        Settings(
            tuple(hosts),
            group=options.text("group") or "",
            certificates=_certificates(context, options),
            plain=any(name in options.switched and not options.switch(name) for name in ("tls", "tlsverify")),
        ),
        genode=_genode(options.text("platform")),
    )


def _genode(text: str | None) -> Place | None:
    if not text:
        return None
    from capsa.platform.genode.platform import parse

    return parse(text)


def _certificates(context: Context, options: Options) -> Certificates | None:
    """For TCP, if TLS is wanted; like the client's, the options may also stand before the verb."""
    from capsa.engine.listen import Certificates

    verify = options.switch("tlsverify") or (context.tlsverify and "tlsverify" not in options.switched)
    if not (verify or options.switch("tls") or (context.tls and "tls" not in options.switched)):
        for name in ("tlscacert", "tlscert", "tlskey"):
            if options.given(name):
                raise UsageError(f"--{name} is for TLS: add --tlsverify")
        return None
    return Certificates(
        authority=options.text("tlscacert") or context.tlscacert,
        certificate=options.text("tlscert") or context.tlscert,
        key=options.text("tlskey") or context.tlskey,
        verify=verify,
    )


def _stop(context: Context, options: Options) -> int:
    """End the engine behind the socket: the kernel says which process listens there."""
    host = options.text("host") or context.host
    scheme, _, path = host.partition("://")
    if scheme != "unix":
        raise CapsaError(f"only an engine on a unix socket can be stopped, not {host}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            print(f"no engine is running at {host}")
            return 0
        except OSError as error:
            raise Unavailable(f"cannot reach the engine at {host}: {reason(error)}") from error
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid = struct.unpack("3i", credentials)[0]
    try:
        handle = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(handle, signal.SIGTERM)
            import select

            poll = select.poll()
            poll.register(handle, select.POLLIN)
            if not poll.poll(STOP_PATIENCE * 1000):
                raise CapsaError(f"the engine (process {pid}) has not ended within {STOP_PATIENCE:.0f} seconds")
        finally:
            os.close(handle)
    except ProcessLookupError:
        pass
    except OSError as error:
        raise CapsaError(f"cannot stop the engine (process {pid}): {reason(error)}") from error
    return 0


_ENGINE = Command(
    "engine",
    "",
    "Run an engine in the foreground ('capsa engine stop' ends one)",
    """
  -G, --group string       Group that may use unix sockets (default: root's only)
  -H, --host list          Where to listen: unix:///PATH, tcp://ADDRESS:PORT, fd:// (default unix://RUN/docker.sock)
      --platform string    One more platform: genode=DIRECTORY, with the programs of a Genode, or
                           genode=attach:CONFIG,REPORT, the directories of one that runs
      --root string        Directory of images, containers and the database (default "/var/lib/capsa")
      --run string         Directory of sockets (default "/run/capsa")
      --tls                Use TLS with TCP; =false allows TCP beyond loopback without it
      --tlscacert string   Trust clients with certificates signed by this authority only (default ~/.docker/ca.pem)
      --tlscert string     TLS certificate of this engine (default ~/.docker/cert.pem)
      --tlskey string      TLS key of this engine (default ~/.docker/key.pem)
      --tlsverify          Use TLS with TCP and verify clients
""",
    _run,
    most=0,
)

COMMANDS = {
    "engine": _ENGINE,
    "engine run": Command("engine run", "", _ENGINE.summary, _ENGINE.table, _run, most=0),
    "engine stop": Command(
        "engine stop",
        "",
        "Stop an engine; its containers run on, and the next engine finds them again",
        """
  -H, --host string   Address of the engine (default $DOCKER_HOST or unix:///run/capsa/docker.sock)
""",
        _stop,
        most=0,
    ),
}
