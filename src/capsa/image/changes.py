"""Dockerfile instructions that change an image's configuration (``docker import --change``, ``commit --change``)."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

import msgspec

from capsa.errors import InvalidArgument
from capsa.oci.image import ContainerConfig, Healthcheck

_PORT = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?(?:/(tcp|udp|sctp))?")
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ns|us|µs|ms|s|m|h)")
_UNITS = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}


def apply(config: ContainerConfig, changes: Sequence[str]) -> None:
    """Change ``config`` in place; raises `InvalidArgument` that quotes the instruction."""
    for change in changes:
        if not change.strip():
            continue
        word, _, rest = change.strip().partition(" ")
        try:
            _apply(config, word.upper(), rest.strip())
        except ValueError as error:
            raise InvalidArgument(f"the change {change!r} cannot be applied: {error}") from error


def _apply(config: ContainerConfig, word: str, rest: str) -> None:
    if not rest and word not in ("CMD", "ENTRYPOINT"):
        raise ValueError(f"{word} requires an argument")
    match word:
        case "CMD":
            config.cmd = _command(rest, config.shell)
        case "ENTRYPOINT":
            config.entrypoint = _command(rest, config.shell)
        case "ENV":
            for key, value in _pairs(rest):
                config.env = [each for each in config.env if each.partition("=")[0] != key] + [f"{key}={value}"]
        case "LABEL":
            config.labels = {**config.labels, **dict(_pairs(rest))}
        case "EXPOSE":
            config.exposed_ports = {**config.exposed_ports, **{port: {} for port in _ports(rest)}}
        case "VOLUME":
            config.volumes = {**config.volumes, **{path: {} for path in _list(rest) or rest.split()}}
        case "USER":
            config.user = rest
        case "WORKDIR":
            config.working_dir = rest if rest.startswith("/") else f"{config.working_dir.rstrip('/')}/{rest}"
        case "STOPSIGNAL":
            config.stop_signal = rest
        case "SHELL":
            shell = _list(rest)
            if not shell:
                raise ValueError("SHELL requires a JSON list")
            config.shell = shell
        case "ONBUILD":
            config.on_build = [*config.on_build, rest]
        case "HEALTHCHECK":
            config.healthcheck = _healthcheck(rest)
        case _:
            raise ValueError(f"{word} is not a valid change command")


def _list(text: str) -> list[str] | None:
    """A JSON list of strings, or None if it is none."""
    if not text.startswith("["):
        return None
    try:
        return msgspec.json.decode(text, type=list[str])
    except (msgspec.DecodeError, msgspec.ValidationError):
        return None


def _command(text: str, shell: list[str]) -> list[str]:
    found = _list(text)
    if found is not None:
        return found
    return [*(shell or ["/bin/sh", "-c"]), text] if text else []


def _pairs(text: str) -> list[tuple[str, str]]:
    """``KEY=VALUE …`` with quotes, or the old form ``KEY VALUE``."""
    words = shlex.split(text)
    if words and "=" not in words[0]:
        key, space, value = text.partition(" ")
        if not space:
            raise ValueError(f"{key} has no value")
        return [(key, value.strip())]
    pairs = []
    for each in words:
        key, equals, value = each.partition("=")
        if not equals or not key:
            raise ValueError(f"{each!r} is not of the form KEY=VALUE")
        pairs.append((key, value))
    return pairs


def _ports(text: str) -> list[str]:
    ports = []
    for word in text.split():
        match = _PORT.fullmatch(word)
        first = int(match[1]) if match else 0
        last = int(match[2] or first) if match else 0
        if not match or not 0 < first <= last < 65536:
            raise ValueError(f"{word!r} is not a port")
        ports += [f"{port}/{match[3] or 'tcp'}" for port in range(first, last + 1)]
    return ports


def _healthcheck(text: str) -> Healthcheck:
    check = Healthcheck()
    while text.startswith("--"):
        option, _, text = text.partition(" ")
        name, _, value = option[2:].partition("=")
        if name == "retries" and value.isdecimal():
            check.retries = int(value)
        elif name in ("interval", "timeout", "start-period", "start-interval"):
            setattr(check, name.replace("-", "_"), _nanoseconds(value))
        else:
            raise ValueError(f"HEALTHCHECK has no option {option}")
        text = text.strip()
    kind, _, rest = text.partition(" ")
    if kind.upper() == "NONE" and not rest:
        check.test = ["NONE"]
    elif kind.upper() == "CMD" and rest.strip():
        command = _list(rest.strip())
        check.test = ["CMD", *command] if command is not None else ["CMD-SHELL", rest.strip()]
    else:
        raise ValueError("HEALTHCHECK requires CMD or NONE")
    return check


def _nanoseconds(text: str) -> int:
    matches = _DURATION.findall(text)
    if not matches or "".join(number + unit for number, unit in matches) != text:
        raise ValueError(f"{text!r} is not a duration")
    return int(sum(float(number) * _UNITS[unit] for number, unit in matches))
