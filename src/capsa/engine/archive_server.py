"""The process that file helpers are forked from, so that none of them has to start an interpreter.

``python -m capsa.engine.archive_server FD PARENT``: each message on the socket ``FD`` brings the descriptors of a
request, of standard input, output and error, and perhaps of a mount namespace; the answer brings that of the helper
(a pidfd), or none if it has ended already. It ends with its socket and with its parent, and its helpers end with it.
"""

from __future__ import annotations

import gc
import os
import resource
import signal
import socket
import sys
import traceback

from capsa.engine import archive_worker
from capsa.engine import changes as _changes  # noqa: F401  what helpers need is loaded before they are forked
from capsa.image import compression as _compression  # noqa: F401
from capsa.image import extract as _extract  # noqa: F401
from capsa.platform.linux import rootfs as _rootfs  # noqa: F401
from capsa.sys.process import PR_SET_PDEATHSIG, prctl
from capsa.sys.title import prepare_title, set_title
from capsa.vfs import compile as _compile  # noqa: F401

_FILES = 4096


def serve(connection: socket.socket) -> None:
    """Until the other end is closed."""
    while True:
        data, fds, _, _ = socket.recv_fds(connection, 16, 5)
        if not data:
            return
        parent = os.getpid()
        pid = os.fork()
        if not pid:
            _help(parent, connection, fds)
        for fd in fds:
            os.close(fd)
        try:
            helper = os.pidfd_open(pid)
        except ProcessLookupError:
            connection.sendall(b".")
            continue
        socket.send_fds(connection, [b"."], [helper])
        os.close(helper)


def _help(parent: int, connection: socket.socket, fds: list[int]) -> None:
    """Never returns."""
    code = 1
    try:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == parent:
            connection.close()
            request, *standard = fds[:4]
            for number, fd in enumerate(standard):
                os.dup2(fd, number)
                os.close(fd)
            set_title("capsa: file helper")
            code = archive_worker.main(request, fds[4] if len(fds) > 4 else -1)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def main() -> None:
    """Serve the connection that the command line names."""
    number, parent = int(sys.argv[1]), int(sys.argv[2])
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's interrupt is the engine's to handle
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for helpers: their standard error tells
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, _FILES)), hard))
    os.umask(0)
    prepare_title()
    set_title("capsa: file helpers")
    gc.freeze()
    with socket.socket(fileno=number) as connection:
        serve(connection)


if __name__ == "__main__":
    main()
