"""Starting an engine in the background, for the first command after a boot."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time

from capsa.cli.context import DEFAULT_RUN
from capsa.errors import Unavailable, reason

PATIENCE = 60.0
"""Seconds that an engine gets to answer: a start after a crash recovers containers first."""


RIVAL_PATIENCE = 15.0
"""Seconds that the engine of somebody who was faster gets to answer: a busy machine takes long to start one."""


def start(path: str) -> socket.socket:
    """Start the default engine and connect to its socket at ``path``, as soon as it answers.

    It is nobody's child and outlives the caller. What it has to say goes to ``engine.log`` beside the socket. When two
    callers start one at the same time, the engine's own lock lets one live, and both reach that one.
    Raises `Unavailable` with the last line of that log.
    """
    if os.geteuid() != 0:
        raise Unavailable(f"no engine is running at unix://{path}, and only root can start one ('capsa engine')")
    log = os.path.join(DEFAULT_RUN, "engine.log")
    try:
        os.makedirs(DEFAULT_RUN, mode=0o711, exist_ok=True)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Unavailable(f"cannot start an engine: {log}: {reason(error)}") from error
    try:
        begin = os.lseek(output, 0, os.SEEK_END)
        engine = subprocess.Popen(
            [sys.executable, "-m", "capsa.cli.main", "engine"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd="/",
            start_new_session=True,
        )
    finally:
        os.close(output)
    end = time.monotonic() + PATIENCE
    ended_at = None
    while time.monotonic() < end:
        if _answers(path, end):
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.connect(path)
            # This object is not waited for: the engine is to stay.
            engine.returncode = 0
            return connection
        if ended_at is None and engine.poll() is not None:
            ended_at = time.monotonic()
        if ended_at is not None and time.monotonic() - ended_at > (RIVAL_PATIENCE if _rival(log, begin) else 1):
            break
        time.sleep(0.005)
    raise Unavailable(f"the engine did not start: {_last_line(log, begin)} (all of it is in {log})")


def _answers(path: str, end: float) -> bool:
    """Whether an engine listens and is ready: it listens first, and answers once it has recovered what there was."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.connect(path)
            connection.settimeout(max(0.1, end - time.monotonic()))
            connection.sendall(b"GET /_ping HTTP/1.1\r\nHost: capsa\r\nConnection: close\r\n\r\n")
            return connection.recv(12).startswith(b"HTTP/1.1 200")
        except OSError:
            return False


def _rival(log: str, begin: int) -> bool:
    """Whether an engine has ended because there is one already, which may not answer yet."""
    return any("another engine uses" in line for line in _lines(log, begin))


def _lines(log: str, begin: int) -> list[str]:
    with open(log, "rb") as file:
        file.seek(max(begin, os.path.getsize(log) - 4096))
        return file.read().decode(errors="replace").strip().splitlines()


def _last_line(log: str, begin: int) -> str:
    lines = _lines(log, begin)
    return lines[-1].removeprefix("capsa: ") if lines else "it says nothing about it"
