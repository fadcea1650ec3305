"""Which seccomp policy a container gets: Docker's default, none, or a profile in Docker's or the OCI's JSON form."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import msgspec

from capsa.engine import securityopt
from capsa.engine.config import HostConfig, tidy
from capsa.errors import InvalidArgument
from capsa.oci.runtime import Seccomp
from capsa.platform.linux.seccomp import default_policy

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "ppc64le": "ppc64le", "s390x": "s390x"}


def policy(host: HostConfig, capabilities: Sequence[str]) -> Seccomp | None:
    """The policy of a container with these capabilities; raises `InvalidArgument` for a malformed profile."""
    chosen = securityopt.value(host, "seccomp")
    if host.privileged or chosen == "unconfined":
        return None
    if not chosen or chosen == "builtin":
        return _default(tuple(capabilities))
    return parse(chosen, capabilities)


@lru_cache(maxsize=16)
def _default(capabilities: tuple[str, ...]) -> Seccomp:
    return default_policy(capabilities)


def parse(text: str, capabilities: Sequence[str]) -> Seccomp:
    """A profile with Docker's additions (``archMap``, ``includes``, ``excludes``, ``comment``) as the OCI has it."""
    try:
        document = tidy(msgspec.json.decode(text))
    except msgspec.DecodeError as error:
        raise InvalidArgument(f"Decoding seccomp profile failed: {error}") from error
    if not isinstance(document, dict):
        raise InvalidArgument("Decoding seccomp profile failed: it has to be a JSON object")
    machine = _ARCHITECTURES.get(os.uname().machine, os.uname().machine)
    release = tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2])
    try:
        if "archMap" in document:
            if document.get("architectures"):
                raise InvalidArgument("'architectures' and 'archMap' were specified in the seccomp profile, use either")
            native = _native(machine)
            document["architectures"] = [
                name
                for entry in document.pop("archMap")
                if entry["architecture"] == native
                for name in (entry["architecture"], *entry.get("subArchitectures", ()))
            ]
        rules = []
        for rule in document.get("syscalls", ()):
            if "name" in rule:
                rule["names"] = [*rule.get("names", ()), rule.pop("name")]
            wanted = _holds(rule.pop("includes", {}), machine, capabilities, release)
            if wanted and not _excluded(rule.pop("excludes", {}), machine, capabilities, release):
                rules.append(rule)
        document["syscalls"] = rules
        return msgspec.convert(document, Seccomp)
    except (msgspec.ValidationError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise InvalidArgument(f"Decoding seccomp profile failed: {error}") from error


def _native(machine: str) -> str:
    return {"amd64": "SCMP_ARCH_X86_64", "arm64": "SCMP_ARCH_AARCH64", "arm": "SCMP_ARCH_ARM"}.get(
        machine, f"SCMP_ARCH_{machine.upper()}"
    )


def _kernel(text: Any) -> tuple[int, ...]:
    return tuple(int(part) for part in str(text).split("."))


def _holds(wanted: dict[str, Any], machine: str, capabilities: Sequence[str], release: tuple[int, ...]) -> bool:
    if wanted.get("arches") and machine not in wanted["arches"]:
        return False
    if not all(name in capabilities for name in wanted.get("caps", ())):
        return False
    return not wanted.get("minKernel") or release >= _kernel(wanted["minKernel"])


def _excluded(wanted: dict[str, Any], machine: str, capabilities: Sequence[str], release: tuple[int, ...]) -> bool:
    if machine in wanted.get("arches", ()):
        return True
    if any(name in capabilities for name in wanted.get("caps", ())):
        return True
    return bool(wanted.get("minKernel")) and release >= _kernel(wanted["minKernel"])
