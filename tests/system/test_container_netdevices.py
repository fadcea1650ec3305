"""Network devices that move into a container, and the memory policy of its processes (runtime-spec 1.3)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import pytest
from fixtures import bundle as b
from fixtures.bundle import Bundle, spec

from capsa.errors import CapsaError, InvalidArgument, LaunchFailed
from capsa.oci.runtime import MemoryPolicy, NetDevice, Spec
from capsa.platform.linux import interfaces
from capsa.sys import namespace
from capsa.sys.namespace import FLAGS
from capsa.sys.netlink import Netlink

pytestmark = b.NEEDS
SHOW = "ip -o address; ip -o link"


@pytest.fixture
def host() -> Iterator[Netlink]:
    """A network namespace to be the host's, with a pair of devices in it."""
    own = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    space = interfaces.new_network()
    try:
        namespace.setns(space, FLAGS["network"])
        with Netlink() as netlink:
            netlink.add_veth("outer0", "", "outer1", "02:00:00:00:00:01", 1400, os.getpid())
            netlink.configure("outer1", ["10.77.0.2/24", "fd77::2/64"])
            yield netlink
    finally:
        namespace.setns(own, FLAGS["network"])
        os.close(own)
        os.close(space)


def moving(script: str, **devices: str) -> Spec:
    """A container that gets ``devices``, by their names outside."""
    return spec(script, net_devices={name: NetDevice(name=new) for name, new in devices.items()})


def names(netlink: Netlink) -> set[str]:
    return {link.name for link in netlink.links()}


def test_a_device_moves_in_with_its_lasting_addresses_and_is_up(box: Bundle, host: Netlink) -> None:
    found = box.run(moving(SHOW, outer1="inner")).output
    assert re.search(r"inner\s+inet 10\.77\.0\.2/24 .*scope global", found), found
    assert re.search(r"inner\s+inet6 fd77::2/64 scope global", found), found
    assert re.search(r"inner@\S+ <BROADCAST,MULTICAST,UP,LOWER_UP[^>]*> mtu 1400", found), found
    assert "link/ether 02:00:00:00:00:01" in found


def test_a_name_may_leave_the_number_to_the_kernel_or_stay(box: Bundle, host: Netlink) -> None:
    host.add_veth("outer2", "", "outer3", "02:00:00:00:00:03", 1500, os.getpid())
    found = box.run(moving("ls /sys/class/net", outer1="eth%d", outer3="eth%d", outer0="", outer2="")).output.split()
    assert sorted(found) == ["eth0", "eth1", "lo", "outer0", "outer2"]
    assert names(host) == {"lo"}


def test_what_cannot_be_moved_fails_and_all_devices_are_where_they_were(box: Bundle, host: Netlink) -> None:
    before = sorted((link.name, link.mac, link.up) for link in host.links()), sorted(host.lasting_addresses("outer1"))
    for devices, text in (
        ({"outer1": "", "nowhere": ""}, "nowhere into the container: .*No such device"),
        ({"outer1": "one", "outer0": "one"}, "outer0 into the container: .*File exists"),
        ({"outer1": "", "outer0": "lo"}, "outer0 into the container: .*File exists"),
    ):
        with pytest.raises(LaunchFailed, match=text):
            box.run(moving("true", **devices))
        links = sorted((link.name, link.mac, link.up) for link in host.links())
        assert (links, sorted(host.lasting_addresses("outer1"))) == before


def test_a_program_that_is_missing_leaves_the_devices_outside(box: Bundle, host: Netlink) -> None:
    wanted = moving("true", outer1="inner")
    wanted = b.with_process(wanted, args=["/bin/nothing"])
    with pytest.raises(LaunchFailed, match="nothing"):
        box.run(wanted)
    assert names(host) == {"lo", "outer0", "outer1"}


@pytest.mark.parametrize("name", ["much-too-long-name", "a/b", "a b", ".."])
def test_names_that_cannot_be_are_refused(box: Bundle, name: str) -> None:
    with pytest.raises(InvalidArgument, match="is no name of a network device"):
        box.run(moving("true", lo=name))


def test_a_container_in_the_hosts_network_gets_no_devices(box: Bundle) -> None:
    with pytest.raises(InvalidArgument, match="network namespace of the container's own"):
        box.run(b.without(moving("true", lo="lo1"), "network"))


@pytest.mark.parametrize(
    ("policy", "wanted"),
    [
        (MemoryPolicy(mode="MPOL_BIND", nodes="0"), "bind:0"),
        (MemoryPolicy(mode="MPOL_BIND", nodes="0", flags=["MPOL_F_STATIC_NODES"]), "bind=static:0"),
        (MemoryPolicy(mode="MPOL_INTERLEAVE", nodes="0-0"), "interleave:0"),
        (MemoryPolicy(mode="MPOL_LOCAL"), "local"),
        (MemoryPolicy(mode="MPOL_DEFAULT"), "default"),
    ],
)
def test_memory_policy(box: Bundle, policy: MemoryPolicy, wanted: str) -> None:
    found = box.run(spec("cat /proc/self/numa_maps", memory_policy=policy)).output
    assert {line.split()[1] for line in found.splitlines()} == {wanted}


@pytest.mark.parametrize(
    ("policy", "text"),
    [
        (MemoryPolicy(mode="MPOL_NEAR"), "unknown memoryPolicy 'MPOL_NEAR'"),
        (MemoryPolicy(mode="MPOL_BIND", nodes="0", flags=["MPOL_F_X"]), "unknown memoryPolicy 'MPOL_BIND MPOL_F_X'"),
        (MemoryPolicy(mode="MPOL_BIND", nodes="0-99999999999"), "is no list of memory nodes"),
        (MemoryPolicy(mode="MPOL_BIND", nodes="1000"), "cannot set the memory policy MPOL_BIND of nodes 1000: invalid"),
        (MemoryPolicy(mode="MPOL_BIND"), "cannot set the memory policy MPOL_BIND: invalid argument"),
    ],
)
def test_a_memory_policy_that_cannot_be_is_refused(box: Bundle, policy: MemoryPolicy, text: str) -> None:
    with pytest.raises(CapsaError, match=text):
        box.run(spec("true", memory_policy=policy))
