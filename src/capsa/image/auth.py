"""Authentication at registries: challenges, basic credentials, tokens (distribution's "Token Authentication")."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import msgspec

from capsa.errors import CapsaError, Unauthorized
from capsa.image.credentials import Credentials

CLIENT = "capsa"
MINIMUM = 60.0
EARLY = 10.0

_PARAMETER = re.compile(r'([A-Za-z0-9_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')
_SCHEME = re.compile(r"(?:^|,)\s*([A-Za-z][A-Za-z0-9_-]*)(?=\s+[A-Za-z0-9_-]+\s*=|\s*(?:,|$))")


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way that a registry offers (RFC 7235). ``scheme`` is in small letters."""

    scheme: str
    parameters: dict[str, str]


def challenges(headers: list[str]) -> list[Challenge]:
    """Parse ``WWW-Authenticate`` headers; what is malformed is passed over."""
    found = []
    for header in headers:
        marks = [mark for mark in _SCHEME.finditer(header[:8192]) if not _inside_quotes(header, mark.start(1))]
        for number, mark in enumerate(marks):
            end = marks[number + 1].start() if number + 1 < len(marks) else len(header)
            parameters = {
                match[1].lower(): re.sub(r"\\(.)", r"\1", match[2]) if match[2] is not None else match[3]
                for match in _PARAMETER.finditer(header, mark.end(1), end)
            }
            found.append(Challenge(mark[1].lower(), parameters))
    return found


def _inside_quotes(text: str, position: int) -> bool:
    return len(re.findall(r'(?<!\\)"', text[:position])) % 2 == 1


class TokenAnswer(msgspec.Struct):
    """What a token server answers."""

    token: str = ""
    access_token: str = ""
    expires_in: float | None = None
    refresh_token: str = ""


Pairs = list[tuple[str, str]]
Fetch = Callable[[str, Pairs, str, dict[str, str] | None], Awaitable[TokenAnswer]]


class Authorizer:
    """Finds the ``Authorization`` header for one registry; remembers tokens until shortly before they expire.

    ``fetch(realm, query, authorization, form)`` asks a token server; ``form`` is None for a GET request.
    """

    def __init__(self, domain: str, credentials: Credentials, fetch: Fetch) -> None:
        self._domain = domain
        self._credentials = credentials
        self._fetch = fetch
        self._challenge: Challenge | None = None
        self._tokens: dict[tuple[str, ...], tuple[str, float]] = {}

    async def header(self, scopes: tuple[str, ...]) -> str:
        """The header for a request, as far as it is known what the registry wants; else empty."""
        if self._challenge is None:
            return f"Bearer {self._credentials.registry_token}" if self._credentials.registry_token else ""
        if self._challenge.scheme == "basic":
            return self._basic()
        token, until = self._tokens.get(scopes, ("", 0.0))
        if time.monotonic() >= until:
            token = await self._token(self._challenge, scopes)
        return f"Bearer {token}"

    def challenged(self, offered: list[Challenge], scopes: tuple[str, ...], sent: str) -> bool:
        """Take in a refusal (401); returns whether another attempt makes sense. Raises `Unauthorized`."""
        usable = [each for each in offered if each.scheme == "bearer" and each.parameters.get("realm")]
        usable += [each for each in offered if each.scheme == "basic"]
        if not usable:
            return False
        best = usable[0]
        if sent and self._challenge is not None and self._challenge.scheme == best.scheme:
            if best.scheme == "basic" or best.parameters.get("error") != "invalid_token":
                return False
            self._tokens.pop(scopes, None)
        if best.scheme == "basic" and not self._credentials.username:
            raise Unauthorized(f"{self._domain} wants a user name and password; see 'capsa login {self._domain}'")
        self._challenge = best
        return True

    def _basic(self) -> str:
        if not self._credentials.username:
            return ""
        text = f"{self._credentials.username}:{self._credentials.password}"
        return "Basic " + base64.b64encode(text.encode()).decode()

    async def _token(self, challenge: Challenge, scopes: tuple[str, ...]) -> str:
        if self._credentials.registry_token:
            return self._credentials.registry_token
        realm = challenge.parameters["realm"]
        service = challenge.parameters.get("service", "")
        asked = time.monotonic()
        if self._credentials.identity_token:
            form = {
                "grant_type": "refresh_token",
                "service": service,
                "scope": " ".join(scopes),
                "client_id": CLIENT,
                "refresh_token": self._credentials.identity_token,
            }
            answer = await self._fetch(realm, [], "", form)
        else:
            query = [("service", service)] if service else []
            if self._credentials.username:
                query.append(("account", self._credentials.username))
            answer = await self._fetch(realm, [*query, *(("scope", each) for each in scopes)], self._basic(), None)
        token = answer.token or answer.access_token
        if not token or not token.isascii() or not token.isprintable():
            raise CapsaError(f"the token server of {self._domain} gave no usable token")
        lifetime = max(MINIMUM, answer.expires_in or MINIMUM)
        self._tokens[scopes] = (token, asked + lifetime - EARLY)
        return token
