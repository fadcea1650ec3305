"""A door: where a container that outlives its maker waits for the word to start, a socket in the file tree.

The two sides are different programs, one after the other: ``create`` makes the door and the process behind it (whose
side is `indoors`), ``start`` knocks. What the process has to say after that (why its program cannot be executed) it
says to whoever has knocked.
"""

from __future__ import annotations

import contextlib
import os
import socket

from capsa.platform.linux.channel import Channel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from capsa.oci.runtime import Spec, State


def make(path: str) -> socket.socket:
    """A door at ``path``, for its owner alone; raises `OSError`."""
    with _short(path) as name:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        before = os.umask(0o177)
        try:
            listener.bind(name)
            listener.listen(4)
        except BaseException:
            listener.close()
            raise
        finally:
            os.umask(before)
    return listener


def knock(path: str) -> Channel:
    """A channel to the process behind the door at ``path``; raises `OSError` where there is none."""
    with _short(path) as name:
        end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            end.connect(name)
        except BaseException:
            end.close()
            raise
    return Channel(end)


def listener_of(spec: Spec, told: State) -> Callable[[int], None]:
    """Hands the listener of a seccomp filter that asks another process to that process."""
    from capsa.platform.linux import seccomp

    def hand_over(fd: int) -> None:
        if spec.linux is not None and spec.linux.seccomp is not None and spec.linux.seccomp.listener_path:
            seccomp.send_listener(spec.linux.seccomp, fd, told.pid, told)

    return hand_over


def start(channel: Channel, listener: Callable[[int], None]) -> None:
    """Let the process that ``channel`` leads to go on (`knock`); returns when its program is executed.

    ``listener`` takes the descriptor of a seccomp filter that asks another process. Raises `LaunchFailed`; then the
    process ends by itself.
    """
    channel.send("start")
    while True:
        message, fd = channel.receive()
        if message is None:
            return
        if message.word == "listener" and fd is not None:
            try:
                listener(fd)
            finally:
                os.close(fd)


@contextlib.contextmanager
def _short(path: str) -> Iterator[str]:
    """The same place by a name that fits into a socket's address, which has 107 bytes."""
    directory = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{os.path.basename(path)}"
    finally:
        os.close(directory)
