"""capsa-runtime: a container's life in separate calls, as runtime.md has it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from fixtures import bundle as b
from fixtures.bundle import process, shell, spec, with_process
from fixtures.runtime import RuntimeUnderTest, runtime
from fixtures.wait import until

from capsa.oci.runtime import Capabilities, Hook, Hooks, Process, User

pytestmark = b.NEEDS


@pytest.fixture
def oci(tmp_path: Path) -> Iterator[RuntimeUnderTest]:
    with runtime(tmp_path) as made:
        yield made


def test_created_started_stopped_deleted(oci: RuntimeUnderTest) -> None:
    oci.write(spec("echo ran; sleep 1000"))
    assert oci.status() == "gone"
    oci.create("--pid-file", str(oci.base / "pid"))
    state = oci.state()
    assert (state["status"], state["bundle"], state["id"]) == ("created", str(oci.bundle), "box")
    assert state["pid"] == int((oci.base / "pid").read_text())
    assert Path(f"/proc/{state['pid']}").exists() and oci.output == ""
    oci("start", "box")
    until(lambda: oci.output == "ran\n")
    assert oci.status() == "running"
    refused = oci("delete", "box", check=False)
    assert refused.returncode == 1 and "not stopped: running" in refused.stderr
    oci("kill", "box", "KILL")
    until(lambda: oci.status() == "stopped")
    assert oci.state()["pid"] == 0
    oci("delete", "box")
    assert oci.status() == "gone" and not oci.traces()


def test_what_a_state_does_not_allow_is_refused_and_changes_nothing(oci: RuntimeUnderTest) -> None:
    oci.write(spec("sleep 1000"))

    def refused(*words: str) -> str:
        done = oci(*words, check=False)
        assert done.returncode, words
        return done.stderr

    for verb in ("start", "state", "kill", "delete", "pause", "resume", "update", "ps", "events"):
        assert "container box does not exist" in refused(verb, "box"), verb
    assert "container box does not exist" in refused("exec", "box", "true")
    oci("delete", "--force", "box")
    oci.create()
    assert "container with id exists: box" in refused("create", "box")
    assert "not stopped: created" in refused("delete", "box")
    assert "it is not paused" in refused("resume", "box")
    assert oci.status() == "created"
    oci("start", "box")
    assert "it is running, not created" in refused("start", "box")
    oci("pause", "box")
    assert oci.status() == "paused"
    assert "it is paused" in refused("pause", "box") and "paused container" in refused("exec", "box", "true")
    oci("resume", "box")
    oci("kill", "--all", "box", "9")
    until(lambda: oci.status() == "stopped")
    assert "container not running" in refused("kill", "box", "TERM")
    for verb in (["start", "box"], ["pause", "box"], ["exec", "box", "true"], ["update", "--memory", "64m", "box"]):
        refused(*verb)
    oci("delete", "box")


@pytest.mark.parametrize("words", [(), ("a", "b"), ("../box",), ("",), ("a/b",)])
def test_an_id_is_needed_and_is_one_word(oci: RuntimeUnderTest, words: tuple[str, ...]) -> None:
    for verb in ("create", "start", "state", "delete", "pause"):
        done = oci(verb, *words, check=False)
        assert done.returncode == 1 and done.stderr.startswith("capsa-runtime: "), verb


def test_run_waits_and_its_exit_code_is_the_programs(oci: RuntimeUnderTest) -> None:
    oci.write(spec("cat; echo failed >&2; exit 7"))
    done = oci("run", "box", check=False, input="some words", stdin=None)
    assert (done.returncode, done.stdout, done.stderr) == (7, "some words", "failed\n")
    assert not oci.traces()
    oci.write(spec("kill -SEGV $$"))
    oci.write(spec(["sh", "-c", "sh -c 'kill -9 $PPID'; sleep 5"]))
    oci("run", "--keep", "box", check=False)
    assert oci.status() == "stopped"


@pytest.mark.parametrize("name", ["LC_ALL", "LANG"])
def test_a_locale_that_is_not_installed_is_no_matter(oci: RuntimeUnderTest, name: str) -> None:
    """Somebody who comes by ssh brings their own; what is said of it would be in the container's output."""
    foreign = {each: value for each, value in os.environ.items() if not each.startswith(("LC_", "LANG"))}
    foreign |= {name: "xx_YY.UTF-8", "PATH": os.environ["PATH"]}
    oci.write(spec("echo out"))
    done = oci("run", "box", env=foreign)
    assert (done.stdout, done.stderr) == ("out\n", "")
    oci.create()
    done = oci("state", "box", env=foreign)
    assert json.loads(done.stdout)["status"] == "created" and done.stderr == ""
    oci("delete", "--force", "box")


def test_run_passes_signals_on(oci: RuntimeUnderTest) -> None:
    oci.write(spec("trap 'echo got it; exit 9' TERM; echo ready; while :; do sleep 0.05; done"))
    with subprocess.Popen(oci.arguments("run", "box"), cwd=oci.bundle, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "got it\n"
        assert process.wait(30) == 9


def test_a_program_that_cannot_be_executed_fails_the_creation(oci: RuntimeUnderTest) -> None:
    """Also where its user or its working directory decides: callers make their exit codes of what create says."""
    (oci.root / "bin" / "plain").write_text("no program")
    for name, mode in (("own", 0o700), ("members", 0o750)):
        (oci.root / name).mkdir()
        (oci.root / name / "echo").symlink_to("/bin/busybox")
        os.chown(oci.root / name, 0, 100)
        (oci.root / name).chmod(mode)
    own, members = ["/own/echo", "it runs"], ["/members/echo", "it runs"]
    user = User(uid=1000, gid=1000)
    none = Capabilities()

    def refused(process: Process) -> str:
        oci.write(with_process(spec(), **msgspec.structs.asdict(process)))
        done = oci("create", "box", check=False)
        assert done.returncode == 1 and not oci.traces()
        return done.stderr

    assert 'exec: "nothing-like-it": executable file not found in $PATH' in refused(process(["nothing-like-it"]))
    assert 'exec: "/etc": is a directory: permission denied' in refused(process(["/etc"]))
    for args in (["plain"], ["/bin/plain"], ["./plain"]):
        assert f'exec: "{args[0]}": permission denied' in refused(process(args, cwd="/bin"))
    assert "permission denied" in refused(process(own, user=user, capabilities=none))
    assert "permission denied" in refused(process(members, user=user, capabilities=none))
    assert "cannot use /etc/passwd as working directory: not a directory" in refused(process(["sh"], cwd="/etc/passwd"))
    for fields in (
        {"args": own},
        {"args": own, "user": user},  # with CAP_DAC_OVERRIDE
        {"args": members, "user": User(uid=1000, gid=1000, additional_gids=[100]), "capabilities": none},
    ):
        oci.write(with_process(spec(), **fields))
        assert oci("run", "box").stdout == "it runs\n"


def test_a_program_that_the_kernel_refuses_fails_the_start(oci: RuntimeUnderTest) -> None:
    (oci.root / "bin" / "plain").write_text("no program")
    (oci.root / "bin" / "plain").chmod(0o755)
    oci.write(spec(["plain"]))
    oci.create()
    done = oci("start", "box", check=False)
    assert done.returncode == 1 and "exec format error" in done.stderr
    until(lambda: oci.status() == "stopped")
    oci("delete", "box")
    assert oci("run", "box", check=False).returncode == 1
    assert not oci.traces()


def test_failures_go_to_the_log_in_the_form_asked_for(oci: RuntimeUnderTest) -> None:
    log = oci.base / "log"
    oci("--log", str(log), "--log-format", "json", "start", "box", check=False)
    entry = json.loads(log.read_text())
    assert entry["level"] == "error" and entry["msg"] == "container box does not exist" and entry["time"]
    oci("--log", str(log), "start", "box", check=False)
    assert log.read_text().splitlines()[1].endswith('level=error msg="container box does not exist"')


def test_hooks_run_at_their_points_with_the_state(oci: RuntimeUnderTest) -> None:
    def hook(name: str) -> list[Hook]:
        where = oci.base if name not in ("createContainer", "startContainer") else Path("/tmp")
        script = (
            f"cat >{where}/{name}; ls /proc/self/ns >/dev/null; date +%s%N >>{oci.base}/order.{name} 2>/dev/null; :"
        )
        return [Hook(path="/bin/sh", args=["sh", "-c", script])]

    wanted = Hooks(
        prestart=hook("prestart"),
        create_runtime=hook("createRuntime"),
        start_container=hook("startContainer"),
        poststart=hook("poststart"),
        poststop=hook("poststop"),
    )
    oci.write(msgspec.structs.replace(spec("sleep 1000"), hooks=wanted, annotations={"a": "b"}))

    def told(name: str, directory: Path = oci.base) -> dict[str, object]:
        return dict(json.loads((directory / name).read_text()))

    oci.create()
    pid = oci.state()["pid"]
    for name in ("prestart", "createRuntime"):
        found = told(name)
        assert (found["status"], found["pid"], found["annotations"]) == ("creating", pid, {"a": "b"})
    assert not (oci.root / "tmp" / "startContainer").exists() and not (oci.base / "poststart").exists()
    oci("start", "box")
    assert told("startContainer", oci.root / "tmp")["status"] == "created"
    assert told("poststart")["status"] == "running"
    oci("kill", "box", "KILL")
    until(lambda: oci.status() == "stopped")
    assert not (oci.base / "poststop").exists()
    oci("delete", "box")
    assert told("poststop")["status"] == "stopped"


def test_a_container_outlives_the_runtime_and_its_caller(oci: RuntimeUnderTest) -> None:
    oci.write(spec("sleep 1000"))
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            oci.create()
            oci("start", "box")
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert oci.status() == "running"
    assert oci("exec", "box", "echo", "there").stdout == "there\n"


def test_a_created_container_can_be_told_to_end(oci: RuntimeUnderTest) -> None:
    oci.create()
    oci("kill", "box", "TERM")
    until(lambda: oci.status() == "stopped")
    oci("delete", "box")


def test_the_specification_is_that_of_the_creation(oci: RuntimeUnderTest) -> None:
    oci.write(spec("echo first"))
    oci.create()
    oci.write(spec("echo second"))
    oci("start", "box")
    until(lambda: oci.status() == "stopped")
    assert oci.output == "first\n"


def test_spec_writes_one_that_runs(oci: RuntimeUnderTest) -> None:
    (oci.bundle / "config.json").unlink()
    oci("spec")
    made = json.loads((oci.bundle / "config.json").read_text())
    assert "exists" in oci("spec", check=False).stderr
    made["process"] |= {"terminal": False, "args": ["sh", "-c", "echo $0 here; touch /x"]}
    oci.write(made)
    done = oci("run", "box", check=False)
    assert done.stdout == "sh here\n" and "Read-only file system" in done.stderr


def test_features_are_those_of_the_specification(oci: RuntimeUnderTest) -> None:
    found = json.loads(oci("features").stdout)
    assert set(found["hooks"]) >= {"createRuntime", "poststop"}
    assert {"rbind", "ro", "idmap"} <= set(found["mountOptions"])
    assert found["linux"]["seccomp"]["enabled"] and "SCMP_ACT_NOTIFY" in found["linux"]["seccomp"]["actions"]
    assert set(found["linux"]["namespaces"]) == {
        *("cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"),
    }


def test_descriptors_are_passed_on_where_asked_for(oci: RuntimeUnderTest) -> None:
    oci.write(spec("ls /proc/self/fd | tr '\\n' ' '; cat <&3"))
    reader, writer = os.pipe()
    os.write(writer, b"through 3\n")
    os.close(writer)
    script = f'exec 3<&{reader}; exec "$@"'
    words = ["bash", "-c", script, "bash", *oci.arguments("run", "--preserve-fds", "1", "box")]
    done = subprocess.run(words, cwd=oci.bundle, capture_output=True, text=True, pass_fds=(reader,), timeout=60)
    os.close(reader)
    assert done.stdout == "0 1 2 3 4 through 3\n", done
    oci.write(with_process(spec(), args=shell("ls /proc/self/fd | tr '\\n' ' '").args))
    assert oci("run", "box").stdout == "0 1 2 3 "  # 3 is of ls itself


def test_without_criu_it_is_said(oci: RuntimeUnderTest) -> None:
    broken = oci.base / "criu"
    broken.write_text("#!/bin/sh\necho 'Error (criu/vdso.c:381): vdso: it does not fit' >&2\nexit 1\n")
    broken.chmod(0o755)
    (oci.base / "images").mkdir()
    oci.write(spec("sleep 1000"))
    oci.create()
    refused = oci("checkpoint", "box", check=False)
    assert refused.returncode == 1 and "cannot checkpoint container box: it is created" in refused.stderr
    oci("start", "box")
    for program, said in ((str(broken), "vdso: it does not fit"), ("/none/criu", "no such file or directory")):
        for verb in (["checkpoint", "box"], ["restore", "--detach", "another"]):
            refused = oci("--criu", program, *verb, "--image-path", str(oci.base / "images"), check=False)
            assert refused.returncode == 1 and "CRIU" in refused.stderr and said in refused.stderr, refused
    for option in ("--lazy-pages", "--page-server=a:1", "--status-fd=3"):
        refused = oci("checkpoint", option, "box", check=False)
        assert refused.returncode == 1 and option.split("=")[0] in refused.stderr, refused
    assert oci.status() == "running" and oci.status("another") == "gone"


@pytest.mark.parametrize("value", [None, "C", "C.UTF-8", "xx_YY.UTF-8"])
def test_hooks_have_the_locale_of_the_caller(oci: RuntimeUnderTest, value: str | None) -> None:
    environment = {name: word for name, word in os.environ.items() if name != "LC_ALL"}
    environment |= {"LC_ALL": value} if value is not None else {}
    told = oci.base / "told"
    hook = Hook(path="/bin/sh", args=["sh", "-c", f"echo ${{LC_ALL-none}} >{told}"])
    oci.write(msgspec.structs.replace(spec("echo ran"), hooks=Hooks(create_runtime=[hook])))
    assert oci("run", "box", env=environment).stdout == "ran\n"
    assert told.read_text() == f"{value or 'none'}\n"


def test_hooks_have_the_environment_of_the_caller(oci: RuntimeUnderTest) -> None:
    names = ("LD_BIND_NOW", "PYTHONHOME", "TZ", "name")
    environment = {**os.environ, **{name: f"the caller's {name}" for name in names}}
    told = oci.base / "told"
    hook = Hook(path="/bin/sh", args=["sh", "-c", f"env >{told}"])
    oci.write(msgspec.structs.replace(spec("echo ran"), hooks=Hooks(create_runtime=[hook])))
    assert oci("run", "box", env=environment).stdout == "ran\n"
    found = dict(line.split("=", 1) for line in told.read_text().splitlines() if "=" in line)
    assert {name: found.get(name) for name in names} == {name: environment[name] for name in names}


@pytest.mark.parametrize("debug", [False, True])
def test_a_caller_that_has_signals_blocked(oci: RuntimeUnderTest, debug: bool) -> None:
    """The end of the container is one."""
    oci.write(spec("echo ran; grep SigBlk /proc/self/status"))
    blocking = "import os, signal, sys; signal.pthread_sigmask(0, range(1, 32)); os.execv(sys.argv[1], sys.argv[1:])"
    words = ["--debug", "run", "box"] if debug else ["run", "box"]
    done = subprocess.run(
        [sys.executable, "-c", blocking, *oci.arguments(*words)],
        cwd=oci.bundle,
        stdout=subprocess.PIPE,
        check=True,
        timeout=60,
    )
    assert done.stdout.split() == [b"ran", b"SigBlk:", b"0000000000000000"]


@pytest.mark.parametrize("verb", ["run", "create", "exec"])
def test_descriptors_of_the_runtimes_own_are_not_passed_on(oci: RuntimeUnderTest, verb: str) -> None:
    """Where the caller has none to pass on, the first that is opened would have the number."""
    oci.write(spec("sleep 1000"))
    words: tuple[str, ...] = (verb, "--preserve-fds", "2", "box")
    if verb == "exec":
        oci.create()
        oci("start", "box")
        words = (*words, "true")
    done = oci(*words, check=False)
    assert done.returncode and "file descriptor 3 cannot be passed on: bad file descriptor" in done.stderr
    oci("delete", "--force", "box", check=False)


def test_a_dev_that_is_covered_by_another_name(oci: RuntimeUnderTest, tmp_path: Path) -> None:
    """What is mounted below /dev afterwards is below that one."""
    (oci.root / "link").symlink_to("/dev")
    (tmp_path / "source").mkdir()
    made = msgspec.to_builtins(spec("ls /dev; cat /proc/mounts"))
    shm = next(each for each in made["mounts"] if each["destination"] == "/dev/shm")
    made["mounts"] = [each for each in made["mounts"] if not each["destination"].startswith("/dev/")]
    made["mounts"] += [
        {"destination": "/link", "type": "bind", "source": str(tmp_path / "source"), "options": ["bind"]}
    ]
    made["mounts"] += [shm]
    oci.write(made)
    assert "shm" in oci("run", "box").stdout.split("tmpfs")[0].split()


@pytest.mark.skipif(os.path.isdir("/run/systemd/system"), reason="systemd runs here: see test_systemd_guest")
def test_without_systemd_its_cgroups_are_refused(oci: RuntimeUnderTest) -> None:
    done = oci("--systemd-cgroup", "run", "box", check=False)
    assert done.returncode == 1 and "systemd does not run on this machine" in done.stderr
    assert not oci.traces()


def test_files_of_others_are_not_written_to(oci: RuntimeUnderTest, tmp_path: Path) -> None:
    """Where the pid file and the lock are to be, somebody may have put a link."""
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (oci.base / "pid").symlink_to(precious)
    oci.create("--pid-file", str(oci.base / "pid"))
    assert not (oci.base / "pid").is_symlink() and (oci.base / "pid").read_text().isdecimal()
    lock = oci.state_root / "box" / "lock"
    lock.unlink()
    lock.symlink_to(precious)
    assert "cannot lock" in oci("kill", "box", check=False).stderr
    lock.unlink()
    assert precious.read_text() == "mine"


def test_debug_tells_what_is_done_and_where_it_failed(oci: RuntimeUnderTest) -> None:
    log = oci.base / "log"
    oci("--debug", "--log", str(log), "run", "box")
    assert "level=debug" in log.read_text() and "run box" in log.read_text()
    oci("--debug", "--log", str(log), "start", "box", check=False)
    assert "Traceback" in log.read_text()
    log.unlink()
    oci("--log", str(log), "run", "box")
    assert not log.exists()
