"""Every property of a container's configuration is honoured or refused, none is accepted and ignored.

The tables name each property of `POST /containers/create` once, with what it does in a real container or why it is
refused; a property without an entry fails.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from fixtures.engine import EngineUnderTest

from capsa.engine import config
from capsa.engine.config import Config, HostConfig


class Shown(NamedTuple):
    """In a container with this configuration a command prints what matches."""

    config: dict[str, Any]
    command: list[str]
    pattern: str


class Told(NamedTuple):
    """What the container's inspection says: a value by its path."""

    config: dict[str, Any]
    path: str
    value: Any


class Refused(NamedTuple):
    """No container is made: a status, and words of the sentence."""

    config: dict[str, Any]
    status: int
    words: str


class Else(NamedTuple):
    """Where the property is tested, or what it means where nothing is to be seen in a container."""

    why: str


def host(**properties: Any) -> dict[str, Any]:
    return {"HostConfig": properties}


def sh(script: str) -> list[str]:
    return ["sh", "-c", script]


MOUNTS = ["cat", "/proc/self/mounts"]
STATUS = ["cat", "/proc/self/status"]
CGROUP = "/sys/fs/cgroup"

CONFIG: dict[str, Shown | Told | Refused | Else] = {
    "Hostname": Shown({"Hostname": "given"}, ["hostname"], r"^given$"),
    "Domainname": Shown({"Domainname": "lan.test"}, ["cat", "/proc/sys/kernel/domainname"], r"^lan\.test$"),
    "User": Shown({"User": "nobody:users"}, ["id"], r"uid=65534.*gid=100"),
    "AttachStdin": Else("what the client is about to attach to; test_api_streams"),
    "AttachStdout": Else("what the client is about to attach to; test_api_streams"),
    "AttachStderr": Else("what the client is about to attach to; test_api_streams"),
    "ExposedPorts": Told({"ExposedPorts": {"80/tcp": {}}}, "Config.ExposedPorts", {"80/tcp": {}}),
    "Tty": Shown({"Tty": True}, sh("test -t 1 && echo terminal"), r"terminal"),
    "OpenStdin": Else("test_api_streams"),
    "StdinOnce": Else("test_api_streams"),
    "Env": Shown({"Env": ["A=b"]}, ["env"], r"(?m)^A=b$"),
    "Cmd": Shown({}, ["echo", "command"], r"^command$"),
    "Healthcheck": Told(
        {"Healthcheck": {"Test": ["CMD", "true"], "Interval": 10**9, "StartInterval": 2 * 10**6}},
        "Config.Healthcheck.StartInterval",
        2 * 10**6,
    ),
    "ArgsEscaped": Told({"ArgsEscaped": True}, "Config.ArgsEscaped", True),  # of meaning to Windows only
    "Image": Refused({"Image": "nothing"}, 404, "No such image: nothing:latest"),
    "Volumes": Shown({"Volumes": {"/given": {}}}, MOUNTS, r" /given "),
    "WorkingDir": Shown({"WorkingDir": "/usr"}, ["pwd"], r"^/usr$"),
    "Entrypoint": Shown({"Entrypoint": ["echo", "entry"]}, ["point"], r"^entry point$"),
    "NetworkDisabled": Shown(
        {"NetworkDisabled": True, **host(NetworkMode="bridge")}, ["ls", "/sys/class/net"], r"^lo$"
    ),
    "MacAddress": Shown(
        {"MacAddress": "02:00:00:00:00:77", **host(NetworkMode="bridge")},
        ["cat", "/sys/class/net/eth0/address"],
        r"02:00:00:00:00:77",
    ),
    "OnBuild": Told({"OnBuild": ["RUN true"]}, "Config.OnBuild", ["RUN true"]),  # of images made of it
    "Labels": Told({"Labels": {"a": "b"}}, "Config.Labels", {"a": "b"}),
    "StopSignal": Told({"StopSignal": "SIGUSR1"}, "Config.StopSignal", "SIGUSR1"),  # test_api_containers
    "StopTimeout": Told({"StopTimeout": 3}, "Config.StopTimeout", 3),
    "Shell": Told({"Shell": ["/bin/ash", "-c"]}, "Config.Shell", ["/bin/ash", "-c"]),  # of a health check's CMD-SHELL
}

HOST: dict[str, Shown | Told | Refused | Else] = {
    "Binds": Shown(host(Binds=["given:/given:ro"]), MOUNTS, r" /given \S+ ro,"),
    "ContainerIDFile": Told(host(ContainerIDFile="/tmp/x"), "HostConfig.ContainerIDFile", "/tmp/x"),  # the client's own
    "LogConfig": Refused(host(LogConfig={"Type": "syslog"}), 400, "no log driver named 'syslog'"),
    "NetworkMode": Shown(host(NetworkMode="none"), ["ls", "/sys/class/net"], r"^lo$"),
    "PortBindings": Told(host(PortBindings={"80/tcp": []}), "Config.ExposedPorts", {"80/tcp": {}}),  # test_ports
    "RestartPolicy": Told(
        host(RestartPolicy={"Name": "on-failure", "MaximumRetryCount": 2}),
        "HostConfig.RestartPolicy.MaximumRetryCount",
        2,
    ),
    "AutoRemove": Told(host(AutoRemove=True), "HostConfig.AutoRemove", True),
    "VolumeDriver": Refused(host(VolumeDriver="nfs", Binds=["given:/x"]), 400, "nfs"),
    "VolumesFrom": Refused(host(VolumesFrom=["nothing"]), 400, "No such container: nothing"),
    "Mounts": Shown(host(Mounts=[{"Type": "tmpfs", "Target": "/given"}]), MOUNTS, r"tmpfs /given tmpfs"),
    "ConsoleSize": Shown({"Tty": True, **host(ConsoleSize=[11, 22])}, ["stty", "size"], r"11 22"),
    "Annotations": Told(host(Annotations={"a": "b"}), "HostConfig.Annotations", {"a": "b"}),
    "CapAdd": Shown(host(CapAdd=["SYS_TIME"]), STATUS, r"CapEff:\s+00000000aa0425fb"),
    "CapDrop": Shown(host(CapDrop=["ALL"]), STATUS, r"CapEff:\s+0000000000000000"),
    "CgroupnsMode": Shown(host(CgroupnsMode="host"), ["cat", "/proc/self/cgroup"], r":/capsa"),
    "Dns": Shown(host(Dns=["192.0.2.53"]), ["cat", "/etc/resolv.conf"], r"nameserver 192\.0\.2\.53"),
    "DnsOptions": Shown(host(DnsOptions=["ndots:7"]), ["cat", "/etc/resolv.conf"], r"options .*ndots:7"),
    "DnsSearch": Shown(host(DnsSearch=["given.test"]), ["cat", "/etc/resolv.conf"], r"search given\.test"),
    "ExtraHosts": Shown(host(ExtraHosts=["given:192.0.2.9"]), ["cat", "/etc/hosts"], r"192\.0\.2\.9\s+given"),
    "GroupAdd": Shown(host(GroupAdd=["users", "77"]), ["id", "-G"], r"\b77 100\b|\b100 77\b"),
    "IpcMode": Shown(host(IpcMode="none"), MOUNTS, r"^(?!.*/dev/shm)(?s:.)*$"),
    "Cgroup": Refused(host(Cgroup="x"), 501, "Cgroup"),
    "Links": Refused(host(Links=["nothing:x"]), 400, "nothing"),
    "OomScoreAdj": Shown(host(OomScoreAdj=555), ["cat", "/proc/self/oom_score_adj"], r"^555$"),
    "PidMode": Refused(host(PidMode="container:nothing"), 400, "No such container: nothing"),
    "Privileged": Shown(host(Privileged=True), STATUS, r"Seccomp:\s+0"),
    "PublishAllPorts": Told(host(PublishAllPorts=True), "HostConfig.PublishAllPorts", True),  # test_ports
    "ReadonlyRootfs": Shown(host(ReadonlyRootfs=True), sh("touch /x 2>&1; true"), r"Read-only"),
    "SecurityOpt": Shown(host(SecurityOpt=["no-new-privileges"]), STATUS, r"NoNewPrivs:\s+1"),
    "StorageOpt": Refused(host(StorageOpt={"size": "1G"}), 501, "StorageOpt"),
    "Tmpfs": Shown(host(Tmpfs={"/given": "size=1m"}), MOUNTS, r"tmpfs /given tmpfs \S*size=1024k"),
    "UTSMode": Shown(host(UTSMode="host"), ["readlink", "/proc/self/ns/uts"], r"uts:"),
    "UsernsMode": Refused(host(UsernsMode="private"), 501, "UsernsMode"),
    "ShmSize": Shown(host(ShmSize=1 << 20), MOUNTS, r" /dev/shm tmpfs \S*size=1024k"),
    "Sysctls": Shown(host(Sysctls={"net.ipv4.ip_forward": "0"}), ["cat", "/proc/sys/net/ipv4/ip_forward"], r"^0$"),
    "Runtime": Refused(host(Runtime="kata"), 400, "unknown or invalid runtime name: kata"),
    "Isolation": Refused(host(Isolation="hyperv"), 501, "Isolation"),
    "MaskedPaths": Shown(host(MaskedPaths=["/etc/passwd"]), sh("wc -c < /etc/passwd"), r"^0$"),
    "ReadonlyPaths": Shown(host(ReadonlyPaths=["/etc"]), sh("touch /etc/x 2>&1; true"), r"Read-only"),
    "CpuShares": Shown(
        host(CpuShares=77), sh(f"cat {CGROUP}/cpu/cpu.shares {CGROUP}/cpu.weight 2>&-; true"), r"^(77|3|4)$"
    ),
    "Memory": Shown(
        host(Memory=32 << 20),
        sh(f"cat {CGROUP}/memory/memory.limit_in_bytes {CGROUP}/memory.max 2>&-; true"),
        rf"^{32 << 20}$",
    ),
    "NanoCpus": Shown(
        host(NanoCpus=5 * 10**8), sh(f"cat {CGROUP}/cpu/cpu.cfs_quota_us {CGROUP}/cpu.max 2>&-; true"), r"^50000"
    ),
    "CgroupParent": Shown(
        host(CgroupParent="/capsa-given", CgroupnsMode="host"), ["cat", "/proc/self/cgroup"], r"/capsa-given/"
    ),
    "BlkioWeight": Refused(host(BlkioWeight=5), 400, "Range of blkio weight is from 10 to 1000"),
    "BlkioWeightDevice": Refused(host(BlkioWeightDevice=[{"Path": "/dev/x", "Weight": 1}]), 400, "10 to 1000"),
    "BlkioDeviceReadBps": Refused(host(BlkioDeviceReadBps=[{"Path": "/x", "Rate": -1}]), 400, "rate of /x"),
    "BlkioDeviceWriteBps": Refused(host(BlkioDeviceWriteBps=[{"Path": "/x", "Rate": -1}]), 400, "rate of /x"),
    "BlkioDeviceReadIOps": Refused(host(BlkioDeviceReadIOps=[{"Path": "/x", "Rate": -1}]), 400, "rate of /x"),
    "BlkioDeviceWriteIOps": Refused(host(BlkioDeviceWriteIOps=[{"Path": "/x", "Rate": -1}]), 400, "rate of /x"),
    "CpuPeriod": Refused(host(CpuPeriod=1), 400, "CPU cfs period"),
    "CpuQuota": Shown(
        host(CpuQuota=33000), sh(f"cat {CGROUP}/cpu/cpu.cfs_quota_us {CGROUP}/cpu.max 2>&-; true"), r"^33000"
    ),
    "CpuRealtimePeriod": Refused(host(CpuRealtimePeriod=-1), 400, "realtime period"),
    "CpuRealtimeRuntime": Refused(host(CpuRealtimeRuntime=-1), 400, "realtime runtime"),
    "CpusetCpus": Shown(host(CpusetCpus="0"), STATUS, r"Cpus_allowed_list:\s+0\n"),
    "CpusetMems": Shown(host(CpusetMems="0"), STATUS, r"Mems_allowed_list:\s+0\n"),
    "Devices": Shown(
        host(Devices=[{"PathOnHost": "/dev/null", "PathInContainer": "/dev/given"}]),
        ["ls", "-l", "/dev/given"],
        r"1,\s+3",
    ),
    "DeviceCgroupRules": Shown(
        host(DeviceCgroupRules=["c 10:200 rwm"]), sh("mknod /t c 10 200; cat /t 2>&1; true"), r"^(?!.*not permitted)"
    ),
    "DeviceRequests": Refused(host(DeviceRequests=[{"Driver": "nvidia", "Count": -1}]), 501, "DeviceRequests"),
    "KernelMemory": Refused(host(KernelMemory=1 << 25), 501, "KernelMemory"),
    "KernelMemoryTCP": Refused(host(KernelMemoryTCP=1 << 25), 501, "KernelMemoryTCP"),
    "MemoryReservation": Shown(
        host(MemoryReservation=16 << 20),
        sh(f"cat {CGROUP}/memory/memory.soft_limit_in_bytes {CGROUP}/memory.low 2>&-; true"),
        rf"^{16 << 20}$",
    ),
    "MemorySwap": Told(host(Memory=32 << 20, MemorySwap=48 << 20), "HostConfig.MemorySwap", 48 << 20),  # test_cgroup
    "MemorySwappiness": Refused(host(MemorySwappiness=101), 400, "valid memory swappiness range is 0-100"),
    "OomKillDisable": Told(host(OomKillDisable=True), "HostConfig.OomKillDisable", True),  # test_cgroup
    "Init": Shown(host(Init=True), ["cat", "/proc/1/comm"], r"^capsa-init$"),
    "PidsLimit": Shown(host(PidsLimit=77), sh(f"cat {CGROUP}/pids/pids.max {CGROUP}/pids.max 2>&-; true"), r"^77$"),
    "Ulimits": Shown(
        host(Ulimits=[{"Name": "nofile", "Soft": 77, "Hard": 99}]), sh("ulimit -n; ulimit -Hn"), r"^77\n99$"
    ),
    "CpuCount": Refused(host(CpuCount=1), 501, "CpuCount"),
    "CpuPercent": Refused(host(CpuPercent=1), 501, "CpuPercent"),
    "IOMaximumIOps": Refused(host(IOMaximumIOps=1), 501, "IOMaximumIOps"),
    "IOMaximumBandwidth": Refused(host(IOMaximumBandwidth=1), 501, "IOMaximumBandwidth"),
}

#: What the tables above say little of: values that mean something else, and properties of properties.
MORE: list[Shown | Told | Refused] = [
    Shown(host(SecurityOpt=["seccomp=unconfined"]), STATUS, r"Seccomp:\s+0"),
    Shown(host(SecurityOpt=['seccomp={"defaultAction":"SCMP_ACT_ALLOW"}']), STATUS, r"Seccomp:\s+[02]"),
    Shown(host(SecurityOpt=["systempaths=unconfined"]), sh("mount | grep -c ' /proc/'; true"), r"^0$"),
    Shown(host(SecurityOpt=["apparmor=unconfined", "label=disable", "label:disable"]), ["true"], r"^$"),
    Shown(host(SecurityOpt=["writable-cgroups"]), MOUNTS, rf" {CGROUP}\S* cgroup2? rw"),
    Shown(host(SecurityOpt=["writable-cgroups=false"]), MOUNTS, rf" {CGROUP}\S* cgroup2? ro"),
    Refused(host(SecurityOpt=["writable-cgroups=potato"]), 400, "invalid --security-opt 2"),
    Refused(host(SecurityOpt=["label=type:foo"]), 501, "SELinux"),
    Refused(host(SecurityOpt=["apparmor=mine"]), 501, "AppArmor"),
    Refused(host(SecurityOpt=["bla"]), 400, "invalid --security-opt"),
    Refused(host(SecurityOpt=["seccomp={"]), 400, "seccomp profile"),
    Shown(host(UsernsMode="host"), ["true"], r"^$"),
    Shown(host(Isolation="default", Runtime="runc", VolumeDriver="local"), ["true"], r"^$"),
    Refused(host(OomScoreAdj=1001), 400, "range for oom score adj"),
    Shown(host(NetworkMode="host", PortBindings={"80/tcp": [{"HostPort": "80"}]}), ["true"], r"^$"),  # with a warning
    Refused({"Runtime": "kata"}, 400, "kata"),  # where version 1 of docker-py puts it
    Refused(host(NanoCpus=10**13), 400, "as there are only"),
    Refused(host(CpusetCpus="4095"), 400, "Requested CPUs are not available"),
    Refused(host(CpusetMems="99"), 400, "Requested memory nodes are not available"),
    Refused(host(Memory=1), 400, "Minimum memory limit allowed is 6MB"),
    Refused(host(MemoryReservation=1), 400, "Minimum memory reservation allowed is 6MB"),
    Refused(host(CgroupParent="../../x"), 400, "invalid cgroup parent"),
    Refused(host(Annotations={"": "x"}), 400, "not permitted as an annotation key"),
    Refused({"MacAddress": "02:00:00:00:00:77", **host(NetworkMode="host")}, 400, "conflicting options"),
    Refused({"Healthcheck": {"Test": ["CMD", "true"], "StartInterval": 5}}, 400, "StartInterval"),
    Refused(host(NetworkMode="none") | {"NetworkingConfig": {"EndpointsConfig": {"bridge": {}}}}, 400, "none"),
    Refused(host(LogConfig={"Type": "json-file", "Config": {"tag": "{{.Bla}}"}}), 400, "invalid log tag"),
    Refused(host(LogConfig={"Type": "json-file", "Config": {"bla": "x"}}), 400, "unknown log opt 'bla'"),
    Refused(host(Mounts=[{"Type": "npipe", "Target": "/x"}]), 501, "npipe"),
    Refused(host(Mounts=[{"Type": "cluster", "Target": "/x", "Source": "y"}]), 501, "cluster"),
    Refused(host(Mounts=[{"Type": "bla", "Target": "/x"}]), 400, "mount type unknown"),
    Refused(host(Mounts=[{"Type": "tmpfs", "Target": "/x", "Consistency": "bla"}]), 400, "unknown consistency"),
    Refused(
        host(Mounts=[{"Type": "tmpfs", "Target": "/x", "BindOptions": {}}]), 400, "BindOptions must not be specified"
    ),
    Refused(
        host(
            Mounts=[{"Type": "bind", "Source": "/etc", "Target": "/x", "BindOptions": {"ReadOnlyForceRecursive": True}}]
        ),
        400,
        "needs a mount that is ReadOnly",
    ),
    Shown(
        host(Mounts=[{"Type": "tmpfs", "Target": "/x", "TmpfsOptions": {"SizeBytes": 1 << 20, "Mode": 0o700}}]),
        MOUNTS,
        r" /x tmpfs \S*size=1024k\S*mode=700",
    ),
    Shown(
        host(Mounts=[{"Type": "tmpfs", "Target": "/x", "TmpfsOptions": {"Options": [["exec"]]}}]),
        MOUNTS,
        r" /x tmpfs (?!\S*noexec)",
    ),
    Told(
        host(Mounts=[{"Type": "volume", "Source": "given", "Target": "/x", "VolumeOptions": {"NoCopy": True}}]),
        "HostConfig.Mounts",
        None,
    ),
]

#: Properties of nothing that is in the tables; they are unknown at any depth.
UNKNOWN = [
    {"Bla": 1},
    host(Bla=1),
    host(Mounts=[{"Type": "tmpfs", "Target": "/x", "Bla": 1}]),
    host(Mounts=[{"Type": "tmpfs", "Target": "/x", "TmpfsOptions": {"Bla": 1}}]),
    host(Devices=[{"PathOnHost": "/dev/null", "Bla": 1}]),
    host(Ulimits=[{"Name": "nofile", "Bla": 1}]),
    host(PortBindings={"80/tcp": [{"Bla": 1}]}),
    host(LogConfig={"Bla": 1}),
    {"Healthcheck": {"Bla": 1}},
    {"NetworkingConfig": {"Bla": 1}},
    {"NetworkingConfig": {"EndpointsConfig": {"bridge": {"Bla": 1}}}},
    {"NetworkingConfig": {"EndpointsConfig": {"bridge": {"IPAMConfig": {"Bla": 1}}}}},
]


@pytest.fixture(scope="module", autouse=True)
def given_cgroup(leak_check: None) -> Iterator[None]:
    """A cgroup parent of somebody's own stays, as it does with Docker."""
    yield
    for directory in [*Path(CGROUP).glob("capsa-given"), *Path(CGROUP).glob("*/capsa-given")]:
        directory.rmdir()


def create(engine: EngineUnderTest, wanted: dict[str, Any], command: list[str]) -> tuple[int, Any]:
    body = {"Image": "busybox", "Cmd": command, **wanted}
    body["HostConfig"] = {"NetworkMode": "none", **wanted.get("HostConfig", {})}
    return engine.api("POST", "/containers/create", body)


def printed(engine: EngineUnderTest, identity: str) -> str:
    """What a container prints, which is run to its end for that."""
    status, answer = engine.api("POST", f"/containers/{identity}/start")
    assert status == 204, answer
    assert engine.api("POST", f"/containers/{identity}/wait")[1]["StatusCode"] == 0
    data = engine.api("GET", f"/v1.41/containers/{identity}/logs?stdout=1")[1] or b""
    text = data if isinstance(data, bytes) else str(data).encode()
    return re.sub(rb"[\x01\x02]\0\0\0.{4}", b"", text, flags=re.DOTALL).decode().strip()


def inspected(engine: EngineUnderTest, identity: str, path: str) -> Any:
    found = engine.api("GET", f"/containers/{identity}/json")[1]
    for part in path.split("."):
        found = found[part]
    return found


def holds(engine: EngineUnderTest, case: Shown | Told | Refused | Else) -> None:
    if isinstance(case, Else):
        return
    status, answer = create(engine, case.config, case.command if isinstance(case, Shown) else ["true"])
    if isinstance(case, Refused):
        assert (status, case.words.lower() in answer["message"].lower()) == (case.status, True), answer
        return
    assert status == 201, answer
    try:
        if isinstance(case, Shown):
            text = printed(engine, answer["Id"])
            assert re.search(case.pattern, text), text
        else:
            value = inspected(engine, answer["Id"], case.path)
            assert case.value is None or value == case.value
    finally:
        assert engine.api("DELETE", f"/containers/{answer['Id']}?force=1&v=1")[0] == 204


def names(kind: type[msgspec.Struct]) -> set[str]:
    return {field.encode_name for field in msgspec.structs.fields(kind)}


def test_the_tables_name_every_property() -> None:
    assert names(Config) == set(CONFIG)
    assert names(HostConfig) == set(HOST)
    assert names(config.Create) - set(CONFIG) == {"HostConfig", "NetworkingConfig", "Runtime"}


@pytest.mark.parametrize("name", CONFIG)
def test_a_property_of_the_configuration_is_honoured_or_refused(
    engine: EngineUnderTest, busybox: str, name: str
) -> None:
    holds(engine, CONFIG[name])


@pytest.mark.parametrize("name", HOST)
def test_a_property_of_the_host_configuration_is_honoured_or_refused(
    engine: EngineUnderTest, busybox: str, name: str
) -> None:
    holds(engine, HOST[name])


@pytest.mark.parametrize("case", MORE, ids=lambda case: str(case.config)[:60])
def test_values_and_nested_properties_are_honoured_or_refused(
    engine: EngineUnderTest, busybox: str, case: Shown | Told | Refused
) -> None:
    holds(engine, case)


@pytest.mark.parametrize("wanted", UNKNOWN, ids=str)
def test_an_unknown_property_is_refused_at_any_depth(
    engine: EngineUnderTest, busybox: str, wanted: dict[str, Any]
) -> None:
    status, answer = create(engine, wanted, ["true"])
    assert status == 400 and "unknown property Bla" in answer["message"], answer


def test_an_unknown_property_that_is_empty_asks_for_nothing(engine: EngineUnderTest, busybox: str) -> None:
    for nothing in (None, "", 0, False, [], {}):
        holds(engine, Shown({"Bla": nothing, **host(Bla=nothing)}, ["echo", "fine"], "fine"))
