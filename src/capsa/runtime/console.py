"""A container's terminal, handed to whoever listens at ``--console-socket``."""

from __future__ import annotations

import os
import socket
import stat

from capsa.errors import CapsaError, InvalidArgument, reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capsa.cli.options import Options


def socket_of(options: Options, *, required: bool) -> str:
    """The path given, empty if none is; raises `InvalidArgument` where it is of no use.

    ``required``: the terminal cannot be relayed by this process, as it does not wait for the container.
    """
    path = options.text("console-socket") or ""
    if path and not required:
        raise InvalidArgument("--console-socket is for containers in the background: leave it out, or add --detach")
    if path:
        try:
            fits = stat.S_ISSOCK(os.stat(path).st_mode)
        except OSError as error:
            raise InvalidArgument(f"cannot use the console socket {path}: {reason(error)}") from error
        if not fits:
            raise InvalidArgument(f"the console socket {path} is no socket")
    return path


def send(path: str, master: int) -> None:
    """Send the master side of a terminal; raises `CapsaError`."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as end:
            end.connect(path)
            socket.send_fds(end, [b"/dev/ptmx"], [master])
    except OSError as error:
        raise CapsaError(f"cannot send the terminal to {path}: {reason(error)}") from error
