"""Engines that the command line starts and stops."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest
from fixtures.engine import CAPSA

SOCKET = "/run/capsa/docker.sock"


@pytest.fixture
def alone(need_root):
    """Runs a shell script where there is no default engine: with directories and a network of its own."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        if probe.connect_ex(SOCKET) == 0:
            pytest.skip("needs a machine without a default engine running (capsa engine stop)")
    made = [path for path in (Path("/run/capsa"), Path("/var/lib/capsa")) if not path.exists()]
    for path in made:
        path.mkdir(mode=0o711)

    def run(script):
        prepare = "mount -t tmpfs none /run/capsa && mount -t tmpfs none /var/lib/capsa || exit 99\n"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("DOCKER_")}
        return subprocess.run(
            ["unshare", "--mount", "--net", "sh", "-c", prepare + script],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )

    yield run
    for path in made:
        path.rmdir()


def test_the_first_command_starts_an_engine_and_stop_ends_it(alone):
    done = alone(
        f"set -e; {CAPSA[0]} ps -q; {CAPSA[0]} version -f '{{{{.Server.Version}}}}'; {CAPSA[0]} engine stop\n"
        f"test ! -e {SOCKET}; {CAPSA[0]} engine stop; cat /run/capsa/engine.log >&2"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"no engine is running at unix://{SOCKET}"
    assert "Traceback" not in done.stderr


def test_commands_at_the_same_time_reach_the_same_engine(alone):
    done = alone(
        # each command's line goes through a shell, as two of them may be written at once
        f"for i in 1 2 3; do (id=$({CAPSA[0]} info -f '{{{{.ID}}}}'); echo $id) & done; wait; "
        f"{CAPSA[0]} ps -q; {CAPSA[0]} engine stop; echo done"
    )
    names = done.stdout.split()
    assert names[-1] == "done", done.stderr
    assert len(names) == 4
    assert len(set(names[:3])) == 1
    assert done.stderr == ""


def test_an_engine_that_cannot_start_is_said_in_one_sentence(alone):
    done = alone(f"echo garbage >/var/lib/capsa/capsa.db; {CAPSA[0]} ps")
    assert done.returncode == 1
    assert done.stderr.startswith("capsa: the engine did not start: ")
    assert "capsa.db" in done.stderr
    assert "Traceback" not in done.stderr


def test_two_engines_do_not_share_directories(engine):
    command = [*CAPSA, "engine", "--root", str(engine.root), "--run", str(engine.run)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith("capsa: another engine uses")


@pytest.mark.parametrize("host", ["tcp://0.0.0.0:1", "nonsense", "unix://relative"])
def test_an_engine_does_not_listen_just_anywhere(need_root, tmp_path, host):
    command = [*CAPSA, "engine", "--root", str(tmp_path / "a"), "--run", str(tmp_path / "b"), "--host", host]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode in (1, 125)
    assert done.stderr.startswith("capsa: ")
    assert len(done.stderr.splitlines()) == 1


def test_stop_ends_the_engine_and_leaves_its_containers(engine, busybox):
    engine.capsa("run", "-d", "--name", "box", "busybox", "sleep", "1000")
    engine.capsa("engine", "stop")
    assert engine.process.wait(10) == 0
    engine.up()
    assert engine.capsa("inspect", "-f", "{{.State.Running}}", "box").stdout == "true\n"
    engine.restart(signal.SIGKILL)
    assert engine.capsa("inspect", "-f", "{{.State.Running}}", "box").stdout == "true\n"
