"""capsa-runtime called by a real podman (``--runtime``), and crun in the same tests beside it."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fixtures import bundle as b
from fixtures.caller import CRUN, RESIZED, SIZED, parameters, unchanged
from fixtures.podman import Podman, podman
from fixtures.wait import until

pytestmark = b.NEEDS
IMAGE = "busybox"


@pytest.fixture(scope="module", params=parameters("podman", CRUN))
def pod(request: pytest.FixtureRequest) -> Iterator[Podman]:
    with podman(request.param) as made:
        yield made


@pytest.fixture(autouse=True)
def tidy(pod: Podman) -> Iterator[None]:
    """Whatever a test runs, nothing of it is left once its containers are removed."""
    with unchanged(pod):
        yield
        pod("rm", "--all", "--force", "--time=0")


def start(pod: Podman, *words: str) -> str:
    """A container in the background, by its name; ``words`` begin with options."""
    name = pod.name()
    pod(*pod.run("--detach", f"--name={name}", *words))
    return name


def state(pod: Podman, name: str) -> dict[str, object]:
    return dict(pod.inspect(name)["State"])


def test_run_gives_output_and_exit_code(pod: Podman) -> None:
    words = ["--rm", "--interactive", "--hostname=box", "--workdir=/tmp", "--user=65534", "--env=A=b"]
    script = "cat; hostname; pwd; id -u; echo $A >&2; exit 3"
    done = pod(*pod.run(*words, IMAGE, "sh", "-c", script), check=False, input="in\n")
    assert (done.returncode, done.stderr) == (3, "b\n")
    assert done.stdout.startswith("in\nbox\n/tmp\n65534\n"), done.stdout


def test_what_podman_asks_for_is_there(pod: Podman, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("bound\n")
    words = [f"--volume={tmp_path}:/in:ro", "--tmpfs=/scratch:size=1m", "--read-only", "--umask=0027", "--env=A=b c"]
    words += ["--cap-drop=ALL", "--cap-add=KILL", "--security-opt=no-new-privileges", "--device=/dev/fuse"]
    # No limit of processes: in the words of before runtime-spec 1.3. And on cgroup v1 a mount over systemd's.
    words += ["--pids-limit=-1", "--systemd=always"]
    script = (
        "cat /in/file; touch /in/x; touch /x; umask; echo $A; test -c /dev/fuse && echo fuse; (sleep 0) & wait;"
        "grep -E 'CapPrm|NoNewPrivs|Seccomp:' /proc/self/status; grep -c ' /scratch tmpfs' /proc/mounts"
    )
    done = pod(*pod.run("--rm", *words, IMAGE, "sh", "-c", script))
    lines = [re.sub(r"\s+", " ", line) for line in done.stdout.splitlines()]
    assert lines == [
        *("bound", "0027", "b c", "fuse", "CapPrm: 0000000000000020", "NoNewPrivs: 1", "Seccomp: 2", "1"),
    ]
    assert done.stderr.count("Read-only file system") == 2


NO_SUCH = [(["nothing-like-it"], 127), (["/nothing"], 127), (["/etc/passwd"], 126), (["/etc"], 126)]
MESSAGES = {127: "attempted to invoke a command that was not found", 126: "OCI permission denied"}


def test_a_command_that_cannot_be_executed(pod: Podman) -> None:
    for command, code in NO_SUCH:
        done = pod(*pod.run("--rm", IMAGE, *command), check=False)
        assert done.returncode == code and MESSAGES[code] in done.stderr, command


def test_a_configured_runtime_is_asked_for_its_log(pod: Podman) -> None:
    """Without what the runtime adds for people."""
    given = ["--runtime=capsa"] if pod.ours else []
    done = pod(*given, *pod.run("--rm", IMAGE, "nothing-like-it"), check=False)
    assert done.returncode == 127 and MESSAGES[127] in done.stderr
    assert done.stderr.startswith("Error: capsa: exec: " if pod.ours else "Error: /usr/bin/crun: executable file ")
    assert pod(*given, *pod.run("--rm", IMAGE, "true")).returncode == 0


def test_exec(pod: Podman) -> None:
    name = start(pod, "--env=A=of the container", IMAGE, "sleep", "1000")
    script = "id -u; pwd; echo $A $B; cat; echo err >&2; exit 7"
    words = ["--interactive", "--user=nobody", "--workdir=/tmp", "--env=B=own", name, "sh", "-c", script]
    done = pod("exec", *words, input="in", check=False)
    assert (done.returncode, done.stdout, done.stderr) == (7, "65534\n/tmp\nof the container own\nin", "err\n")
    pod("exec", "--detach", name, "sh", "-c", "echo there >/detached")
    until(lambda: pod("exec", name, "cat", "/detached", check=False).stdout == "there\n")
    for command, code in NO_SUCH:
        done = pod("exec", name, *command, check=False)
        assert done.returncode == code and MESSAGES[code] in done.stderr, command
    assert pod("exec", "--workdir=/nowhere", name, "true", check=False).returncode in (126, 127)
    assert state(pod, name)["Running"]


def test_terminals(pod: Podman) -> None:
    name = pod.name()
    first = pod.terminal(*pod.run("--interactive", "--tty", f"--name={name}", IMAGE))
    first.expect("# ")
    first.type(f"tty; {SIZED}; stty size; echo $((6 * 7))-\n")
    for text in ("/dev/pts/0", "24 80", "42-"):
        first.expect(text)
    second = pod.terminal("exec", "--interactive", "--tty", name, "sh")
    second.expect("# ")
    second.type("tty; exit 5\n")
    second.expect("/dev/pts/1")
    assert second.wait() == 5
    first.resize(30, 100)
    first.type(f"{RESIZED}; echo $((5 * 5))-\n")
    first.expect("25-", meanwhile=first.remind)
    for key in "\x10\x11":  # ctrl-p ctrl-q, which podman wants to read one by one
        first.type(key)
        time.sleep(0.2)
    assert first.wait() == 0 and state(pod, name)["Running"]
    third = pod.terminal("attach", name)
    third.type("echo still $((40 + 2))-; exit 4\n")
    third.expect("still 42-")
    third.wait()  # attach's own exit code is 0 with Debian 12's podman
    assert pod("wait", name).stdout == "4\n"


def test_attach_without_a_terminal(pod: Podman) -> None:
    script = 'while read word && [ "$word" != end ]; do echo got $word; done; exit 6'
    name = start(pod, "--interactive", IMAGE, "sh", "-c", script)
    process = pod.begin("attach", name)
    output = process.communicate("one\ntwo\nend\n", 60)[0]  # to which podman adds a line's end
    assert output.splitlines()[:2] == ["got one", "got two"] and pod("wait", name).stdout == "6\n"
    assert pod("logs", name).stdout == "got one\ngot two\n"


def test_signals(pod: Podman) -> None:
    script = "trap 'echo usr1' USR1; trap 'echo term; exit 9' TERM; echo ready; while :; do sleep 0.05; done"
    name = start(pod, IMAGE, "sh", "-c", script)
    until(lambda: pod("logs", name).stdout == "ready\n")
    pod("kill", "--signal=USR1", name)
    until(lambda: pod("logs", name).stdout == "ready\nusr1\n")
    pod("stop", name)
    assert state(pod, name)["ExitCode"] == 9 and pod("logs", name).stdout.endswith("term\n")
    pod("start", name)
    pod("kill", name)
    assert pod("wait", name).stdout == "137\n"


def test_pause_and_restart(pod: Podman) -> None:
    name = start(pod, IMAGE, "sh", "-c", "echo start; while :; do sleep 0.05; done")
    pid = int(str(state(pod, name)["Pid"]))
    path = Path(f"/proc/{pid}/schedstat")
    pod("pause", name)
    assert state(pod, name)["Status"] == "paused"
    before = path.read_bytes()
    assert pod("exec", name, "true", check=False).returncode != 0
    assert path.read_bytes() == before
    pod("unpause", name)
    until(lambda: path.read_bytes() != before)
    pod("restart", "--time=0", name)
    assert state(pod, name)["Running"] and state(pod, name)["Pid"] != pid
    until(lambda: pod("logs", name).stdout == "start\nstart\n")


def test_statistics_processes_and_limits(pod: Podman) -> None:
    name = start(pod, "--memory=64m", "--pids-limit=50", IMAGE, "sh", "-c", "sleep 1000 & while :; do :; done")
    found = json.loads(pod("stats", "--no-stream", "--format=json", name).stdout)[0]
    assert found["pids"] == "2" and re.search(r" / 67\.\d+MB$", found["mem_usage"])
    assert float(found["cpu_percent"].rstrip("%")) > 1
    top = pod("top", name, "pid", "args").stdout
    assert "sleep 1000" in top and "while :" in top and len(top.splitlines()) == 3
    identity = pod.inspect(name)["Id"]
    pod("update", "--memory=32m", "--memory-swap=32m", "--cpus=0.5", name)
    assert pod.limits(identity) == {"memory": str(32 << 20), "pids": "50", "cpu": 0.5}
    for line in Path(f"/proc/{state(pod, name)['Pid']}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        # Nowhere with its monitor, which podman wants to remove or to freeze alone.
        assert not path.endswith("/conmon"), line
        if not {"cpu", "cpuacct", "memory", "pids", "devices", "blkio"}.isdisjoint(controllers.split(",")):
            assert pod.parent in path, line


def test_lack_of_memory_is_noticed(pod: Podman) -> None:
    # conmon 2.1.6 (Debian 12) notes it in a file that podman does not find: in its working directory, which is /.
    astray = Path("/oom")
    there = astray.exists()
    try:
        name = start(pod, "--memory=16m", "--memory-swap=16m", IMAGE, "tail", "/dev/zero")
        assert pod("wait", name).stdout == "137\n"
        assert state(pod, name)["OOMKilled"] is True or astray.exists()
    finally:
        if not there:
            with contextlib.suppress(FileNotFoundError):
                astray.unlink()


def test_a_killed_container_leaves_nothing(pod: Podman) -> None:
    """Not by way of podman: its first process is killed, with others in the container."""
    name = start(pod, "--rm", IMAGE, "sh", "-c", "sleep 1000 & sleep 1000 & wait")
    pod("exec", "--detach", name, "sleep", "1000")
    pod.end(int(str(state(pod, name)["Pid"])))
    until(lambda: not pod("ps", "--all", "--quiet").stdout)
