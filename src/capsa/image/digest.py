"""Digests: the names of content (image-spec, descriptor.md, Digests). Only ``sha256`` is in use and accepted."""

from __future__ import annotations

import hashlib
import re

from capsa.errors import BrokenArchive

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def check(digest: str, what: str) -> str:
    """Return ``digest`` if it is well-formed; raises `BrokenArchive` with a sentence that begins with ``what``.

    A digest becomes part of a path, so nothing that came from outside is used before it went through here.
    """
    if not _DIGEST.fullmatch(digest):
        shown = digest if len(digest) <= 100 else digest[:100] + "…"
        raise BrokenArchive(f"{what} has the digest {shown!r}; only sha256:<64 hex digits> can be used")
    return digest


def is_digest(text: str) -> bool:
    """Whether ``text`` is a well-formed digest."""
    return _DIGEST.fullmatch(text) is not None


def of(data: bytes) -> str:
    """The digest of ``data``."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def chain_ids(diff_ids: list[str]) -> list[str]:
    """The chain id of each layer with all below it (image-spec, config.md, Layer ChainID)."""
    chain: list[str] = []
    for diff_id in diff_ids:
        chain.append(of(f"{chain[-1]} {diff_id}".encode()) if chain else diff_id)
    return chain


def short(digest: str) -> str:
    """The 12 digits that Docker shows."""
    return digest.removeprefix("sha256:")[:12]
