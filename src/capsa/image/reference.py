"""Image references: ``[DOMAIN[:PORT]/]PATH[:TAG][@DIGEST]``, with Docker's grammar and defaults.

People write *familiar* names (``busybox``); inside, a name is always whole (``docker.io/library/busybox:latest``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from capsa.errors import InvalidArgument

DEFAULT_DOMAIN = "docker.io"
LEGACY_DOMAIN = "index.docker.io"
OFFICIAL = "library"
DEFAULT_TAG = "latest"
MAX_NAME = 255

_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_HOST = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])"
_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_DOMAIN = re.compile(rf"{_HOST}(?::[0-9]+)?", re.ASCII)
_PATH = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*", re.ASCII)
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", re.ASCII)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_HEX_64 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Reference:
    """A whole name. ``tag`` and ``digest`` are empty where there is none."""

    domain: str
    path: str
    tag: str = ""
    digest: str = ""

    @property
    def repository(self) -> str:
        """``docker.io/library/busybox``."""
        return f"{self.domain}/{self.path}"

    @property
    def familiar_repository(self) -> str:
        """The repository as people write it: ``busybox``."""
        if self.domain != DEFAULT_DOMAIN:
            return self.repository
        first, _, rest = self.path.partition("/")
        return rest if first == OFFICIAL and rest and "/" not in rest else self.path

    @property
    def familiar(self) -> str:
        """The reference as people write it: ``busybox:latest``."""
        return self._with_suffix(self.familiar_repository)

    @property
    def version(self) -> str:
        """What a registry is asked for: the digest if there is one, else the tag."""
        return self.digest or self.tag

    def __str__(self) -> str:
        return self._with_suffix(self.repository)

    def _with_suffix(self, name: str) -> str:
        return name + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    def with_default_tag(self) -> Reference:
        """``:latest`` where there is neither tag nor digest."""
        return self if self.tag or self.digest else replace(self, tag=DEFAULT_TAG)

    def tagged(self, tag: str) -> Reference:
        """The same repository with another tag and no digest; raises `InvalidArgument`."""
        if not _TAG.fullmatch(tag):
            raise InvalidArgument("invalid tag format")
        return replace(self, tag=tag, digest="")

    def digested(self, digest: str) -> Reference:
        """The same repository with ``digest`` and no tag."""
        return replace(self, tag="", digest=digest)


def parse(text: str) -> Reference:
    """Parse a reference as a person or a client writes it; raises `InvalidArgument` in Docker's words."""
    if _HEX_64.fullmatch(text):
        raise InvalidArgument(f"invalid repository name ({text}), cannot specify 64-byte hexadecimal strings")
    domain, rest = _split_domain(text)
    name, at, digest = rest.partition("@")
    path, colon, tag = name.partition(":")
    if path != path.lower():
        raise InvalidArgument(f"invalid reference format: repository name ({path}) must be lowercase")
    if (
        not _DOMAIN.fullmatch(domain)
        or not _PATH.fullmatch(path)
        or (colon and not _TAG.fullmatch(tag))
        or (at and not _DIGEST.fullmatch(digest))
    ):
        raise InvalidArgument("invalid reference format")
    if len(domain) + 1 + len(path) > MAX_NAME:
        raise InvalidArgument(f"repository name must not be more than {MAX_NAME} characters")
    return Reference(domain, path, tag, digest)


def is_repository(text: str) -> bool:
    """Whether ``text`` is a well-formed reference with neither tag nor digest."""
    try:
        reference = parse(text)
    except InvalidArgument:
        return False
    return not reference.tag and not reference.digest


def parse_whole(text: str) -> Reference:
    """Parse what ``str()`` of a reference gave; no defaults are applied and nothing is checked."""
    name, _, digest = text.partition("@")
    domain, _, rest = name.partition("/")
    path, _, tag = rest.partition(":")
    return Reference(domain, path, tag, digest)


def _split_domain(text: str) -> tuple[str, str]:
    """The first component is a registry if it looks like a host: a dot, a port, ``localhost``, or capital letters."""
    first, slash, rest = text.partition("/")
    looks_like_host = "." in first or ":" in first or first == "localhost" or first != first.lower()
    domain, path = (first, rest) if slash and looks_like_host else (DEFAULT_DOMAIN, text)
    if domain == LEGACY_DOMAIN:
        domain = DEFAULT_DOMAIN
    if domain == DEFAULT_DOMAIN and "/" not in path:
        path = f"{OFFICIAL}/{path}"
    return domain, path
