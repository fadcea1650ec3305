"""Kernel parameters (config-linux.md, Sysctl): those that belong to a namespace of the container, and no others."""

from __future__ import annotations

import os

from capsa.errors import InvalidArgument, LaunchFailed, reason
from capsa.platform.linux.namespaces import Namespaces

_IPC = frozenset(
    [
        "kernel/msgmax",
        "kernel/msgmnb",
        "kernel/msgmni",
        "kernel/sem",
        "kernel/shmall",
        "kernel/shmmax",
        "kernel/shmmni",
        "kernel/shm_rmid_forced",
        "kernel/auto_msgmni",
        "kernel/msg_next_id",
        "kernel/sem_next_id",
        "kernel/shm_next_id",
    ]
)
_SWAP = str.maketrans("./", "/.")  # as sysctl(8): net.ipv4.conf.eth0/1.forwarding is about interface eth0.1
_UTS = frozenset({"kernel/domainname"})


def check(settings: dict[str, str], namespaces: Namespaces) -> list[tuple[str, str]]:
    """Pairs of a file below /proc/sys and its value; raises `InvalidArgument` for what would change the host."""
    found = []
    for name, value in settings.items():
        path = name if "/" in name.partition(".")[0] else name.translate(_SWAP)
        if not all(part and part not in (".", "..") for part in path.split("/")) or "\0" in path + value:
            raise InvalidArgument(f"{name!r} is no name of a sysctl")
        if path == "kernel/hostname":
            raise InvalidArgument("sysctl kernel.hostname is set by the property hostname")
        if path.startswith("net/"):
            kind = "network"
        elif path in _IPC or path.startswith("fs/mqueue/"):
            kind = "ipc"
        elif path in _UTS:
            kind = "uts"
        else:
            raise InvalidArgument(f"sysctl {name} is not in a separate kernel namespace: it would change the host")
        if not namespaces.has(kind):
            raise InvalidArgument(f"sysctl {name} needs a {kind} namespace of the container's own")
        found.append((path, value))
    return found


def write(settings: list[tuple[str, str]], *, if_there: bool = False) -> None:
    """Write them, through the host's proc; raises `LaunchFailed`. ``if_there``: leave out what this kernel lacks."""
    for path, value in settings:
        try:
            fd = os.open(f"/proc/sys/{path}", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, value.encode())
            finally:
                os.close(fd)
        except OSError as error:
            if if_there and isinstance(error, FileNotFoundError):
                continue
            raise LaunchFailed(f"cannot set sysctl {path.replace('/', '.')} to {value!r}: {reason(error)}") from error
