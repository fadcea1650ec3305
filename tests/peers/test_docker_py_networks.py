"""Docker's SDK for Python: networks."""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import Iterator

import docker
import pytest
from docker.errors import APIError, NotFound
from docker.models.networks import Network
from docker.types import IPAMConfig, IPAMPool

pytestmark = pytest.mark.usefixtures("tidy")
SLEEP = ["sleep", "1000"]
_numbers = itertools.count(1)


@pytest.fixture(autouse=True)
def no_networks(sdk: docker.DockerClient, tidy: None) -> Iterator[None]:
    yield
    for container in sdk.containers.list(all=True):
        container.remove(force=True)
    sdk.networks.prune()


@pytest.fixture
def net(sdk: docker.DockerClient) -> Network:
    """A network with known subnets, IPv6 too."""
    pools = [
        IPAMPool(
            subnet="10.213.0.0/24", iprange="10.213.0.128/25", gateway="10.213.0.1", aux_addresses={"a": "10.213.0.129"}
        ),
        IPAMPool(subnet="fd00:2130::/64"),
    ]
    return sdk.networks.create("dpy-net", driver="bridge", ipam=IPAMConfig(pool_configs=pools), enable_ipv6=True)


def address(container, network: str) -> str:
    container.reload()
    return container.attrs["NetworkSettings"]["Networks"][network]["IPAddress"]


def test_create_and_inspect(sdk, net):
    network = sdk.networks.create(
        "dpy other name",
        labels={"a": "1"},
        internal=True,
        attachable=True,
        options={"com.docker.network.bridge.enable_icc": "true"},
        scope="local",
    )
    assert network.name == "dpy other name" and sdk.networks.get(network.id[:12]).id == network.id
    shown = network.attrs
    assert shown["Internal"] and shown["Attachable"] and shown["Labels"] == {"a": "1"} and shown["Scope"] == "local"
    assert shown["Driver"] == "bridge" and not shown["Ingress"] and not shown["ConfigOnly"] and not shown["EnableIPv6"]
    assert shown["Options"] == {"com.docker.network.bridge.enable_icc": "true"}
    ipaddress.ip_network(shown["IPAM"]["Config"][0]["Subnet"])
    net.reload()
    assert net.attrs["EnableIPv6"] and net.attrs["IPAM"]["Driver"] == "default"
    four, six = net.attrs["IPAM"]["Config"]
    assert four == {
        "Subnet": "10.213.0.0/24",
        "IPRange": "10.213.0.128/25",
        "Gateway": "10.213.0.1",
        "AuxiliaryAddresses": {"a": "10.213.0.129"},
    }
    assert six["Subnet"] == "fd00:2130::/64"
    assert sdk.networks.get("dpy-net", scope="local").id == net.id
    with pytest.raises(NotFound):
        sdk.networks.get("dpy-net", scope="swarm")


def test_lists_and_filters(sdk, net):
    other = sdk.networks.create("dpy-other", labels={"a": "1"})

    def names(**options: object) -> set[str]:
        return {network.name for network in sdk.networks.list(**options)}

    assert names() == {"bridge", "host", "none", "dpy-net", "dpy-other"}
    assert names(names=["dpy-net"]) == {"dpy-net"} and names(ids=[other.id]) == {"dpy-other"}
    assert names(filters={"label": "a=1"}) == {"dpy-other"} and names(filters={"type": "custom"}) == {
        "dpy-net",
        "dpy-other",
    }
    assert names(filters={"type": "builtin"}) == {"bridge", "host", "none"}
    assert names(filters={"driver": "host"}) == {"host"} and names(filters={"scope": "swarm"}) == set()
    assert names(filters={"dangling": True}) == {"dpy-net", "dpy-other"}
    with pytest.raises(APIError, match="invalid filter"):
        names(filters={"nosuch": "x"})
    container = sdk.containers.run("busybox", SLEEP, network="dpy-net", init=True, detach=True)
    (greedy,) = sdk.networks.list(names=["dpy-net"], greedy=True)
    assert greedy.containers == [container]


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        ({"name": "dpy-net"}, 409, "network with name dpy-net already exists"),
        ({"name": "x", "driver": "nosuch"}, 404, 'plugin "nosuch" not found'),
        ({"name": "x", "driver": "host"}, 403, "only one instance of"),
        ({"name": "bridge"}, 403, "operation is not permitted on predefined bridge network"),
        ({"name": "/"}, 400, "invalid network name"),
        ({"name": "x", "ipam": IPAMConfig(pool_configs=[IPAMPool(subnet="nonsense")])}, 400, "nonsense"),
        ({"name": "x", "ipam": IPAMConfig(pool_configs=[IPAMPool(subnet="10.213.0.0/24")])}, 403, "Pool overlaps"),
        ({"name": "x", "ipam": IPAMConfig(pool_configs=[IPAMPool("10.9.0.0/24", gateway="10.8.0.1")])}, 400, "10.8"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(sdk, net, options, status, words):
    before = len(sdk.networks.list())
    with pytest.raises(APIError) as failure:
        sdk.networks.create(**options)
    assert failure.value.status_code == status and words in failure.value.explanation
    assert len(sdk.networks.list()) == before


def test_a_container_begins_in_a_network_with_addresses_and_aliases(sdk, net):
    endpoint = sdk.api.create_endpoint_config(
        ipv4_address="10.213.0.200",
        ipv6_address="fd00:2130::200",
        aliases=["known-as"],
        mac_address="02:42:0a:d5:00:c8",
    )
    first = sdk.containers.run(
        "busybox",
        SLEEP,
        name="dpy-first",
        network="dpy-net",
        networking_config={"dpy-net": endpoint},
        init=True,
        detach=True,
    )
    first.reload()
    shown = first.attrs["NetworkSettings"]["Networks"]["dpy-net"]
    assert (shown["IPAddress"], shown["GlobalIPv6Address"]) == ("10.213.0.200", "fd00:2130::200")
    assert (
        shown["IPPrefixLen"] == 24 and shown["Gateway"] == "10.213.0.1" and shown["MacAddress"] == "02:42:0a:d5:00:c8"
    )
    assert shown["IPAMConfig"] == {"IPv4Address": "10.213.0.200", "IPv6Address": "fd00:2130::200"}
    assert "known-as" in shown["Aliases"] and shown["NetworkID"] == net.id and shown["EndpointID"]
    assert first.exec_run("cat /sys/class/net/eth0/address").output == b"02:42:0a:d5:00:c8\n"
    for name in ("known-as", "dpy-first", first.short_id):
        assert sdk.containers.run("busybox", f"ping -c 1 -w 10 {name}", network="dpy-net", remove=True)
    with pytest.raises(APIError, match="Address already in use") as taken:
        sdk.containers.run("busybox", SLEEP, network="dpy-net", networking_config={"dpy-net": endpoint}, detach=True)
    assert taken.value.status_code in (403, 409, 500)


def test_addresses_come_from_the_range(sdk, net):
    container = sdk.containers.run("busybox", SLEEP, network="dpy-net", init=True, detach=True)
    found = ipaddress.ip_address(address(container, "dpy-net"))
    assert found in ipaddress.ip_network("10.213.0.128/25") and str(found) != "10.213.0.129"


def test_connect_and_disconnect(sdk, net):
    container = sdk.containers.run("busybox", SLEEP, name="dpy-guest", init=True, detach=True)
    net.connect(container, ipv4_address="10.213.0.150", aliases=["visitor"])
    assert address(container, "dpy-net") == "10.213.0.150"
    assert container.exec_run("cat /sys/class/net/eth1/operstate").exit_code == 0
    net.reload()
    assert net.containers == [container]
    (shown,) = net.attrs["Containers"].values()
    assert shown["Name"] == "dpy-guest" and shown["IPv4Address"] == "10.213.0.150/24"
    assert sdk.containers.run("busybox", "ping -c 1 -w 10 visitor", network="dpy-net", remove=True)
    with pytest.raises(APIError, match="already exists in network"):
        net.connect(container)
    with pytest.raises(APIError, match="has active endpoints") as active:
        net.remove()
    assert active.value.status_code == 403
    net.disconnect(container)
    container.reload()
    assert "dpy-net" not in container.attrs["NetworkSettings"]["Networks"]
    assert container.exec_run("ls /sys/class/net/eth1").exit_code != 0
    with pytest.raises(APIError, match="is not connected"):
        net.disconnect(container)
    net.connect("dpy-guest")
    net.disconnect("dpy-guest", force=True)
    net.remove()
    with pytest.raises(NotFound):
        net.reload()


def test_connecting_what_does_not_run(sdk, net):
    container = sdk.containers.create("busybox", "ls /sys/class/net")
    net.connect(container, ipv4_address="10.213.0.160")
    container.start()
    container.wait()
    assert set(container.logs().split()) >= {b"eth0", b"eth1"}
    net.disconnect(container)
    with pytest.raises(NotFound, match="No such container: nosuch"):
        net.connect("nosuch")
    with pytest.raises(NotFound, match="network nosuch not found"):
        sdk.api.connect_container_to_network(container.id, "nosuch")
    with pytest.raises(APIError) as outside:
        net.connect(container, ipv4_address="10.99.0.1")
        container.start()
    assert outside.value.response.status_code in (400, 403, 500)


def test_an_internal_network_leads_nowhere(sdk):
    sdk.networks.create("dpy-inner", internal=True)
    routes = sdk.containers.run("busybox", "ip route", network="dpy-inner", remove=True)
    assert b"default" not in routes


def test_prune_and_predefined_networks(sdk, net):
    used = sdk.networks.create("dpy-used", labels={"keep": "1"})
    container = sdk.containers.run("busybox", SLEEP, network="dpy-used", init=True, detach=True)
    assert sdk.networks.prune(filters={"until": "1h"})["NetworksDeleted"] is None
    assert sdk.networks.prune()["NetworksDeleted"] == ["dpy-net"]
    container.remove(force=True)
    assert sdk.networks.prune(filters={"label!": ["keep"]})["NetworksDeleted"] is None
    assert sdk.networks.prune(filters={"label": "keep=1"})["NetworksDeleted"] == [used.name]
    for name in ("bridge", "host", "none"):
        with pytest.raises(APIError, match="pre-defined") as failure:
            sdk.networks.get(name).remove()
        assert failure.value.status_code == 403


def test_options_of_an_endpoint(sdk):
    endpoint = sdk.api.create_endpoint_config(driver_opt={"org.example.setting": "on"}, link_local_ips=["169.254.8.8"])
    networking = sdk.api.create_networking_config({"bridge": endpoint})
    made = sdk.api.create_container("busybox", SLEEP, networking_config=networking)
    sdk.api.start(made)
    shown = sdk.api.inspect_container(made)["NetworkSettings"]["Networks"]["bridge"]
    assert shown["DriverOpts"] == {"org.example.setting": "on"}
    assert shown["IPAMConfig"]["LinkLocalIPs"] == ["169.254.8.8"]
    assert "169.254.8.8" in sdk.containers.get(made["Id"]).exec_run("ip addr show eth0").output.decode()
