"""Containers with a terminal, and shells that complete capsa's commands."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from fixtures.engine import CAPSA
from fixtures.terminal import Terminal


@pytest.fixture(autouse=True)
def nothing_left(engine, busybox):
    yield
    engine.remove_containers()


@pytest.fixture
def terminal(engine):
    return lambda *argv, **size: Terminal([*CAPSA, *argv], engine.environment(), **size)


def test_a_shell_in_a_terminal(terminal):
    screen = terminal("run", "-it", "--rm", "busybox", "sh", rows=30, columns=101)
    screen.expect("# ")
    assert screen.is_raw()
    screen.type("stty size; tty; echo one$((1+1))\r")
    screen.expect("30 101")
    screen.expect("/dev/")
    screen.expect("one2")
    screen.resize(40, 120)
    screen.type("sleep 0.5; stty size\r")
    screen.expect("40 120")
    screen.expect("# ")
    screen.type("sh -c 'echo sleeping; exec sleep 100'\r")
    screen.expect("sleeping\r\n")
    screen.type("\x03")
    screen.expect("# ")
    screen.type("exit 5\r")
    assert screen.wait() == 5


def test_the_terminal_is_restored_even_when_killed(engine, busybox):
    command = " ".join(CAPSA)
    screen = Terminal(
        ["sh", "-c", f"{command} run -it --rm busybox sleep 100 & wait $!; stty -a; echo done"], engine.environment()
    )
    screen.kill()
    screen = Terminal(
        ["sh", "-c", f"{command} run -it --rm --name box busybox sh -c 'echo up; sleep 100'; stty -a; echo finished"],
        engine.environment(),
    )
    screen.expect("up")
    engine.capsa("kill", "box")
    screen.expect(" icanon")
    screen.expect("finished")
    assert screen.wait() == 0


def test_a_failed_start_leaves_the_terminal_alone(terminal):
    screen = terminal("run", "-it", "--rm", "busybox", "nosuch")
    screen.expect("executable file not found")
    assert screen.wait() == 127


def test_detach_and_attach_again(terminal, engine):
    screen = terminal("run", "-it", "--name", "box", "busybox", "sh")
    screen.expect("# ")
    screen.type("\x10\x11")
    assert screen.wait() == 0
    assert engine.capsa("ps", "--format", "{{.Names}}").stdout == "box\n"
    screen = terminal("attach", "--detach-keys", "ctrl-x,q", "box")
    screen.type("echo again$((1+1))\r")
    screen.expect("again2")
    screen.type("\x18q")
    screen.expect("read escape sequence")
    assert screen.wait() == 1
    screen = terminal("exec", "-it", "box", "sh")
    screen.expect("# ")
    screen.type("\x10\x11")
    screen.expect("read escape sequence")
    assert screen.wait() == 1
    screen = terminal("exec", "-it", "box", "sh", rows=33, columns=44)
    screen.expect("# ")
    screen.type("stty size; exit 6\r")
    screen.expect("33 44")
    assert screen.wait() == 6


def test_a_terminal_is_asked_for_where_there_is_none(engine):
    done = engine.capsa("run", "-it", "--rm", "busybox", "true", input="", check=False)
    assert done.returncode == 1
    assert "not a TTY" in done.stderr
    assert engine.capsa("run", "-t", "--rm", "busybox", "tty").stdout.strip().startswith("/dev/")


def test_candidates_for_completion(engine):
    def words(*typed):
        return engine.capsa("completion", "words", *typed).stdout.split()

    engine.capsa("create", "--name", "stopped", "busybox")
    assert words("ru") == ["run"]
    assert "make" in words("image", "")
    assert words("run", "--det") == ["--detach", "--detach-keys"]
    assert words("run", "--rm", "-e", "A=1", "busy") == ["busybox:latest"]
    assert words("run", "--name", "") == []
    assert words("run", "busybox", "") == []
    assert words("rm", "st") == ["stopped"]
    assert words("stop", "") == []
    assert words("completion", "") == ["bash", "fish", "zsh"]


SHELLS = {
    "bash": """
        source <(capsa completion bash)
        COMP_WORDS=(capsa rmi busy)
        COMP_CWORD=2
        _capsa
        echo "${COMPREPLY[@]}"
    """,
    "fish": """
        capsa completion fish | source
        complete -C 'capsa rmi busy'
    """,
    "zsh": """
        autoload -Uz compinit
        compinit -u -D  # without a dump: writing one to /dev/null, as root, replaces the device
        source <(capsa completion zsh)
        compadd() { print -- ${@[2,-1]} }
        words=(capsa rmi busy)
        CURRENT=3
        _capsa
    """,
}


@pytest.mark.parametrize("shell", SHELLS)
def test_shells_complete(engine, tmp_path, shell):
    if shutil.which(shell) is None:
        pytest.skip(f"needs Debian's {shell}")
    program = tmp_path / "capsa"
    program.write_text(f'#!/bin/sh\nexec {" ".join(CAPSA)} "$@"\n')
    program.chmod(0o755)
    environment = {**engine.environment(), "PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run([shell, "-c", SHELLS[shell]], env=environment, capture_output=True, text=True, timeout=60)
    assert "busybox:latest" in done.stdout.split(), done.stdout + done.stderr
