"""The process that mounts one volume: ``python -m capsa.engine.volume_worker``, its options as JSON on standard input.

It ends with its parent, and says on standard error what went wrong.
"""

from __future__ import annotations

import signal
import socket
import sys

import msgspec

from capsa.engine.volume_options import shown, wanted
from capsa.errors import CapsaError, reason
from capsa.sys import mount
from capsa.sys.process import PR_SET_PDEATHSIG, prctl


class Request(msgspec.Struct):
    """Where to mount, and the volume's options."""

    path: str
    options: dict[str, str]


def address(host: str) -> str:
    """The address of a host name; raises `CapsaError`."""
    try:
        return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
    except OSError as error:
        raise CapsaError(f"error resolving passed in network volume address: {host}: {error}") from error


def perform(request: Request) -> None:
    """Mount it; raises `CapsaError`."""
    found = wanted(request.options, address)
    try:
        mount.mount(found.device, request.path, found.type, found.flags, found.data)
        again = found.flags & ~(mount.MS_BIND | mount.MS_REC)
        if found.flags & mount.MS_BIND and again:  # a bind mount takes its flags in a second step
            mount.mount("", request.path, "", again | mount.MS_BIND | mount.MS_REMOUNT)
        mount.attributes(mount.AT_FDCWD, propagation=mount.MS_PRIVATE, path=request.path)
    except OSError as error:
        data = f", data: {found.data}" if found.data else ""
        raise CapsaError(
            f"mount {found.device}:{request.path}, flags: {found.flags:#x}{data}: {reason(error)}"
        ) from error


def main() -> int:
    """Returns the exit code."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=Request)
    try:
        perform(request)
    except CapsaError as error:
        print(shown(str(error), request.options), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
