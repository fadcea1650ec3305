"""Docker's SDK for Python: the engine itself, its events, and the versions of the API that the SDK can speak."""

from __future__ import annotations

import itertools
import threading
import time
from typing import Any

import docker
import pytest
import requests
from docker.constants import MINIMUM_DOCKER_API_VERSION
from docker.errors import APIError, DockerException, NotFound

pytestmark = pytest.mark.usefixtures("tidy")


def wait_for(condition) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# ---- what it is ----


def test_ping_version_and_info(sdk):
    assert sdk.ping()
    version = sdk.version()
    assert version["ApiVersion"] == sdk.api.api_version and version["MinAPIVersion"] == MINIMUM_DOCKER_API_VERSION
    assert version["Os"] == "linux" and version["Version"] and version["Components"]
    sdk.containers.create("busybox")
    info = sdk.info()
    assert info["Containers"] == info["ContainersStopped"] == 1 and info["Images"] == 1
    assert info["OSType"] == "linux" and info["ServerVersion"] == version["Version"] and info["NCPU"] >= 1
    assert info["Swarm"]["LocalNodeState"] == "inactive" and "local" in info["Plugins"]["Volume"]


def test_df(sdk):
    container = sdk.containers.run("busybox", "sh -c 'echo x > /data/x'", volumes=["/data"], detach=True)
    container.wait()
    usage = sdk.df()
    assert [each["Id"] for each in usage["Containers"]] == [container.id]
    (image,) = usage["Images"]
    assert image["RepoTags"] == ["busybox:latest"] and image["Containers"] == 1 and usage["LayersSize"] > 0
    assert [each["UsageData"]["RefCount"] for each in usage["Volumes"]] == [1]


@pytest.mark.parametrize(
    "ask",
    [
        lambda sdk: sdk.swarm.reload(),
        lambda sdk: sdk.services.list(),
        lambda sdk: sdk.nodes.list(),
        lambda sdk: sdk.secrets.list(),
        lambda sdk: sdk.configs.list(),
        lambda sdk: sdk.swarm.leave(),
    ],
)
def test_there_is_no_swarm(sdk, ask):
    with pytest.raises(APIError, match=r"not a swarm manager|not part of a swarm") as failure:
        ask(sdk)
    assert failure.value.status_code == 503 and failure.value.is_server_error()


def test_there_are_no_plugins(sdk):
    assert sdk.plugins.list() == []
    with pytest.raises(NotFound, match='plugin "a/b:latest" not found'):
        sdk.plugins.get("a/b:latest")


# ---- events ----


def collect(sdk: docker.DockerClient, count: int, work, **options: Any) -> list[dict[str, Any]]:
    """The next ``count`` events that fit ``options``, while ``work`` is done."""
    listeners = sdk.info()["NEventsListener"]
    stream = sdk.events(decode=True, **options)
    found: list[dict[str, Any]] = []
    reader = threading.Thread(target=lambda: found.extend(itertools.islice(stream, count)), daemon=True)
    reader.start()
    wait_for(lambda: sdk.info()["NEventsListener"] > listeners)
    work()
    reader.join(20)
    assert not reader.is_alive(), found
    stream.close()
    return found


def test_events_of_a_life(sdk):
    def live() -> None:
        container = sdk.containers.run(
            "busybox", ["sleep", "1000"], name="dpy-life", labels={"a": "b"}, init=True, detach=True
        )
        container.pause()
        container.unpause()
        container.rename("dpy-lived")
        container.kill()
        container.wait()
        container.remove()

    seen = collect(sdk, 8, live, filters={"type": "container"})
    assert [event["Action"] for event in seen[:2]] == ["create", "start"]
    assert [event["Action"] for event in seen[2:6]] == ["pause", "unpause", "rename", "kill"]
    assert [event["Action"] for event in seen[6:]] == ["die", "destroy"]
    first = seen[0]
    assert first["Type"] == "container" and first["status"] == "create" and first["from"] == "busybox"
    assert first["id"] == first["Actor"]["ID"] and abs(first["time"] - time.time()) < 600
    assert first["timeNano"] // 10**9 == first["time"] and first["scope"] == "local"
    attributes = first["Actor"]["Attributes"]
    assert attributes["image"] == "busybox" and attributes["name"] == "dpy-life" and attributes["a"] == "b"
    assert next(event for event in seen if event["Action"] == "die")["Actor"]["Attributes"]["exitCode"] == "137"
    assert seen[4]["Actor"]["Attributes"]["oldName"] == "/dpy-life"


def test_events_of_other_things(sdk):
    def work() -> None:
        volume = sdk.volumes.create("dpy-events")
        volume.remove()
        network = sdk.networks.create("dpy-events")
        container = sdk.containers.create("busybox")
        network.connect(container)
        container.remove()
        network.remove()
        sdk.images.get("busybox").tag("dpy/events", "1")
        sdk.images.remove("dpy/events:1")

    filters = {"type": ["volume", "network", "image"], "event": ["create", "destroy", "tag", "untag"]}
    seen = collect(sdk, 6, work, filters=filters)
    assert [(event["Type"], event["Action"]) for event in seen] == [
        ("volume", "create"),
        ("volume", "destroy"),
        ("network", "create"),
        ("network", "destroy"),
        ("image", "tag"),
        ("image", "untag"),
    ]


def test_past_events_and_filters(sdk):
    before = time.time_ns()
    one = sdk.containers.create("busybox", name="dpy-one", labels={"a": "1"})
    sdk.containers.create("busybox", name="dpy-two")

    def past(**filters: object) -> list[str]:
        stamp = f"{before // 10**9}.{before % 10**9:09}"
        now = time.time_ns()
        until = f"{now // 10**9}.{now % 10**9:09}"
        found = sdk.events(since=stamp, until=until, filters=filters, decode=True)
        return [event["Actor"]["Attributes"]["name"] for event in found]

    assert past(event="create", type="container") == ["dpy-one", "dpy-two"]
    assert past(container="dpy-one") == past(container=one.id) == past(label="a=1") == ["dpy-one"]
    assert past(image="busybox", event=["create"]) == ["dpy-one", "dpy-two"] and past(event="start") == []


def test_a_stream_of_events_can_be_let_go(sdk):
    stream = sdk.events(decode=True)
    listeners = sdk.info()["NEventsListener"]
    threading.Timer(0.2, stream.close).start()
    assert list(stream) == []
    wait_for(lambda: sdk.info()["NEventsListener"] < listeners)


# ---- errors ----


def test_errors_carry_status_response_and_explanation(sdk):
    with pytest.raises(APIError) as failure:
        sdk.api.inspect_container("nosuch")
    error = failure.value
    assert isinstance(error, NotFound) and isinstance(error, DockerException)
    assert isinstance(error, requests.exceptions.HTTPError)
    assert error.status_code == error.response.status_code == 404 and error.is_client_error()
    assert error.explanation == "No such container: nosuch"
    assert error.response.headers["Content-Type"] == "application/json"
    with pytest.raises(APIError) as failure:
        sdk.api.create_container_from_config({"Image": "busybox", "Cmd": 5})
    assert failure.value.status_code == 400


# ---- versions of the API ----


def test_versions_that_are_not_spoken(engine):
    with pytest.raises(DockerException):
        docker.APIClient(base_url=engine.host, version="1.23")
    client = docker.APIClient(base_url=engine.host, version="1.999")
    try:
        with pytest.raises(
            APIError, match=r"client version 1.999 is too new. Maximum supported API version is"
        ) as failure:
            client.info()
        assert failure.value.status_code == 400
    finally:
        client.close()


@pytest.mark.parametrize(
    "version", [None, "auto", "1.24", "1.30", "1.35", "1.40", "1.41", "1.42", "1.44", "1.45", "newest"]
)
def test_a_day_of_work_in_each_version(engine, busybox, version):
    if version == "newest":
        version = engine.api("GET", "/version")[1]["ApiVersion"]
    client = docker.DockerClient(base_url=engine.host, version=version, timeout=60)
    try:
        assert client.ping() and client.version()["ApiVersion"]
        container = client.containers.run(
            "busybox", ["sh", "-c", "echo started; cat"], stdin_open=True, environment={"A": "1"}, detach=True
        )
        assert container.exec_run(["sh", "-c", "echo $A; exit 3"])[0] == 3
        assert container.exec_run("echo x").output == b"x\n"
        wait_for(lambda: container.logs() == b"started\n")
        assert container in client.containers.list()
        assert container.top()["Processes"]
        sent = container.attach_socket(params={"stdin": 1, "stdout": 1, "stream": 1})
        sent._sock.sendall(b"more\n")
        assert sent._sock.recv(100)[8:] == b"more\n"
        sent.close()
        network = client.networks.create("dpy-version")
        network.connect(container)
        network.reload()
        assert network.containers == [container]
        network.disconnect(container)
        network.remove()
        image = client.images.get("busybox")
        assert "busybox:latest" in image.tags and client.images.list("busybox") and image.history()
        assert image.attrs.get("VirtualSize", image.attrs["Size"]) == image.attrs["Size"]
        assert client.images.list("nosuch") == []
        volume = client.volumes.create("dpy-version")
        assert volume in client.volumes.list()
        volume.remove()
        container.stop(timeout=0)
        assert container.wait()["StatusCode"] == 137
        container.remove()
        assert client.containers.run("busybox", "echo done", remove=True) == b"done\n"
        assert client.info()["Images"]
        if version != "1.24":  # which had no such question
            assert client.df()["Images"]
    finally:
        client.close()
