"""Fields as templates name them: Go's structures have other names than JSON, and hold something where JSON has nothing.

docker's client runs a template over its own structures: an absent health check is nil and no mistake, an empty list
prints as ``[]`` though the API says null, and the field that JSON calls ``Id`` is ``ID``.
"""

from __future__ import annotations

from capsa.cli.template_functions import NIL_LIST, NIL_MAP

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_GO_NAMES = {"APIVersion": "ApiVersion", "ID": "Id"}
_EVENT = {"From": "from", "ID": "id", "Scope": "scope", "Status": "status", "Time": "time", "TimeNano": "timeNano"}
# What is null in the API and no list.
_MAPS = frozenset(
    (
        "Annotations",
        "Containers",
        "DriverOpts",
        "ExposedPorts",
        "Labels",
        "Options",
        "PortBindings",
        "Ports",
        "StorageOpt",
        "Sysctls",
        "Tmpfs",
        "Volumes",
    )
)
_POINTERS = frozenset(
    (
        "ConfigFrom",
        "ContainerdCommit",
        "Health",
        "Healthcheck",
        "IPAMConfig",
        "Init",
        "MemorySwappiness",
        "OomKillDisable",
        "PidsLimit",
        "Platform",
        "Server",
        "StopTimeout",
        "UsageData",
    )
)
# What the API leaves out where it is empty.
_ABSENT: dict[str, Any] = {
    "Annotations": NIL_MAP,
    "Health": None,
    "Healthcheck": None,
    "Init": None,
    "MacAddress": "",
    "Mounts": NIL_LIST,
    "NetworkDisabled": False,
    "Shell": NIL_LIST,
    "SizeRootFs": None,
    "SizeRw": None,
    "StopSignal": "",
    "StopTimeout": None,
    "StorageOpt": NIL_MAP,
    "Sysctls": NIL_MAP,
    "Tmpfs": NIL_MAP,
    "Warnings": NIL_LIST,
}


def is_structure(value: dict[str, Any]) -> bool:
    """Whether an object is one that the API describes, in which a missing name is a mistake, and no map of a user's.

    Their names are capitalised, but for those of events.
    """
    return bool(value) and ("timeNano" in value or all(key[:1].isupper() for key in value))


def field(structure: dict[str, Any], name: str) -> Any:
    """The field of an API structure that a template calls ``name``; raises `KeyError` where there is none."""
    if name not in structure:
        other = (_EVENT if "timeNano" in structure else _GO_NAMES).get(name)
        if other in structure:
            return structure[other]
        return _ABSENT[name]
    value = structure[name]
    if value is None and name not in _POINTERS:
        return NIL_MAP if name in _MAPS else NIL_LIST
    return value
