"""The capsa command with a real engine and real containers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time

import pytest
from fixtures.engine import CAPSA


@pytest.fixture(autouse=True)
def nothing_left(engine, busybox):
    """Each test begins and ends without containers."""
    yield
    engine.remove_containers()


@pytest.fixture
def capsa(engine):
    return engine.capsa


def names(capsa):
    return capsa("ps", "-a", "--format", "{{.Names}}").stdout.split()


def test_output_errors_and_the_exit_code_come_through(capsa):
    done = capsa("run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2; exit 7", check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", 7)
    assert names(capsa) == []


def test_standard_input_goes_in_and_its_end_too(capsa):
    assert capsa("run", "--rm", "-i", "busybox", "cat", input="some\ntext").stdout == "some\ntext"
    assert capsa("run", "--rm", "busybox", "cat", input="ignored").stdout == ""


def test_much_in_and_out_at_the_same_time(engine):
    data = os.urandom(1 << 20) * 8
    done = subprocess.run(
        [*CAPSA, "run", "--rm", "-i", "busybox", "cat"],
        env=engine.environment(),
        input=data,
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == data


def test_a_program_killed_by_a_signal_gives_128_and_its_number(capsa):
    assert capsa("run", "--rm", "busybox", "sh", "-c", "kill -9 $$", check=False).returncode in (0, 137)
    capsa("run", "-d", "--name", "box", "busybox", "sleep", "100")
    capsa("kill", "box")
    assert capsa("wait", "box").stdout == "137\n"


@pytest.mark.parametrize(
    ("argv", "code", "text"),
    [
        (["busybox", "nosuch"], 127, "executable file not found"),
        (["busybox", "/no/such"], 127, "no such file or directory"),
        (["busybox", "/etc/passwd"], 126, "permission denied"),
        (["--pull", "never", "nosuch:1"], 125, "no such image"),
        (["-p", "99999:1", "busybox"], 125, "invalid port"),
        (["--memory", "1k", "busybox"], 125, "memory"),
        (["--name", "-bad", "busybox"], 125, "name"),
        (["--network", "nosuch", "busybox"], 125, "network"),
        (["-v", "relative:also:bad:x", "busybox"], 125, "volume"),
        (["--cap-add", "nosuch", "busybox"], 125, "cap"),
    ],
)
def test_what_cannot_be_run_is_one_sentence_a_code_and_leaves_nothing(capsa, argv, code, text):
    done = capsa("run", "--rm", *argv, check=False)
    assert done.returncode == code, done.stderr
    assert text in done.stderr.lower()
    assert done.stderr.startswith("capsa: ")
    assert len(done.stderr.strip().splitlines()) <= 2
    assert done.stdout == ""
    assert names(capsa) == []


def test_a_name_in_use(capsa):
    capsa("create", "--name", "taken", "busybox")
    done = capsa("run", "--name", "taken", "busybox", "true", check=False)
    assert done.returncode == 125
    assert "already in use" in done.stderr
    assert capsa("create", "--name", "taken", "busybox", check=False).returncode == 1
    assert names(capsa) == ["taken"]


def test_a_container_in_the_background_from_start_to_removal(capsa):
    identifier = capsa(
        "run", "-d", "--name", "box", "busybox", "sh", "-c", "echo started; exec sleep 100"
    ).stdout.strip()
    assert len(identifier) == 64
    assert capsa("ps", "-q", "--no-trunc").stdout.split() == [identifier]
    table = capsa("ps").stdout.splitlines()
    assert table[0].split() == ["CONTAINER", "ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"]
    assert table[1].startswith(identifier[:12])
    assert table[1].endswith("box")
    assert capsa("pause", "box").stdout == "box\n"
    assert "(Paused)" in capsa("ps", "--format", "{{.Status}}").stdout
    capsa("unpause", "box")
    assert capsa("stop", "-t", "0", "box").stdout == "box\n"
    assert capsa("wait", "box").stdout == "137\n"
    assert capsa("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "box").stdout == "exited 137\n"
    capsa("start", "box")
    capsa("restart", "-t", "0", identifier[:10])
    assert capsa("rm", "box", check=False).returncode == 1
    assert capsa("rm", "-f", "box").stdout == "box\n"
    done = capsa("rm", "box", check=False)
    assert done.returncode == 1
    assert done.stderr.lower().startswith("capsa: no such container: box")


def test_logs(capsa, engine):
    capsa("run", "--name", "talker", "busybox", "sh", "-c", "for i in 1 2 3; do echo line $i; done; echo oops >&2")
    done = capsa("logs", "talker")
    assert (done.stdout, done.stderr) == ("line 1\nline 2\nline 3\n", "oops\n")
    capsa("run", "--name", "other", "busybox", "seq", "9")
    assert capsa("logs", "-n", "2", "other").stdout == "8\n9\n"
    stamped = capsa("logs", "-t", "talker").stdout.splitlines()[0]
    assert stamped[:2] == "20" and stamped.endswith("Z line 1")
    assert capsa("logs", "--since", "2100-01-01T00:00:00", "talker").stdout == ""


def test_followed_logs_end_with_the_container(capsa, engine):
    capsa("run", "-d", "--name", "slow", "busybox", "sh", "-c", "echo a; sleep 0.5; echo b; sleep 0.5; echo c")
    assert capsa("logs", "-f", "slow").stdout == "a\nb\nc\n"


def test_exec(capsa):
    capsa("run", "-d", "--name", "box", "busybox", "sleep", "100")
    assert (
        capsa("exec", "-e", "A=1", "-w", "/tmp", "-u", "nobody", "box", "sh", "-c", "echo $A; pwd; id -u").stdout
        == "1\n/tmp\n65534\n"
    )
    assert capsa("exec", "-i", "box", "cat", input="in").stdout == "in"
    done = capsa("exec", "box", "sh", "-c", "echo err >&2; exit 3", check=False)
    assert (done.stderr, done.returncode) == ("err\n", 3)
    assert capsa("exec", "box", "nosuch", check=False).returncode == 127
    assert capsa("exec", "box", "/etc/passwd", check=False).returncode == 126
    capsa("exec", "-d", "box", "touch", "/tmp/there")
    deadline = time.monotonic() + 20
    while capsa("exec", "box", "test", "-e", "/tmp/there", check=False).returncode:
        assert time.monotonic() < deadline
    assert capsa("exec", "nobox", "true", check=False).returncode == 1
    capsa("kill", "box")
    capsa("wait", "box")
    done = capsa("exec", "box", "true", check=False)
    assert done.returncode == 1
    assert "not running" in done.stderr


def test_inspect_and_format(capsa):
    capsa("create", "--name", "box", "-l", "colour=red", "-e", "A=1", "busybox", "sh")
    [found] = json.loads(capsa("inspect", "box").stdout)
    assert found["Name"] == "/box"
    assert found["Config"]["Labels"] == {"colour": "red"}
    assert (
        capsa("inspect", "-f", '{{.Name}} {{index .Config.Labels "colour"}} {{json .Config.Cmd}}', "box").stdout
        == '/box red ["sh"]\n'
    )
    assert json.loads(capsa("ps", "-a", "--json").stdout)["Names"] == "box"
    table = capsa("ps", "-a", "--format", 'table {{.Names}}\\t{{.Label "colour"}}').stdout
    assert table == "NAMES     colour\nbox       red\n"
    assert capsa("image", "inspect", "-f", "{{.RepoTags}}", "busybox").stdout == "[busybox:latest]\n"
    done = capsa("inspect", "box", "nothing", check=False)
    assert done.returncode == 1
    assert json.loads(done.stdout)[0]["Name"] == "/box"
    assert done.stderr.lower().startswith("capsa: no such object: nothing")
    assert capsa("inspect", "-f", "{{.Nonsense}}", "box", check=False).returncode == 1


def test_filters(capsa):
    capsa("create", "--name", "one", "-l", "a=1", "busybox")
    capsa("create", "--name", "two", "-l", "a=2", "busybox")
    assert capsa("ps", "-a", "-f", "label=a=1", "--format", "{{.Names}}").stdout == "one\n"
    assert capsa("ps", "-a", "-f", "name=two", "--format", "{{.Names}}").stdout == "two\n"
    assert capsa("ps", "--format", "{{.Names}}").stdout == ""
    assert len(capsa("ps", "-aq").stdout.split()) == 2


def test_options_reach_the_container(capsa, tmp_path):
    (tmp_path / "file").write_text("from the host\n")
    tmp_path.chmod(0o755)
    cid = tmp_path / "cid"
    env = tmp_path / "env"
    env.write_text("B=2\n")
    script = "hostname; id -u; pwd; echo $A $B; cat /mnt/file; touch /mnt/x 2>&1; cat /sys/class/net/*/address | wc -l"
    done = capsa(
        *("run", "--rm", "--hostname", "boxy", "-u", "1:1", "-w", "/tmp", "-e", "A=1", "--env-file", str(env)),
        *("-v", f"{tmp_path}:/mnt:ro", "--network", "none", "--cidfile", str(cid), "busybox", "sh", "-c", script),
    )
    assert done.stdout.splitlines()[:5] == ["boxy", "1", "/tmp", "1 2", "from the host"]
    assert "Read-only file system" in done.stdout
    assert done.stdout.splitlines()[-1] == "1"
    assert len(cid.read_text()) == 64
    again = capsa("run", "--rm", "--cidfile", str(cid), "busybox", "true", check=False)
    assert again.returncode == 125
    assert "container ID file found" in again.stderr


def test_images_go_out_and_come_in(capsa, tmp_path):
    capsa("tag", "busybox", "other:1")
    assert "other" in capsa("images", "--format", "{{.Repository}}").stdout.split()
    capsa("save", "-o", str(tmp_path / "image.tar"), "other:1")
    assert "Untagged: other:1" in capsa("rmi", "other:1").stdout
    assert capsa("load", "-i", str(tmp_path / "image.tar")).stdout == "Loaded image: other:1\n"
    capsa("run", "--name", "src", "busybox", "sh", "-c", "echo hello > /greeting")
    capsa("export", "-o", str(tmp_path / "root.tar"), "src")
    capsa("import", "-c", 'CMD ["cat", "/greeting"]', str(tmp_path / "root.tar"), "greeter")
    assert capsa("run", "--rm", "greeter").stdout == "hello\n"
    for image in ("greeter", "other:1"):
        capsa("rmi", image)
    done = capsa("rmi", "greeter", check=False)
    assert done.returncode == 1
    assert "no such image" in done.stderr.lower()
    assert os.listdir(tmp_path) and all(not name.endswith(".partial") for name in os.listdir(tmp_path))


@pytest.mark.parametrize("content", [b"", b"no archive", b"\0" * 10240, b"x" * 100_000])
def test_a_broken_archive_is_one_sentence(capsa, tmp_path, content):
    path = tmp_path / "broken.tar"
    path.write_bytes(content)
    done = capsa("load", "-i", str(path), check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("capsa: ")
    assert "Traceback" not in done.stderr
    assert capsa("load", "-i", str(tmp_path / "absent"), check=False).stderr.endswith("does not exist\n")


def test_attach_and_start_with_attachment(capsa):
    capsa("create", "--name", "box", "-i", "busybox", "sh", "-c", "read x; echo got $x; exit 3")
    done = capsa("start", "-a", "-i", "box", input="this\n", check=False)
    assert (done.stdout, done.returncode) == ("got this\n", 3)
    assert capsa("attach", "box", check=False).returncode == 1
    capsa("run", "-d", "-i", "--name", "open", "busybox", "sh", "-c", "read x; echo got $x; exit 4")
    done = capsa("attach", "open", input="that\n", check=False)
    assert (done.stdout, done.returncode) == ("got that\n", 4)


def test_signals_are_passed_on(engine, capsa):
    client = subprocess.Popen(
        [
            *CAPSA,
            "run",
            "--rm",
            "busybox",
            "sh",
            "-c",
            "trap 'echo caught; exit 9' TERM; echo ready; while :; do sleep 0.1; done",
        ],
        env=engine.environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert client.stdout.readline() == "ready\n"
    client.send_signal(signal.SIGTERM)
    assert client.stdout.read() == "caught\n"
    assert client.wait(30) == 9


def test_an_interrupt_ends_without_a_word(engine, capsa):
    capsa("run", "-d", "--name", "box", "busybox", "sh", "-c", "echo ready; exec sleep 100")
    client = subprocess.Popen(
        [*CAPSA, "logs", "-f", "box"],
        env=engine.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert client.stdout.readline() == "ready\n"
    client.send_signal(signal.SIGINT)
    try:
        out, err = client.communicate(timeout=30)
    finally:
        client.kill()
    assert (out, err, client.returncode) == ("", "", 130)


def test_a_reader_that_leaves_is_no_failure_to_talk_about(engine, capsa):
    capsa("run", "--name", "box", "busybox", "seq", "100000", timeout=120)
    done = subprocess.run(
        ["sh", "-c", f"{' '.join(CAPSA)} logs box | head -n 1"],
        env=engine.environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("1\n", "")


def test_no_engine_is_one_sentence(engine):
    done = subprocess.run([*CAPSA, "--host", "unix:///nowhere/x.sock", "ps"], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("capsa: cannot reach the engine at unix:///nowhere/x.sock")
    done = subprocess.run([*CAPSA, "--host", "nonsense", "ps"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "no such form" in done.stderr


def test_version_and_info(capsa):
    assert "Server:" in capsa("version").stdout
    assert json.loads(capsa("version", "--json").stdout)["Server"]["ApiVersion"]
    assert capsa("info", "-f", "{{.OSType}}").stdout == "linux\n"
    assert "Containers: " in capsa("info").stdout
