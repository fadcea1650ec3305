"""Namespaces new and joined, network interfaces, additional processes."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from fixtures import bundle as b
from fixtures.bundle import Bundle, spec, with_process

from capsa.errors import InvalidArgument, LaunchFailed
from capsa.oci.runtime import (
    Box,
    ExecCPUAffinity,
    IDMapping,
    Rlimit,
    TimeOffset,
    User,
)
from capsa.platform.linux import container
from capsa.platform.protocol import Interface
from capsa.sys.netlink import Netlink
from capsa.vfs.tree import CopyOnWrite

pytestmark = b.NEEDS


# ---- namespaces ----


def inodes(pid: int | str) -> dict[str, int]:
    return {kind: os.stat(f"/proc/{pid}/ns/{kind}").st_ino for kind in ("pid", "net", "mnt", "ipc", "uts", "cgroup")}


def test_namespaces_are_new_where_listed_and_the_callers_elsewhere(box: Bundle) -> None:
    own = inodes("self")
    with box.created(spec("sleep 60")) as (birth, _, _):
        birth.start()
        assert not set(inodes(birth.pid).values()) & set(own.values())
    base = msgspec.structs.replace(b.without(spec("sleep 60"), "pid", "network", "ipc", "uts", "cgroup"), hostname="")
    with box.created(base) as (birth, _, _):
        birth.start()
        found = inodes(birth.pid)
        assert {kind for kind in own if found[kind] == own[kind]} == {"pid", "net", "ipc", "uts", "cgroup"}


@pytest.mark.parametrize("kind", ["pid", "network", "ipc", "uts", "cgroup", "mount"])
def test_a_namespace_is_joined_by_path(box: Bundle, kind: str) -> None:
    file = {"network": "net", "mount": "mnt"}.get(kind, kind)
    with box.created(spec("sleep 60")) as (first, _, _):
        first.start()
        path = f"/proc/{first.pid}/ns/{file}"
        wanted = b.with_namespace(spec("sleep 60"), kind, path)
        if kind == "mount":  # the sources of a root have to be there, too
            (box.root / "again" / "bin").mkdir(parents=True)
            (box.root / "again" / "bin" / "sh").hardlink_to(box.root / "bin" / "busybox")
            wanted = msgspec.structs.replace(
                wanted, root=msgspec.structs.replace(wanted.root, path="/again"), mounts=[]
            )
            wanted = with_process(wanted, args=["/bin/sh", "-c", "read x"])
        if kind == "uts":
            wanted = msgspec.structs.replace(wanted, hostname="")
        with box.created(wanted) as (second, _, _):
            assert os.stat(path).st_ino == os.stat(f"/proc/{second.pid}/ns/{file}").st_ino
            status = Path(f"/proc/{second.pid}/status").read_text()
            assert f"PPid:\t{os.getpid()}\n" in status


def test_a_path_that_is_no_namespace_is_named(box: Bundle) -> None:
    for path in ("/no/such/ns", "/proc/self/ns/uts"):
        with pytest.raises(LaunchFailed, match=f"cannot join the network namespace {path}"):
            box.run(b.with_namespace(spec(), "network", path))


def test_host_and_domain_name(box: Bundle) -> None:
    base = msgspec.structs.replace(spec("hostname; cat /proc/sys/kernel/domainname"), domainname="example")
    assert box.run(base).output == "box\nexample\n"
    with pytest.raises(LaunchFailed, match="uts namespace"):
        box.run(b.without(spec(), "uts"))
    assert socket.gethostname() != "box"


def test_sysctls_of_the_containers_namespaces(box: Bundle) -> None:
    settings = {"net.ipv4.ip_forward": "1", "kernel.shmmax": "12345", "fs/mqueue/msg_max": "20"}
    found = box.run(
        spec("cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shmmax /proc/sys/fs/mqueue/msg_max", sysctl=settings)
    )
    assert found.output == "1\n12345\n20\n"
    with pytest.raises(InvalidArgument, match="network namespace"):
        box.run(b.without(spec("true", sysctl=settings), "network"))
    with pytest.raises(LaunchFailed, match=r"cannot set sysctl net\.no\.such"):
        box.run(spec("true", sysctl={"net.no.such": "1"}))


def test_a_user_namespace(box: Bundle) -> None:
    maps = [IDMapping(container_id=0, host_id=100000, size=65536)]
    for path, directories, files in os.walk(box.root):
        for name in [*directories, *files, "."]:
            os.lchown(os.path.join(path, name), 100000, 100000)
    box.path.chmod(0o700)  # the way to a root need not be open to the container's root
    script = "id -u; cat /proc/self/uid_map; echo x > /tmp/x; echo y > /dev/null; stat -c %t:%T /dev/null; hostname"
    base = b.with_namespace(spec(script, uid_mappings=maps, gid_mappings=maps), "user")
    found = box.run(base)
    assert found.output.split() == ["0", "0", "100000", "65536", "1:3", "box"]
    assert os.stat(box.root / "tmp" / "x").st_uid == 100000
    with box.created(b.with_namespace(spec("sleep 60", uid_mappings=maps, gid_mappings=maps), "user")) as (
        birth,
        group,
        _,
    ):
        birth.start()
        assert f"PPid:\t{os.getpid()}\n" in Path(f"/proc/{birth.pid}/status").read_text()
        assert "Uid:\t100000" in Path(f"/proc/{birth.pid}/status").read_text()
        entered = box.enter(b.shell("id -u; hostname"), birth, group, base)
        assert entered == (0, "0\nbox\n")
        joined = b.with_namespace(spec("id -u; echo $$"), "user", f"/proc/{birth.pid}/ns/user")
        assert box.run(joined).output == "0\n1\n"


def test_a_user_namespace_with_the_hosts_network(box: Bundle) -> None:
    maps = [IDMapping(container_id=0, host_id=0, size=65536)]
    base = b.with_namespace(spec("ls -d /sys/class/net/lo; touch /sys/x", uid_mappings=maps, gid_mappings=maps), "user")
    found = box.run(b.without(base, "network"))
    assert found.output.startswith("/sys/class/net/lo\n")
    assert "Read-only" in found.output


def test_limits_may_be_raised_in_a_user_namespace_as_outside(box: Bundle) -> None:
    maps = [IDMapping(container_id=0, host_id=0, size=65536)]
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limits = [Rlimit(type="RLIMIT_NOFILE", soft=hard, hard=hard)]
    base = b.with_namespace(spec("ulimit -Hn", uid_mappings=maps, gid_mappings=maps), "user")
    assert box.run(b.with_process(base, rlimits=limits)).output == f"{hard}\n"


def test_a_user_namespace_over_layers(box: Bundle, tmp_path: Path) -> None:
    maps = [IDMapping(container_id=0, host_id=0, size=65536)]
    upper, work = tmp_path / "upper", tmp_path / "work"
    upper.mkdir()
    work.mkdir()
    root = CopyOnWrite(layers=(str(box.root),), upper=str(upper), work=str(work))
    base = b.with_namespace(
        spec("rm /etc/passwd; echo new > /new; ls /etc", uid_mappings=maps, gid_mappings=maps), "user"
    )
    assert box.run(base, root=root) == (0, "group\n")
    assert (upper / "new").exists()


def test_time_namespace_with_offsets(box: Bundle) -> None:
    base = b.with_namespace(
        spec("cut -d. -f1 /proc/uptime", time_offsets={"boottime": TimeOffset(secs=1_000_000)}), "time"
    )
    assert int(box.run(base).output) > 1_000_000
    with pytest.raises(InvalidArgument, match="time namespace"):
        box.run(spec("true", time_offsets={"boottime": TimeOffset(secs=1)}))


# ---- interfaces ----


@pytest.fixture
def bridge() -> Iterator[str]:
    name = f"ct{os.getpid()}"
    with Netlink() as netlink:
        netlink.add_bridge(name, addresses=["10.213.7.1/24"])
    yield name
    with Netlink() as netlink:
        netlink.delete(name)


def test_interfaces_have_addresses_and_routes(box: Bundle, bridge: str) -> None:
    one = Interface(
        name="eth0",
        host_name=f"cv{os.getpid()}",
        bridge=bridge,
        mac="02:42:0a:d5:07:02",
        addresses=["10.213.7.2/24"],
        gateways=["10.213.7.1"],
    )
    found = box.run(spec("ip -o addr; ip route; ip link show eth0; ping -c1 -W5 10.213.7.1"), interfaces=[one])
    assert found.code == 0, found.output
    for words in ("10.213.7.2/24", "default via 10.213.7.1", "02:42:0a:d5:07:02", "127.0.0.1/8"):
        assert words in found.output
    other = msgspec.structs.replace(
        one, name="eth1", host_name=f"cw{os.getpid()}", mac="02:42:0a:d5:07:03", gateways=[]
    )
    with box.created(spec("sleep 60"), interfaces=[one]) as (birth, group, _):
        birth.start()
        container.connect(birth.pid, msgspec.structs.replace(other, addresses=["10.213.7.3/24"]))
        assert "10.213.7.3" in box.enter(b.shell("ip addr"), birth, group, spec()).output
        container.disconnect(birth.pid, "eth1")
        assert "10.213.7.3" not in box.enter(b.shell("ip addr"), birth, group, spec()).output
        with pytest.raises(LaunchFailed, match="eth7"):
            container.disconnect(birth.pid, "eth7")
    with pytest.raises(LaunchFailed, match="nosuchbr"):
        box.run(spec(), interfaces=[msgspec.structs.replace(one, bridge="nosuchbr")])
    with pytest.raises(LaunchFailed, match="cannot configure the interface eth0"):
        box.run(spec(), interfaces=[msgspec.structs.replace(one, gateways=["10.99.0.1"])])
    with Netlink() as netlink:
        assert not {link.name for link in netlink.links()} & {one.host_name, other.host_name}


# ---- enter ----


def test_an_additional_process_shares_everything(box: Bundle) -> None:
    base = spec("sleep 60")
    with box.created(base) as (birth, group, _):
        birth.start()
        found = box.enter(
            b.shell("hostname; cat /proc/1/comm; pwd; cat /proc/self/cgroup | grep -c /box"), birth, group, base
        )
        assert found.output.splitlines()[:3] == ["box", "sleep", "/"]
        entered = container.enter(
            b.process(["sleep", "60"]), spec=base, pid=birth.pid, cgroup=group, stdio=(0, 1, 2), cache=None
        )
        entered.start()
        assert inodes(entered.pid) == inodes(birth.pid)
        assert entered.pid in group.pids()
        assert f"PPid:\t{os.getpid()}\n" in Path(f"/proc/{entered.pid}/status").read_text()
        entered.abort()
        assert box.enter(b.shell("exit 3"), birth, group, base).code == 3
        affinity = ExecCPUAffinity(initial="0", final="0")
        pinned = b.shell("grep Cpus_allowed_list /proc/self/status", exec_cpu_affinity=affinity)
        assert box.enter(pinned, birth, group, base).output.split() == ["Cpus_allowed_list:", "0"]


def test_an_additional_process_has_its_own_user_directory_and_filter(box: Bundle) -> None:
    base = spec("sleep 60")
    with box.created(base) as (birth, group, _):
        birth.start()
        wanted = b.shell("id -u; pwd; grep ^Seccomp: /proc/self/status", user=User(uid=1000, gid=1000), cwd="/tmp")
        assert box.enter(wanted, birth, group, base).output.split() == ["1000", "/tmp", "Seccomp:", "2"]
        wanted = b.shell("tty; stty size", terminal=True, console_size=Box(height=10, width=20))
        assert box.enter(wanted, birth, group, base).output == "/dev/pts/0\n10 20\n"
        for args, code in ((["nope"], 127), (["/etc/passwd"], 126)):
            with pytest.raises(LaunchFailed) as failure:
                box.enter(b.process(args), birth, group, base)
            assert failure.value.code == code


def test_nothing_can_be_entered_that_has_ended(box: Bundle) -> None:
    base = spec("true")
    with box.created(base) as (birth, group, _):
        birth.start()
        b.wait(birth.pid)
        with pytest.raises(LaunchFailed, match="cannot enter the container"):
            box.enter(b.shell("true"), birth, group, base)


def test_the_entering_process_cannot_be_looked_into(box: Bundle) -> None:
    """CVE-2019-5736: who is in the container sees it in /proc before it has executed anything."""
    base = spec("sleep 60")
    with box.created(base) as (birth, group, _):
        birth.start()
        entered = container.enter(
            b.process(["sleep", "60"]), spec=base, pid=birth.pid, cgroup=group, stdio=(0, 1, 2), cache=None
        )
        try:
            script = """for p in /proc/[0-9]*; do
                if grep -q python $p/comm; then
                    echo found
                    for f in exe cwd root fd/0 fd/1 fd/2 fd/3 fd/4 ns/mnt; do readlink $p/$f; done
                    head -c1 $p/exe $p/environ $p/maps
                fi
            done 2>/dev/null"""
            assert box.enter(b.shell(script), birth, group, base).output == "found\n"
        finally:
            entered.abort()
