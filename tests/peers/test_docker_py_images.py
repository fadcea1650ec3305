"""Docker's SDK for Python: images, and registries."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from docker.errors import APIError, ImageLoadError, ImageNotFound, InvalidArgument, NotFound
from docker.models.images import Image
from fixtures import images as made
from fixtures.engine import EngineUnderTest
from fixtures.registry import PASSWORD, USER, registry


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An open registry."""
    with registry(tmp_path_factory.mktemp("registry")) as address:
        yield address


@pytest.fixture(scope="module")
def club(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry that wants a password."""
    with registry(tmp_path_factory.mktemp("registry"), users=True) as address:
        yield address


@pytest.fixture
def busybox_image(sdk: docker.DockerClient) -> Iterator[Image]:
    """busybox; whatever other names a test gives it, and other images, are gone afterwards."""
    image = sdk.images.get("busybox")
    yield image
    for each in sdk.images.list():
        for name in [*each.tags, *each.attrs["RepoDigests"]] or [each.id]:
            if name != "busybox:latest":
                with contextlib.suppress(ImageNotFound):  # the digest goes with the last tag
                    sdk.images.remove(name, force=True)


def small(sdk: docker.DockerClient, *tags: str, text: bytes = b"x", **config: object) -> Image:
    """An image of one small file."""
    (image,) = {
        each.id: each for each in sdk.images.load(made.docker_archive([made.layer({"file": text})], list(tags), config))
    }.values()
    return image


# ---- here ----


def test_inspect_and_history(sdk, busybox_image):
    attributes = busybox_image.attrs
    assert busybox_image.tags == ["busybox:latest"] and busybox_image.id.startswith("sha256:")
    assert busybox_image.short_id == busybox_image.id[:19] and busybox_image.labels == {}
    assert attributes["Os"] == "linux" and attributes["RootFS"]["Type"] == "layers" and attributes["Size"] > 0
    (step,) = busybox_image.history()
    assert step["Id"] == busybox_image.id and step["CreatedBy"] == "test" and step["Tags"] == ["busybox:latest"]
    for name in ("busybox", "busybox:latest", "docker.io/library/busybox", busybox_image.id, busybox_image.id[7:20]):
        assert sdk.images.get(name).id == busybox_image.id
    with pytest.raises(ImageNotFound, match="No such image: nosuch:latest"):
        sdk.images.get("nosuch")
    with pytest.raises(APIError, match="invalid reference format") as malformed:
        sdk.images.get("UPPER")
    assert malformed.value.status_code == 400


def test_lists_and_filters(sdk, busybox_image):
    first = small(sdk, "dpy/one:1", "dpy/one:2", text=b"1", Labels={"a": "1"})
    second = small(sdk, "dpy/two:1", text=b"2", Labels={"a": "2", "b": ""})
    untagged = small(sdk, text=b"3")

    def ids(**options: object) -> set[str]:
        return {image.id for image in sdk.images.list(**options)}

    assert ids() == {first.id, second.id, untagged.id, busybox_image.id}
    assert ids(name="dpy/one") == {first.id} and ids(name="dpy/one:2") == {first.id} and ids(name="dpy/one:3") == set()
    assert ids(name="dpy/*") == {first.id, second.id}
    assert ids(filters={"dangling": True}) == {untagged.id}
    assert ids(filters={"label": "a"}) == {first.id, second.id}
    assert ids(filters={"label": ["a=2", "b"]}) == {second.id}
    assert ids(filters={"reference": "dpy/two"}) == {second.id}
    assert second.id in ids(filters={"since": "dpy/one:1"}) and first.id not in ids(filters={"since": "dpy/one:1"})
    assert busybox_image.id in ids(filters={"before": "dpy/one:1"})
    with pytest.raises(APIError, match="invalid filter"):
        ids(filters={"nosuch": "x"})
    assert set(sdk.api.images(quiet=True)) == ids()
    (listed,) = sdk.api.images("dpy/one")
    assert sorted(listed["RepoTags"]) == ["dpy/one:1", "dpy/one:2"] and listed["Labels"] == {"a": "1"}


def test_tag_and_remove(sdk, busybox_image):
    assert busybox_image.tag("dpy/other", tag="3") and busybox_image.tag("dpy/other")
    busybox_image.reload()
    assert sorted(busybox_image.tags) == ["busybox:latest", "dpy/other:3", "dpy/other:latest"]
    assert sdk.api.remove_image("dpy/other:3") == [{"Untagged": "dpy/other:3"}]
    with pytest.raises(ImageNotFound):
        sdk.images.get("dpy/other:3")
    with pytest.raises(APIError, match="must be forced") as many:
        sdk.images.remove(busybox_image.id)
    assert many.value.status_code == 409
    with pytest.raises(APIError, match="invalid reference format"):
        busybox_image.tag("UPPER")
    with pytest.raises(NotFound, match="No such image"):
        sdk.api.tag("nosuch", "x")
    image = small(sdk, "dpy/gone:1", text=b"gone")
    assert {"Untagged": "dpy/gone:1"} in (removed := sdk.api.remove_image("dpy/gone:1"))
    assert {"Deleted": image.id} in removed


def test_an_image_in_use_is_not_removed(sdk, busybox_image, engine):
    container = sdk.containers.create("busybox")
    with pytest.raises(APIError, match=r"container .* is using") as used:
        sdk.images.remove("busybox")
    assert used.value.status_code == 409
    container.remove()


def test_prune(sdk, busybox_image):
    untagged, tagged = small(sdk, text=b"1"), small(sdk, "dpy/tagged:1", text=b"2", Labels={"keep": "1"})
    pruned = sdk.images.prune()
    assert {"Deleted": untagged.id} in pruned["ImagesDeleted"]
    sdk.containers.create("busybox")
    assert sdk.images.prune(filters={"dangling": False, "label!": ["keep=1"]})["ImagesDeleted"] is None
    pruned = sdk.images.prune(filters={"dangling": False})
    assert {"Untagged": "dpy/tagged:1"} in pruned["ImagesDeleted"] and {"Deleted": tagged.id} in pruned["ImagesDeleted"]
    assert pruned["SpaceReclaimed"] > 0 and [image.tags for image in sdk.images.list()] == [["busybox:latest"]]


# ---- archives ----


def test_save_and_load(sdk, busybox_image):
    image = small(sdk, "dpy/saved:1", "dpy/saved:2", text=b"saved")
    plain = b"".join(image.save())
    named = b"".join(image.save(named="dpy/saved:2"))
    address = f"{sdk.api.base_url}/v{sdk.api._version}/images/get"
    both = sdk.api.get(address, params={"names": ["dpy/saved:1", "busybox:latest"]}).content
    with pytest.raises(InvalidArgument):
        image.save(named="dpy/other:1")
    sdk.images.remove(image.id, force=True)
    (loaded,) = sdk.images.load(plain)
    assert loaded.id == image.id and loaded.tags == []
    (loaded,) = sdk.images.load(named)
    assert loaded.id == image.id and loaded.tags == ["dpy/saved:2"]
    messages = list(sdk.api.load_image(io.BytesIO(both), quiet=True))
    assert sorted(message["stream"] for message in messages) == [
        "Loaded image: busybox:latest\n",
        "Loaded image: dpy/saved:1\n",
    ]
    with pytest.raises(ImageNotFound):
        list(sdk.api.get_image("nosuch"))


@pytest.mark.parametrize("data", [b"abc", b"", b"\0" * 10240, b"x" * 20000])
def test_what_is_no_archive_is_not_loaded(sdk, busybox_image, data):
    with pytest.raises(ImageLoadError):
        sdk.images.load(data)


def test_import(sdk, busybox_image, tmp_path):
    path = tmp_path / "root.tar"
    path.write_bytes(made.layer({"file": b"imported"}))
    changes = ["USER nobody", 'CMD ["cat", "/file"]', "ENV A=b", "LABEL x=y", "EXPOSE 80", "WORKDIR /w"]
    for number, result in enumerate(
        (
            sdk.api.import_image_from_file(str(path), repository="dpy/imported", tag="0", changes=changes),
            sdk.api.import_image_from_data(path.read_bytes(), repository="dpy/imported", tag="1", changes=changes),
            sdk.api.import_image(src=path.open("rb"), repository="dpy/imported", tag="2", changes=changes),
        )
    ):
        identity = json.loads(result.splitlines()[-1])["status"]
        image = sdk.images.get(f"dpy/imported:{number}")
        assert image.id == identity
        config = image.attrs["Config"]
        assert (config["User"], config["Cmd"], config["WorkingDir"]) == ("nobody", ["cat", "/file"], "/w")
        assert (
            config["Env"][-1] == "A=b" and config["Labels"] == {"x": "y"} and config["ExposedPorts"] == {"80/tcp": {}}
        )
    with pytest.raises(APIError) as failure:
        sdk.api.import_image_from_data(path.read_bytes(), repository="UPPER")
    assert failure.value.status_code == 400


# ---- registries ----


def test_push_and_pull(sdk, busybox_image, shop):
    name = f"{shop}/dpy/box"
    for tag in ("1", "2"):
        busybox_image.tag(name, tag)
        messages = list(sdk.images.push(name, tag=tag, stream=True, decode=True))
        assert not [message for message in messages if "error" in message]
        assert messages[-1]["aux"]["Tag"] == tag
        assert all("progressDetail" in message for message in messages if "id" in message)  # or each is a line more
    digest = messages[-1]["aux"]["Digest"]
    for tag in ("1", "2"):
        sdk.images.remove(f"{name}:{tag}")
    pulled = list(sdk.api.pull(name, tag="1", stream=True, decode=True))
    assert all("progressDetail" in message for message in pulled[1:] if "id" in message)
    image = sdk.images.get(f"{name}:1")
    assert (
        image.id == busybox_image.id and f"{name}:1" in image.tags and f"{name}@{digest}" in image.attrs["RepoDigests"]
    )
    assert f"{name}:2" not in image.tags
    progress = list(sdk.api.pull(name, tag="1", stream=True, decode=True))
    assert progress[0]["status"] == "Pulling from dpy/box" and "Image is up to date" in progress[-1]["status"]
    pulled = sdk.images.pull(name, all_tags=True)
    assert f"{name}:2" in {tag for each in pulled for tag in each.tags}
    assert sdk.images.pull(f"{name}@{digest}").id == busybox_image.id
    assert sdk.containers.run(f"{name}@{digest}", "echo by digest", remove=True) == b"by digest\n"


def test_what_a_registry_has(sdk, busybox_image, shop):
    name = f"{shop}/dpy/known"
    busybox_image.tag(name, "1")
    digest = list(sdk.images.push(name, tag="1", stream=True, decode=True))[-1]["aux"]["Digest"]
    known = sdk.images.get_registry_data(f"{name}:1")
    assert known.id == digest and known.attrs["Descriptor"]["size"] > 0
    architecture = busybox_image.attrs["Architecture"]
    assert known.attrs["Platforms"] == [{"os": "linux", "architecture": architecture}]
    assert known.has_platform(f"linux/{architecture}") and not known.has_platform("linux/s390x")
    sdk.images.remove(f"{name}:1")
    assert known.pull().id == busybox_image.id
    with pytest.raises(NotFound):
        sdk.images.get_registry_data(f"{name}:nosuch")


def test_pulls_that_fail(sdk, busybox_image, shop):
    with pytest.raises(NotFound, match="not found"):
        sdk.images.pull(f"{shop}/dpy/nosuch:1")
    busybox_image.tag(f"{shop}/dpy/here", "1")
    sdk.images.push(f"{shop}/dpy/here", tag="1")
    messages = list(sdk.api.pull(f"{shop}/dpy/here", tag="1", platform="linux/s390x", stream=True, decode=True))
    assert "does not match the specified platform" in messages[-1]["error"]
    with pytest.raises(APIError) as failure:
        sdk.images.pull(f"{shop}/dpy/here", tag="1", platform="a/b/c/d")
    assert failure.value.status_code == 400
    with pytest.raises(APIError, match="cannot be reached"):
        sdk.images.pull("127.0.0.1:1/dpy/nowhere:1")
    with pytest.raises(APIError, match="No such image"):
        sdk.images.push("dpy/not-here")


def test_login(engine: EngineUnderTest, sdk, busybox_image, club, tmp_path: Path):
    name = f"{club}/dpy/private"
    busybox_image.tag(name, "1")
    client = docker.DockerClient(base_url=engine.host, version="auto")
    try:
        client.api._auth_configs = docker.auth.AuthConfig({})
        assert "error" in client.images.push(name, tag="1")
        with pytest.raises(APIError) as refused:
            client.login(USER, "wrong", registry=club, dockercfg_path=str(tmp_path / "none"))
        assert refused.value.status_code == 401
        answer = client.login(USER, PASSWORD, registry=club, dockercfg_path=str(tmp_path / "none"))
        assert answer["Status"] == "Login Succeeded"
        assert "error" not in client.images.push(name, tag="1")
        given = {"username": USER, "password": PASSWORD}
        sdk.images.remove(f"{name}:1")
        assert sdk.images.pull(name, tag="1", auth_config=given).id == busybox_image.id
        assert sdk.images.get_registry_data(f"{name}:1", auth_config=given).id.startswith("sha256:")
        sdk.images.remove(f"{name}:1")
        with pytest.raises(APIError):
            sdk.images.pull(name, tag="1", auth_config={"username": USER, "password": "wrong"})
    finally:
        client.close()


def test_search_and_build_say_that_they_are_not_there(sdk, busybox_image):
    with pytest.raises(APIError, match="search"):
        sdk.images.search("busybox")
    with pytest.raises(APIError, match="building images is not supported"):
        sdk.images.build(fileobj=io.BytesIO(b"FROM busybox\n"))
