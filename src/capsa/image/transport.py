"""HTTP to one registry: TLS or not, authentication, redirects, time-outs, errors in words.

Redirects are followed here rather than by aiohttp, since credentials must not go along to another host.
"""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
import urllib.request
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from types import TracebackType
from typing import Any, Self

import aiohttp
import msgspec
from yarl import URL

from capsa import __version__
from capsa.errors import CapsaError, Forbidden, NotFound, Unauthorized, Unavailable
from capsa.image.auth import Authorizer, Pairs, TokenAnswer, challenges
from capsa.image.credentials import Credentials
from capsa.image.reference import DEFAULT_DOMAIN

HUB = "registry-1.docker.io"
REDIRECTS = 5
ERROR_LIMIT = 64 << 10
TOKEN_LIMIT = 1 << 20


@dataclass(frozen=True, slots=True)
class Timing:
    """How patient to be, in seconds.

    ``rate``: bytes a second that a transfer needs at least, looked at every ``idle`` seconds. ``attempts``: how many
    in a row may fail; ``pause``: before the second one, then twice as long each time.
    """

    connect: float = 15.0
    idle: float = 60.0
    answer: float = 120.0
    rate: int = 256
    attempts: int = 6
    pause: float = 0.5


class _Problem(msgspec.Struct):
    code: str = ""
    message: str = ""


class _Problems(msgspec.Struct):
    """The body of an error (distribution-spec, Error Codes)."""

    errors: list[_Problem] = []


class Failed(CapsaError):
    """A registry answered with an error; ``code`` is the HTTP status, ``said`` the registry's words."""

    def __init__(self, message: str, code: int, said: str) -> None:
        super().__init__(message)
        self.code = code
        self.said = said


def is_local(domain: str) -> bool:
    """Whether a registry is on this machine, so that TLS can be done without."""
    host = URL(f"http://{domain}").host or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Transport:
    """Requests to the registry ``domain``; an async context manager."""

    def __init__(self, domain: str, credentials: Credentials, *, insecure: bool, timing: Timing) -> None:
        self.domain = domain
        self.timing = timing
        self.insecure = insecure or is_local(domain)
        self._host = HUB if domain == DEFAULT_DOMAIN else domain
        self._authorizer = Authorizer(domain, credentials, self._fetch_token)
        self._base: URL | None = None
        self.reached = False
        self._finding = asyncio.Lock()
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self.timing.connect, sock_read=self.timing.idle)
        self._session = aiohttp.ClientSession(
            timeout=timeout,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": f"capsa/{__version__}", "Accept-Encoding": "identity"},
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def base(self) -> URL:
        """``https://HOST``, or ``http://HOST`` where that is allowed and nothing else is spoken."""
        async with self._finding:
            if self._base is None:
                self._base = await self._find()
            return self._base

    async def _find(self) -> URL:
        secure = URL(f"https://{self._host}")
        if not self.insecure:
            return secure
        try:
            async with asyncio.timeout(self.timing.connect), self._open("GET", secure / "v2" / "", {}):
                return secure
        except (aiohttp.ClientError, TimeoutError, OSError):
            return URL(f"http://{self._host}")

    @asynccontextmanager
    async def request(
        self,
        method: str,
        path: str | URL,
        scopes: tuple[str, ...],
        *,
        headers: Mapping[str, str] | None = None,
        body: Callable[[], Any] | None = None,
        allow: frozenset[int] = frozenset(),
        follow: bool = True,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One request, answered. ``path`` begins with ``/v2/``, or is a whole address that the registry gave.

        ``body`` is called for each attempt. Statuses from 400 on are raised as `Failed`, `Unauthorized`, except
        those in ``allow``; a failing connection is raised as aiohttp does.
        """
        base = await self.base()
        url = path if isinstance(path, URL) else base.join(URL(path, encoded=True))
        for _ in range(2 + REDIRECTS):
            own = url.origin() == base.origin()
            authorization = await self._authorizer.header(scopes) if own else ""
            sent = {**(headers or {}), **({"Authorization": authorization} if authorization else {})}
            async with self._open(method, url, sent, body() if body else None) as response:
                if response.status == 401 and own and 401 not in allow:
                    offered = challenges(response.headers.getall("WWW-Authenticate", []))
                    if self._authorizer.challenged(offered, scopes, authorization):
                        continue
                if follow and response.status in (301, 302, 303, 307, 308) and "Location" in response.headers:
                    url = self._redirected(url, response.headers["Location"])
                    continue
                if response.status >= 400 and response.status not in allow:
                    raise await self._failure(method, url, response)
                yield response
                return
        raise Unavailable(f"{self.domain} leads from one address to the next without end")

    def location(self, url: URL, response: aiohttp.ClientResponse) -> URL:
        """Where an upload goes on; raises `Unavailable`."""
        if "Location" not in response.headers:
            raise Unavailable(f"{self.domain} does not say where to upload to")
        return self._redirected(url, response.headers["Location"])

    def _redirected(self, url: URL, location: str) -> URL:
        try:
            target = url.join(URL(location, encoded=True))
        except ValueError:
            raise Unavailable(f"{self.domain} leads to the malformed address {location[:200]!r}") from None
        if target.scheme != "https" and not (self.insecure and target.scheme == "http"):
            raise Unavailable(f"{self.domain} leads to {location[:200]!r}, which is not encrypted")
        if target.user or target.password or not target.host:
            raise Unavailable(f"{self.domain} leads to the impossible address {location[:200]!r}")
        return target

    @asynccontextmanager
    async def _open(
        self, method: str, url: URL, headers: Mapping[str, str], body: Any = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        verify = False if self.insecure else _verified()
        async with self._session.request(
            method, url, headers=headers, data=body, allow_redirects=False, ssl=verify, proxy=_proxy(url)
        ) as response:
            self.reached = True
            yield response

    async def _fetch_token(
        self, realm: str, query: Pairs, authorization: str, form: dict[str, str] | None
    ) -> TokenAnswer:
        url = self._redirected(await self.base(), realm)
        url = url.with_query([*url.query.items(), *query])
        headers = {"Authorization": authorization} if authorization else {}
        try:
            async with (
                asyncio.timeout(self.timing.answer),
                self._open("POST" if form else "GET", url, headers, form) as response,
            ):
                data = await bounded(response, TOKEN_LIMIT)
                if response.status in (400, 401, 403):
                    raise Unauthorized(
                        f"unauthorized: {self.domain} did not accept the credentials: {_words(data) or response.reason}"
                    )
                if response.status != 200:
                    raise Unavailable(f"the token server {url.host} of {self.domain} answered {response.status}")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unavailable(
                f"the token server {url.host} of {self.domain} does not answer: {words(error)}"
            ) from error
        try:
            return msgspec.json.decode(data, type=TokenAnswer)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            raise Unavailable(
                f"the token server {url.host} of {self.domain} gave a malformed answer: {error}"
            ) from error

    async def _failure(self, method: str, url: URL, response: aiohttp.ClientResponse) -> CapsaError:
        data = await bounded(response, ERROR_LIMIT) if method != "HEAD" else b""
        said = _words(data) or f"{response.status} {response.reason or ''}".strip()
        if response.status == 401:
            return Unauthorized(f"unauthorized: {self.domain} refuses access: {said}")
        if response.status == 403:
            return Forbidden(f"denied: {self.domain} refuses access: {said}")
        if response.status == 404:
            return NotFound(said)
        return Failed(f"{self.domain} answered {method} {url.path} with: {said}", response.status, said)


async def bounded(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """A body of at most ``limit`` bytes, the rest is not read."""
    parts = []
    total = 0
    async for part in response.content.iter_any():
        parts.append(part)
        total += len(part)
        if total > limit:
            break
    return b"".join(parts)[: limit + 1]


def words(error: BaseException) -> str:
    """What a connection's failure is called."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, aiohttp.ClientConnectorError):
        why = error.os_error.strerror or str(error.os_error)
        return f"cannot connect to {error.host}:{error.port}: {why[:1].lower()}{why[1:300]}"
    text = str(error) or type(error).__name__
    return text[:1].lower() + text[1:300]


def _words(data: bytes) -> str:
    """The registry's own words for an error, bounded and printable."""
    try:
        problems = msgspec.json.decode(data, type=_Problems).errors
    except (msgspec.DecodeError, msgspec.ValidationError):
        return ""
    text = "; ".join(f"{each.code.lower().replace('_', ' ')}: {each.message}" for each in problems[:3])
    return "".join(letter if letter.isprintable() else " " for letter in text[:500])


def _proxy(url: URL) -> str | None:
    """The proxy that the environment names for an address."""
    host = url.host or ""
    if is_local(host) or urllib.request.proxy_bypass_environment(host):  # type: ignore[attr-defined]
        return None
    return urllib.request.getproxies_environment().get(url.scheme)


@cache
def _verified() -> ssl.SSLContext:
    """Trusts whom the machine trusts: from Python 3.13 on, also private authorities without key usage."""
    context = ssl.create_default_context()
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context
