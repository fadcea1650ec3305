"""The processes of a container in the columns of ``ps``, read from /proc; other columns come from the host's ``ps``."""

from __future__ import annotations

import asyncio
import os
import pwd
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING

from capsa.engine.container import Container
from capsa.errors import CapsaError, Conflict, InvalidArgument
from capsa.platform.protocol import Pids, Processes

if TYPE_CHECKING:
    from capsa.engine.engine import Engine

LONGEST_COMMAND = 1 << 15  # bytes; a process may have some megabytes of arguments, and a container many processes
_FULL = ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]


async def top(engine: Engine, container: Container, arguments: str) -> tuple[list[str], list[list[str]]]:
    """Titles and rows; raises `Conflict` if it does not run, `InvalidArgument` for what ``ps`` does not take."""
    if container.state.status == "restarting":
        raise Conflict(f"Container {container.id} is restarting, wait until the container is running")
    if not container.running or container.sandbox is None:
        raise Conflict(f"container {container.id} is not running")
    if "\0" in arguments:
        raise InvalidArgument("the arguments of ps contain a null character")
    found = await container.sandbox.request(Processes())
    assert isinstance(found, Pids)
    if arguments.strip() == "-ef":
        return _FULL, [row for pid in sorted(found.pids) if (row := _row(pid))]
    return await _ps(arguments, set(found.pids))


def _row(pid: int) -> list[str] | None:
    base = Path(f"/proc/{pid}")
    try:
        text = (base / "stat").read_text(errors="replace")
        with open(base / "cmdline", "rb", buffering=0) as file:
            command = file.read(LONGEST_COMMAND).replace(b"\0", b" ").decode(errors="replace").rstrip()
        uid = base.stat().st_uid
    except OSError:
        return None
    name = text[text.index("(") + 1 : text.rindex(")")]
    fields = text[text.rindex(")") + 2 :].split()
    ticks = os.sysconf("SC_CLK_TCK")
    used = (int(fields[11]) + int(fields[12])) // ticks
    began = time.time() - _uptime() + int(fields[19]) / ticks
    lived = max(1.0, time.time() - began)
    return [
        _user(uid),
        str(pid),
        fields[1],
        str(min(99, int(100 * used / lived))),
        time.strftime("%H:%M" if lived < 86400 else "%b%d", time.localtime(began)),
        _terminal(int(fields[4])),
        f"{used // 3600:02d}:{used // 60 % 60:02d}:{used % 60:02d}",
        _printable(command or f"[{name}]"),
    ]


def _printable(text: str) -> str:
    """As ``ps`` has it: processes choose their titles, and lists of them are for terminals."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _uptime() -> float:
    with open("/proc/uptime", encoding="ascii") as file:
        return float(file.read().split()[0])


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _terminal(device: int) -> str:
    if not device:
        return "?"
    major, minor = os.major(device), os.minor(device)
    return f"pts/{minor + (major - 136) * 256}" if 136 <= major <= 143 else f"{major}:{minor}"


async def _ps(arguments: str, pids: set[int]) -> tuple[list[str], list[list[str]]]:
    try:
        words = shlex.split(arguments)
    except ValueError as error:
        raise InvalidArgument(f"ps_args: {error}") from error
    try:
        process = await asyncio.create_subprocess_exec(
            "ps", *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
    except FileNotFoundError as error:
        raise CapsaError("the program ps is needed on the host for columns other than those of 'ps -ef'") from error
    output, trouble = await process.communicate()
    if process.returncode:
        raise InvalidArgument(f"ps: {trouble.decode(errors='replace').strip()}")
    lines = output.decode(errors="replace").splitlines()
    titles = lines[0].split() if lines else []
    if "PID" not in titles:
        raise InvalidArgument("Couldn't find PID field in ps output")
    column = titles.index("PID")
    rows = []
    for line in lines[1:]:
        fields = line.split(None, len(titles) - 1)
        if len(fields) > column and fields[column].isdigit() and int(fields[column]) in pids:
            rows.append(fields)
    return titles, rows
