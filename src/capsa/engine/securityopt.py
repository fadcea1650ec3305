"""Security options (``--security-opt``): which there are, and what was said about each."""

from __future__ import annotations

import re

from capsa.engine.config import HostConfig
from capsa.errors import InvalidArgument, Unsupported

_SEPARATOR = re.compile("[=:]")
_FLAGS = frozenset({"no-new-privileges", "writable-cgroups"})
_BOOLEANS = {"1": "true", "t": "true", "true": "true", "0": "false", "f": "false", "false": "false"}


def check(option: str) -> None:
    """Raises `InvalidArgument` for what is no option, `Unsupported` for what this kernel lacks."""
    name, value = split(option)
    if name in _FLAGS and value in ("true", "false"):
        return
    if name == "seccomp" and value:
        return
    if (name, value) in (("label", "disable"), ("apparmor", "unconfined"), ("systempaths", "unconfined")):
        return
    if name in ("label", "apparmor"):
        raise Unsupported(f"this kernel has no {'SELinux' if name == 'label' else 'AppArmor'} for {option!r}")
    raise InvalidArgument(f"invalid --security-opt 2: {option[:200]!r}")


def split(option: str) -> tuple[str, str]:
    """``seccomp=…``, or as old clients write it ``seccomp:…``, or ``no-new-privileges`` as a name and a value."""
    if option == "disable":
        return "label", "disable"
    name, *rest = _SEPARATOR.split(option, maxsplit=1)
    value = rest[0] if rest else "true" if name in _FLAGS else ""
    return name, _BOOLEANS.get(value.lower(), value) if name in _FLAGS else value


def value(host: HostConfig, name: str) -> str:
    """What was said about an option, the last word if there are several; empty: nothing."""
    given = [what for each, what in map(split, host.security_opt) if each == name]
    return given[-1] if given else ""


def no_new_privileges(host: HostConfig) -> bool:
    """Whether processes may gain no privileges, such as by a setuid program."""
    return value(host, "no-new-privileges") == "true"


def writable_cgroups(host: HostConfig) -> bool:
    """Whether the container may write into its cgroup's file system, to make cgroups of its own."""
    return host.privileged or value(host, "writable-cgroups") == "true"


def open_system_paths(host: HostConfig) -> bool:
    """Whether nothing below /proc and /sys is masked or read-only."""
    return host.privileged or value(host, "systempaths") == "unconfined"
