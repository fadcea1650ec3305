"""Whether a registry accepts somebody's credentials (distribution-spec, "Determining Support": ``GET /v2/``)."""

from __future__ import annotations

import aiohttp

from capsa.errors import InvalidArgument, Unauthorized, Unavailable
from capsa.image import reference as references
from capsa.image.credentials import Credentials
from capsa.image.transport import Timing, Transport, words


def domain_of(server: str) -> str:
    """The registry's domain, of the address that ``docker login`` sends (``HOST``, or the old ``https://HOST/v1/``)."""
    host = server.partition("://")[2] if "://" in server else server
    host = host.partition("/")[0]
    try:
        return references.parse(f"{host}/any").domain if host else references.DEFAULT_DOMAIN
    except InvalidArgument:
        raise InvalidArgument(f"{server} is not the address of a registry") from None


async def login(server: str, credentials: Credentials, *, insecure: frozenset[str]) -> None:
    """Ask; raises `Unauthorized` for a no, `Unavailable` where nobody answers."""
    domain = domain_of(server)
    timing = Timing()
    try:
        async with (
            Transport(domain, credentials, insecure=domain in insecure, timing=timing) as transport,
            transport.request("GET", "/v2/", ()) as response,
        ):
            await response.read()
    except Unauthorized as error:
        raise Unauthorized(f"login attempt to {domain} failed: {error}") from error
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise Unavailable(f"the registry {domain} cannot be reached: {words(error)}") from error
