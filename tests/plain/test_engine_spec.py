"""The compiler: a row becomes an OCI configuration with Docker's defaults."""

from __future__ import annotations

from typing import Any

from capsa.engine import creation, limits, spec
from capsa.engine.config import Config, HostConfig
from capsa.engine.container import Document, MountPoint
from capsa.oci.runtime import Device, Mount, Spec, User, dumps, loads


def compiled(host: dict[str, Any] | None = None, around: dict[str, Any] | None = None, **config: Any) -> Spec:
    wanted = HostConfig(**(host or {}))
    mounts = config.pop("mounts", [])
    settings = Config(**config)
    creation.complete(wanted, settings)
    document = Document(
        created=1,
        image="sha256:1",
        image_name="x",
        platform="linux",
        path="sh",
        args=["-c", "x"],
        config=settings,
        host=wanted,
        mounts=mounts,
    )
    surroundings = spec.Surroundings(
        **{"engine": "capsa", "id": "1" * 64, "hostname": "box", "user": User(), "home": "/root", **(around or {})}
    )
    return spec.compile(document, surroundings)


def mount(found: Spec, destination: str) -> Mount:
    return next(item for item in found.mounts if item.destination == destination)


def namespaces(found: Spec) -> dict[str, str]:
    assert found.linux is not None
    return {item.type: item.path for item in found.linux.namespaces}


def test_the_plain_container_is_dockers() -> None:
    found = compiled()
    assert found.process is not None and found.linux is not None and found.process.capabilities is not None
    assert found.process.args == ["sh", "-c", "x"]
    assert found.process.cwd == "/"
    assert found.process.env == [f"PATH={spec.PATH}", "HOSTNAME=box", "HOME=/root"]
    assert found.process.capabilities.bounding == list(spec.DEFAULT_CAPABILITIES)
    assert found.process.capabilities.effective == list(spec.DEFAULT_CAPABILITIES)
    assert found.process.capabilities.inheritable == found.process.capabilities.ambient == []
    assert namespaces(found) == {"mount": "", "network": "", "pid": "", "ipc": "", "uts": "", "cgroup": ""}
    assert found.linux.cgroups_path == "/capsa/" + "1" * 64
    assert "/proc/kcore" in found.linux.masked_paths and "/proc/sys" in found.linux.readonly_paths
    assert found.hostname == "box"
    assert [item.destination for item in found.mounts] == [
        "/proc", "/dev", "/dev/pts", "/sys", "/sys/fs/cgroup", "/dev/mqueue", "/dev/shm",
    ]  # fmt: skip
    assert "ro" in mount(found, "/sys").options
    assert "size=67108864" in mount(found, "/dev/shm").options


def test_what_is_compiled_survives_its_own_json() -> None:
    found = compiled({"memory": 64 << 20, "devices": []}, {"devices": [Device(type="c", path="/dev/fuse", major=10)]})
    assert loads(dumps(found)) == found


def test_no_device_may_be_used_but_the_harmless_ones() -> None:
    found = compiled()
    assert found.linux is not None and found.linux.resources is not None
    first, *others = found.linux.resources.devices
    assert (first.allow, first.access) == (False, "rwm")
    assert {(rule.major, rule.minor) for rule in others if rule.access == "rwm"} == {
        (1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2), (136, None),
    }  # fmt: skip


def test_a_user_who_is_not_root_starts_without_effective_capabilities() -> None:
    found = compiled(None, {"user": User(uid=1000)})
    assert found.process is not None and found.process.capabilities is not None
    assert found.process.capabilities.effective == found.process.capabilities.permitted == []
    assert found.process.capabilities.bounding == list(spec.DEFAULT_CAPABILITIES)


def test_capabilities_are_added_and_dropped_by_name() -> None:
    assert spec.capabilities(HostConfig(cap_add=["net_admin"], cap_drop=["CAP_CHOWN"])) == [
        *(name for name in spec.DEFAULT_CAPABILITIES if name != "CAP_CHOWN"),
        "CAP_NET_ADMIN",
    ]
    assert spec.capabilities(HostConfig(cap_drop=["ALL"], cap_add=["KILL"])) == ["CAP_KILL"]
    assert "CAP_SYS_ADMIN" in spec.capabilities(HostConfig(cap_add=["ALL"]))
    assert "CAP_KILL" not in spec.capabilities(HostConfig(cap_add=["ALL"], cap_drop=["KILL"]))


def test_privileged_opens_everything_that_this_machine_can_give() -> None:
    found = compiled({"privileged": True}, {"capabilities": ("CAP_CHOWN", "CAP_SYS_ADMIN")})
    assert found.linux is not None and found.process is not None and found.process.capabilities is not None
    assert found.process.capabilities.bounding == ["CAP_CHOWN", "CAP_SYS_ADMIN"]
    assert found.linux.masked_paths == found.linux.readonly_paths == []
    assert found.linux.resources is not None
    assert [(rule.allow, rule.access) for rule in found.linux.resources.devices] == [(True, "rwm")]
    assert "rw" in mount(found, "/sys").options


def test_shared_namespaces_are_joined_or_left_out() -> None:
    found = compiled({"network_mode": "host", "pid_mode": "host", "ipc_mode": "host", "uts_mode": "host"})
    assert set(namespaces(found)) == {"mount", "cgroup"}
    assert found.hostname == ""
    joined = compiled({"network_mode": "container:x"}, {"network_path": "/proc/7/ns/net"})
    assert namespaces(joined)["network"] == "/proc/7/ns/net"
    assert joined.linux is not None and not joined.linux.sysctl


def test_a_private_network_lets_low_ports_and_ping_be_used() -> None:
    found = compiled({"sysctls": {"net.core.somaxconn": "512"}})
    assert found.linux is not None
    assert found.linux.sysctl == {
        "net.ipv4.ip_unprivileged_port_start": "0",
        "net.ipv4.ping_group_range": "0 2147483647",
        "net.core.somaxconn": "512",
    }


def test_later_variables_win_and_a_name_alone_removes_one() -> None:
    found = compiled(None, {}, env=["PATH=/bin", "A=1", "A=2", "HOSTNAME"], tty=True)
    assert found.process is not None
    assert found.process.env == ["PATH=/bin", "TERM=xterm", "A=2", "HOME=/root"]
    assert found.process.terminal


def test_mounts_replace_defaults_and_come_parents_first() -> None:
    found = compiled(
        None,
        {"files": {"/etc/hosts": "/b/hosts"}},
        mounts=[
            MountPoint(type="bind", destination="/a/b/c", source="/deep"),
            MountPoint(type="volume", destination="/a", source="/shallow", writable=False),
            MountPoint(type="tmpfs", destination="/dev/shm", options=["size=1m"]),
        ],
    )
    places = [item.destination for item in found.mounts]
    assert places.index("/a") < places.index("/a/b/c")
    assert places.count("/dev/shm") == 1 and mount(found, "/dev/shm").options == ["size=1m"]
    assert {"ro", "rro"} <= set(mount(found, "/a").options)
    assert mount(found, "/etc/hosts").source == "/b/hosts"


def test_a_shared_mount_makes_the_root_shared() -> None:
    point = MountPoint(type="bind", destination="/x", source="/x", propagation="rshared")
    found = compiled(None, {}, mounts=[point])
    assert found.linux is not None and found.linux.rootfs_propagation == "shared"
    assert "rshared" in mount(found, "/x").options


def test_limits_become_resources() -> None:
    found = limits.resources(
        HostConfig(
            memory=64 << 20, nano_cpus=1_500_000_000, cpu_shares=512, pids_limit=10, cpuset_cpus="0", blkio_weight=300
        )
    )
    assert found.memory is not None and found.cpu is not None and found.pids is not None and found.block_io is not None
    assert (found.memory.limit, found.memory.swap) == (64 << 20, 128 << 20)
    assert (found.cpu.quota, found.cpu.period, found.cpu.shares, found.cpu.cpus) == (150_000, 100_000, 512, "0")
    assert found.pids.limit == 10
    assert found.block_io.weight == 300


def test_without_limits_nothing_is_written() -> None:
    found = limits.resources(HostConfig())
    assert (found.memory, found.cpu, found.pids, found.block_io) == (None, None, None, None)


def test_unlimited_ulimits_are_the_largest_number() -> None:
    from capsa.engine.config import Ulimit

    (found,) = spec.rlimits(HostConfig(ulimits=[Ulimit(name="core", soft=-1, hard=-1)]))
    assert (found.type, found.soft) == ("RLIMIT_CORE", (1 << 64) - 1)


def test_host_console_size_reaches_the_terminal() -> None:
    found = compiled({"console_size": [24, 80]}, {}, tty=True)
    assert found.process is not None and found.process.console_size is not None
    assert (found.process.console_size.height, found.process.console_size.width) == (24, 80)
