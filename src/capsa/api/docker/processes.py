"""What runs in a container: ``top``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from capsa.api.docker.call import Call, answer
from capsa.engine import top as tops

if TYPE_CHECKING:
    from capsa.api.docker.router import Router


def routes(router: Router) -> None:
    """Serve them."""
    router.add("GET", "/containers/{}/top", top)


async def top(call: Call) -> web.StreamResponse:
    """The processes, as ``ps`` shows them."""
    container = call.engine.containers.find(call.name)
    titles, processes = await tops.top(call.engine, container, call.query.get("ps_args") or "-ef")
    call.engine.events.container("top", container)
    return answer({"Titles": titles, "Processes": processes})
