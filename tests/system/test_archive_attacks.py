"""A container that changes its files while they are copied reaches nothing but itself."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from fixtures.engine import EngineUnderTest
from fixtures.files import Create, Files, hard_link, tar_of


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A directory of the host with a secret, which nobody may read, and where nobody may write."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "secret").write_text("the host's")
    (tmp_path / "secret").write_text("the host's")
    return tmp_path


def untouched(host: Path) -> bool:
    return sorted(str(path.relative_to(host)) for path in host.rglob("*")) == ["secret", "sub", "sub/secret"]


def juggler(files: Create, host: Path, **wanted: object) -> Files:
    """A container in which /d/sub is a directory and a link to the host's ``host``, by turns."""
    script = (
        f"mkdir -p /d/sub; echo own >/d/sub/secret; cd /d;"
        f"while true; do mv sub other; ln -s {host} sub; ln -s ../../../../../../../../..{host} up; "
        "rm sub up; mv other sub; done"
    )
    return files(script, **wanted)


def test_reading_never_leads_to_the_host(files: Create, host: Path) -> None:
    container = juggler(files, host)
    for path in ("/d", "/d/sub/", "/d/sub/.", "/d/sub/secret", "/d/up/.") * 3:
        status, body = container.engine.api("GET", container.url(path))
        assert status in (200, 400, 404)
        assert b"the host's" not in body if isinstance(body, bytes) else True
    status, body = container.engine.api("GET", f"/containers/{container.id}/export")
    assert status == 200 and b"the host's" not in body


def test_writing_never_leads_to_the_host(files: Create, host: Path) -> None:
    container = juggler(files, host)
    archive = tar_of(
        *(("d/sub/planted", b"x"), ("d/sub/secret", b"overwritten"), ("d/up/planted", b"x"), ("d/sub/deep/er", b"x")),
        hard_link("d/sub/link", "d/sub/secret"),
    )
    statuses = {container.put(path, archive if path == "/" else tar_of(("planted", b"x")))[0]
                for path in ("/", "/d/sub", "/d/up") * 4}  # fmt: skip
    assert statuses <= {200, 400, 404, 409, 500}
    assert untouched(host)
    assert (host / "secret").read_text() == "the host's"


def test_a_volume_that_another_container_juggles_is_safe_while_its_user_is_stopped(files: Create, host: Path) -> None:
    files(
        f"cd /v; mkdir sub; while true; do mv sub other; ln -s {host} sub; rm sub; mv other sub; done",
        HostConfig={"Binds": ["juggled:/v"]},
    )
    stopped = files(start=False, HostConfig={"Binds": ["juggled:/v"]})
    for _ in range(4):
        assert stopped.put("/v", tar_of(("sub/planted", b"x"), ("sub/deep/planted", b"x")))[0] in (
            200,
            400,
            404,
            409,
            500,
        )
        status, body = stopped.engine.api("GET", stopped.url("/v/sub/."))
        assert status in (200, 400, 404) and (status != 200 or b"the host's" not in body)
    assert untouched(host)


def test_a_root_that_leads_elsewhere_is_not_followed(files: Create, host: Path) -> None:
    container = files(start=False)
    assert container.put("/", tar_of(("srv", str(host)), ("opt", "../../../../../.." + str(host)))) == (200, "")
    for path in ("/srv/secret", "/opt/secret", "/srv/."):
        assert container.refusal(path)[0] in (400, 404)
    assert container.put("/", tar_of(("srv/planted", b"x"), ("opt/planted", b"x")))[0] == 200
    assert container.put("/srv", tar_of(("again", b"x"))) == (200, "")
    assert untouched(host)
    assert container.read(f"{host}/again") == b"x"


def test_a_container_as_process_of_the_host_shows_its_own_tree(files: Create, host: Path) -> None:
    container = files(HostConfig={"PidMode": "host"})
    for path in (f"/proc/1/root{host}/secret", f"/proc/self/root{host}/secret", f"/proc/1/cwd/{host}/secret"):
        status, message = container.refusal(path)
        assert status in (400, 404), message
    assert container.put("/proc/1/root", tar_of(("planted", b"x")))[0] in (400, 404)


def test_a_first_process_that_changes_its_root_hides_nothing(files: Create) -> None:
    container = files("mkdir -p /jail/bin; cp /bin/busybox /jail/bin/; exec chroot /jail /bin/busybox sleep 1000")
    container.run("while ! [ -e /jail/bin/busybox ]; do :; done")
    assert container.read("/etc/passwd").startswith(b"root:")
    assert "jail/bin/busybox" in container.get("/jail")


def test_pipes_and_devices_are_neither_waited_for_nor_opened(files: Create) -> None:
    container = files("mkfifo /tmp/pipe; mknod /tmp/disk b 7 200; mknod /tmp/dog c 10 130; touch /ready; sleep 1000")
    container.run("while ! [ -e /ready ]; do :; done")
    found = container.get("/tmp")
    assert found["tmp/pipe"].isfifo() and found["tmp/disk"].isblk() and found["tmp/dog"].ischr()
    assert container.put("/tmp", tar_of(("pipe", b"now a file"), ("disk", b"as well"))) == (200, "")
    assert container.read("/tmp/disk") == b"as well"


def test_many_copies_at_once_are_all_answered(engine: EngineUnderTest, files: Create) -> None:
    container = files()
    answers: list[int] = []

    def work(number: int) -> None:
        answers.append(container.put("/tmp", tar_of((f"file{number}", b"x" * 100_000)))[0])
        answers.append(engine.api("GET", container.url(f"/tmp/file{number}"))[0])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [200] * 12
