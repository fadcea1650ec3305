"""capsa-runtime called by a real dockerd (``--add-runtime``), and runc in the same tests beside it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fixtures import bundle as b
from fixtures.caller import GREEDY, RUNC, SIZED, parameters, unchanged
from fixtures.dockerd import Dockerd, dockerd
from fixtures.wait import until

pytestmark = b.NEEDS
IMAGE = "busybox"


@pytest.fixture(scope="module", params=parameters("dockerd", RUNC))
def docker(request: pytest.FixtureRequest) -> Iterator[Dockerd]:
    with dockerd(request.param) as made:
        yield made


@pytest.fixture(autouse=True)
def tidy(docker: Dockerd) -> Iterator[None]:
    """Whatever a test runs, nothing of it is left once its containers are removed."""
    with unchanged(docker):
        yield
        if left := docker("ps", "--all", "--quiet").stdout.split():
            docker("rm", "--force", *left)


def start(docker: Dockerd, *words: str) -> str:
    """A container in the background, by its name; ``words`` begin with options."""
    name = docker.name()
    docker(*docker.run("--detach", f"--name={name}", *words))
    return name


def state(docker: Dockerd, name: str) -> dict[str, object]:
    return dict(docker.inspect(name)["State"])


def test_run_gives_output_and_exit_code(docker: Dockerd) -> None:
    script = "cat; echo failed >&2; hostname; exit 3"
    done = docker(
        *docker.run("--rm", "--interactive", "--hostname=box", IMAGE, "sh", "-c", script), check=False, input="in\n"
    )
    assert (done.returncode, done.stdout, done.stderr) == (3, "in\nbox\n", "failed\n")


def test_what_dockerd_asks_for_is_there(docker: Dockerd, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "file").write_text("bound\n")
    words = [
        f"--volume={tmp_path}:/in:ro",
        "--tmpfs=/scratch:size=1m",
        "--read-only",
        "--cap-drop=ALL",
        "--cap-add=KILL",
    ]
    words += ["--user=65534:100", "--workdir=/made/here", "--env=A=b c", "--ulimit=nofile=77:88", "--init"]
    words += ["--security-opt=no-new-privileges", "--sysctl=net.ipv4.ip_default_ttl=33", "--device=/dev/fuse"]
    script = (
        "cat /in/file; touch /in/x; touch /x; pwd; id -u; id -g; echo $A; ulimit -n; ulimit -Hn; cat /proc/1/comm;"
        "grep -E 'CapPrm|CapBnd|NoNewPrivs|Seccomp:' /proc/self/status; cat /proc/sys/net/ipv4/ip_default_ttl;"
        "grep -c ' /scratch tmpfs' /proc/mounts; test -c /dev/fuse && echo fuse"
    )
    done = docker(*docker.run("--rm", *words, IMAGE, "sh", "-c", script))
    lines = [re.sub(r"\s+", " ", line) for line in done.stdout.splitlines()]
    assert lines == [
        *("bound", "/made/here", "65534", "100", "b c", "77", "88", "docker-init", "CapPrm: 0000000000000000"),
        *("CapBnd: 0000000000000020", "NoNewPrivs: 1", "Seccomp: 2", "33", "1", "fuse"),
    ]
    assert done.stderr.count("Read-only file system") == 2


NO_SUCH = [
    (["nothing-like-it"], 127, 'exec: "nothing-like-it": executable file not found in $PATH'),
    (["/nothing"], 127, 'exec: "/nothing": stat /nothing: no such file or directory'),
    (["/etc/passwd"], 126, 'exec: "/etc/passwd": permission denied'),
    (["/etc"], 126, "permission denied"),
]


@pytest.mark.parametrize(
    ("command", "code", "message"), NO_SUCH, ids=lambda value: value[0] if isinstance(value, list) else ""
)
def test_a_command_that_cannot_be_executed(docker: Dockerd, command: list[str], code: int, message: str) -> None:
    name = docker.name()
    done = docker(*docker.run(f"--name={name}", IMAGE, *command), check=False)
    assert done.returncode == code and message in done.stderr
    found = docker.inspect(name)["State"]
    assert (found["Status"], found["ExitCode"]) == ("created", code) and message in found["Error"]


def test_exec(docker: Dockerd) -> None:
    name = start(docker, "--env=A=of the container", IMAGE, "sleep", "1000")
    script = "id -u; id -G; pwd; echo $A $B; cat; echo err >&2; exit 7"
    words = ["--interactive", "--user=nobody", "--workdir=/tmp", "--env=B=own", name, "sh", "-c", script]
    done = docker("exec", *words, input="in", check=False)
    assert (done.returncode, done.stdout, done.stderr) == (
        7,
        "65534\n65534 100\n/tmp\nof the container own\nin",
        "err\n",
    )
    docker("exec", "--detach", name, "sh", "-c", "echo there >/detached")
    until(lambda: docker("exec", name, "cat", "/detached", check=False).stdout == "there\n")
    # Not found is 127 with newer dockerds, 126 with Debian 12's, whatever the runtime.
    for command, code, message in NO_SUCH:
        done = docker("exec", name, *command, check=False)
        assert done.returncode in (code, 126) and message in done.stdout + done.stderr
    assert docker("exec", "--workdir=/nowhere", name, "true", check=False).returncode in (126, 127)
    assert state(docker, name)["Running"]


def test_terminals(docker: Dockerd) -> None:
    name = docker.name()
    first = docker.terminal(*docker.run("--interactive", "--tty", f"--name={name}", IMAGE))
    first.expect("# ")
    first.type(f"tty; {SIZED}; stty size; echo $((6 * 7))-\n")
    for text in ("/dev/pts/0", "24 80", "42-"):
        first.expect(text)
    first.resize(30, 100)
    until(lambda: first.remind() or docker("exec", name, "stty", "-F", "/dev/pts/0", "size").stdout == "30 100\n")
    first.type("sleep 1000\n")
    until(lambda: "sleep 1000" in docker("top", name).stdout)
    first.type("\x03")
    first.type("echo code $?-\n")
    first.expect("code 130-")
    second = docker.terminal("exec", "--interactive", "--tty", name, "sh")
    second.expect("# ")
    second.type("tty; exit 5\n")
    second.expect("/dev/pts/1")
    assert second.wait() == 5
    first.type("\x10\x11")  # ctrl-p ctrl-q
    assert first.wait() == 0 and state(docker, name)["Running"]
    third = docker.terminal("attach", name)
    third.type("echo still $((40 + 2))-; exit 4\n")
    third.expect("still 42-")
    assert third.wait() == 4


def test_attach_without_a_terminal(docker: Dockerd) -> None:
    script = 'while read word && [ "$word" != end ]; do echo got $word; done; exit 6'
    name = start(docker, "--interactive", IMAGE, "sh", "-c", script)
    process = docker.begin("attach", name)
    assert process.stdin is not None and process.stdout is not None
    for word in ("one", "two"):  # the client gives up once its input ends
        process.stdin.write(f"{word}\n")
        process.stdin.flush()
        assert process.stdout.readline() == f"got {word}\n"
    process.stdin.write("end\n")
    process.stdin.flush()
    assert process.wait(60) == 6
    process.communicate()
    assert docker("logs", name).stdout == "got one\ngot two\n"


def test_signals(docker: Dockerd) -> None:
    script = "trap 'echo usr1' USR1; trap 'echo term; exit 9' TERM; echo ready; while :; do sleep 0.05; done"
    name = start(docker, IMAGE, "sh", "-c", script)
    until(lambda: docker("logs", name).stdout == "ready\n")
    docker("kill", "--signal=USR1", name)
    until(lambda: docker("logs", name).stdout == "ready\nusr1\n")
    docker("stop", name)
    assert state(docker, name)["ExitCode"] == 9 and docker("logs", name).stdout.endswith("term\n")
    docker("start", name)
    docker("kill", name)
    assert docker("wait", name).stdout == "137\n"


def test_pause_and_restart(docker: Dockerd) -> None:
    name = start(docker, IMAGE, "sh", "-c", "echo start; while :; do sleep 0.05; done")
    docker("pause", name)
    assert state(docker, name)["Status"] == "paused"
    pid = int(str(state(docker, name)["Pid"]))

    def used() -> bytes:
        return Path(f"/proc/{pid}/schedstat").read_bytes()

    before = used()
    assert docker("exec", name, "true", check=False).returncode == 1
    assert used() == before
    docker("unpause", name)
    until(lambda: used() != before)
    docker("restart", "--time=0", name)
    assert state(docker, name)["Running"] and state(docker, name)["Pid"] != pid
    until(lambda: docker("logs", name).stdout == "start\nstart\n")


def test_statistics_and_processes(docker: Dockerd) -> None:
    name = start(docker, "--memory=64m", "--pids-limit=50", IMAGE, "sh", "-c", "sleep 1000 & while :; do :; done")
    told = docker("stats", "--no-stream", "--format={{json .}}", name)
    found = json.loads(told.stdout)
    assert found["PIDs"] == "2" and found["MemUsage"].endswith(" / 64MiB") and float(found["CPUPerc"].rstrip("%")) > 1
    top = docker("top", name, "-o", "pid,args").stdout
    assert "sleep 1000" in top and "while :" in top and len(top.splitlines()) == 3
    pid = state(docker, name)["Pid"]
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if not {"cpu", "cpuacct", "memory", "pids", "devices", "blkio"}.isdisjoint(controllers.split(",")):
            assert docker.parent in path, line


def test_limits_can_be_changed(docker: Dockerd) -> None:
    name = start(docker, "--memory=64m", IMAGE, "sleep", "1000")
    docker("update", "--memory=32m", "--memory-swap=32m", "--pids-limit=55", "--cpus=0.5", name)
    assert docker.limits(docker.inspect(name)["Id"]) == {"memory": str(32 << 20), "pids": "55", "cpu": 0.5}
    assert docker("exec", name, "true").returncode == 0


def test_lack_of_memory_is_noticed(docker: Dockerd) -> None:
    name = start(docker, "--memory=16m", "--memory-swap=16m", IMAGE, *GREEDY)
    assert docker("wait", name).stdout == "137\n"
    assert state(docker, name)["OOMKilled"] is True


def test_restart_policy(docker: Dockerd) -> None:
    name = start(docker, "--restart=on-failure:2", IMAGE, "sh", "-c", "echo run; exit 3")
    until(lambda: docker.inspect(name)["RestartCount"] == 2 and state(docker, name)["Status"] == "exited")
    assert docker("logs", name).stdout == "run\n" * 3 and state(docker, name)["ExitCode"] == 3


def test_a_killed_container_leaves_nothing(docker: Dockerd) -> None:
    """Not by way of dockerd: its first process is killed, with others in the container."""
    name = start(docker, "--rm", IMAGE, "sh", "-c", "sleep 1000 & sleep 1000 & wait")
    docker("exec", "--detach", name, "sleep", "1000")
    docker.end(int(str(state(docker, name)["Pid"])))
    until(lambda: not docker("ps", "--all", "--quiet").stdout)
