"""From a request to its handler: method and path (``/containers/ID/start``) through two dictionaries."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

from capsa.api.docker.call import Call

Handler = Callable[[Call], Awaitable[web.StreamResponse]]

#: Names of these may contain slashes.
_SLASHED = frozenset({"images", "distribution", "plugins"})


class Router:
    """Handlers by method and path. ``{}`` in a pattern stands for a name and may only be the second part."""

    def __init__(self) -> None:
        #: All methods and patterns, in the order of their addition.
        self.served: list[tuple[str, str]] = []
        self._plain: dict[tuple[str, str], Handler] = {}
        self._named: dict[tuple[str, str, str], Handler] = {}

    def add(self, method: str, pattern: str, handler: Handler) -> None:
        """Serve ``pattern`` (``/containers/json``, ``/containers/{}/start``)."""
        self.served.append((method, pattern))
        before, found, after = pattern.partition("/{}")
        if found:
            self._named[method, before.strip("/"), after.strip("/")] = handler
        else:
            self._plain[method, pattern] = handler

    def find(self, method: str, path: str) -> tuple[Handler | None, str]:
        """The handler and the name in the path; None if there is none."""
        if len(path) > 1:
            path = path.rstrip("/")
        handler = self._plain.get((method, path))
        if handler is not None:
            return handler, ""
        noun, _slash, rest = path[1:].partition("/")
        if not rest:
            return None, ""
        if noun in _SLASHED:
            name, _slash, verb = rest.rpartition("/")
            if name:
                handler = self._named.get((method, noun, verb))
                if handler is not None:
                    return handler, name
            return self._named.get((method, noun, "")), rest
        name, _slash, verb = rest.partition("/")
        handler = self._named.get((method, noun, verb))
        if handler is None and method == "DELETE":  # a link's name has a slash
            return self._named.get((method, noun, "")), rest
        return handler, name
