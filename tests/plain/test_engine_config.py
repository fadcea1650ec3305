"""What a container may ask for: parsed as Docker's clients write it, honoured or refused."""

from __future__ import annotations

import re

import msgspec
import pytest

from capsa.engine import logdriver, validation
from capsa.engine.config import Config, Create, EndpointConfig, HostConfig, LogConfig, parse
from capsa.errors import CapsaError, InvalidArgument, Unsupported


def create(host: dict[str, object] | None = None, **config: object) -> Create:
    """A request with these parts, parsed and checked."""
    document = {"Image": "x", "HostConfig": host or {}, **config}
    wanted = parse(document, Create, "the configuration")
    validation.check(wanted)
    return wanted


def test_names_on_the_wire_are_dockers() -> None:
    names = {field.encode_name for field in msgspec.structs.fields(HostConfig)}
    assert {"UTSMode", "CpusetCpus", "BlkioDeviceReadIOps", "IOMaximumIOps", "OomScoreAdj", "NanoCpus"} <= names
    assert {"ContainerIDFile", "CgroupnsMode", "KernelMemoryTCP", "IpcMode", "ShmSize", "PidsLimit"} <= names
    assert {"IPAMConfig", "GlobalIPv6PrefixLen", "DNSNames", "GwPriority"} <= {
        field.encode_name for field in msgspec.structs.fields(EndpointConfig)
    }


def test_null_means_not_given() -> None:
    wanted = create(
        {"Binds": None, "Memory": 10 << 20, "RestartPolicy": None, "LogConfig": {"Type": "", "Config": None}}
    )
    assert wanted.host_config.binds == []
    assert wanted.host_config.memory == 10 << 20
    assert wanted.host_config.log_config.config == {}


def test_null_in_a_users_map_is_an_empty_value() -> None:
    wanted = create(
        {"PortBindings": {"80/tcp": None}},
        NetworkingConfig={"EndpointsConfig": {"front": None}},
        ExposedPorts={"1/udp": None},
    )
    assert wanted.host_config.port_bindings == {"80/tcp": []}
    assert wanted.networking_config.endpoints_config == {"front": EndpointConfig()}
    assert wanted.exposed_ports == {"1/udp": {}}


def test_a_command_may_be_a_string() -> None:
    wanted = create(Cmd="date", Entrypoint="/bin/sh")
    assert (wanted.cmd, wanted.entrypoint) == (["date"], ["/bin/sh"])


def test_an_unknown_property_is_refused_unless_it_is_empty() -> None:
    create({"NewThing": None, "NewerThing": [], "NewestThing": 0})
    with pytest.raises(InvalidArgument, match="unknown property NewThing"):
        create({"NewThing": "x"})
    with pytest.raises(InvalidArgument, match="unknown property Bogus"):
        create(Bogus=1)


@pytest.mark.parametrize("document", [{"Cmd": 1}, {"Env": "A=b"}, {"HostConfig": []}, {"HostConfig": {"Memory": "1g"}}])
def test_a_wrong_type_is_refused(document: dict[str, object]) -> None:
    with pytest.raises(InvalidArgument):
        parse({"Image": "x", **document}, Create, "the configuration")


@pytest.mark.parametrize("document", [None, [], 1, "x"])
def test_only_an_object_is_a_configuration(document: object) -> None:
    with pytest.raises(InvalidArgument, match="JSON object"):
        parse(document, Create, "the configuration")


REFUSED: list[tuple[dict[str, object], str]] = [
    ({"Memory": 1 << 20}, "Minimum memory limit allowed is 6MB"),
    ({"MemorySwap": 64 << 20}, "should always set the Memory limit"),
    ({"Memory": 64 << 20, "MemorySwap": 32 << 20}, "memoryswap limit should be larger"),
    ({"MemorySwappiness": 101}, "swappiness"),
    ({"NanoCpus": 10**9, "CpuQuota": 50000}, "Conflicting options"),
    ({"CpuPeriod": 1}, "period"),
    ({"CpusetCpus": "a-b"}, "cpuset"),
    ({"BlkioWeight": 5}, "blkio"),
    ({"OomScoreAdj": 2000}, "oom score"),
    ({"Ulimits": [{"Name": "nofile", "Soft": 10, "Hard": 5}]}, "soft limit"),
    ({"Ulimits": [{"Name": "wishes", "Soft": 1, "Hard": 1}]}, "ulimit type"),
    ({"CapAdd": ["FLY"]}, "unknown capability"),
    ({"SecurityOpt": ["label=type:x"]}, "SELinux"),
    ({"SecurityOpt": ["apparmor=mine"]}, "AppArmor"),
    ({"SecurityOpt": ["nonsense"]}, "security-opt"),
    ({"Sysctls": {"kernel.panic": "1"}}, "separate kernel namespace"),
    ({"Sysctls": {"net.ipv4.ip_forward": "1"}, "NetworkMode": "host"}, "not the container's own"),
    ({"Sysctls": {"../../etc/passwd": "1"}}, "not a name"),
    ({"PidMode": "somewhere"}, "PID mode"),
    ({"IpcMode": "container:"}, "IPC mode"),
    ({"ShmSize": 1 << 20, "IpcMode": "host"}, "ShmSize"),
    ({"RestartPolicy": {"Name": "sometimes"}}, "unknown policy"),
    ({"RestartPolicy": {"Name": "always", "MaximumRetryCount": 3}}, "on-failure"),
    ({"RestartPolicy": {"Name": "always"}, "AutoRemove": True}, "AutoRemove"),
    ({"LogConfig": {"Type": "syslog"}}, "log driver"),
    ({"LogConfig": {"Type": "json-file", "Config": {"max-size": "big"}}}, "max-size"),
    ({"LogConfig": {"Type": "json-file", "Config": {"max-file": "0"}}}, "max-file"),
    ({"LogConfig": {"Type": "json-file", "Config": {"colour": "red"}}}, "unknown log opt"),
    ({"PortBindings": {"http": []}}, "port specification"),
    ({"PortBindings": {"80/tcp": [{"HostPort": "99999"}]}}, "port specification"),
    ({"PortBindings": {"80/tcp": [{"HostIp": "localhost"}]}}, "IP address"),
    ({"Dns": ["ns1"]}, "nameserver"),
    ({"ExtraHosts": ["nonsense"]}, "add-host"),
    ({"Mounts": [{"Type": "bind", "Source": "x", "Target": "/y"}]}, "must be absolute"),
    ({"Mounts": [{"Type": "bind", "Source": "/x", "Target": "/"}]}, "destination can't be"),
    ({"Mounts": [{"Type": "tmpfs", "Source": "/x", "Target": "/y"}]}, "Source must not"),
    ({"Mounts": [{"Type": "volume", "Target": "/y", "BindOptions": {}}]}, "BindOptions"),
    ({"Mounts": [{"Type": "volume", "Target": "/y", "VolumeOptions": {"Subpath": "a"}}]}, "anonymous"),
    ({"Tmpfs": {"relative": ""}}, "absolute"),
    ({"Devices": [{"PathOnHost": "null"}]}, "absolute"),
    ({"DeviceCgroupRules": ["everything"]}, "device cgroup rule"),
    ({"MaskedPaths": ["proc"]}, "absolute"),
    ({"Runtime": "kata"}, "runtime name"),
    ({"ConsoleSize": [1]}, "ConsoleSize"),
]


@pytest.mark.parametrize(("host", "why"), REFUSED)
def test_what_cannot_be_meant_is_refused_with_a_sentence(host: dict[str, object], why: str) -> None:
    with pytest.raises(CapsaError, match=why) as caught:
        create(host)
    assert caught.value.status in (400, 501)


@pytest.mark.parametrize(
    "host",
    [
        {"StorageOpt": {"size": "1G"}},
        {"DeviceRequests": [{"Count": -1}]},
        {"KernelMemory": 1},
        {"Isolation": "hyperv"},
        {"UsernsMode": "keep-id"},
        {"CpuPercent": 5},
        {"Mounts": [{"Type": "cluster", "Target": "/y"}]},
    ],
)
def test_what_capsa_cannot_do_is_refused_and_not_dropped(host: dict[str, object]) -> None:
    with pytest.raises(Unsupported, match="not supported by capsa"):
        create(host)


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"Hostname": "bad_-"}, "hostname"),
        ({"Hostname": "a b"}, "hostname"),
        ({"Env": ["=x"]}, "environment"),
        ({"Env": ["A=\0"]}, "null"),
        ({"WorkingDir": "relative"}, "absolute"),
        ({"StopSignal": "SIGNONSENSE"}, "Invalid signal"),
        ({"ExposedPorts": {"70000/tcp": {}}}, "port"),
        ({"Healthcheck": {"Test": ["MAYBE"]}}, "healthcheck"),
        ({"Healthcheck": {"Interval": 5}}, "1ms"),
        ({"Cmd": ["a\0b"]}, "null"),
        ({"MacAddress": "nonsense"}, "mac address"),
        ({"Volumes": {"relative": {}}}, "absolute"),
    ],
)
def test_the_portable_part_is_checked_too(config: dict[str, object], why: str) -> None:
    with pytest.raises(InvalidArgument, match=why):
        create(None, **config)


@pytest.mark.parametrize(
    ("text", "number"), [("TERM", 15), ("SIGKILL", 9), ("sigint", 2), ("10", 10), ("RTMIN+1", 35), ("SIGRTMAX-1", 63)]
)
def test_signals_are_read_as_docker_reads_them(text: str, number: int) -> None:
    assert validation.signal_number(text) == number


@pytest.mark.parametrize("text", ["", "0", "65", "NONE", "RTMIN+99", "-9", "9.5"])
def test_what_is_no_signal_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        validation.signal_number(text)


def test_ports_may_be_ranges() -> None:
    assert validation.port("80") == (range(80, 81), "tcp")
    assert validation.port("8000-8002/udp") == (range(8000, 8003), "udp")
    assert validation.host_port("") == range(0, 0)
    assert list(validation.host_port("9000-9001")) == [9000, 9001]


@pytest.mark.parametrize(
    ("driver", "options", "words"),
    [
        ("syslog", {}, "no log driver named 'syslog' is registered"),
        ("json-file", {"nosuch": "1"}, "unknown log opt 'nosuch' for json-file log driver"),
        ("json-file", {"max-size": "lots"}, "invalid value for max-size"),
        ("json-file", {"max-size": "1m", "max-file": "0"}, "max-file has to be a positive number"),
        ("json-file", {"compress": "true"}, "compress cannot be true when max-file is less than 2"),
        ("json-file", {"compress": "maybe"}, "neither true nor false"),
        ("json-file", {"mode": "odd"}, "logging mode not supported: odd"),
        ("json-file", {"max-buffer-size": "1m"}, "only supported with 'mode=non-blocking'"),
        ("json-file", {"labels-regex": "("}, "invalid regular expression"),
        ("json-file", {"tag": "{{.Nope}}"}, "invalid log tag"),
        ("json-file", {"tag": "{{range .}}"}, "invalid log tag"),
        ("none", {"max-size": "1m"}, "has no options"),
    ],
)
def test_log_options_that_cannot_be_meant(driver: str, options: dict[str, str], words: str) -> None:
    with pytest.raises(InvalidArgument, match=re.escape(words)):
        logdriver.check(LogConfig(type=driver, config=options))


def test_log_options_that_are_honoured() -> None:
    for options in (
        {"max-size": "10m", "max-file": "3", "compress": "true"},
        {"max-size": "1.5k", "mode": "non-blocking", "max-buffer-size": "4m"},
        {"tag": "{{.Name}}/{{ .ID }}", "labels": "a,b", "env-regex": "^X_"},
    ):
        logdriver.check(LogConfig(type="json-file", config=options))
        logdriver.check(LogConfig(type="local", config=options))


def test_every_field_is_looked_at_somewhere() -> None:
    """A field that nothing but its declaration mentions would be accepted and ignored."""
    from pathlib import Path

    import capsa.engine

    source = "".join(
        path.read_text() for path in Path(capsa.engine.__file__).parent.glob("*.py") if path.name != "config.py"
    )
    # what only the command line writes there, what only Docker's own clients show, what is for images made of it
    shown_only = {"container_id_file", "on_build", "attach_stdin", "attach_stdout", "attach_stderr", "args_escaped"}
    for kind in (HostConfig, Config):
        for field in msgspec.structs.fields(kind):
            assert field.name in source or field.name in shown_only, f"{kind.__name__}.{field.name} is ignored"
