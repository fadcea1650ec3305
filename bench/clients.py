"""The docker client in front of both engines, many containers in a list, and a container that writes all it can."""

from __future__ import annotations

import time
from functools import partial

from bench import images
from bench.engines import Daemon, Docker
from bench.parts import SLEEP, TRUE, Bench, create, measuring, remove_all, timed

PART = "docker client, 20.10"
LISTED = 500
LINE = "abcdefghijklmnopqrstuvwxyz0123456789" * 2
LINES = 400_000


def clients(bench: Bench) -> None:
    """The same docker client, run against each engine's socket."""
    for network, title in (("none", "docker run --rm busybox true, no network"), ("bridge", "the same, bridge")):
        for daemon in bench.daemons():
            with measuring(bench, f"client-run-{network}", PART, title, "ms", daemon.name) as enter:
                command = ["run", "--rm", "--network", network, images.BUSYBOX, *TRUE]
                enter(timed(partial(_client, daemon, *command), bench.samples))
    for daemon in bench.daemons():
        with measuring(bench, "client-exec", PART, "docker exec of true", "ms", daemon.name) as enter:
            identity = create(daemon, images.BUSYBOX, "none", SLEEP)
            try:
                enter(timed(partial(_client, daemon, "exec", identity, *TRUE), bench.samples))
            finally:
                remove_all(daemon, [identity])
    _lists(bench)
    _logs(bench)


def _client(daemon: Daemon, *arguments: str) -> float:
    """One run of the docker client."""
    assert daemon.api is not None
    program = Docker.client()
    return daemon.run([program, "--host", f"unix://{daemon.api.path}", *arguments])


def _lists(bench: Bench) -> None:
    title = f"docker ps --all with {LISTED} containers"
    for daemon in bench.daemons():
        with measuring(bench, "client-ps", PART, title, "ms", daemon.name) as enter:
            assert daemon.api is not None
            identities = []
            try:
                for _ in range(LISTED):
                    body = {"Image": images.BUSYBOX, "Cmd": TRUE, "HostConfig": {"NetworkMode": "none"}}
                    identities.append(daemon.api.request("POST", "/containers/create", body)["Id"])
                enter(timed(partial(_client, daemon, "ps", "--all"), bench.samples))
            finally:
                remove_all(daemon, identities)


def _logs(bench: Bench) -> None:
    size = LINES * (len(LINE) + 1) / 1e6
    writing = f"{LINES} lines, {size:.0f} MB, written by a container into its log"
    for daemon in bench.daemons():
        with measuring(bench, "log-write", "logs", writing, "s", daemon.name) as enter:
            assert daemon.api is not None
            command = ["sh", "-c", f"yes {LINE} | head -n {LINES}"]
            body = {"Image": images.BUSYBOX, "Cmd": command, "HostConfig": {"NetworkMode": "none"}}
            identity = daemon.api.request("POST", "/containers/create", body)["Id"]
            try:
                start = time.perf_counter()
                daemon.api.request("POST", f"/containers/{identity}/start")
                daemon.api.request("POST", f"/containers/{identity}/wait")
                enter([time.perf_counter() - start])
                with measuring(bench, "log-read", "logs", "read by docker logs", "s", daemon.name) as enter_read:
                    enter_read([_client(daemon, "logs", identity)])
            finally:
                remove_all(daemon, [identity])
