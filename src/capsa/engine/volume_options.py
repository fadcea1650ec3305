"""Options of the ``local`` volume driver: ``type``, ``device`` and ``o``, which are those of ``mount(8)``."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from urllib.parse import unquote, urlsplit

import msgspec

from capsa.errors import InvalidArgument, Unsupported
from capsa.sys import mount

_KNOWN = ("type", "o", "device", "size")
_NEEDS = {"device": ("type",), "type": ("device",), "o": ("device", "type")}
_LONGEST = 4095  # a page, with its zero byte
_FLAGS: dict[str, tuple[int, bool]] = {
    "async": (mount.MS_SYNCHRONOUS, False),
    "atime": (mount.MS_NOATIME, False),
    "bind": (mount.MS_BIND, True),
    "defaults": (0, True),
    "dev": (mount.MS_NODEV, False),
    "diratime": (mount.MS_NODIRATIME, False),
    "dirsync": (mount.MS_DIRSYNC, True),
    "exec": (mount.MS_NOEXEC, False),
    "mand": (mount.MS_MANDLOCK, True),
    "noatime": (mount.MS_NOATIME, True),
    "nodev": (mount.MS_NODEV, True),
    "nodiratime": (mount.MS_NODIRATIME, True),
    "noexec": (mount.MS_NOEXEC, True),
    "nomand": (mount.MS_MANDLOCK, False),
    "norelatime": (mount.MS_RELATIME, False),
    "nostrictatime": (mount.MS_STRICTATIME, False),
    "nosuid": (mount.MS_NOSUID, True),
    "rbind": (mount.MS_BIND | mount.MS_REC, True),
    "relatime": (mount.MS_RELATIME, True),
    "ro": (mount.MS_RDONLY, True),
    "rw": (mount.MS_RDONLY, False),
    "strictatime": (mount.MS_STRICTATIME, True),
    "suid": (mount.MS_NOSUID, False),
    "sync": (mount.MS_SYNCHRONOUS, True),
}
_REFUSED = ("remount", "shared", "rshared", "slave", "rslave", "unbindable", "runbindable")


class Wanted(msgspec.Struct, frozen=True):
    """The arguments of ``mount(2)`` for a volume."""

    type: str
    device: str
    flags: int
    data: str


def check(options: Mapping[str, str]) -> None:
    """Raises `InvalidArgument` in Docker's words, and `Unsupported`, for options that cannot be meant."""
    for name, value in options.items():
        if name not in _KNOWN:
            raise InvalidArgument(f'invalid option: "{name}"')
        if "\0" in value or len(value.encode(errors="surrogateescape")) > _LONGEST:
            raise InvalidArgument(f'invalid option: "{name}" is longer than {_LONGEST} bytes or has a null character')
    if "size" in options:
        raise InvalidArgument("quota size requested but no quota support")
    for name, needed in _NEEDS.items():
        for other in needed:
            if name in options and not options.get(other):
                raise InvalidArgument(f'missing required option: "{other}"')
    for word in options.get("o", "").split(","):
        if word in _REFUSED:
            raise Unsupported(f"the option o={word} of a volume is not supported by capsa; leave it out")
    if options.get("type") == "cifs" and _port(options["device"]):
        raise InvalidArgument("port not allowed in CIFS device URL, include 'port' in 'o='")


def _port(device: str) -> bool:
    try:
        return urlsplit(device).port is not None
    except ValueError as error:
        raise InvalidArgument(f"error parsing mount device url: {error}") from error


def wanted(options: Mapping[str, str], address: Callable[[str], str]) -> Wanted:
    """What to mount; ``address`` finds the address of a host name, which the kernel cannot do for network mounts."""
    kind, device = options["type"], options["device"]
    flags, data = 0, []
    for word in filter(None, options.get("o", "").split(",")):
        flag = _FLAGS.get(word)
        if flag is None and word not in ("private", "rprivate"):
            data.append(word)
        elif flag is not None:
            flags = flags | flag[0] if flag[1] else flags & ~flag[0]
    if kind in ("nfs", "nfs4", "cifs"):
        named = False
        for number, word in enumerate(data):
            key, _, value = word.partition("=")
            if key == "addr" and value:
                named = True
                data[number] = f"addr={value if _is_address(value) else address(value)}"
        if kind == "cifs" and not named:
            host = urlsplit(device).hostname or ""
            if host and not _is_address(host):
                device = unquote(device.replace(host, address(host), 1))
    return Wanted(kind, device, flags, ",".join(data))


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def shown(text: str, options: Mapping[str, str]) -> str:
    """``text`` without the password that the options may have."""
    for word in options.get("o", "").split(","):
        key, _, value = word.partition("=")
        if key in ("password", "pass") and value:
            text = text.replace(value, "********")
    return text
