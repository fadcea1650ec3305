"""``--mount``, ``--volume`` and ``--tmpfs`` as the Engine API wants them."""

from __future__ import annotations

import csv
import os

from capsa.cli.options import UsageError
from capsa.cli.units import parse_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

_NAMES = {"src": "source", "dst": "target", "destination": "target", "ro": "readonly"}
_SWITCHES = ("readonly", "bind-nonrecursive", "volume-nocopy")
_TYPES = ("bind", "volume", "tmpfs", "image")


def mount(text: str) -> dict[str, Any]:
    """One ``--mount`` (fields separated by commas, quoted as in CSV); raises `UsageError`."""
    given: dict[str, list[str]] = {}
    try:
        fields = next(csv.reader([text], strict=True), [])
    except csv.Error as error:
        raise UsageError(f"invalid argument for --mount: {text}: {error}") from None
    for field in fields:
        name, equals, value = field.partition("=")
        name = _NAMES.get(name.strip().lower(), name.strip().lower())
        if not equals and name not in _SWITCHES:
            raise UsageError(f"invalid field '{field}' in --mount: must be a key=value pair")
        given.setdefault(name, []).append(value if equals else "true")

    def take(name: str) -> str:
        return given.pop(name, [""])[-1]

    def switch(name: str) -> bool:
        value = take(name).lower()
        if value not in ("", "0", "1", "false", "true"):
            raise UsageError(f"invalid value for {name} in --mount: {value}")
        return value in ("1", "true")

    kind = take("type").lower() or "volume"
    if kind not in _TYPES:
        raise UsageError(f"invalid mount type: {kind} (use {', '.join(_TYPES)})")
    source, target = take("source"), take("target")
    if not target:
        raise UsageError("target is required in --mount")
    if kind == "bind" and source.startswith("."):
        source = os.path.abspath(source)
    result: dict[str, Any] = {"Type": kind, "Source": source, "Target": target}
    if switch("readonly"):
        result["ReadOnly"] = True
    options: dict[str, Any] = {}
    if kind == "bind":
        if "bind-propagation" in given:
            options["Propagation"] = take("bind-propagation")
        recursive = take("bind-recursive")
        if switch("bind-nonrecursive") or recursive == "disabled":
            options["NonRecursive"] = True
        elif recursive == "writable":
            options["ReadOnlyNonRecursive"] = True
        elif recursive == "readonly":
            options["ReadOnlyForceRecursive"] = True
        elif recursive not in ("", "enabled"):
            raise UsageError(f"invalid value for bind-recursive: {recursive}")
    elif kind == "volume":
        if switch("volume-nocopy"):
            options["NoCopy"] = True
        if "volume-subpath" in given:
            options["Subpath"] = take("volume-subpath")
        if "volume-label" in given:
            options["Labels"] = dict(label.partition("=")[::2] for label in given.pop("volume-label"))
        driver, settings = take("volume-driver"), given.pop("volume-opt", [])
        if driver or settings:
            pairs = dict(setting.partition("=")[::2] for setting in settings)
            options["DriverConfig"] = {"Name": driver, "Options": pairs}
    elif kind == "image":
        if "image-subpath" in given:
            options["Subpath"] = take("image-subpath")
    else:
        if source:
            raise UsageError("a tmpfs in --mount has no source")
        if "tmpfs-size" in given:
            options["SizeBytes"] = parse_size(take("tmpfs-size"))
        if "tmpfs-mode" in given:
            mode = take("tmpfs-mode")
            try:
                options["Mode"] = int(mode, 8)
            except ValueError:
                raise UsageError(f"invalid value for tmpfs-mode: {mode} (an octal number)") from None
    if given:
        raise UsageError(f"unexpected key '{next(iter(given))}' in --mount of type {kind}")
    if options:
        result[f"{kind.title()}Options"] = options
    return result


def volumes(texts: Iterable[str]) -> tuple[list[str], dict[str, dict[str, str]]]:
    """``--volume``: the ``Binds`` of a host configuration, and the ``Volumes`` that have no source."""
    binds, anonymous = [], {}
    for text in texts:
        source, colon, rest = text.partition(":")
        if not colon:
            anonymous[text] = dict[str, str]()
            continue
        if not source or not rest:
            raise UsageError(f"invalid volume: {text} (source:target[:options])")
        binds.append(f"{os.path.abspath(source) if source.startswith('.') else source}:{rest}")
    return binds, anonymous


def tmpfs(texts: Iterable[str]) -> dict[str, str]:
    """``--tmpfs``: options by path."""
    return dict(text.partition(":")[::2] for text in texts)
