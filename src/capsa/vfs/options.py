"""Mount options in the words of OCI's config.md ("Linux mount options") and of ``mount(8)``."""

from __future__ import annotations

import msgspec

from capsa.errors import InvalidArgument
from capsa.vfs.tree import Access

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

_ACCESS: dict[str, tuple[str, Any]] = {
    "ro": ("write", False),
    "rw": ("write", True),
    "nosuid": ("set_id", False),
    "suid": ("set_id", True),
    "nodev": ("devices", False),
    "dev": ("devices", True),
    "noexec": ("execute", False),
    "exec": ("execute", True),
    "nosymfollow": ("follow_links", False),
    "symfollow": ("follow_links", True),
    "sync": ("sync", True),
    "async": ("sync", False),
}
_ATIME: dict[str, str] = {
    "noatime": "noatime",
    "relatime": "relatime",
    "strictatime": "strictatime",
    "atime": "relatime",
    "norelatime": "strictatime",
    "nostrictatime": "relatime",
}
_RECURSIVE = frozenset(
    "r" + word
    for word in [
        "ro",
        "rw",
        "nosuid",
        "suid",
        "nodev",
        "dev",
        "noexec",
        "exec",
        "nosymfollow",
        "symfollow",
        "noatime",
        "atime",
        "relatime",
        "norelatime",
        "strictatime",
        "nostrictatime",
        "nodiratime",
        "diratime",
    ]
)
_PROPAGATION = frozenset(["private", "shared", "slave", "unbindable", "rprivate", "rshared", "rslave", "runbindable"])
_SUPERBLOCK = frozenset(["dirsync", "lazytime", "mand", "iversion", "acl", "noacl"])
_UNDO = {"nolazytime": "lazytime", "nomand": "mand", "noiversion": "iversion"}
_SUBDIR = "X-mount.subdir="
_NOTHING = frozenset(["defaults", "silent", "loud"])


class Parsed(msgspec.Struct, kw_only=True):
    """What the words of one mount say. ``data``: those meant for the file system itself.

    ``subdir``: mount this directory of it only (``X-mount.subdir`` of ``mount(8)``).
    """

    access: Access = Access()
    propagation: str = ""
    bind: str = ""
    again: bool = False
    copy_up: bool = False
    subdir: str = ""
    id_map: str = ""
    options: tuple[str, ...] = ()
    data: dict[str, str] = msgspec.field(default_factory=dict)


def parse(path: str, words: Sequence[str]) -> Parsed:
    """Sort out the options of the mount at ``path``; of contradicting ones the last wins."""
    fields: dict[str, Any] = {}
    below: list[str] = []
    whole: list[str] = []
    atime = ""
    directory_atime = True
    found = Parsed()
    for word in words:
        deep = word in _RECURSIVE
        plain = word[1:] if deep else word
        if plain in _ACCESS:
            field, value = _ACCESS[plain]
            fields[field] = value
        elif plain in _ATIME:
            field, atime = "atime", _ATIME[plain]
        elif plain in ("nodiratime", "diratime"):
            field, directory_atime = "atime", plain == "diratime"
        else:
            field = ""
        if field:
            if deep and field not in below:
                below.append(field)
        elif word in ("bind", "rbind"):
            found.bind = max(found.bind, word)  # what lies below stays asked for
        elif word == "remount":
            found.again = True
        elif word in _PROPAGATION:
            found.propagation = word
        elif word == "tmpcopyup":
            found.copy_up = True
        elif word.startswith(_SUBDIR):
            found.subdir = word[len(_SUBDIR) :]
        elif word in ("idmap", "ridmap"):
            found.id_map = word
        elif word in _SUPERBLOCK:
            whole.append(word)
        elif word in _UNDO:
            whole = [other for other in whole if other != _UNDO[word]]
        elif word and word not in _NOTHING:
            key, _, value = word.partition("=")
            found.data[key] = value
    if not directory_atime:
        atime = f"{atime},nodiratime".lstrip(",")
    if atime:
        fields["atime"] = atime
    found.access = Access(**fields, below=tuple(below))
    found.options = tuple(whole)
    return found


def join(data: dict[str, str]) -> str:
    """The words of ``data`` in one string, as ``mount(8)`` takes them."""
    return ",".join(f"{key}={value}" if value else key for key, value in data.items())


def number(path: str, data: dict[str, str], key: str, base: int = 10) -> int | None:
    """Take the number ``key`` out of ``data``; None if it is not there. Raises `InvalidArgument`."""
    text = data.pop(key, None)
    if text is None:
        return None
    try:
        if not text.isalnum():
            raise ValueError
        return int(text, base)
    except ValueError:
        raise InvalidArgument(f"option {key}={text} of the mount at {path} is not a number") from None


def octal(path: str, data: dict[str, str], key: str) -> int | None:
    """Take the permission bits ``key`` out of ``data``."""
    mode = number(path, data, key, 8)
    if mode is not None and mode > 0o7777:
        raise InvalidArgument(f"option {key}={mode:o} of the mount at {path} is more than permission bits")
    return mode


def size(path: str, data: dict[str, str], key: str) -> int | None:
    """Take the amount ``key`` out of ``data``: a number, with k, m, g or t for powers of 1024."""
    text = data.get(key, "")
    unit = "kmgt".find(text[-1:].lower()) + 1 if text else 0
    if unit:
        data[key] = text[:-1]
    value = number(path, data, key)
    return None if value is None else value << 10 * unit


def known() -> list[str]:
    """Every word that means something here whatever the file system (features.md, Mount Options)."""
    fixed = {*_ACCESS, *_ATIME, *_RECURSIVE, *_PROPAGATION, *_SUPERBLOCK, *_UNDO, "bind", "rbind", "defaults"}
    return sorted(fixed | {"remount", "nodiratime", "diratime", "tmpcopyup", "idmap", "ridmap"})
