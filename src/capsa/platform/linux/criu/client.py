"""A conversation with ``criu swrk``: one request, and what CRIU tells meanwhile (its images/rpc.proto)."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum

from capsa.errors import CapsaError, Unsupported, reason
from capsa.platform.linux.criu.wire import Message, Value, encode
from capsa.sys.process import clone, default_signals

# Fields of criu_opts.
OPTIONS = {
    "images_dir_fd": 1,
    "pid": 2,
    "leave_running": 3,
    "ext_unix_sk": 4,
    "tcp_established": 5,
    "evasive_devices": 6,
    "shell_job": 7,
    "file_locks": 8,
    "log_level": 9,
    "log_file": 10,
    "notify_scripts": 12,
    "root": 13,
    "parent_img": 14,
    "track_mem": 15,
    "auto_dedup": 16,
    "work_dir_fd": 17,
    "link_remap": 18,
    "cg_root": 25,
    "rst_sibling": 26,
    "inherit_fd": 27,
    "ext_masters": 30,
    "manage_cgroups_mode": 34,
    "external": 37,
    "empty_ns": 38,
    "join_ns": 39,
    "freeze_cgroup": 44,
    "tcp_skip_in_flight": 46,
    "orphan_pts_master": 50,
    "lsm_profile": 53,
    "lsm_mount_context": 63,
    "network_lock": 64,
}
_LARGEST = 1 << 16
_WORDS = 1  # a message of our own begins with it: no field of CRIU's has this key


class Kind(IntEnum):
    """Requests (criu_req_type)."""

    DUMP = 1
    RESTORE = 2
    PRE_DUMP = 4
    NOTIFY = 6


Notified = Callable[[str, int, Sequence[int]], None]
"""Called when CRIU tells that it has come to some point: its name, a process, descriptors (which the caller closes)."""


class Failed(CapsaError):
    """CRIU could not do it; its log says why."""


def check(program: str) -> None:
    """Raises `Unsupported` where CRIU is not there, or does not work with this kernel."""
    try:
        done = subprocess.run([program, "check"], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    except OSError as error:
        raise Unsupported(
            f"checkpoint and restore need CRIU, and {program} cannot be executed: {reason(error)}"
            " (install Debian's package criu, or name the program with --criu)"
        ) from error
    if done.returncode:
        said = first_error(done.stdout + done.stderr) or f"exit status {done.returncode}"
        raise Unsupported(f"CRIU does not work on this machine ({program} check): {said}")


def first_error(log: str) -> str:
    """The first error in a log of CRIU's, which mostly is the cause of others; empty if there is none."""
    for line in log.splitlines():
        _, found, text = line.partition("Error (")
        if found:
            return text.partition("): ")[2].strip() or text
    return ""


def ask(
    program: str,
    kind: Kind,
    options: Mapping[str, Value],
    *,
    notified: Notified,
    passed: Sequence[int] = (),
    cgroup: int | None = None,
    first: Callable[[], None] | None = None,
    quiet: bool = True,
) -> int:
    """Have CRIU do one thing; the pid of what is restored, or 0. Raises `Failed`, and what ``notified`` raises.

    ``passed``: descriptors that ``options`` name. ``cgroup``: the v2 cgroup to run in. ``first`` is called in its
    process before it is executed. ``quiet``: its standard streams are nowhere, else ours.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs:
            pid = _start(program, theirs, passed, cgroup, first, quiet)
        try:
            request: dict[int, Value] = {1: kind, 2: {OPTIONS[name]: value for name, value in options.items()}}
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                ours.send(encode(request))
            restored = _talk(ours, notified)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
    _, status = os.waitpid(pid, 0)
    # After the first of several dumps it waits for the next, and is not content when none comes.
    if status and kind != Kind.PRE_DUMP:
        raise Failed(f"CRIU ended with {os.waitstatus_to_exitcode(status)}")
    return restored


def _start(
    program: str,
    theirs: socket.socket,
    passed: Sequence[int],
    cgroup: int | None,
    first: Callable[[], None] | None,
    quiet: bool,
) -> int:
    try:
        pid = clone(cgroup=cgroup)
    except OSError as error:
        raise CapsaError(f"cannot make a process for CRIU: {reason(error)}") from error
    if pid:
        return pid
    try:
        if first is not None:
            first()
        if quiet:
            nothing = os.open("/dev/null", os.O_RDWR)
            for stream in range(3):
                os.dup2(nothing, stream)
        for fd in (*passed, theirs.fileno()):
            os.set_inheritable(fd, True)
        default_signals()
        os.execvp(program, [program, "swrk", str(theirs.fileno())])  # noqa: S606
    except BaseException as error:
        with contextlib.suppress(OSError):
            theirs.send(bytes([_WORDS]) + f"cannot run {program}: {error}".encode())
    os._exit(127)


def _talk(ours: socket.socket, notified: Notified) -> int:
    while True:
        try:
            data, fds, _, _ = socket.recv_fds(ours, _LARGEST, 4)
        except ConnectionResetError:
            data, fds = b"", []
        if not data:
            raise Failed("CRIU ended without an answer")
        if data[0] == _WORDS:
            raise CapsaError(data[1:].decode(errors="replace"))
        answer = Message(data)  # criu_resp
        if not answer.number(2):
            number = answer.number(7)
            raise Failed(answer.text(9) or (os.strerror(number) if number else "CRIU failed"))
        if answer.number(1) != Kind.NOTIFY:
            return answer.message(4).number(1)
        told = answer.message(5)
        try:
            notified(told.text(1), told.number(2), fds)
        except BaseException:
            with contextlib.suppress(OSError):
                ours.send(encode({1: Kind.NOTIFY, 3: False}))
            raise
        ours.send(encode({1: Kind.NOTIFY, 3: True}))
