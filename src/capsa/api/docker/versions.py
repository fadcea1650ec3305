"""Versions of the Docker Engine API that capsa speaks, and how a request names one (``/v1.41/containers/json``)."""

from __future__ import annotations

import re

from capsa.errors import InvalidArgument

NEWEST = (1, 51)
OLDEST = (1, 24)
_PREFIX = re.compile(r"/v(\d[0-9.]{0,19})(?=/)", re.ASCII)


def text(version: tuple[int, ...]) -> str:
    """``1.51``."""
    return ".".join(str(part) for part in version)


def split(path: str) -> tuple[tuple[int, int], str]:
    """The version (without one: the newest) and the rest of a path; raises `InvalidArgument` in Docker's words."""
    found = _PREFIX.match(path)
    if not found:
        return NEWEST, path
    version = tuple(int(part or 0) for part in found[1].split("."))
    if version > NEWEST:
        raise InvalidArgument(f"client version {found[1]} is too new. Maximum supported API version is {text(NEWEST)}")
    if version < OLDEST:
        raise InvalidArgument(
            f"client version {found[1]} is too old. Minimum supported API version is {text(OLDEST)}, "
            "please upgrade your client to a newer version"
        )
    return (version[0], version[1]), path[found.end() :]
