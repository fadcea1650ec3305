"""TAP devices: network interfaces whose other end is a file (Documentation/networking/tuntap.rst of Linux)."""

from __future__ import annotations

import fcntl
import os
import struct
from typing import Final

_DEVICE: Final = "/dev/net/tun"
_TUNSETIFF: Final = 0x400454CA
_TUNSETPERSIST: Final = 0x400454CB
_IFF_TAP: Final = 0x0002
_IFF_NO_PI: Final = 0x1000
_IFF_TUN_EXCL: Final = 0x8000
_ifreq: Final = struct.Struct("16sH22x")


def add(name: str) -> None:
    """Make a TAP device that stays until it is deleted, and that somebody else may open by its name.

    Raises `OSError` whose ``filename`` is the device (``EBUSY``: there is one of that name), or ``/dev/net/tun`` where
    that cannot be opened.
    """
    fd = os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _TUNSETIFF, _ifreq.pack(name.encode(), _IFF_TAP | _IFF_NO_PI | _IFF_TUN_EXCL))
        fcntl.ioctl(fd, _TUNSETPERSIST, 1)
    except OSError as error:
        raise OSError(error.errno, error.strerror, name) from error
    finally:
        os.close(fd)
