"""Log drivers and their options (``LogConfig`` of the Docker Engine API).

``json-file`` is Docker's file, documented and read by others. ``local`` is the same file with other defaults: how
Docker's own looks is nobody's business but its engine's. ``none`` keeps nothing. The file is written directly, without
a buffer between: so there is nothing to wait for, and in the mode ``non-blocking`` nothing that had to be dropped.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from capsa.engine import patterns
from capsa.errors import InvalidArgument
from capsa.platform.protocol import Log

if TYPE_CHECKING:
    from capsa.engine.config import LogConfig
    from capsa.engine.container import Container

DRIVERS = ("json-file", "local", "none")
_OPTIONS = frozenset(
    {
        "compress",
        "env",
        "env-regex",
        "labels",
        "labels-regex",
        "max-buffer-size",
        "max-file",
        "max-size",
        "mode",
        "tag",
    }
)
_LOCAL = {"max-size": "20m", "max-file": "5", "compress": "true"}
_FIELD = re.compile(r"\{\{ *\.(\w+) *\}\}")
_FIELDS = ("ID", "FullID", "Name", "ImageID", "ImageFullID", "ImageName", "DaemonName")
_TRUTHS = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}


def check(config: LogConfig) -> None:
    """Raises `InvalidArgument` in Docker's words for what no log driver here can do."""
    driver = config.type or DRIVERS[0]
    if driver not in DRIVERS:
        raise InvalidArgument(f"logger: no log driver named '{driver}' is registered")
    if driver == "none":
        if config.config:
            raise InvalidArgument("the log driver 'none' has no options")
        return
    for name in config.config:
        if name not in _OPTIONS:
            raise InvalidArgument(f"unknown log opt '{name}' for {driver} log driver")
    _limits(config)
    mode = config.config.get("mode", "")
    if mode not in ("", "blocking", "non-blocking"):
        raise InvalidArgument(f"logger: logging mode not supported: {mode}")
    if "max-buffer-size" in config.config:
        if mode != "non-blocking":
            raise InvalidArgument("logger: max-buffer-size option is only supported with 'mode=non-blocking'")
        _size("max-buffer-size", config.config["max-buffer-size"])
    for name in ("labels-regex", "env-regex"):
        if config.config.get(name):
            patterns.compiled(config.config[name])
    fields = _FIELD.findall(config.config.get("tag", ""))
    if "{{" in _FIELD.sub("", config.config.get("tag", "")) or not set(fields) <= set(_FIELDS):
        raise InvalidArgument(f"invalid log tag: known are {', '.join('{{.' + field + '}}' for field in _FIELDS)}")


def log(container: Container) -> Log | None:
    """What the sub-init needs to write the container's log; None if there is none."""
    if not container.logs:
        return None
    size, files, compress = _limits(container.host.log_config)
    return Log(
        path=str(container.log_path),
        max_size=size,
        max_files=files,
        compress=compress,
        attributes=attributes(container),
    )


def attributes(container: Container) -> dict[str, str]:
    """What each line carries besides its text: labels, variables and the tag that the options ask for."""
    options = container.host.log_config.config
    found: dict[str, str] = {}
    variables = dict(entry.split("=", 1) for entry in container.config.env if "=" in entry)
    for option, known in (("labels", container.config.labels), ("env", variables)):
        names = [name for name in options.get(option, "").split(",") if name in known]
        if options.get(f"{option}-regex"):
            names += filter(patterns.compiled(options[f"{option}-regex"]), known)
        found |= {name: known[name] for name in names}
    if options.get("tag"):
        found["tag"] = _tag(options["tag"], container)
    return found


def _tag(text: str, container: Container) -> str:
    image = container.document.image
    values: Mapping[str, str] = {
        "ID": container.id[:12],
        "FullID": container.id,
        "Name": container.name,
        "ImageID": image.removeprefix("sha256:")[:12],
        "ImageFullID": image,
        "ImageName": container.document.image_name,
        "DaemonName": "docker",
    }
    return _FIELD.sub(lambda match: values[match[1]], text)


def _limits(config: LogConfig) -> tuple[int, int, bool]:
    """``max-size`` in bytes (0: no limit), ``max-file``, ``compress``; raises `InvalidArgument`."""
    options = {**(_LOCAL if config.type == "local" else {}), **config.config}
    size = _size("max-size", options.get("max-size", "-1"))
    try:
        files = int(options.get("max-file", "1"))
    except ValueError:
        files = 0
    if files < 1:
        raise InvalidArgument(f"max-file has to be a positive number, not {options['max-file'][:80]!r}")
    compress = _TRUTHS.get(options.get("compress", "false").lower())
    if compress is None:
        raise InvalidArgument(f"invalid value for compress: {options['compress'][:80]!r} is neither true nor false")
    if compress and (files < 2 or not size):
        if "compress" in config.config:
            raise InvalidArgument("compress cannot be true when max-file is less than 2 or max-size is not set")
        compress = False
    return size, files, compress


def _size(name: str, text: str) -> int:
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,6})?) ?([kmgtKMGT]?)[iI]?[bB]?", text)
    if text == "-1":
        return 0
    if not found:
        raise InvalidArgument(f"invalid value for {name}: {text[:80]!r} (such as 10m)")
    return int(float(found[1]) * 1024 ** " kmgt".index(found[2].lower() or " "))
