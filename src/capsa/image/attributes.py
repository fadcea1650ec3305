"""Which extended attributes travel between archives and files, in either direction."""

from __future__ import annotations

import os

_OVERLAY = (b"trusted.overlay.", b"user.overlay.")
_KEPT = (b"user.", b"trusted.", b"security.capability", b"system.posix_acl_access", b"system.posix_acl_default")


def kept(name: bytes) -> bool:
    """Whether an attribute is a file's own.

    overlayfs' marks are not, and from an archive could make it look elsewhere; labels of security modules are
    the host's policy.
    """
    return name.startswith(_KEPT) and not name.startswith(_OVERLAY)


def read(file: int | str) -> dict[bytes, bytes]:
    """All attributes of an open file or a path (links are not followed), by name; none where there cannot be any."""
    follow = isinstance(file, int)
    try:
        names = os.listxattr(file, follow_symlinks=follow)
    except OSError:
        return {}
    return {os.fsencode(name): os.getxattr(file, name, follow_symlinks=follow) for name in sorted(names)}
