"""Bad input: one clear sentence, the right status or exit code, and nothing left behind."""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from fixtures import leftovers
from fixtures.complaints import check, create, warm_up
from fixtures.engine import EngineUnderTest


@pytest.fixture(scope="module")
def warm(engine: EngineUnderTest, busybox: str) -> EngineUnderTest:
    """The engine, with bridge and firewall in place."""
    warm_up(engine)
    return engine


@pytest.fixture(autouse=True)
def nothing_left(warm: EngineUnderTest) -> Iterator[None]:
    """After each test all is as it was before."""
    with leftovers.nothing_left(warm):
        yield


def host(**fields: Any) -> dict[str, Any]:
    return {"HostConfig": fields}


def bound(path: str, *, type: str = "bind", **fields: Any) -> dict[str, Any]:
    return host(Mounts=[{"Type": type, "Target": path, **fields}])


def device(outside: str, inside: str, access: str = "rwm") -> dict[str, Any]:
    return host(Devices=[{"PathOnHost": outside, "PathInContainer": inside, "CgroupPermissions": access}])


def ulimit(name: str, soft: int, hard: int) -> dict[str, Any]:
    return host(Ulimits=[{"Name": name, "Soft": soft, "Hard": hard}])


REFUSED_AT_CREATE: list[tuple[dict[str, Any], int, str]] = [
    ({"Image": "nosuch:1"}, 404, "no such image: nosuch:1"),
    ({"Image": "BAD//x"}, 400, "invalid reference format"),
    ({"Image": ""}, 400, "no image was specified"),
    ({"Cmd": [""]}, 400, "no command"),
    ({"Cmd": ["a\0b"]}, 400, "null character"),
    ({"Cmd": [{}]}, 400, "Cmd"),
    ({"Env": ["=x"]}, 400, "environment variable"),
    ({"WorkingDir": "relative"}, 400, "absolute path"),
    ({"StopSignal": "NOSUCH"}, 400, "invalid signal: NOSUCH"),
    ({"StopSignal": "9" * 5000}, 400, "invalid signal"),
    ({"Hostname": "bad host"}, 400, "invalid hostname"),
    ({"Healthcheck": {"Test": ["BAD"]}}, 400, "healthcheck type"),
    ({"Labels": {"a": 5}}, 400, "Labels"),
    ({"NoSuchField": 1}, 400, "NoSuchField"),
    ({"HostConfig": []}, 400, "HostConfig"),
    ({"MacAddress": "bad"}, 400, "mac address"),
    (host(Memory=1 << 20), 400, "minimum memory limit"),
    (host(Memory=-5), 400, "minimum memory limit"),
    (host(Memory=1 << 70), 400, "out of range"),
    (host(Memory=1 << 10000), 400, "out of range"),
    (host(Memory=20 << 20, MemorySwap=1 << 20), 400, "memoryswap limit should be larger"),
    (host(CpusetCpus="bad"), 400, "invalid value bad for cpuset cpus"),
    (host(CpusetCpus="4095"), 400, "requested CPUs are not available"),
    (host(CpusetMems="63"), 400, "requested memory nodes are not available"),
    (host(NanoCpus=10**13), 400, "range of CPUs is from 0.01 to"),
    (host(CgroupParent="../../x"), 400, "invalid cgroup parent"),
    (host(CpuQuota=1), 400, "CPU cfs quota"),
    (host(CpuPeriod=10**9), 400, "CPU cfs period"),
    (host(NanoCpus=10**9, CpuQuota=5000), 400, "conflicting options"),
    (host(BlkioWeight=5), 400, "blkio weight"),
    (host(OomScoreAdj=5000), 400, "oom score adj"),
    (host(Sysctls={"kernel.nosuch": "1"}), 400, "'kernel.nosuch' is not in a separate kernel namespace"),
    (host(Sysctls={"net.core.somaxconn": "1"}, NetworkMode="host"), 400, "network namespace"),
    (ulimit("nofile", 10, 5), 400, "10 > 5"),
    (ulimit("nosuch", 1, 1), 400, "nosuch"),
    (ulimit("nofile", 1 << 64, 1 << 65), 400, "out of range"),
    (host(Binds=["/tmp:relative"]), 400, "must be absolute"),
    (host(Binds=["/tmp:/"]), 400, "destination can't be '/'"),
    (host(Binds=["/tmp:/x:bad"]), 400, "invalid mode: bad"),
    (host(Binds=["/tmp:/x", "/var:/x"]), 400, "duplicate mount point: /x"),
    (host(Binds=["relative/dir:/x"]), 400, "invalid characters for a local volume name"),
    (host(Binds=["made:/x", "/tmp:/x"]), 400, "duplicate mount point: /x"),
    (bound("/x", Source="/nosuch/source"), 400, "bind source path does not exist: /nosuch/source"),
    (bound("/x"), 400, "Source must not be empty"),
    (bound("relative", Source="/tmp"), 400, "must be absolute"),
    (bound("/x", type="bad", Source="/tmp"), 400, "mount type unknown"),
    (host(Tmpfs={"/x": "bogus=1"}), 400, "invalid tmpfs option"),
    (device("/dev/null", "/dev/x", "q"), 400, "device permissions"),
    (host(DeviceCgroupRules=["bad"]), 400, "'bad'"),
    (host(CapAdd=["NOSUCH"]), 400, "unknown capability: 'CAP_NOSUCH'"),
    (host(CapDrop=["NOSUCH"]), 400, "unknown capability: 'CAP_NOSUCH'"),
    (host(SecurityOpt=["seccomp=notjson"]), 400, "seccomp profile"),
    (host(SecurityOpt=["bad"]), 400, "'bad'"),
    (host(NetworkMode="nosuch"), 400, "network nosuch not found"),
    (host(NetworkMode="container:nosuch"), 400, "no such container: nosuch"),
    (host(NetworkMode="container:"), 400, "invalid network mode"),
    (
        {
            **host(NetworkMode="none"),
            "NetworkingConfig": {"EndpointsConfig": {"none": {"IPAMConfig": {"IPv4Address": "10.0.0.1"}}}},
        },
        400,
        "user specified IP address",
    ),
    (
        {**host(NetworkMode="none"), "NetworkingConfig": {"EndpointsConfig": {"bridge": {}}}},
        400,
        "network mode none and other networks",
    ),
    (host(PidMode="bad"), 400, "invalid PID mode: bad"),
    (host(IpcMode="container:"), 400, "invalid IPC mode"),
    (host(RestartPolicy={"Name": "bad"}), 400, "unknown policy 'bad'"),
    (host(LogConfig={"Type": "syslog"}), 400, "no log driver named 'syslog'"),
    (host(PortBindings={"80": [{"HostPort": "99999"}]}), 400, "'99999'"),
    (host(PortBindings={"x/tcp": [{}]}), 400, "'x/tcp'"),
    (host(PortBindings={"80/tcp": [{"HostIp": "bad"}]}), 400, "invalid IP address"),
    (host(Runtime="nosuch"), 400, "nosuch"),
    (host(Dns=["bad"]), 400, "nameserver address: bad"),
    (host(ExtraHosts=["bad"]), 400, "'bad'"),
    (host(VolumesFrom=["nosuch"]), 400, "no such container: nosuch"),
    (host(Binds=["/etc\0:/x"]), 400, "null character"),
    ({"WorkingDir": "/\0"}, 400, "null character"),
    (host(MaskedPaths=["relative"]), 400, "absolute: 'relative'"),
    ({"NetworkingConfig": {"EndpointsConfig": {"nosuch": {}}}}, 400, "network nosuch not found"),
]


@pytest.mark.parametrize(("body", "status", "words"), REFUSED_AT_CREATE)
def test_what_cannot_be_meant_is_refused_at_once(
    warm: EngineUnderTest, body: dict[str, Any], status: int, words: str
) -> None:
    found, answer = create(warm, body)
    assert found == status, answer
    check(answer["message"], words)


REFUSED_AT_START: list[tuple[dict[str, Any], int, int, str]] = [
    ({"Cmd": ["nosuch"]}, 400, 127, '"nosuch": executable file not found in $PATH'),
    ({"Cmd": ["/no/such"]}, 400, 127, "/no/such: no such file or directory"),
    ({"Cmd": ["/etc"]}, 400, 126, '"/etc": is a directory'),
    ({"Cmd": ["/etc/passwd"]}, 400, 126, '"/etc/passwd": permission denied'),
    ({"Cmd": ["/etc/passwd/x"]}, 400, 127, "/etc/passwd/x"),
    ({"Cmd": ["sh", "-c", "x" * 140_000]}, 500, 128, '"sh": argument list too long'),
    ({"WorkingDir": "/etc/passwd"}, 400, 126, "cannot use /etc/passwd as working directory"),
    ({"User": "nosuch"}, 400, 128, "unable to find user nosuch"),
    ({"User": "0:nosuch"}, 400, 128, "unable to find group nosuch"),
    ({"User": "9" * 5000}, 400, 128, "unable to find user"),
    (host(GroupAdd=["nosuch"]), 400, 128, "unable to find group nosuch"),
    (host(BlkioDeviceReadBps=[{"Path": "/dev/nosuch", "Rate": 1}]), 400, 128, "'/dev/nosuch': no such file"),
    (host(BlkioDeviceReadBps=[{"Path": "/dev/null", "Rate": 1}]), 400, 128, "not a block device"),
    (host(Sysctls={"net.ipv4.nosuch": "1"}), 500, 128, "cannot set sysctl net.ipv4.nosuch to '1'"),
    (host(Sysctls={"net.ipv4.ip_forward": "bad"}), 500, 128, "cannot set sysctl net.ipv4.ip_forward to 'bad'"),
    (ulimit("nofile", 1 << 30, 1 << 31), 500, 128, "cannot set RLIMIT_NOFILE"),
    (host(Binds=["/tmp:/proc"]), 500, 128, "only proc itself can be mounted at /proc"),
    (host(Binds=["/tmp:/proc/sys"]), 500, 128, "/proc/sys would lie inside proc"),
    (host(Binds=["/etc/passwd:/etc"]), 500, 128, "at /etc: a file cannot be mounted on a directory"),
    (host(Binds=["/tmp:/etc/passwd"]), 500, 128, "at /etc/passwd: a directory cannot be mounted on a file"),
    (host(Tmpfs={"/etc/passwd": ""}), 500, 128, "at /etc/passwd: a directory cannot be mounted on a file"),
    (host(Tmpfs={"/x": "size=bad"}), 400, 128, "size=bad"),
    ({"Volumes": {"/proc": {}}}, 500, 128, "only proc itself can be mounted at /proc"),
    (device("/dev/nosuch", "/dev/x"), 400, 128, '"/dev/nosuch": No such file'),
    (device("/etc/passwd", "/dev/x"), 400, 128, '"/etc/passwd": not a device node'),
    (device("/dev/null", "/proc/x"), 500, 128, "/proc/x"),
    (device("/dev/null", "/etc"), 500, 128, "/etc is there already"),
    (host(SecurityOpt=['seccomp={"defaultAction":"BAD"}']), 400, 128, "unknown action 'BAD'"),
    (host(PortBindings={"80/tcp": [{"HostIp": "192.0.2.1", "HostPort": "8888"}]}), 500, 128, "192.0.2.1:8888"),
]


@pytest.mark.parametrize(
    ("network", "body", "status", "code", "words"),
    [
        (network, *case)
        for network in ("none", "bridge")
        for case in REFUSED_AT_START
        if network == "bridge" or "PortBindings" not in case[0].get("HostConfig", {})
    ],
)
def test_what_the_machine_or_the_image_refuses_is_told_at_the_start(
    warm: EngineUnderTest, network: str, body: dict[str, Any], status: int, code: int, words: str
) -> None:
    if network == "none":
        body = {**body, "HostConfig": {"NetworkMode": "none", **body.get("HostConfig", {})}}
    created, answer = create(warm, body)
    assert created == 201, answer
    identity = answer["Id"]
    with only_the_container(warm, identity):
        found, answer = warm.api("POST", f"/containers/{identity}/start")
        assert found == status, answer
        check(answer["message"], words)
        _, about = warm.api("GET", f"/containers/{identity}/json")
        assert (about["State"]["Status"], about["State"]["ExitCode"]) == ("created", code)
        assert about["State"]["Pid"] == 0 and words.lower() in about["State"]["Error"].lower()


@contextmanager
def only_the_container(engine: EngineUnderTest, identity: str) -> Iterator[None]:
    """Around a failed start: then there is nothing but the container, as after its creation; and it can be removed."""
    before = {line for line in leftovers.of(engine) if "row of containers" not in line}
    try:
        yield
        deadline = time.monotonic() + 10
        while (now := {line for line in leftovers.of(engine) if "row of containers" not in line}) != before:
            assert time.monotonic() < deadline, sorted(now ^ before)
            time.sleep(0.05)
    finally:
        assert engine.api("DELETE", f"/containers/{identity}?v=1")[0] == 204


@pytest.mark.parametrize("body", [b"{", b"[]", b"null", b'"x"', b"", b'{"Image":"\xff"}', b"[" * 50_000, b"\0" * 100])
def test_a_malformed_body_is_a_400(warm: EngineUnderTest, body: bytes) -> None:
    sent = {"Content-Type": "application/json"}
    status, answer = warm.api("POST", "/containers/create", body, headers=sent)
    assert status == 400, answer
    check(answer["message"], "")


def test_a_body_without_end_is_refused(warm: EngineUnderTest) -> None:
    sent = {"Content-Type": "application/json"}
    status, answer = warm.api("POST", "/containers/create", b'{"Image":"' + b"x" * (17 << 20), headers=sent)
    assert status == 400
    check(answer["message"], "larger than")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["run", "--pull", "never", "nosuch:1"], 125, "no such image: nosuch:1"),
        (["create", "--pull", "never", "nosuch:1"], 1, "no such image: nosuch:1"),
        (["run", "busybox", "nosuch"], 127, "executable file not found"),
        (["run", "busybox", "/etc/passwd"], 126, "permission denied"),
        (["run", "busybox", "/etc"], 126, "is a directory"),
        (["run", "--nosuch", "busybox"], 125, "--nosuch"),
        (["ps", "--nosuch"], 125, "--nosuch"),
        (["nosuch"], 1, "nosuch"),
        (["run"], 1, "argument"),
        (["run", "--memory", "lots", "busybox"], 125, "lots"),
        (["run", "--memory", "1k", "busybox"], 125, "memory"),
        (["run", "--cpus", "-1", "busybox"], 125, "cpus"),
        (["run", "--ulimit", "nofile=2147483648", "busybox"], 125, "RLIMIT_NOFILE"),
        (["run", "--sysctl", "net.ipv4.ip_forward=bad", "busybox"], 125, "net.ipv4.ip_forward"),
        (["run", "-p", "99999:1", "busybox"], 125, "99999"),
        (["run", "-u", "nosuch", "busybox"], 125, "nosuch"),
        (["run", "-w", "relative", "busybox"], 125, "absolute"),
        (["run", "--device", "/dev/nosuch", "busybox"], 125, "/dev/nosuch"),
        (["run", "--cap-add", "nosuch", "busybox"], 125, "nosuch"),
        (["run", "--network", "nosuch", "busybox"], 125, "nosuch"),
        (["run", "--security-opt", "seccomp=/nosuch.json", "busybox"], 125, "/nosuch.json"),
        (["run", "--mount", "type=bind,source=/nosuch/source,target=/x", "busybox"], 125, "/nosuch/source"),
        (["run", "-v", "/tmp:relative", "busybox"], 125, "relative"),
        (["run", "--env-file", "/nosuch", "busybox"], 125, "/nosuch"),
        (["start", "nosuch"], 1, "no such container: nosuch"),
        (["exec", "nosuch", "true"], 1, "no such container: nosuch"),
        (["rm", "nosuch"], 1, "no such container: nosuch"),
        (["logs", "nosuch"], 1, "no such container: nosuch"),
        (["rmi", "nosuch"], 1, "no such image: nosuch"),
        (["save", "nosuch", "-o", "/dev/null"], 1, "nosuch"),
        (["load", "-i", "/nosuch.tar"], 1, "/nosuch.tar"),
        (["import", "/nosuch.tar"], 1, "/nosuch.tar"),
        (["tag", "nosuch", "x"], 1, "no such image: nosuch"),
        (["tag", "busybox", "BAD//x"], 1, "invalid reference format"),
    ],
)
def test_the_command_line_says_it_with_dockers_codes(
    warm: EngineUnderTest, arguments: list[str], code: int, words: str
) -> None:
    verb, *rest = arguments
    options = ["--rm"] if verb == "run" else []
    done = warm.capsa(verb, *options, *rest, check=False)
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith("capsa: ") and done.stdout == "", done
    check(done.stderr.strip().splitlines()[0], words)
    assert len(done.stderr.strip().splitlines()) <= 2, done.stderr


@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_a_port_that_is_taken(warm: EngineUnderTest, kind: str) -> None:
    family = socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, family) as taken:
        taken.bind(("127.0.0.1", 0))
        if kind == "tcp":
            taken.listen()
        port = taken.getsockname()[1]
        done = warm.capsa("run", "--rm", "-p", f"127.0.0.1:{port}:80/{kind}", "busybox", "true", check=False)
        assert done.returncode == 125
        check(done.stderr.strip(), f"127.0.0.1:{port} failed: port is already allocated")
    warm.capsa("run", "--rm", "-p", f"127.0.0.1:{port}:80/{kind}", "busybox", "true")


def test_a_port_that_another_container_has(warm: EngineUnderTest) -> None:
    first = warm.capsa("run", "-d", "-p", "127.0.0.1::80", "busybox", "sleep", "1000").stdout.strip()
    try:
        _, about = warm.api("GET", f"/containers/{first}/json")
        port = about["NetworkSettings"]["Ports"]["80/tcp"][0]["HostPort"]
        with leftovers.nothing_left(warm):
            done = warm.capsa("run", "--rm", "-p", f"127.0.0.1:{port}:80", "busybox", "true", check=False)
            assert done.returncode == 125
            check(done.stderr.strip(), "port is already allocated")
    finally:
        warm.capsa("rm", "-f", first)


def test_a_name_in_use(warm: EngineUnderTest) -> None:
    status, answer = create(warm, {}, "taken")
    assert status == 201
    try:
        with leftovers.nothing_left(warm):
            status, refused = create(warm, host(Binds=["fresh:/x"]), "taken")
            assert status == 409
            check(refused["message"], f'"/taken" is already in use by container "{answer["Id"]}"')
            assert warm.capsa("run", "--name", "taken", "busybox", check=False).returncode == 125
    finally:
        warm.api("DELETE", "/containers/taken")


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        ("nosuch", 127, "executable file not found"),
        ("/etc/passwd", 126, "permission denied"),
        ("/etc", 126, "directory"),
    ],
)
def test_an_exec_that_cannot_be(warm: EngineUnderTest, command: str, code: int, words: str) -> None:
    name = warm.capsa("run", "-d", "busybox", "sleep", "1000").stdout.strip()
    try:
        with leftovers.nothing_left(warm):
            done = warm.capsa("exec", name, command, check=False)
            assert done.returncode == code, done
            check((done.stderr + done.stdout).strip(), words)
            for options, about, fails in ((["-u", "nosuch"], "nosuch", 1), (["-w", "/nosuch"], "/nosuch", 127)):
                done = warm.capsa("exec", *options, name, "true", check=False)
                assert done.returncode == fails, done
                check((done.stderr + done.stdout).strip(), about)
    finally:
        warm.capsa("rm", "-f", name)


def test_a_damaged_bundle_is_said_and_the_container_can_be_removed(warm: EngineUnderTest) -> None:
    _, answer = create(warm, {})
    shutil.rmtree(warm.root / "containers" / answer["Id"] / "upper")
    status, failed = warm.api("POST", f"/containers/{answer['Id']}/start")
    assert status == 500
    check(failed["message"], f"{answer['Id']}/upper")
    assert warm.api("DELETE", f"/containers/{answer['Id']}")[0] == 204
