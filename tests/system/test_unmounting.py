"""What a container had mounted is unmounted after its end, which can take long: nobody mounts it anew meanwhile."""

from __future__ import annotations

import contextlib
import http.client
import io
import os
import signal
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fixtures import slowfs
from fixtures.engine import EngineUnderTest, UnixConnection
from fixtures.files import tar_of
from fixtures.slowfs import SlowFileSystem


@pytest.fixture
def slow(need_root: None, tmp_path: Path) -> Iterator[SlowFileSystem]:
    """A file system whose unmounting takes long."""
    with contextlib.ExitStack() as stack:
        try:
            made = stack.enter_context(slowfs.mounted(tmp_path))
        except OSError as error:
            pytest.skip(f"needs FUSE and a loop device: {error}")
        yield made


@pytest.fixture(autouse=True)
def nothing_left(engine: EngineUnderTest, busybox: str) -> Iterator[None]:
    """No container stays, and no socket of a sub-init."""
    yield
    engine.remove_containers()
    until(lambda: not os.listdir(engine.root / "containers") and not os.listdir(engine.run / "containers"))


def create(engine: EngineUnderTest, *command: str, **host: Any) -> str:
    body = {"Image": "busybox", "Cmd": command, "HostConfig": {"NetworkMode": "none", **host}}
    status, answer = engine.api("POST", "/containers/create", body)
    assert status == 201, answer
    return str(answer["Id"])


def started(engine: EngineUnderTest, *command: str, **host: Any) -> str:
    container = create(engine, *command, **host)
    status, answer = engine.api("POST", f"/containers/{container}/start")
    assert status == 204, answer
    return container


def state(engine: EngineUnderTest, container: str) -> dict[str, Any]:
    found: dict[str, Any] = engine.api("GET", f"/containers/{container}/json")[1]["State"]
    return found


def until(what: Callable[[], Any], seconds: float = 30) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.02)
    return found


class Asked:
    """A request in a thread, and its answer."""

    def __init__(self, engine: EngineUnderTest, method: str, path: str, body: bytes | None = None) -> None:
        self.answer: tuple[int, Any] | None = None
        self._thread = threading.Thread(target=self._ask, args=(engine, method, path, body))
        self._thread.start()

    def _ask(self, engine: EngineUnderTest, method: str, path: str, body: bytes | None) -> None:
        with contextlib.suppress(OSError):
            self.answer = engine.api(method, path, body)

    def answered(self, seconds: float) -> bool:
        self._thread.join(seconds)
        return not self._thread.is_alive()


def in_slow_unmounting(engine: EngineUnderTest, slow: SlowFileSystem, command: str = "sleep 1000", **host: Any) -> str:
    """A container that was killed, and whose unmounting goes on until `SlowFileSystem.go_on`."""
    container = started(engine, "sh", "-c", command, Binds=[f"{slow.path}:/slow"], **host)
    slow.detach()
    status, answer = engine.api("POST", f"/containers/{container}/kill")
    assert status == 204, answer
    assert slow.unmounting.wait(10)
    return container


def test_a_start_waits_for_it(engine: EngineUnderTest, slow: SlowFileSystem) -> None:
    container = in_slow_unmounting(engine, slow)
    slow.path.rmdir()  # the mount point of what was detached
    slow.path.mkdir()
    begun = Asked(engine, "POST", f"/containers/{container}/start")
    assert not begun.answered(1)
    assert state(engine, container)["Status"] == "exited", "and others are answered meanwhile"
    slow.go_on()
    assert begun.answered(20) and begun.answer == (204, None)
    assert state(engine, container)["Running"]


def test_a_restart_policy_waits_for_it(engine: EngineUnderTest, slow: SlowFileSystem) -> None:
    container = started(
        engine,
        *("sh", "-c", "echo on >> /count; while [ ! -e /end ]; do usleep 20000; done; rm /end; exit 3"),
        Binds=[f"{slow.path}:/slow"],
        RestartPolicy={"Name": "on-failure"},
    )
    slow.detach()
    made = engine.api("POST", f"/containers/{container}/exec", {"Cmd": ["touch", "/end"]})[1]["Id"]
    assert engine.api("POST", f"/exec/{made}/start", {"Detach": True})[0] == 200
    assert slow.unmounting.wait(10)
    time.sleep(1)
    assert state(engine, container)["Status"] == "restarting"
    slow.go_on()
    count = engine.root / "containers" / container / "upper" / "count"
    until(lambda: count.read_text() == "on\non\n")


def test_a_volume_with_options_stays_mounted_until_then_and_a_removal_waits(
    engine: EngineUnderTest, slow: SlowFileSystem
) -> None:
    options = {"type": "tmpfs", "device": "tmpfs"}
    assert engine.api("POST", "/volumes/create", {"Name": "kept", "DriverOpts": options})[0] == 201
    place = f" {engine.root / 'volumes' / 'kept' / '_data'} "
    binds = [f"{slow.path}:/slow", "kept:/kept"]
    container = started(engine, "sh", "-c", "sleep 1000", Binds=binds)
    slow.detach()
    assert engine.api("POST", f"/containers/{container}/kill")[0] == 204
    assert slow.unmounting.wait(10)
    removed = Asked(engine, "DELETE", f"/containers/{container}?force=1")
    assert not removed.answered(0.5)
    assert place in Path("/proc/self/mountinfo").read_text()
    slow.go_on()
    assert removed.answered(20) and removed.answer == (204, None)
    assert place not in Path("/proc/self/mountinfo").read_text()
    assert engine.api("DELETE", "/volumes/kept")[0] == 204


def test_what_was_written_can_be_looked_at_meanwhile(engine: EngineUnderTest, slow: SlowFileSystem) -> None:
    container = in_slow_unmounting(engine, slow, "echo text > /file; sleep 1000")
    status, changes = engine.api("GET", f"/containers/{container}/changes")
    assert status == 200 and {"Path": "/file", "Kind": 1} in changes
    status, made = engine.api("POST", f"/commit?container={container}&repo=meanwhile")
    assert status == 201, made
    slow.go_on()
    assert engine.capsa("run", "--rm", "--network", "none", "meanwhile", "cat", "/file").stdout == "text\n"
    assert engine.api("DELETE", "/images/meanwhile")[0] == 200


def test_the_end_of_the_engine_does_not_wait_for_it_and_the_next_one_does(
    engine: EngineUnderTest, slow: SlowFileSystem
) -> None:
    container = in_slow_unmounting(engine, slow, RestartPolicy={"Name": "always"})
    begun = Asked(engine, "POST", f"/containers/{container}/start")
    assert not begun.answered(0.3)
    before = time.monotonic()
    engine.down()
    assert time.monotonic() - before < 10
    assert begun.answered(5)
    slow.path.rmdir()
    slow.path.mkdir()
    engine.up()
    time.sleep(1)
    assert state(engine, container)["Status"] == "restarting"
    slow.go_on()
    until(lambda: state(engine, container)["Status"] == "running")


def test_a_new_engine_waits_for_what_a_killed_one_released(engine: EngineUnderTest, slow: SlowFileSystem) -> None:
    container = in_slow_unmounting(engine, slow)
    engine.restart(signal.SIGKILL)
    assert state(engine, container)["Status"] == "exited"
    slow.path.rmdir()
    slow.path.mkdir()
    begun = Asked(engine, "POST", f"/containers/{container}/start")
    removed = Asked(engine, "DELETE", f"/containers/{container}?force=1")
    assert not begun.answered(1) and not removed.answered(0)
    slow.go_on()
    assert begun.answered(20) and removed.answered(20)
    assert removed.answer == (204, None)


@contextlib.contextmanager
def held_up(engine: EngineUnderTest, container: str) -> Iterator[int]:
    """The sub-init of a container that runs, its pid, stands still for the block."""
    pid = state(engine, container)["Pid"]
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("PPid:"))
    sub_init = int(line.split()[1])
    children = Path(f"/proc/{sub_init}/task/{sub_init}/children")
    until(lambda: children.read_text().split() == [str(pid)])  # its attendant has left
    os.kill(sub_init, signal.SIGSTOP)
    try:
        yield sub_init
    finally:
        os.kill(sub_init, signal.SIGCONT)


def test_a_sub_init_that_was_silent_when_its_engine_came_is_released_later(engine: EngineUnderTest) -> None:
    """What holds up a sub-init need not be the disk."""
    container = started(engine, "sh", "-c", "sleep 4; exit 3")
    with held_up(engine, container) as sub_init:
        engine.restart(signal.SIGKILL)
        assert state(engine, container)["Status"] == "exited"
        begun = Asked(engine, "POST", f"/containers/{container}/start")
        assert not begun.answered(1)
    assert begun.answered(20) and begun.answer == (204, None)
    until(lambda: not Path(f"/proc/{sub_init}").exists())


def test_a_copy_waits_for_an_end_that_is_not_told_yet(engine: EngineUnderTest) -> None:
    container = started(engine, "sh", "-c", "echo text > /file; sleep 1000")
    with held_up(engine, container):
        os.kill(state(engine, container)["Pid"], signal.SIGKILL)
        found = Asked(engine, "GET", f"/containers/{container}/archive?path=/file")
        written = Asked(engine, "PUT", f"/containers/{container}/archive?path=/", tar_of(("new", b"words")))
        assert not found.answered(0.5) and not written.answered(0)
        assert state(engine, container)["Running"]
    assert found.answered(20) and found.answer is not None
    with tarfile.open(fileobj=io.BytesIO(found.answer[1])) as tar:
        assert tar.extractfile("file").read() == b"text\n"  # type: ignore[union-attr]
    assert written.answered(20) and written.answer == (200, None)
    assert (engine.root / "containers" / container / "upper" / "new").read_text() == "words"


def test_a_copy_that_began_in_the_last_run_ends_before_the_next(engine: EngineUnderTest) -> None:
    """It has the last run's files mounted, whose directory the next run mounts."""
    container = started(engine, "sh", "-c", "[ -e /big ] || dd if=/dev/zero of=/big bs=1M count=32; sleep 1000")
    until(lambda: (engine.root / "containers" / container / "upper" / "big").exists())
    connection = UnixConnection(str(engine.socket), 30)
    connection.request("GET", f"/containers/{container}/archive?path=/big")
    response = connection.getresponse()
    response.read(1 << 16)
    assert engine.api("POST", f"/containers/{container}/kill")[0] == 204
    response.read(1 << 16)  # it goes on after the end
    assert engine.api("POST", f"/containers/{container}/start")[0] == 204
    with pytest.raises(http.client.IncompleteRead):
        response.read()
    connection.close()
