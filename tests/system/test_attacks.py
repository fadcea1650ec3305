"""Hostile images, processes in containers and clients: what they try to reach is the host, the engine, each other."""

from __future__ import annotations

import io
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import tarfile
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fixtures import images
from fixtures.engine import EngineUnderTest
from fixtures.processes import every, title

from capsa.engine import copyup

BUSYBOX = shutil.which("busybox", path="/bin:/usr/bin") or ""
pytestmark = pytest.mark.skipif(not BUSYBOX, reason="needs Debian's busybox-static")

Run = Callable[..., "Result"]


class Result:
    """How a container ended, or why it could not be made: ``refusal`` then, with its HTTP status."""

    def __init__(self, status: int, refusal: str, code: int, output: str) -> None:
        self.status = status
        self.refusal = refusal
        self.code = code
        self.output = output


@pytest.fixture
def run(engine: EngineUnderTest, busybox: str) -> Run:
    """Runs a container through the API to its end, and removes it."""

    def run(command: str | list[str] | None = None, *, image: str = busybox, config: Any = None, **host: Any) -> Result:
        wanted = {"Image": image, **(config or {}), "HostConfig": {"NetworkMode": "none", **host}}
        if command is not None:
            wanted["Cmd"] = ["sh", "-c", command] if isinstance(command, str) else command
        status, made = engine.api("POST", "/containers/create", wanted)
        if status != 201:
            return Result(status, made["message"], 0, "")
        path = f"/containers/{made['Id']}"
        try:
            status, answer = engine.api("POST", f"{path}/start")
            if status != 204:
                return Result(status, answer["message"], 0, "")
            code = engine.api("POST", f"{path}/wait")[1]["StatusCode"]
            raw = engine.api("GET", f"{path}/logs?stdout=1&stderr=1")[1] or b""
            return Result(204, "", code, plain(raw))
        finally:
            engine.api("DELETE", f"{path}?force=1&v=1")

    return run


@pytest.fixture
def sleeper(engine: EngineUnderTest, busybox: str) -> Iterator[Callable[..., str]]:
    """Starts containers that sleep; they are removed at the end."""
    made: list[str] = []

    def start(command: str = "sleep 1000", config: Any = None, **host: Any) -> str:
        wanted = {"Image": busybox, "Cmd": ["sh", "-c", command], "HostConfig": {"NetworkMode": "none", **host}}
        status, answer = engine.api("POST", "/containers/create", {**wanted, **(config or {})})
        assert status == 201, answer
        made.append(answer["Id"])
        status, answer = engine.api("POST", f"/containers/{made[-1]}/start")
        assert status == 204, answer
        return made[-1]

    yield start
    for identity in made:
        engine.api("DELETE", f"/containers/{identity}?force=1&v=1")


def plain(frames: bytes) -> str:
    """The text in multiplexed frames."""
    found, position = b"", 0
    while position < len(frames):
        length = int.from_bytes(frames[position + 4 : position + 8], "big")
        found += frames[position + 8 : position + 8 + length]
        position += 8 + length
    return found.decode(errors="replace")


def entry(
    name: str, kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o755, rdev: int = 0
) -> tarfile.TarInfo:
    """An entry of a layer without content."""
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.mode = kind, link, mode
    made.devmajor, made.devminor = os.major(rdev), os.minor(rdev)
    return made


def layer(*entries: tarfile.TarInfo | tuple[str, bytes]) -> bytes:
    """A layer of these entries; a pair is a regular file."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for each in entries:
            if isinstance(each, tuple):
                info = entry(each[0])
                info.size = len(each[1])
                tar.addfile(info, io.BytesIO(each[1]))
            else:
                tar.addfile(each)
    return buffer.getvalue()


def image(engine: EngineUnderTest, name: str, *layers: bytes, config: Any = None) -> str:
    """Load an image: busybox below ``layers``."""
    archive = images.docker_archive([images.busybox_layer(BUSYBOX), *layers], [f"{name}:latest"], config)
    engine.load(archive)
    return name


def executed(engine: EngineUnderTest, container: str, command: list[str], **config: Any) -> tuple[int, str]:
    """Run one more process; its exit code and output."""
    wanted = {"AttachStdout": True, "AttachStderr": True, "Cmd": command, **config}
    status, made = engine.api("POST", f"/containers/{container}/exec", wanted)
    assert status == 201, made
    status, output = engine.api("POST", f"/exec/{made['Id']}/start", {})
    assert status in (200, 101), output
    code = engine.api("GET", f"/exec/{made['Id']}/json")[1]["ExitCode"]
    return code, plain(output or b"")


def pid_of(engine: EngineUnderTest, container: str) -> int:
    """The host's id of a container's first process."""
    return int(engine.api("GET", f"/containers/{container}/json")[1]["State"]["Pid"])


# ---- images


@pytest.mark.parametrize("place", ["etc/passwd", "etc/group"])
@pytest.mark.parametrize(
    "what",
    [
        entry("x", tarfile.FIFOTYPE),
        entry("x", tarfile.CHRTYPE, rdev=os.makedev(1, 5)),
        entry("x", tarfile.SYMTYPE, "/proc/self/environ"),
        entry("x", tarfile.SYMTYPE, "../../../../../../etc/shadow"),
        entry("x", tarfile.DIRTYPE),
    ],
    ids=["fifo", "device", "proc", "link out", "directory"],
)
def test_accounts_that_are_no_file_stop_nobody(
    engine: EngineUnderTest, run: Run, place: str, what: tarfile.TarInfo
) -> None:
    what.name = place
    evil = image(engine, "evil-accounts", layer(what))
    assert run("true", image=evil).code == 0
    user = "nobody" if place == "etc/passwd" else "nobody:users"
    assert "unable to find" in run("true", image=evil, config={"User": user}).refusal


def test_accounts_with_absurd_numbers_are_left_out(engine: EngineUnderTest, run: Run) -> None:
    lines = b"root:x:" + b"9" * 6000 + b":0::/:/\nme:x:-1:0::/:\nyou:x:1:99999999999::/:\nus:x:7:8::/home:/bin/sh\n"
    evil = image(engine, "evil-numbers", layer(("etc/passwd", lines)))
    assert run("id -u; echo $HOME", image=evil, config={"User": "us"}).output.startswith("7\n/home")
    for name in ("me", "you", "9" * 6000):
        assert "unable to find user" in run("true", image=evil, config={"User": name}).refusal


def test_the_engines_files_are_put_nowhere_else(engine: EngineUnderTest, run: Run, tmp_path: Path) -> None:
    """hosts, hostname, resolv.conf and the working directory at the end of links that lead out."""
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    evil = image(
        engine,
        "evil-links",
        layer(
            entry("etc/hosts", tarfile.SYMTYPE, str(victim)),
            entry("etc/hostname", tarfile.FIFOTYPE),
            entry("etc/resolv.conf", tarfile.SYMTYPE, "../" * 20 + str(tmp_path / "new")),
            entry("job", tarfile.SYMTYPE, "../" * 20 + str(tmp_path)),
        ),
    )
    found = run("pwd; echo more >> /etc/hosts", image=evil, config={"WorkingDir": "/job/deeper"})
    assert (found.code, found.output) == (0, f"{tmp_path}/deeper\n")  # inside the container
    assert victim.read_text() == "untouched"
    assert [path.name for path in tmp_path.iterdir()] == ["victim"]


@pytest.mark.parametrize(
    "place", ["/proc", "/proc/self/fd", "/proc/sys", "/dev/null", "/", "/../..", "relative", "/a\0b"]
)
def test_a_volume_of_an_image_where_none_can_be_is_refused(engine: EngineUnderTest, run: Run, place: str) -> None:
    evil = image(engine, "evil-volume", config={"Volumes": {place: {}}})
    found = run("true", image=evil)
    assert found.refusal
    assert "Error" not in found.refusal
    assert engine.api("GET", "/volumes")[1]["Volumes"] == []


@pytest.mark.parametrize(
    "config",
    [
        {"WorkingDir": "/a\0b"},
        {"WorkingDir": "relative"},
        {"WorkingDir": "/proc/self/fd/3"},
        {"User": "ro\0ot"},
        {"User": "-1"},
        {"User": "4294967295"},
        {"Env": ["A=\0"]},
        {"Env": ["=A"]},
        {"Env": ["A=" + "x" * 1_000_000]},
        {"Cmd": ["a\0b"]},
        {"Cmd": [""]},
        {"StopSignal": "9" * 5000},
        {"ExposedPorts": {"99999/tcp": {}}},
        {"Healthcheck": {"Test": ["CMD", "true"], "Interval": 1}},
    ],
    ids=lambda config: next(iter(config)),
)
def test_nonsense_in_an_images_configuration_is_refused_in_a_sentence(
    engine: EngineUnderTest, run: Run, config: dict[str, Any]
) -> None:
    found = run(None if "Cmd" in config else "true", image=image(engine, "evil-config", config=config))
    assert found.refusal
    assert not re.search(r"Traceback|[A-Z]\w+Error", found.refusal)


@pytest.mark.parametrize(
    "config", [{"Env": "A=1"}, {"User": 5}, {"Labels": ["a"]}, {"Volumes": ["/x"]}, {"Cmd": [["a"]]}]
)
def test_an_image_whose_configuration_has_wrong_types_is_not_loaded(
    engine: EngineUnderTest, busybox: str, config: dict[str, Any]
) -> None:
    archive = images.docker_archive([images.busybox_layer(BUSYBOX)], ["evil-types:latest"], config)
    status, answer = engine.api("POST", "/images/load?quiet=1", archive)
    assert status == 200
    assert "malformed" in answer["error"]


def test_overlays_own_attributes_in_a_layer_have_no_effect(engine: EngineUnderTest, run: Run) -> None:
    directory = entry("etc/evil", tarfile.DIRTYPE)
    directory.pax_headers = {"SCHILY.xattr.trusted.overlay.redirect": "/root", "SCHILY.xattr.user.overlay.opaque": "y"}
    below = layer(entry("etc/evil", tarfile.DIRTYPE), ("etc/evil/below", b"seen"), ("root/secret", b""))
    evil = image(engine, "evil-xattr", below, layer(directory))
    assert run("ls /etc/evil", image=evil).output == "below\n"


# ---- volumes


def test_filling_a_volume_follows_no_link_of_somebody_who_has_it(tmp_path: Path) -> None:
    """Another container turns each directory that appears in the volume into a link out of it."""
    victim, volume, source = tmp_path / "victim", tmp_path / "volume", tmp_path / "image"
    for path in (victim, volume, source):
        path.mkdir()
    for number in range(150):
        (source / f"d{number}").mkdir()
        for name in ("a", "b"):
            (source / f"d{number}" / name).write_text("x")
    over = threading.Event()

    def attack() -> None:
        while not over.is_set():
            for name in os.listdir(volume):
                path = volume / name
                if name.startswith("d") and not path.is_symlink():
                    try:
                        path.rename(volume / f"was-{name}")
                        path.symlink_to(victim)
                    except OSError:
                        continue

    attacker = threading.Thread(target=attack)
    attacker.start()
    held = os.open(source, os.O_PATH)
    target = os.open(volume, os.O_RDONLY)
    try:
        copyup._copy([held], target, 10)
    except OSError:
        pass  # a directory was a link when it was to be opened
    finally:
        over.set()
        attacker.join()
        os.close(held)
        os.close(target)
    assert os.listdir(victim) == []


def test_a_tree_too_deep_for_names_hinders_nobody(engine: EngineUnderTest, sleeper: Callable[..., str]) -> None:
    deep = "i=0; while [ $i -lt 1500 ]; do mkdir d && cd -P ./d 2>/dev/null || break; i=$((i + 1)); done"
    container = sleeper(f"cd /v; {deep}; cd /; {deep}; echo done; sleep 1000", Binds=["deep:/v"])
    deadline = time.monotonic() + 20
    while "done" not in plain(engine.api("GET", f"/containers/{container}/logs?stdout=1")[1] or b""):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    for path in ("/containers/json?all=1&size=1", "/system/df", f"/containers/{container}/json?size=1"):
        assert engine.api("GET", path)[0] == 200
    assert engine.api("DELETE", f"/containers/{container}?force=1")[0] == 204
    assert engine.api("DELETE", "/volumes/deep")[0] == 204
    while os.listdir(engine.root / "volumes") or container in os.listdir(engine.root / "containers"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    engine.restart()


# ---- processes


def test_no_process_of_a_container_has_a_descriptor_of_the_engine(
    engine: EngineUnderTest, run: Run, sleeper: Callable[..., str]
) -> None:
    listed = "ls -l /proc/1/fd /proc/self/fd /proc/1/cwd /proc/self/cwd"
    outputs = [run(listed).output]
    outputs += [executed(engine, sleeper(Init=init), ["sh", "-c", listed])[1] for init in (False, True)]
    for output in outputs:
        targets = {line.partition(" -> ")[2] for line in output.splitlines() if " -> " in line}
        assert {target for target in targets if not target.startswith("pipe:")} <= {"/dev/null", "/"}
        assert not re.search(r" ([4-9]|\d\d+) -> ", output)


def test_the_reaper_cannot_be_looked_into_and_is_confined_as_its_container(
    engine: EngineUnderTest, sleeper: Callable[..., str]
) -> None:
    container = sleeper(Init=True, SecurityOpt=["no-new-privileges"])
    script = "cat /proc/1/status /proc/1/cmdline; cat /proc/1/environ /proc/1/maps; readlink /proc/1/exe"
    _, output = executed(engine, container, ["sh", "-c", script])
    assert re.search(r"Seccomp:\s+2", output)
    assert re.search(r"NoNewPrivs:\s+1", output)
    assert output.count("ermission denied") >= 2
    assert "PYTHONPATH" not in output
    assert "python" not in output and "sub-init" not in output


def test_a_debuggers_capability_does_not_open_the_reaper_to_calls_that_are_filtered(
    engine: EngineUnderTest, sleeper: Callable[..., str]
) -> None:
    container = sleeper(Init=True, CapAdd=["SYS_PTRACE"])
    assert re.search(r"Seccomp:\s+2", executed(engine, container, ["cat", "/proc/1/status"])[1])


_KERNEL = """
echo 1 > /proc/sys/kernel/panic; echo h > /proc/sysrq-trigger; echo x > /proc/sys/kernel/core_pattern
echo x > /sys/kernel/uevent_helper; echo 1 > /proc/irq/default_smp_affinity
mkdir /sys/fs/cgroup/*/evil; for f in /sys/fs/cgroup/*/cgroup.procs; do echo 1 > $f; done
mount -t tmpfs x /tmp; mount -o remount,rw /sys; umount /proc/keys; unshare -U true; unshare -m true
dmesg; date -s 2001-01-01; hostname evil; swapoff -a -v; reboot -f; ip link set lo down
mknod /tmp/disk b DISK; head -c1 /tmp/disk; mknod /tmp/kmsg c 1 11; head -c1 /tmp/kmsg
mknod /tmp/mem c 1 1; head -c1 /tmp/mem; nsenter -t 1 -m true
cat /proc/kcore /proc/keys /proc/timer_list 2>/dev/null | wc -c
ls -A /sys/firmware /proc/acpi 2>/dev/null | grep -v : | wc -w
"""


@pytest.mark.parametrize("how", ["run", "exec"])
def test_the_kernels_controls_are_out_of_reach(
    engine: EngineUnderTest, run: Run, sleeper: Callable[..., str], how: str
) -> None:
    disk = os.stat("/").st_dev
    script = _KERNEL.replace("DISK", f"{os.major(disk)} {os.minor(disk)}")
    panic = Path("/proc/sys/kernel/panic").read_text()
    output = run(script).output if how == "run" else executed(engine, sleeper(), ["sh", "-c", script])[1]
    refused = re.findall(r"Read-only file system|nonexistent directory|not permitted|ermission denied", output)
    assert len(refused) >= 18, output
    assert "\n0\n0\n" in output.replace("\n\n", "\n"), output
    assert Path("/proc/sys/kernel/panic").read_text() == panic


def test_a_setuid_program_gains_nothing_with_no_new_privileges(engine: EngineUnderTest, run: Run) -> None:
    program = entry("bin/su", mode=0o4755)
    content = Path(BUSYBOX).read_bytes()
    program.size = len(content)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.addfile(program, io.BytesIO(content))
    accounts = b"root::0:0::/:/bin/sh\nnobody::65534:65534::/:/bin/sh\n"
    evil = image(engine, "setuid", buffer.getvalue(), layer(("etc/passwd", accounts)))
    as_user = {"User": "65534"}
    script = "/bin/su root -c 'id -u'; id -u"
    assert run(script, image=evil, config=as_user).output == "0\n65534\n"
    assert "0\n65534" not in run(script, image=evil, config=as_user, SecurityOpt=["no-new-privileges"]).output


def test_a_fork_bomb_stays_within_its_limit_and_can_be_killed(
    engine: EngineUnderTest, sleeper: Callable[..., str]
) -> None:
    container = sleeper("b() { b | b & }; b; while :; do sleep 1; done", PidsLimit=60)
    time.sleep(0.5)
    assert engine.api("POST", f"/containers/{container}/kill", timeout=20)[0] == 204
    assert engine.api("GET", f"/containers/{container}/json")[1]["State"]["Running"] is False


@pytest.mark.parametrize("init", [False, True])
def test_many_orphans_leave_nothing_and_do_not_hinder(
    engine: EngineUnderTest, sleeper: Callable[..., str], init: bool
) -> None:
    container = sleeper("while :; do (true &) ; done", Init=init, PidsLimit=200)
    for _ in range(3):
        assert executed(engine, container, ["echo", "alive"]) == (0, "alive\n")
    assert engine.api("POST", f"/containers/{container}/kill", timeout=20)[0] == 204


def test_an_exec_cannot_be_looked_into_before_it_executes(engine: EngineUnderTest, sleeper: Callable[..., str]) -> None:
    watch = (
        "while :; do for p in /proc/[0-9]*; do [ $p = /proc/1 ] || readlink $p/exe $p/root $p/fd/3; done; done"
        " | grep -v -e '^/bin/busybox$' -e '^/$' -e '^pipe:' -e '^/proc'"
    )
    container = sleeper(watch)
    for _ in range(15):
        assert executed(engine, container, ["true"])[0] == 0
    assert plain(engine.api("GET", f"/containers/{container}/logs?stdout=1")[1] or b"") == ""


def test_what_an_ended_exec_leaves_writing_holds_nobody_up(
    engine: EngineUnderTest, sleeper: Callable[..., str]
) -> None:
    container = sleeper()
    writers = "for i in 1 2 3 4; do dd if=/dev/zero bs=1M 2>/dev/null & done"
    started = time.monotonic()
    executed(engine, container, ["sh", "-c", writers])
    assert executed(engine, container, ["echo", "alive"]) == (0, "alive\n")
    assert time.monotonic() - started < 20


def test_output_that_nobody_reads_does_not_fill_the_attendants_memory(
    engine: EngineUnderTest, sleeper: Callable[..., str]
) -> None:
    """A client attaches and never reads; the container writes as fast as it can."""
    container = sleeper("sleep 0.3; exec dd if=/dev/zero bs=64k", LogConfig={"Type": "none"})
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(engine.socket))
        path = f"/containers/{container}/attach?stream=1&stdout=1"
        client.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n".encode())
        time.sleep(2)
        pids = [pid for pid in every() if title(pid).startswith(f"capsa: sub-init {container[:12]}")]
        assert pids
        for pid in [*pids, engine.pid]:
            resident = int(re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[0])
            assert resident < 200_000, f"{resident} kB"
        assert engine.api("POST", f"/containers/{container}/kill", timeout=20)[0] == 204


@pytest.mark.parametrize("tty", [False, True])
def test_a_container_that_stops_itself_or_closes_its_streams_can_be_ended(
    engine: EngineUnderTest, sleeper: Callable[..., str], tty: bool
) -> None:
    container = sleeper("exec 0<&- 1>&- 2>&-; (sleep 1000 & kill -STOP $!); kill -STOP $$; sleep 1000", {"Tty": tty})
    assert executed(engine, container, ["echo", "alive"]) == (0, "alive\n")
    assert engine.api("POST", f"/containers/{container}/stop?t=0", timeout=20)[0] == 204


def test_control_characters_in_output_stay_in_its_lines(run: Run, engine: EngineUnderTest) -> None:
    script = r"""printf 'a\033[2J\0\r{"log":"fake"}\n\377\n'; printf '"}\n{"log":"x","stream":"stderr"}\n' >&2"""
    found = run(script)
    assert found.code == 0
    assert found.output.count("\n") == 4
    assert '{"log":"fake"}' in found.output


def test_titles_of_processes_are_printable(engine: EngineUnderTest, sleeper: Callable[..., str]) -> None:
    container = sleeper()
    command = ["sh", "-c", "sleep 1000; :", "\x1b[2J\nroot 1\t", "", ""]
    _, made = engine.api("POST", f"/containers/{container}/exec", {"Cmd": command})
    assert engine.api("POST", f"/exec/{made['Id']}/start", {"Detach": True})[0] == 200
    _, made = engine.api("POST", f"/containers/{container}/exec", {"Cmd": ["sh", "-c", "sleep 1000; :", "x" * 100_000]})
    assert engine.api("POST", f"/exec/{made['Id']}/start", {"Detach": True})[0] == 200
    titles = [row[-1] for row in engine.api("GET", f"/containers/{container}/top")[1]["Processes"]]
    assert "sh -c sleep 1000; : ?[2J?root 1" in titles
    assert 30_000 < max(map(len, titles)) < 40_000


# ---- networks


def _advertisement(interface: str) -> list[str]:
    """A command that sends an IPv6 router advertisement, as CAP_NET_RAW (a default capability) allows."""
    script = (
        "import socket,struct,sys\n"
        "s=socket.socket(socket.AF_PACKET,socket.SOCK_RAW,socket.htons(0x86dd));s.bind((sys.argv[1],0))\n"
        "mac=s.getsockname()[4];ip=lambda a:socket.inet_pton(socket.AF_INET6,a)\n"
        "src,dst=ip('fe80::dead'),ip('ff02::1')\n"
        "body=struct.pack('!BBHBBHII',134,0,0,64,0,1800,0,0)\n"
        "body+=struct.pack('!BBBBIII',3,4,64,0xc0,900,900,0)+ip('2001:db8:bad::')+b'\\1\\1'+mac\n"
        "data=src+dst+struct.pack('!I3xB',len(body),58)+body\n"
        "n=sum(struct.unpack(f'!{len(data)//2}H',data));n=(n&65535)+(n>>16);n=(n&65535)+(n>>16)\n"
        "body=body[:2]+struct.pack('!H',~n&65535)+body[4:]\n"
        "s.send(b'\\x33\\x33\\0\\0\\0\\1'+mac+b'\\x86\\xdd'+struct.pack('!IHBB',6<<28,len(body),58,255)+src+dst+body)\n"
    )
    return [sys.executable, "-c", script, interface]


def test_a_containers_router_advertisement_changes_nobodys_routes(
    engine: EngineUnderTest, sleeper: Callable[..., str]
) -> None:
    if not Path("/proc/net/if_inet6").exists():
        pytest.skip("needs IPv6")
    evil, other = sleeper(NetworkMode="bridge"), sleeper(NetworkMode="bridge")
    evil_pid = pid_of(engine, evil)
    subprocess.run(["nsenter", "-t", str(evil_pid), "-n", *_advertisement("eth0")], check=True)
    time.sleep(0.3)
    for place in ("/proc", f"/proc/{pid_of(engine, other)}"):
        for table in ("net/ipv6_route", "net/if_inet6"):
            assert "20010db80bad" not in Path(place, table if place != "/proc" else f"self/{table}").read_text()


def test_the_hosts_loopback_and_the_engines_socket_are_not_there(
    engine: EngineUnderTest, sleeper: Callable[..., str], run: Run
) -> None:
    container = sleeper(NetworkMode="bridge")
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    _, routes = executed(engine, container, ["ip", "route"])
    gateway = routes.split("via ")[1].split()[0]
    for address in ("127.0.0.1", gateway):
        code, _ = executed(engine, container, ["nc", "-w", "1", "-z", address, str(port)])
        assert code != 0
    listener.close()
    assert executed(engine, container, ["ls", str(engine.socket)])[0] != 0


# ---- clients


@pytest.mark.parametrize("name", ["../../etc", "..", "a/b", "x\0y", "x\ny", "-x", "\u00e4\u00e4", "x\r\nSet-Cookie: a"])
def test_names_that_are_paths_are_no_names(engine: EngineUnderTest, busybox: str, name: str) -> None:
    quoted = urllib.parse.quote(name, safe="")
    wanted = {"Image": busybox, "Cmd": ["true"]}
    assert engine.api("POST", f"/containers/create?name={quoted}", wanted)[0] == 400
    assert engine.api("POST", "/volumes/create", {"Name": name})[0] == 400
    assert name == "a/b" or engine.api("POST", f"/images/{busybox}/tag?repo={quoted}")[0] == 400
    for kind in ("containers", "volumes", "images", "networks"):
        for method in ("GET", "DELETE"):
            path = f"/{kind}/{quoted}" + ("/json" if method == "GET" and kind in ("containers", "images") else "")
            assert engine.api(method, path)[0] in (400, 404, 405), path


@pytest.mark.parametrize("value", ["x", "!!!!", "bnVsbA==", "W10=", "eyJ1c2VybmFtZSI6NX0="])
def test_nonsense_credentials_are_refused(engine: EngineUnderTest, busybox: str, value: str) -> None:
    path = "/images/create?fromImage=127.0.0.1:1/x&tag=y"
    assert engine.api("POST", path, headers={"X-Registry-Auth": value})[0] == 400


@pytest.mark.parametrize(
    "config", [{"ConsoleSize": [-1, 10**9], "Tty": True}, {"WorkingDir": "/\0"}, {"User": "9" * 5000}]
)
def test_an_exec_that_cannot_be_meant_is_refused(
    engine: EngineUnderTest, sleeper: Callable[..., str], config: dict[str, Any]
) -> None:
    status, made = engine.api("POST", f"/containers/{sleeper()}/exec", {"Cmd": ["true"], **config})
    if status == 201:
        status, made = engine.api("POST", f"/exec/{made['Id']}/start", {"Detach": True})
    assert status == 400, made


def test_a_stop_without_end_does_not_keep_a_container_from_removal(
    engine: EngineUnderTest, sleeper: Callable[..., str]
) -> None:
    container = sleeper("trap '' TERM; while :; do sleep 1; done")
    waiting = threading.Thread(target=lambda: engine.api("POST", f"/containers/{container}/stop?t=-1"))
    waiting.start()
    time.sleep(0.3)
    assert engine.api("DELETE", f"/containers/{container}?force=1", timeout=20)[0] == 204
    waiting.join(20)
    assert not waiting.is_alive()


# ---- other users of the machine


def test_another_user_can_neither_read_nor_write_what_is_the_engines(
    engine: EngineUnderTest, sleeper: Callable[..., str]
) -> None:
    container = sleeper("echo out", {"Env": ["PASSWORD=secret"]}, Binds=["private:/v"], IpcMode="shareable")
    open_to_all = []
    for top in (engine.root, engine.run):
        for directory, names, files in os.walk(top):
            if not os.stat(directory).st_mode & stat.S_IXOTH:
                names[:] = []  # nobody else gets below
                continue
            open_to_all += [str(Path(directory, name)) for name in files if _others(Path(directory, name))]
    assert [path for path in open_to_all if not path.endswith("docker.sock")] == []
    assert not _others(engine.socket)
    assert not os.stat(engine.root).st_mode & 0o007
    probe = "import os,sys; os.setgroups([]); os.setgid(65534); os.setuid(65534); os.stat(sys.argv[1])"
    base = engine.root / "containers" / container
    for path in (base / "config.json", engine.run / "shm" / container, engine.root / "volumes" / "private" / "_data"):
        assert path.exists()
        assert subprocess.run([sys.executable, "-c", probe, str(path)], capture_output=True).returncode != 0
    engine.api("DELETE", f"/containers/{container}?force=1")
    assert engine.api("DELETE", "/volumes/private")[0] == 204


def _others(path: Path) -> bool:
    mode = path.lstat().st_mode
    return bool(mode & 0o006) and not stat.S_ISLNK(mode)
