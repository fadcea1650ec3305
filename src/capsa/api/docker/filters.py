"""The ``filters`` of Docker's lists: ``{"label": ["a", "b=c"]}``, or in old clients ``{"label": {"a": true}}``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import msgspec

from capsa.engine.patterns import compiled
from capsa.errors import InvalidArgument

_PLAIN = re.compile(r"[a-zA-Z0-9/_-]*")
# Every container is held against every value while all other clients wait.
_MOST_VALUES = 10_000
_MOST_PATTERNS = 64


class Filters:
    """Values by key; several values of one key are alternatives (of labels: all have to match), keys add up."""

    def __init__(self, values: Mapping[str, Sequence[str]]) -> None:
        self._values = {key: list(entries) for key, entries in values.items() if entries}

    @classmethod
    def parse(cls, text: str, known: Sequence[str]) -> Filters:
        """From the query; raises `InvalidArgument` for malformed ones and keys that are not ``known``."""
        if not text:
            return cls({})
        try:
            found = msgspec.json.decode(text)
        except msgspec.DecodeError as error:
            raise InvalidArgument(f"invalid filter: {error}") from error
        if not isinstance(found, dict):
            raise InvalidArgument("invalid filter: a JSON object is needed")
        values: dict[str, list[str]] = {}
        for key, entries in found.items():
            if isinstance(entries, dict):
                entries = [name for name, wanted in entries.items() if wanted]
            if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
                raise InvalidArgument(f"invalid filter '{key}': a list of strings is needed")
            if key not in known:
                raise InvalidArgument(f"invalid filter '{key}'")
            values[key] = list(dict.fromkeys(entries))
            if len(values[key]) > _MOST_VALUES:
                raise InvalidArgument(f"invalid filter '{key}': more than {_MOST_VALUES} values")
            if key == "name" and sum(not _PLAIN.fullmatch(entry) for entry in values[key]) > _MOST_PATTERNS:
                raise InvalidArgument(f"invalid filter '{key}': more than {_MOST_PATTERNS} regular expressions")
        return cls(values)

    def __bool__(self) -> bool:
        return bool(self._values)

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def get(self, key: str) -> list[str]:
        """All values of a key."""
        return self._values.get(key, [])

    def add(self, key: str, value: str) -> None:
        """One more value."""
        self._values.setdefault(key, []).append(value)

    def exact(self, key: str, *values: str) -> bool:
        """One of the key's values is one of ``values``, or the key is not used."""
        wanted = self._values.get(key)
        return not wanted or any(value in wanted for value in values)

    def match(self, key: str, *values: str) -> bool:
        """One of the key's values is a pattern (or part) of one of ``values``, or the key is not used."""
        wanted = self._values.get(key)
        if not wanted:
            return True
        return any(_search(pattern, value) for pattern in wanted for value in values)

    def prefix(self, key: str, *values: str) -> bool:
        """One of the key's values is a beginning of one of ``values``, or the key is not used."""
        wanted = self._values.get(key)
        return not wanted or any(value.startswith(entry) for entry in wanted for value in values)

    def labels(self, labels: Mapping[str, str], key: str = "label") -> bool:
        """Every wanted label is there (``name`` or ``name=value``)."""
        for entry in self._values.get(key, ()):
            name, equals, value = entry.partition("=")
            if name not in labels or (equals and labels[name] != value):
                return False
        return True

    def without(self, labels: Mapping[str, str]) -> bool:
        """No unwanted label (``label!``) is there."""
        for entry in self._values.get("label!", ()):
            name, equals, value = entry.partition("=")
            if name in labels and (not equals or labels[name] == value):
                return False
        return True

    def flag(self, key: str) -> bool | None:
        """A boolean, None if the key is not used; raises `InvalidArgument`."""
        values = self._values.get(key)
        if not values:
            return None
        if len(values) > 1 or values[0].lower() not in ("1", "0", "true", "false"):
            raise InvalidArgument(f"invalid filter '{key}=[{' '.join(values)}]'")
        return values[0].lower() in ("1", "true")

    def check(self, key: str, valid: Callable[[str], bool]) -> None:
        """Raises `InvalidArgument` for a value that is not valid."""
        for value in self._values.get(key, ()):
            if not valid(value):
                raise InvalidArgument(f"invalid filter '{key}={value}'")


def _search(pattern: str, value: str) -> bool:
    if pattern == value:
        return True
    if _PLAIN.fullmatch(pattern):
        return pattern in value
    try:
        return compiled(pattern)(value)
    except InvalidArgument:
        return pattern in value
