"""Failures as the Docker Engine API tells them: a status and ``{"message": …}``."""

from __future__ import annotations

import logging

import msgspec
from aiohttp import web

from capsa.errors import CapsaError, LaunchFailed, NotModified, reason

_log = logging.getLogger("capsa.api")
#: Clients read the exit code 126 or 127 of ``docker run`` out of these words.
_WORDS = {
    127: ("executable file not found", "no such file or directory"),
    126: ("permission denied",),
}


def explain(error: Exception) -> tuple[int, str]:
    """Status and message of any exception; what nobody foresaw is logged."""
    if isinstance(error, LaunchFailed):
        return (400 if error.code in _WORDS else 500), sentence(error)
    if isinstance(error, CapsaError):
        return error.status, str(error)
    if isinstance(error, web.RequestPayloadError):
        return 400, f"malformed request: {error}"
    if isinstance(error, web.HTTPException):
        return error.status, error.reason
    if isinstance(error, OSError) and error.errno:
        where = f"{error.filename}: " if error.filename else ""
        _log.exception("a request failed")
        return 500, f"{where}{reason(error)}"
    _log.exception("a request failed")
    return 500, f"{type(error).__name__}: {error}"


def sentence(error: LaunchFailed) -> str:
    """Its text, with the words that clients look for."""
    text = str(error)
    words = _WORDS.get(error.code)
    if words and not any(word in text.lower() for word in words):
        text = f"{text}: {words[0]}"
    return text


def response(error: Exception) -> web.Response:
    """The answer to a request that failed."""
    if isinstance(error, NotModified):
        return web.Response(status=304)
    status, message = explain(error)
    return web.Response(status=status, body=msgspec.json.encode({"message": message}), content_type="application/json")
