"""Older versions of the API: their defaults, and what came after them."""

from __future__ import annotations

from typing import Any

import pytest

from capsa.api.docker import compat
from capsa.errors import InvalidArgument

NEWEST = (1, 51)


def host(version: tuple[int, int], unified: bool = False, **fields: Any) -> dict[str, Any]:
    return dict(compat.creation({"HostConfig": fields}, version, unified=unified)["HostConfig"])


def test_defaults_stay_for_a_version_what_they_were() -> None:
    assert host((1, 39)) == {"IpcMode": "shareable", "CgroupnsMode": "host"}
    assert host((1, 39), IpcMode="private", CgroupnsMode="private") == {"IpcMode": "private", "CgroupnsMode": "private"}
    assert host((1, 40)) == {"CgroupnsMode": "host"}
    assert host((1, 40), unified=True) == {}
    assert host(NEWEST) == {}


def test_what_came_later_is_not_theirs_to_set() -> None:
    mounts = [{"Type": "bind", "BindOptions": {"CreateMountpoint": True}, "TmpfsOptions": {"SizeBytes": 1}}]
    assert host((1, 41), True, ConsoleSize=[1, 2], Annotations={"a": "b"}, Mounts=mounts) == {
        "Mounts": [{"Type": "bind", "BindOptions": {}}]
    }
    body = {"Healthcheck": {"Test": ["CMD", "x"], "StartInterval": 5}}
    assert compat.creation(dict(body), (1, 43), unified=True)["Healthcheck"] == {"Test": ["CMD", "x"]}
    assert compat.creation({"Healthcheck": {"StartInterval": 5}}, NEWEST, unified=True)["Healthcheck"]
    assert compat.stop_signal("INT", (1, 41)) == "" and compat.stop_signal("INT", (1, 42)) == "INT"


@pytest.mark.parametrize(
    ("version", "body", "words"),
    [
        ((1, 43), {"NetworkingConfig": {"EndpointsConfig": {"a": {}, "b": {}}}}, "multiple network endpoints: a, b"),
        ((1, 43), {"HostConfig": {"Mounts": [{"BindOptions": {"ReadOnlyForceRecursive": True}}]}}, "v1.44 or newer"),
        ((1, 44), {"HostConfig": {"Mounts": [{"VolumeOptions": {"Subpath": "x"}}]}}, "v1.45 or newer"),
        ((1, 47), {"HostConfig": {"Mounts": [{"Type": "image"}]}}, "v1.48 or newer"),
    ],
)
def test_what_needs_a_newer_version_says_so(version: tuple[int, int], body: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        compat.creation(body, version, unified=True)
    compat.creation(body, NEWEST, unified=True)


@pytest.mark.parametrize(
    "body", [None, [], 5, {"HostConfig": 5}, {"HostConfig": {"Mounts": 5}}, {"HostConfig": {"Mounts": [5]}},
             {"NetworkingConfig": {"EndpointsConfig": {"a": 5}}}, {"Healthcheck": []}]
)  # fmt: skip
def test_wrong_types_are_left_to_who_parses_them(body: Any) -> None:
    compat.creation(body, (1, 24), unified=False)


def test_disk_use_has_the_fields_of_its_time() -> None:
    def found(version: tuple[int, int]) -> dict[str, Any]:
        return compat.disk_use({"Images": [{"Size": 5}]}, version)

    assert found((1, 41)) == {"Images": [{"Size": 5, "VirtualSize": 5}], "BuilderSize": 0}
    assert found((1, 44)) == {"Images": [{"Size": 5}]}
