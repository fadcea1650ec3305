"""A user's credentials for a registry, as the Engine API takes them along (``X-Registry-Auth``)."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capsa.cli.context import Context


def header(context: Context, domain: str) -> dict[str, str]:
    """The header with what the user's ``config.json`` or a credential helper knows of ``domain``; empty for nothing.

    Raises `CapsaError` if that file or a helper is broken.
    """
    path = os.path.join(context.config, "config.json")
    if not os.path.exists(path):
        return {}
    import asyncio
    from pathlib import Path

    from capsa.image.credentials import stored, to_header

    credentials = asyncio.run(stored(domain, Path(path)))
    return {"X-Registry-Auth": to_header(credentials, domain)} if credentials else {}
