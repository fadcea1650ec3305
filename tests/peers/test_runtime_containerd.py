"""capsa-runtime called by a real containerd (``ctr run --runc-binary``), and runc in the same tests beside it."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fixtures import bundle as b
from fixtures.caller import GREEDY, RESIZED, RUNC, SIZED, parameters, unchanged
from fixtures.containerd import IMAGE, Ctr, containerd
from fixtures.wait import until

pytestmark = b.NEEDS


@pytest.fixture(scope="module", params=parameters("containerd", RUNC))
def ctr(request: pytest.FixtureRequest) -> Iterator[Ctr]:
    with containerd(request.param) as made:
        yield made


@pytest.fixture(autouse=True)
def tidy(ctr: Ctr) -> Iterator[None]:
    """Whatever a test runs, nothing of it is left once its containers are removed."""
    with unchanged(ctr):
        yield
        ctr.remove_containers()


def start(ctr: Ctr, *words: str, output: Path | None = None) -> str:
    """A container in the background, by its name; of ``words`` the last are the command, after ``--``."""
    name = ctr.name()
    at = words.index("--")
    log = f"--log-uri=file://{output}" if output is not None else "--null-io"
    ctr(*ctr.run("--detach", log, *words[:at], IMAGE, name, *words[at + 1 :]))
    return name


def test_run_gives_output_and_exit_code(ctr: Ctr) -> None:
    name = ctr.name()
    words = ctr.run(
        "--rm",
        "--env=A=b",
        "--cwd=/made/here",
        IMAGE,
        name,
        "sh",
        "-c",
        "read word; echo $word; pwd; echo $A >&2; exit 3",
    )
    done = ctr(*words, check=False, input="in\n")
    assert (done.returncode, done.stdout, done.stderr) == (3, "in\n/made/here\n", "b\n")


NO_SUCH = [
    (["nothing-like-it"], 'exec: "nothing-like-it": executable file not found in $PATH'),
    (["/nothing"], 'exec: "/nothing": stat /nothing: no such file or directory'),
    (["/etc/passwd"], 'exec: "/etc/passwd": permission denied'),
    (["/etc"], 'exec: "/etc": '),  # "is a directory" or, of older ones, "permission denied"
]


def test_a_command_that_cannot_be_executed_fails_the_creation(ctr: Ctr) -> None:
    for command, message in NO_SUCH:
        done = ctr(*ctr.run("--rm", IMAGE, ctr.name(), *command), check=False)
        assert done.returncode == 1 and "OCI runtime create failed" in done.stderr and message in done.stderr
    done = ctr(*ctr.run("--rm", "--cwd=/etc/passwd", IMAGE, ctr.name(), "true"), check=False)
    assert done.returncode == 1 and "OCI runtime create failed" in done.stderr and "not a directory" in done.stderr


def test_exec(ctr: Ctr) -> None:
    name = start(ctr, "--", "sleep", "1000")
    words = ["--exec-id=one", "--user=nobody", "--cwd=/tmp", name, "sh", "-c", "id -u; pwd; cat; echo err >&2; exit 7"]
    done = ctr("tasks", "exec", *words, check=False, input="in\n")
    assert (done.returncode, done.stdout, done.stderr) == (7, "65534\n/tmp\nin\n", "err\n")
    for command, message in NO_SUCH:
        done = ctr("tasks", "exec", "--exec-id=two", name, *command, check=False)
        assert done.returncode == 1 and "OCI runtime exec failed" in done.stderr and message in done.stderr
    ctr("tasks", "exec", "--exec-id=three", "--detach", name, "sleep", "2000")
    pids = [line.split()[0] for line in ctr("tasks", "ps", name).stdout.splitlines()[1:]]
    titles = {Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids}
    assert titles == {b"sleep\x001000\0", b"sleep\x002000\0"} and str(ctr.pid(name)) in pids
    ctr("tasks", "kill", "--exec-id=three", "--signal=SIGKILL", name)
    until(lambda: len(ctr("tasks", "ps", name).stdout.splitlines()) == 2)
    assert ctr.status(name) == "RUNNING"


def test_terminals(ctr: Ctr) -> None:
    name = ctr.name()
    first = ctr.terminal(*ctr.run("--tty", "--rm", IMAGE, name, "sh"))
    first.expect("# ")
    first.type(f"tty; {SIZED}; stty size; echo $((6 * 7))-\n")
    for text in ("/dev/pts/0", "24 80", "42-"):
        first.expect(text)
    second = ctr.terminal("tasks", "exec", "--exec-id=two", "--tty", name, "sh")
    second.expect("# ")
    second.type("tty; exit 5\n")
    second.expect("/dev/pts/1")
    assert second.wait() == 5
    first.resize(30, 100)
    first.type(f"{RESIZED}; echo $((5 * 5))-\n")
    first.expect("25-", meanwhile=first.remind)
    first.type("exit 4\n")
    assert first.wait() == 4


def test_attach(ctr: Ctr) -> None:
    name = ctr.name()
    process = ctr.begin(*ctr.run(IMAGE, name, "sh", "-c", "read word; echo got $word; read word; echo $word; exit 6"))
    until(lambda: ctr.status(name) == "RUNNING")
    process.kill()
    process.communicate()
    again = ctr.begin("tasks", "attach", name)
    assert again.stdin is not None and again.stdout is not None
    # ctr loses the output of a container that ends before ctr has opened it: the last word only after the first line.
    for word, line in (("one", "got one\n"), ("two", "two\n")):
        again.stdin.write(f"{word}\n")
        again.stdin.flush()
        assert again.stdout.readline() == line
    assert again.communicate(timeout=60)[0] == "" and again.returncode == 6


def test_signals_and_logs(ctr: Ctr, tmp_path: Path) -> None:
    log = tmp_path / "log"
    script = "trap 'echo usr1' USR1; trap 'echo term; exit 9' TERM; echo ready; while :; do sleep 0.05; done"
    name = start(ctr, "--", "sh", "-c", script, output=log)
    until(lambda: log.exists() and log.read_text() == "ready\n")
    ctr("tasks", "kill", "--signal=SIGUSR1", name)
    until(lambda: log.read_text() == "ready\nusr1\n")
    ctr("tasks", "kill", name)
    until(lambda: ctr.status(name) == "STOPPED")
    assert log.read_text() == "ready\nusr1\nterm\n"
    done = ctr("tasks", "delete", name, check=False)
    assert "exit code 9" in done.stdout + done.stderr
    ctr("tasks", "start", "--detach", "--null-io", name)  # again
    assert ctr.status(name) == "RUNNING"
    ctr("tasks", "exec", "--exec-id=more", "--detach", name, "sleep", "1000")
    ctr("tasks", "kill", "--all", "--signal=SIGKILL", name)
    until(lambda: ctr.status(name) == "STOPPED")


def test_pause(ctr: Ctr) -> None:
    name = start(ctr, "--", "sh", "-c", "while :; do sleep 0.05; done")
    path = Path(f"/proc/{ctr.pid(name)}/schedstat")
    ctr("tasks", "pause", name)
    assert ctr.status(name) == "PAUSED"
    before = path.read_bytes()
    assert "paused" in ctr("tasks", "exec", "--exec-id=x", name, "true", check=False).stderr
    assert path.read_bytes() == before
    ctr("tasks", "resume", name)
    assert ctr.status(name) == "RUNNING"
    until(lambda: path.read_bytes() != before)


def test_metrics(ctr: Ctr) -> None:
    name = start(ctr, "--memory-limit=67108864", "--", "sh", "-c", "sleep 1000 & while :; do :; done")

    def metrics() -> dict[str, int]:
        lines = ctr("tasks", "metrics", name).stdout.splitlines()
        return {words[0]: int(words[1]) for words in map(str.split, lines) if len(words) == 2 and words[1].isdecimal()}

    found = metrics()
    processor = "cpuacct.usage" if "cpuacct.usage" in found else "cpu.usage_usec"
    memory = re.compile(r"memory\.(limit_in_bytes|usage_limit|max)")
    assert found["pids.current"] == 2 and [found[each] for each in found if memory.fullmatch(each)] == [64 << 20]
    until(lambda: metrics()[processor] > found[processor])
    # Of this container alone: its processes have used what is told.
    used = int(Path(f"/proc/{ctr.pid(name)}/schedstat").read_text().split()[0])
    told = metrics()[processor] * (1 if processor == "cpuacct.usage" else 1000)
    assert told < 5 * used + 2e9


def test_lack_of_memory_is_noticed(ctr: Ctr) -> None:
    events = ctr.begin("events")
    name = start(ctr, "--memory-limit=16777216", "--", *GREEDY)
    until(lambda: ctr.status(name) == "STOPPED")
    time.sleep(1)  # containerd looks into the cgroup when it gets to it, and the cgroup goes with the task
    done = ctr("tasks", "delete", name, check=False)
    assert "exit code 137" in done.stdout + done.stderr
    events.terminate()
    told = events.communicate(timeout=60)[0]
    assert f'/tasks/oom {{"container_id":"{name}"}}' in told and '"exit_status":137' in told


def test_a_killed_container_leaves_nothing(ctr: Ctr) -> None:
    """Not by way of containerd: its first process is killed, with others in the container."""
    name = start(ctr, "--", "sh", "-c", "sleep 1000 & sleep 1000 & wait")
    ctr("tasks", "exec", "--exec-id=x", "--detach", name, "sleep", "1000")
    ctr.end(ctr.pid(name))
    until(lambda: ctr.status(name) == "STOPPED")
