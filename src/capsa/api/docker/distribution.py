"""``/distribution`` (Docker Engine API, "Distribution"): what a registry has, before anything is pulled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from capsa.api.docker.call import Call, answer
from capsa.api.docker.transfers import credentials

if TYPE_CHECKING:
    from capsa.api.docker.router import Router


def routes(router: Router) -> None:
    """Serve them."""
    router.add("GET", "/distribution/{}/json", inspect)


async def inspect(call: Call) -> web.StreamResponse:
    """Digest and platforms of an image in its registry."""
    found = await call.engine.images.offered(call.name, auth=credentials(call))
    return answer({"Descriptor": found.descriptor, "Platforms": found.platforms})
