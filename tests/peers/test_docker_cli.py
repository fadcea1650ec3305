"""The real docker client against a capsa engine."""

from __future__ import annotations

import json
import socket
import subprocess
import time

import pytest
from fixtures.terminal import Terminal


@pytest.fixture(autouse=True)
def nothing_left(engine, busybox, docker_client):
    yield
    engine.remove_containers()


def test_the_client_and_the_engine_agree_on_a_version(docker):
    versions = json.loads(docker("version", "--format", "{{json .}}").stdout)
    assert versions["Server"]["ApiVersion"]
    assert docker("info", "--format", "{{.OSType}}").stdout == "linux\n"


def test_run_gives_output_errors_and_the_exit_code(docker):
    done = docker("run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2; exit 7", check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", 7)
    assert docker("run", "--rm", "-i", "busybox", "cat", input="in").stdout == "in"
    assert docker("ps", "-aq").stdout == ""


@pytest.mark.parametrize(("command", "code"), [("nosuch", 127), ("/etc/passwd", 126)])
def test_what_cannot_be_executed_has_dockers_codes(docker, command, code):
    done = docker("run", "--rm", "busybox", command, check=False)
    assert done.returncode == code, done.stderr
    assert docker("ps", "-aq").stdout == ""


def test_a_missing_image(docker):
    done = docker("run", "--rm", "--pull", "never", "nosuch:1", check=False)
    assert done.returncode == 125
    assert "No such image: nosuch:1" in done.stderr


def test_a_terminal(engine, docker_client, busybox):
    screen = Terminal(
        [docker_client, "run", "-it", "--rm", "busybox", "sh"], engine.environment(), rows=30, columns=101
    )
    screen.expect("# ")
    screen.type("stty size\r")
    screen.expect("30 101")
    screen.resize(40, 120)
    screen.type("sleep 0.5; stty size\r")
    screen.expect("40 120")
    screen.expect("# ")
    screen.type("exit 5\r")
    assert screen.wait() == 5


def test_detached_keys_and_attach(engine, docker_client, docker):
    screen = Terminal([docker_client, "run", "-it", "--name", "box", "busybox", "sh"], engine.environment())
    screen.expect("# ")
    screen.type("\x10\x11")
    screen.wait()
    assert docker("ps", "--format", "{{.Names}}").stdout == "box\n"
    screen = Terminal([docker_client, "exec", "-it", "box", "sh"], engine.environment())
    screen.expect("# ")
    screen.type("\x10\x11")
    screen.expect("read escape sequence")
    assert screen.wait() == 1
    screen = Terminal([docker_client, "attach", "box"], engine.environment())
    time.sleep(0.5)
    screen.type("exit 4\r")
    assert screen.wait() == 4


def test_exec_logs_and_inspect(docker):
    docker("run", "-d", "--name", "box", "busybox", "sh", "-c", "echo one; echo two >&2; exec sleep 100")
    assert docker("exec", "-e", "A=1", "-w", "/tmp", "box", "sh", "-c", "echo $A; pwd").stdout == "1\n/tmp\n"
    assert docker("exec", "-i", "box", "cat", input="in").stdout == "in"
    assert docker("exec", "box", "sh", "-c", "exit 3", check=False).returncode == 3
    assert docker("exec", "box", "nosuch", check=False).returncode in (126, 127)
    done = docker("logs", "box")
    assert (done.stdout, done.stderr) == ("one\n", "two\n")
    [found] = json.loads(docker("inspect", "box").stdout)
    assert found["State"]["Running"] is True
    assert found["Config"]["Image"] == "busybox"
    assert docker("inspect", "-f", "{{.State.Status}}", "box").stdout == "running\n"


def test_ps_kill_and_rm(docker):
    docker("run", "-d", "--name", "box", "-l", "a=b", "busybox", "sleep", "100")
    assert (
        docker("ps", "--filter", "label=a=b", "--format", "{{.Names}} {{.Image}} {{.State}}").stdout
        == "box busybox running\n"
    )
    docker("pause", "box")
    docker("unpause", "box")
    assert docker("rm", "box", check=False).returncode == 1
    docker("kill", "box")
    assert docker("wait", "box").stdout == "137\n"
    docker("start", "box")
    docker("restart", "-t", "0", "box")
    docker("stop", "-t", "0", "box")
    docker("rm", "box")
    done = docker("rm", "box", check=False)
    assert "No such container: box" in done.stderr


def test_followed_logs_end_with_the_container(docker):
    docker("run", "-d", "--name", "box", "busybox", "sh", "-c", "echo a; sleep 0.5; echo b")
    assert docker("logs", "-f", "box").stdout == "a\nb\n"


def test_images_travel(docker, tmp_path):
    docker("tag", "busybox", "other:1")
    assert "other:1" in docker("images", "--format", "{{.Repository}}:{{.Tag}}").stdout.split()
    docker("save", "-o", str(tmp_path / "image.tar"), "other:1")
    assert "Untagged: other:1" in docker("rmi", "other:1").stdout
    assert "Loaded image: other:1" in docker("load", "-i", str(tmp_path / "image.tar")).stdout
    docker("run", "--name", "src", "busybox", "sh", "-c", "echo hello > /greeting")
    docker("export", "-o", str(tmp_path / "root.tar"), "src")
    docker("import", "-c", 'CMD ["cat", "/greeting"]', str(tmp_path / "root.tar"), "greeter")
    assert docker("run", "--rm", "greeter").stdout == "hello\n"
    docker("rmi", "greeter", "other:1")


def test_a_published_port_is_reachable(docker):
    script = "while :; do echo from inside | nc -l -p 80; done"
    docker("run", "-d", "--name", "box", "-p", "127.0.0.1:0:80", "busybox", "sh", "-c", script)
    address, _, port = docker("port", "box", "80").stdout.strip().rpartition(":")
    assert address == "127.0.0.1"
    deadline = time.monotonic() + 20
    answer = b""
    while answer != b"from inside\n":
        assert time.monotonic() < deadline, answer
        try:
            with socket.create_connection((address, int(port)), timeout=5) as connection:
                answer = connection.recv(100)
        except OSError:
            time.sleep(0.1)


def test_a_taken_port_is_said(docker):
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        done = docker("run", "--rm", "-p", f"127.0.0.1:{port}:80", "busybox", "true", check=False)
    assert done.returncode == 125
    assert str(port) in done.stderr
    assert docker("ps", "-aq").stdout == ""


def test_signals_are_passed_on(engine, docker_client, busybox):
    script = "trap 'echo caught; exit 9' TERM; echo ready; while :; do sleep 0.1; done"
    client = subprocess.Popen(
        [docker_client, "run", "--rm", "busybox", "sh", "-c", script],
        env=engine.environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert client.stdout is not None
    assert client.stdout.readline() == "ready\n"
    client.terminate()
    assert client.stdout.read() == "caught\n"
    assert client.wait(30) == 9
