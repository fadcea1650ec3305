"""Docker's SDK for Python: volumes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from docker.errors import APIError, NotFound

pytestmark = pytest.mark.usefixtures("tidy")


@pytest.fixture(autouse=True)
def no_volumes(sdk: docker.DockerClient, tidy: None) -> Iterator[None]:
    yield
    for container in sdk.containers.list(all=True):
        container.remove(force=True)
    for volume in sdk.volumes.list():
        volume.remove(force=True)


def test_create_and_inspect(sdk):
    volume = sdk.volumes.create("dpy-one", driver="local", labels={"a": "1"})
    assert volume.name == volume.id == "dpy-one"
    shown = sdk.volumes.get("dpy-one").attrs
    assert shown["Driver"] == "local" and shown["Labels"] == {"a": "1"} and shown["Scope"] == "local"
    assert Path(shown["Mountpoint"]).is_dir() and shown["CreatedAt"]
    assert sdk.volumes.create("dpy-one").attrs["CreatedAt"] == shown["CreatedAt"]  # it was there
    nameless = sdk.volumes.create()
    assert len(nameless.name) == 64


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        ({"name": "a b"}, 400, "includes invalid characters"),
        ({"name": "../x"}, 400, "includes invalid characters"),
        ({"name": "x", "driver": "nosuch"}, 404, 'plugin "nosuch" not found'),
    ],
)
def test_what_cannot_be_is_refused(sdk, options, status, words):
    with pytest.raises(APIError) as failure:
        sdk.volumes.create(**options)
    assert failure.value.status_code == status and words in failure.value.explanation
    assert sdk.volumes.list() == []


def test_what_is_not_there(sdk):
    with pytest.raises(NotFound, match="nosuch: no such volume"):
        sdk.volumes.get("nosuch")
    with pytest.raises(NotFound):
        sdk.api.remove_volume("nosuch")
    address = f"{sdk.api.base_url}/v{sdk.api._version}/volumes/nosuch"
    assert sdk.api.delete(address, params={"force": "1"}).status_code == 204


def test_lists_and_filters(sdk):
    for name, labels in (("dpy-one", {"a": "1"}), ("dpy-two", {"a": "2", "b": ""}), ("other", {})):
        sdk.volumes.create(name, labels=labels)
    sdk.containers.create("busybox", volumes={"dpy-one": {"bind": "/x", "mode": "rw"}})

    def names(**filters: object) -> set[str]:
        return {volume.name for volume in sdk.volumes.list(filters=filters)}

    assert names() == {"dpy-one", "dpy-two", "other"}
    assert (
        names(name="dpy") == {"dpy-one", "dpy-two"} and names(driver="local") == names() and names(driver="x") == set()
    )
    assert names(label="a") == {"dpy-one", "dpy-two"} and names(label=["a=2", "b"]) == {"dpy-two"}
    assert names(dangling=True) == {"dpy-two", "other"} and names(dangling=False) == {"dpy-one"}
    with pytest.raises(APIError, match="invalid filter"):
        names(nosuch="x")


def test_a_volume_keeps_what_containers_write(sdk):
    mounts = {"dpy-kept": {"bind": "/data", "mode": "rw"}}
    sdk.containers.run("busybox", "sh -c 'echo kept > /data/file'", volumes=mounts, remove=True)
    assert sdk.containers.run("busybox", "cat /data/file", volumes=mounts, remove=True) == b"kept\n"
    volume = sdk.volumes.get("dpy-kept")
    assert (Path(volume.attrs["Mountpoint"]) / "file").read_text() == "kept\n"
    container = sdk.containers.create("busybox", volumes=mounts)
    with pytest.raises(APIError, match="volume is in use") as failure:
        volume.remove()
    assert failure.value.status_code == 409
    with pytest.raises(APIError, match="volume is in use"):
        volume.remove(force=True)
    container.remove(v=True)
    volume.remove()
    with pytest.raises(NotFound):
        volume.reload()


def test_prune(sdk):
    sdk.volumes.create("dpy-named", labels={"keep": "1"})
    nameless = sdk.volumes.create()
    pruned = sdk.volumes.prune()
    assert pruned["VolumesDeleted"] == [nameless.name]  # since API 1.42 only those without a name
    assert sdk.volumes.prune(filters={"all": True, "label!": ["keep"]})["VolumesDeleted"] is None
    assert sdk.volumes.prune(filters={"all": True})["VolumesDeleted"] == ["dpy-named"]
