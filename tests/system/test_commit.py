"""Images made of containers: ``POST /commit``."""

from __future__ import annotations

import io
import json
import tarfile
import threading
import urllib.parse
from typing import Any

import pytest
from fixtures.engine import EngineUnderTest
from fixtures.files import Create, Files


def commit(files: Files, body: object = None, **query: Any) -> tuple[int, Any]:
    text = urllib.parse.urlencode({"container": files.id, **query}, doseq=True)
    return files.engine.api("POST", f"/commit?{text}", body)


def committed(files: Files, body: object = None, **query: Any) -> dict[str, Any]:
    """The inspected image."""
    status, answer = commit(files, body, **query)
    assert status == 201, answer
    image: dict[str, Any] = files.engine.api("GET", f"/images/{answer['Id']}/json")[1]
    assert image["Id"] == answer["Id"]
    return image


def test_an_image_has_what_the_container_changed(files: Create, engine: EngineUnderTest) -> None:
    script = "echo new >/root/new; rm /bin/vi; rm -r /tmp; mkdir /tmp; ln /root/new /root/link; echo >/v/x; echo >/t/x"
    container = files(script, HostConfig={"Binds": ["/v"], "Tmpfs": {"/t": ""}})
    engine.api("POST", f"/containers/{container.id}/wait")
    image = committed(container, repo="made", tag="1", comment="why", author="who")
    assert image["RepoTags"] == ["made:1"]
    assert (image["Author"], image["Comment"]) == ("who", "why")
    assert image["Parent"] == engine.api("GET", "/images/busybox/json")[1]["Id"]
    look = "cat /root/new; ls /bin/vi /v/x /t/x 2>/dev/null; ls /etc; cat /root/link"
    assert engine.capsa("run", "--rm", "made:1", "sh", "-c", look).stdout.split() == [
        *("new", "group", "hostname", "hosts", "passwd", "resolv.conf", "new")
    ]
    layers = engine.api("GET", "/images/made:1/history")[1]
    assert layers[0]["CreatedBy"] == f"sh -c {script}"
    assert (layers[0]["Comment"], layers[0]["Size"]) == ("why", 4)


def test_places_that_the_engine_made_for_its_mounts_are_not_in_the_layer(
    files: Create, engine: EngineUnderTest
) -> None:
    container = files("echo >/only")
    engine.api("POST", f"/containers/{container.id}/wait")
    committed(container, repo="places")
    archive = engine.api("GET", "/images/places/get")[1]
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        member = tar.extractfile("manifest.json")
        assert member is not None
        layer = tar.extractfile(json.load(member)[0]["Layers"][-1])
        assert layer is not None
        with tarfile.open(fileobj=io.BytesIO(layer.read())) as inner:
            assert inner.getnames() == ["only"]


def test_without_a_change_there_is_no_new_layer(files: Create, engine: EngineUnderTest) -> None:
    container = files("touch /tmp/x; rm /tmp/x")
    engine.api("POST", f"/containers/{container.id}/wait")
    image = committed(container, changes=["ENV A=1"])
    base = engine.api("GET", "/images/busybox/json")[1]
    assert image["RootFS"] == base["RootFS"]
    history = engine.api("GET", f"/images/{image['Id']}/history")[1]
    assert len(history) == 2 and history[0]["Size"] == 0


def test_the_configuration_is_the_containers_with_changes(files: Create) -> None:
    container = files(
        start=False,
        Env=["A=1", "B=2"],
        Labels={"own": "1"},
        User="nobody",
        WorkingDir="/tmp",
        ExposedPorts={"1/tcp": {}},
    )
    changes = [
        *(
            'CMD ["bash"]',
            'ENTRYPOINT ["/x", "y"]',
            "ENV B=3 C=4",
            "EXPOSE 80 53/udp",
            'LABEL a="b c"',
            "ONBUILD RUN x",
        ),
        *("USER root", "VOLUME /data", "WORKDIR sub", "STOPSIGNAL SIGINT"),
        "HEALTHCHECK --interval=5s --retries=2 CMD true",
    ]
    config = committed(container, changes=changes)["Config"]
    assert config["Cmd"] == ["bash"] and config["Entrypoint"] == ["/x", "y"]
    assert {"A=1", "B=3", "C=4"} <= set(config["Env"])
    assert set(config["ExposedPorts"]) == {"1/tcp", "80/tcp", "53/udp"}
    assert config["Labels"] == {"own": "1", "a": "b c"}
    assert (config["User"], config["WorkingDir"], config["StopSignal"]) == ("root", "/tmp/sub", "SIGINT")
    assert config["OnBuild"] == ["RUN x"] and config["Volumes"] == {"/data": {}}
    assert config["Healthcheck"]["Test"] == ["CMD-SHELL", "true"] and config["Healthcheck"]["Retries"] == 2


def test_a_configuration_in_the_body_wins_over_the_containers(files: Create) -> None:
    container = files("sleep 9", start=False, Env=["A=1"], Labels={"l": "1"})
    config = committed(container, {"Cmd": ["other"], "Env": ["A=2"], "Hostname": "h"})["Config"]
    assert config["Cmd"] == ["other"]
    assert "A=2" in config["Env"] and "A=1" not in config["Env"]
    assert config["Labels"] == {"l": "1"}
    assert committed(container, {})["Config"]["Cmd"] == ["sh", "-c", "sleep 9"]


@pytest.mark.parametrize("pause", [0, 1])
def test_a_container_that_runs_is_frozen_meanwhile_if_wanted(
    files: Create, engine: EngineUnderTest, pause: int
) -> None:
    container = files()
    container.run("dd if=/dev/zero of=/tmp/zeros bs=1M count=30 2>/dev/null")
    actions: list[str] = []
    import time

    since = time.time()
    committed(container, repo=f"paused{pause}", pause=pause)
    assert engine.api("GET", f"/containers/{container.id}/json")[1]["State"]["Status"] == "running"
    query = urllib.parse.urlencode({"since": int(since), "until": int(time.time()) + 1})
    body = engine.api("GET", f"/events?{query}")[1]
    lines = body.splitlines() if isinstance(body, bytes) else [json.dumps(body)]
    for event in map(json.loads, lines):
        if event["Actor"]["ID"] == container.id:
            actions.append(event["Action"])
    assert ("pause" in actions, "unpause" in actions) == (bool(pause), bool(pause))
    assert "commit" in actions


def test_a_container_that_was_paused_stays_so(files: Create, engine: EngineUnderTest) -> None:
    container = files()
    engine.api("POST", f"/containers/{container.id}/pause")
    committed(container)
    assert engine.api("GET", f"/containers/{container.id}/json")[1]["State"]["Status"] == "paused"


def test_refusals(files: Create, engine: EngineUnderTest) -> None:
    container = files()
    assert engine.api("POST", "/commit?container=missing")[0] == 404
    assert commit(container, repo="Not A Name")[0] == 400
    status, body = commit(container, changes=["RUN x"])
    assert status == 400 and "RUN is not a valid change command" in body["message"]
    assert commit(container, {"Env": 5})[0] == 400
    container.run("touch '/.wh.name'")
    status, body = commit(container)
    assert status == 400 and ".wh." in body["message"]
    assert engine.api("GET", f"/containers/{container.id}/json")[1]["State"]["Status"] == "running"


def test_images_of_images_of_containers_start(files: Create, engine: EngineUnderTest) -> None:
    before = "busybox"
    for number in range(3):
        container = files(f"echo {number} >>/count; rm -f /gone{number - 1}; touch /gone{number}", Image=before)
        engine.api("POST", f"/containers/{container.id}/wait")
        before = committed(container, repo=f"chain{number}")["RepoTags"][0]
    seen = engine.capsa("run", "--rm", before, "sh", "-c", "cat /count; ls / | grep gone").stdout
    assert seen.split() == ["0", "1", "2", "gone2"]


def test_two_commits_at_once_follow_one_another(files: Create) -> None:
    container = files()
    answers: list[int] = []
    threads = [threading.Thread(target=lambda: answers.append(commit(container)[0])) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [201, 201, 201]
    assert container.engine.api("GET", f"/containers/{container.id}/json")[1]["State"]["Status"] == "running"
