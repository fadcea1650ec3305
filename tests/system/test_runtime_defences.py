"""capsa-runtime against containers that want the host: what mature runtimes are known to withstand."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from fixtures import bundle as b
from fixtures.bundle import bound, capabilities, spec, with_mounts, with_process
from fixtures.runtime import COMMAND, RuntimeUnderTest, runtime
from fixtures.wait import until

from capsa.oci.runtime import Hook, Hooks, Mount
from capsa.runtime import entry
from capsa.sys import sealed

pytestmark = b.NEEDS
EVERYTHING = capabilities(*b.CAPABILITIES, "CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH")


@pytest.fixture
def oci(tmp_path: Path) -> Iterator[RuntimeUnderTest]:
    with runtime(tmp_path) as made:
        yield made


# ---- the caller's streams ----


@pytest.mark.parametrize("closed", ["<&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("beginning", ["launcher", "entry"])
@pytest.mark.parametrize("verb", ["create", "run", "exec"])
def test_nothing_of_the_host_is_in_the_place_of_closed_streams(
    oci: RuntimeUnderTest, verb: str, beginning: str, closed: str
) -> None:
    """The script that the runtime is would be writable through it: /proc/self/fd/0 leads to the host's file."""
    show = "exec 9>/found; for fd in 0 1 2; do found=$(stat -L -c %F-%t:%T /proc/$$/fd/$fd); echo $found >&9; done"
    oci.write(spec("sleep 1000" if verb == "exec" else show))
    words: tuple[str, ...] = (verb, "box")
    if verb == "exec":
        oci.create()
        oci("start", "box")
        words = ("exec", "box", "sh", "-c", show)
    oci.command = _BEGINNINGS[beginning]
    number = 3 if "2" in closed else 1
    subprocess.run(["sh", "-c", f'"$@" {closed}', "sh", *oci.arguments(*words)], cwd=oci.bundle, check=True)
    if verb == "create":
        oci("start", "box")
        until(lambda: oci.status() == "stopped")
    found = (oci.root / "found").read_text().splitlines()
    assert found[:number] == ["character special file-1:3"] * number
    oci("delete", "--force", "box")


# ---- the runtime's own program (CVE-2019-5736) ----


# As `make setup` has it begin, and as it begins where pip has installed it alone.
_BEGINNINGS = {
    "launcher": COMMAND,
    "entry": (os.path.realpath(sys.executable), "-I", "-S", entry.__file__, str(Path(msgspec.__file__).parents[1])),
}


# The launcher is no interpreter; with this word it starts one.
_INTERPRETED = {"launcher": "--debug", "entry": "--log-format=text"}


@pytest.mark.parametrize("beginning", _BEGINNINGS)
@pytest.mark.parametrize("verb", ["create", "run", "exec"])
def test_what_makes_processes_runs_from_a_mount_that_cannot_be_written(
    oci: RuntimeUnderTest, verb: str, beginning: str
) -> None:
    """A program that is a script for /proc/self/exe gets the interpreter of the process that executed it."""
    oci.command = (*_BEGINNINGS[beginning], _INTERPRETED[beginning])
    python = Path(os.path.realpath(sys.executable))
    before = python.stat()
    (oci.root / "bin" / "attack").write_text(
        "#!/proc/self/exe\nimport os\n"
        "os.write(1, os.readlink('/proc/self/exe').encode() + b'\\n')\n"
        "for path in ('/proc/self/exe', '/proc/1/exe'):\n"
        "    try:\n        os.open(path, os.O_WRONLY)\n        os.write(1, b'opened\\n')\n"
        "    except OSError as error:\n        os.write(1, os.strerror(error.errno).encode() + b'\\n')\n"
        "print(os.statvfs('/proc/self/exe').f_flag & 1)\n"
    )
    (oci.root / "bin" / "attack").chmod(0o755)
    for name in ("lib", "lib64", "usr"):  # its libraries, as an attacker's image would have them
        (oci.root / name).mkdir(exist_ok=True)
    mounts = [bound(Path("/usr"), "/usr", "ro")]
    for name in ("lib", "lib64"):
        (oci.root / name).rmdir()
        (oci.root / name).symlink_to(f"usr/{name}")
    if verb == "exec":
        oci.write(with_mounts(with_process(spec("sleep 1000", seccomp=None), capabilities=EVERYTHING), *mounts))
        oci.create()
        oci("start", "box")
        output = oci("exec", "box", "attack", check=False).stdout
    else:
        oci.write(with_mounts(with_process(spec(["attack"], seccomp=None), capabilities=EVERYTHING), *mounts))
        if verb == "run":
            output = oci("run", "box", check=False).stdout
        else:
            oci.create()
            oci("start", "box")
            until(lambda: oci.status() == "stopped")
            output = oci.output
    assert "opened" not in output
    assert output.endswith("1\n"), output
    assert (python.stat().st_mtime_ns, python.stat().st_size) == (before.st_mtime_ns, before.st_size)


def test_without_such_a_mount_nothing_is_made(oci: RuntimeUnderTest) -> None:
    words = [
        "-c",
        "import sys; from capsa.runtime import main; main.status(sys.argv[1:])",
        *oci.arguments("run", "box")[1:],
    ]
    done = subprocess.run([sys.executable, *words], cwd=oci.bundle, capture_output=True, text=True, timeout=60)
    assert "cannot protect the runtime's own program" in done.stderr
    assert not oci.traces()


def test_a_process_that_waits_to_be_started_cannot_be_looked_into(oci: RuntimeUnderTest) -> None:
    oci.write(spec())
    oci.create()
    pid = oci.state()["pid"]
    assert Path(f"/proc/{pid}/exe").stat().st_uid == 0
    assert Path(f"/proc/{pid}/maps").stat().st_uid == 0
    opened = sorted(os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd"))
    assert [name for name in opened if not name.startswith(("socket:", "/dev/null", str(oci.base / "output")))] == []
    assert os.readlink(f"/proc/{pid}/cwd") == "/"


# ---- descriptors and the working directory (CVE-2024-21626) ----


def test_no_descriptor_of_the_caller_reaches_the_program(oci: RuntimeUnderTest) -> None:
    oci.write(spec("ls -l /proc/self/fd | grep -v ' /proc/' | sed 's/.* //' "))
    held = [os.open("/", os.O_RDONLY | os.O_DIRECTORY) for _ in range(20)]
    for fd in held:
        os.set_inheritable(fd, True)
    try:
        done = subprocess.run(
            oci.arguments("run", "box"), cwd=oci.bundle, capture_output=True, text=True, close_fds=False, timeout=60
        )
    finally:
        for fd in held:
            os.close(fd)
    assert done.returncode == 0 and "/\n" not in done.stdout, done.stdout


@pytest.mark.parametrize("words", [(), ("--no-pivot",)])
def test_nothing_lies_above_the_root(oci: RuntimeUnderTest, words: tuple[str, ...]) -> None:
    inner = oci.root / "inner"
    (inner / "proc").mkdir(parents=True)
    shutil.copy(oci.root / "bin" / "busybox", inner)
    wanted = with_mounts(
        spec("exec 9</; chroot /inner /busybox ls /proc/self/fd/9/.."),  # from there the root is no end of the way up
        Mount(destination="/inner/proc", type="proc", source="proc"),
    )
    hooks = Hooks(create_container=[Hook(path="/bin/true")])  # the root is mounted in another place for them
    for each in (wanted, msgspec.structs.replace(wanted, hooks=hooks)):
        oci.write(each)
        found = oci("run", *words, "box").stdout.split()
        assert "inner" in found and "config.json" not in found


@pytest.mark.parametrize("number", range(3, 12))
def test_a_working_directory_does_not_lead_out_through_a_descriptor(oci: RuntimeUnderTest, number: int) -> None:
    for place in (f"/proc/self/fd/{number}", f"/proc/self/fd/{number}/../../.."):
        oci.write(with_process(spec("pwd; ls"), cwd=place))
        done = oci("run", "box", check=False)
        assert done.returncode and done.stdout == "", (place, done)
    link = oci.root / "out"
    link.symlink_to(f"/proc/self/fd/{number}")
    oci.write(spec("sleep 1000"))
    oci.create()
    oci("start", "box")
    done = oci("exec", "--cwd", "/out", "box", "ls", check=False)
    assert done.returncode == 255 and done.stdout == ""


def test_a_working_directory_that_is_not_there_is_made_inside(oci: RuntimeUnderTest, tmp_path: Path) -> None:
    (oci.root / "up").symlink_to("../../../../.." + str(tmp_path))
    oci.write(with_process(spec("pwd"), cwd="/up/new"))
    oci("run", "box", check=False)
    assert not (tmp_path / "new").exists()


# ---- proc, masks, the console ----


@pytest.mark.parametrize("place", ["/proc/self", "/proc/sys/kernel", "/proc/self/attr", "/proc/1/ns"])
def test_nothing_is_mounted_inside_proc(oci: RuntimeUnderTest, place: str, tmp_path: Path) -> None:
    (tmp_path / "false").mkdir()
    oci.write(with_mounts(spec(), bound(tmp_path / "false", place)))
    done = oci("create", "box", check=False)
    assert done.returncode and "inside proc" in done.stderr
    assert not oci.traces()


def test_proc_is_proc(oci: RuntimeUnderTest, tmp_path: Path) -> None:
    """CVE-2019-16884, CVE-2019-19921: what is written for a security module must not go to the image's own files."""
    (tmp_path / "false").mkdir()
    base = spec()
    mounts = [bound(tmp_path / "false", "/proc") if one.destination == "/proc" else one for one in base.mounts]
    oci.write(msgspec.structs.replace(base, mounts=mounts))
    done = oci("create", "box", check=False)
    assert done.returncode and "only proc itself" in done.stderr
    shutil.rmtree(oci.root / "proc")
    (oci.root / "proc").symlink_to("/tmp")
    oci.write(spec())
    done = oci("create", "box", check=False)
    assert done.returncode and "symbolic link" in done.stderr
    assert not oci.traces()


def test_masks_stay_where_they_were_meant(oci: RuntimeUnderTest) -> None:
    oci.write(spec("cat /proc/keys; ls /sys/firmware; echo x >/proc/sys/kernel/hostname"))
    done = oci("run", "box", check=False)
    assert "Read-only file system" in done.stderr and done.stdout == ""


@pytest.mark.parametrize("target", ["/etc/passwd", "../../../../etc/passwd", "/proc/self/fd/0"])
def test_the_console_goes_where_no_link_leads_it(oci: RuntimeUnderTest, target: str) -> None:
    (oci.root / "dev" / "console").symlink_to(target)
    base = with_process(spec("ls -l /dev/console; cat /etc/passwd | head -1"), terminal=True)
    mounts = [one for one in base.mounts if one.destination != "/dev"]
    devices = [Mount(destination="/dev/pts", type="devpts", source="devpts", options=["newinstance", "ptmxmode=0666"])]
    mounts = [one for one in mounts if not one.destination.startswith("/dev/")] + devices
    oci.write(msgspec.structs.replace(base, mounts=mounts))
    before = Path("/etc/passwd").read_text()
    done = oci("run", "box", check=False)
    assert done.returncode == 1 and "/dev/console" in done.stderr
    assert Path("/etc/passwd").read_text() == before
    assert not oci.traces()


def test_a_mount_goes_to_what_was_looked_at(oci: RuntimeUnderTest, tmp_path: Path) -> None:
    """CVE-2021-30465: a volume that another container changes meanwhile leads no mount out of the root."""
    volume, outside = tmp_path / "volume", tmp_path / "outside"
    volume.mkdir()
    outside.mkdir()
    (volume / "real").mkdir()
    stop = threading.Event()

    def exchange() -> None:
        while not stop.is_set():
            for kind in ("link", "directory"):
                path = volume / "place"
                with contextlib.suppress(OSError):  # the runtime has made it meanwhile
                    if path.is_symlink():
                        path.unlink()
                    elif path.exists():
                        path.rmdir()
                    if kind == "link":
                        path.symlink_to("../" * 12 + str(outside).lstrip("/"))
                    else:
                        path.mkdir()

    wanted = with_mounts(
        spec("true"),
        bound(volume, "/volume"),
        Mount(destination="/volume/place", type="tmpfs", source="tmpfs"),
    )
    oci.write(wanted)
    rival = threading.Thread(target=exchange)
    rival.start()
    try:
        for _ in range(10):
            oci("run", "box", check=False)
            assert str(outside) not in Path("/proc/self/mountinfo").read_text()
    finally:
        stop.set()
        rival.join()
    assert not any(outside.iterdir())


# ---- the state ----


def test_the_state_and_the_door_are_for_root_alone(oci: RuntimeUnderTest) -> None:
    oci.create()
    directory = oci.state_root / "box"
    for name in ("state", "config.json", "start", "lock"):
        assert (directory / name).stat().st_mode & 0o077 == 0, name
    child = os.fork()
    if child == 0:
        os.setgid(65534)
        os.setuid(65534)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as end:
            os._exit(0 if end.connect_ex(str(directory / "start")) else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_who_knocks_and_leaves_starts_nothing(oci: RuntimeUnderTest) -> None:
    oci.write(spec("echo ran"))
    oci.create()
    directory = os.open(oci.state_root / "box", os.O_PATH)
    for words in (b"", b"nonsense", b'{"word":"go"}'):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as end:
            end.connect(f"/proc/self/fd/{directory}/start")
            if words:
                end.send(words)
    os.close(directory)
    assert oci.status() == "created" and oci.output == ""
    oci("start", "box")
    until(lambda: oci.output == "ran\n")


def test_two_at_once_start_it_once(oci: RuntimeUnderTest) -> None:
    oci.write(spec("echo ran; sleep 1000"))
    oci.create()
    rivals = [
        subprocess.Popen(oci.arguments("start", "box"), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
        for _ in range(4)
    ]
    codes = sorted(process.communicate(timeout=60) and process.returncode for process in rivals)
    assert codes == [0, 1, 1, 1]
    until(lambda: oci.output == "ran\n")


def test_two_at_once_create_one(oci: RuntimeUnderTest) -> None:
    oci.write(spec("sleep 1000"))
    log = open(oci.base / "output", "ab")  # noqa: SIM115
    rivals = [
        subprocess.Popen(
            oci.arguments("create", "box"), cwd=oci.bundle, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        for _ in range(4)
    ]
    codes = sorted(process.wait(60) for process in rivals)
    log.close()
    assert codes == [0, 1, 1, 1], oci.output
    assert oci.status() == "created"


def test_a_killed_creation_leaves_no_process_and_can_be_deleted(oci: RuntimeUnderTest) -> None:
    base = spec()
    hook = {"path": "/bin/sleep", "args": ["sleep", "30"]}
    made = msgspec.to_builtins(base)
    made["hooks"] = {"prestart": [hook]}
    oci.write(made)
    process = subprocess.Popen(
        oci.arguments("create", "box"), cwd=oci.bundle, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    directory = oci.state_root / "box"
    until(lambda: (directory / "start").exists())
    process.kill()
    process.wait()
    assert "being created" in oci("state", "box", check=False).stderr
    assert "not stopped: creating" in oci("delete", "box", check=False).stderr
    oci("delete", "--force", "box")
    assert not directory.exists()


def test_the_command_is_the_one_that_was_installed() -> None:
    assert Path(COMMAND[0]).exists()
    assert not sealed.is_sealed()  # this process is not, so the ones above say something
