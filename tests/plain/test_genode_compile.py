"""Bundles to configurations of Genode's `init`, as a reader of such configurations would have written them."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from capsa import hid
from capsa.errors import CapsaError, InvalidArgument, LaunchFailed, Unsupported
from capsa.oci.runtime import Box, Linux, Memory, Mount, Process, Resources, Root, Spec
from capsa.platform.genode import budget, bundle, compile, drivers, file_servers, network, nodes, output, report
from capsa.platform.genode.budget import MIB, Quota
from capsa.platform.genode.bundle import Bundle, Link, Names, Volume
from capsa.platform.genode.directory import Directory
from capsa.platform.genode.equipment import Equipment, equipment
from capsa.platform.genode.member import link_of
from capsa.platform.protocol import Interface

HAS = Equipment(cow=True, random=True, pipe=True)
ROMS = {"hello": "H" * 43, "libc.lib.so": "L" * 43, "ld.lib.so": "X" * 43}
SUBINIT = """\
config
+ parent-provides
  + service ROM
  + service PD
  + service CPU
  + service RM
  + service LOG
  + service Timer
  + service Rtc
+ report | ids: yes | child_ram: yes | child_caps: yes | delay_ms: 50 | buffer: 16K
+ heartbeat | rate_ms: 1000
+ start main | caps: 300 | ram: 4M
  + binary hello
  + heartbeat
  + exit | propagate: yes
  + config
    + arg | : hello
    + arg | : a | b
    + env HOME | : /
  + route
    + service ROM | label_last: hello
      + parent | label: rom-HHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHH
    + service ROM | label_last: libc.lib.so
      + parent | label: rom-LLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLL
    + service ROM | label_last: ld.lib.so | + parent
    + service ROM | label_suffix: .lib.so | + parent
    + service File_system                 | + child vfs
    + service PD                          | + parent
    + service CPU                         | + parent
    + service RM                          | + parent
    + service LOG                         | + parent
    + service Timer                       | + parent
    + service Rtc                         | + parent
+ start files | caps: 40 | ram: 8M | ld: no
  + binary lx_fs
  + provides | + service File_system
  + config
    + policy | label_prefix: vfs -> upper      | root: /host/tree/c-1/upper    | writeable: yes
    + policy | label_prefix: vfs -> readonly-0 | root: /host/tree/c-1/volume-0
  + route | + any-service | + parent
+ start vfs | caps: 140 | ram: 12M
  + provides | + service File_system
  + config
    + vfs
      + dir dev
        + null
        + zero
        + log
        + rtc
        + random
        + random urandom
        + dir pipe | + pipe
      + dir srv | + dir data | + fs | label: readonly-0 -> /
      + cow
        + upper | + fs | label: upper -> /
        + lower | + tar image
    + policy | label_prefix: main -> | root: / | writeable: yes
    + policy | label_prefix: exec-   | root: / | writeable: yes
  + route
    + service ROM | label_last: image | + parent | label: rom-IMAGE
    + service ROM | label_last: seed  | + parent | label: rom-seed-c-1
    + service File_system             | + child files
    + any-service                     | + parent
"""


def spec(*arguments: str, env: tuple[str, ...] = (), limit: int = 0, **annotations: str) -> Spec:
    return Spec(
        oci_version="1.2.0",
        root=Root(path="rootfs"),
        process=Process(args=list(arguments) or ["/bin/hello"], env=list(env), cwd="/"),
        annotations={f"org.genode.{name}": value for name, value in annotations.items()},
        linux=Linux(resources=Resources(memory=Memory(limit=limit))) if limit else None,
    )


def read(wanted: Spec, texts: dict[str, str] | None = None) -> Bundle:
    return bundle.read(wanted, "c-1", ROMS, texts or {})


def test_a_sub_init_is_written_as_a_person_would() -> None:
    made = Bundle(
        name="c-1",
        binary="hello",
        arguments=("hello", "a | b"),
        environment=(("HOME", "/"),),
        roms=tuple(sorted(ROMS.items())),
        quota=Quota(4 * MIB, 300),
        services=("Timer", "Rtc"),
        volumes=(Volume("/host/data", "/srv/data", writable=False),),
        heartbeat=True,
    )
    tree = file_servers.Tree("IMAGE", "/host/tree/c-1/upper", {"/srv/data": "/host/tree/c-1/volume-0"})
    execs = [compile.Exec("exec-1", "hello")]
    text = hid.write(compile.subinit(made, tree, execs, has=HAS))
    assert text.startswith(SUBINIT), text
    assert "+ start exec-1 | caps: 100 | ram: 4M\n" in text
    assert hid.write(hid.read(text)) == text


def test_what_a_bundle_does_not_ask_for_it_does_not_get() -> None:
    made = read(spec(vfs="no"))
    text = hid.write(compile.subinit(made))
    assert "File_system" not in text and "vfs" not in text and "Rtc" not in text
    outer = hid.write(compile.containers([compile.entry(made)]))
    routes = outer[outer.index("+ start c-1") :]
    assert "service Timer" in routes and "service Rtc" not in routes and "lx_fs" not in routes
    assert "+ service Report | label: state" in " ".join(routes.split())


def test_an_image_that_is_read_only_and_has_no_volumes_needs_no_directories() -> None:
    made = msgspec.structs.replace(read(spec()), read_only=True)
    text = hid.write(compile.subinit(made, file_servers.Tree("IMAGE", ""), has=HAS))
    assert "lx_fs" not in text and "cow" not in text and "writeable" not in text and "+ tar image" in text
    assert compile.quota(made) == budget.INIT + budget.VFS + made.quota


def test_without_the_plugin_new_files_go_beside_the_image() -> None:
    text = hid.write(compile.subinit(read(spec()), file_servers.Tree("IMAGE", "/upper")))
    assert "      + fs | label: upper -> /\n      + tar image\n" in text and "cow" not in text


def test_device_nodes_are_those_that_this_genode_has_plugins_for(tmp_path: Path) -> None:
    text = hid.write(compile.subinit(read(spec()), file_servers.Tree("IMAGE", "/upper")))
    assert "      + dir dev\n        + null\n        + zero\n        + log\n      + fs" in text and "seed" not in text
    sentences = list(equipment(tmp_path).lacks())
    assert len(sentences) == 3 and any("no /dev/urandom" in each and "vfs_random.lib.so" in each for each in sentences)
    for plugin in ("cow", "random", "pipe"):
        (tmp_path / f"vfs_{plugin}.lib.so").touch()
    assert equipment(tmp_path) == HAS and not list(HAS.lacks())


def test_a_clock_is_a_driver_of_the_containers_own_where_this_genode_has_one(tmp_path: Path) -> None:
    asking = read(spec(services="Rtc"))
    without = HAS.provide(asking)
    components = starts(compile.subinit(without, TREE, has=HAS))
    assert set(components) == {"main", "files", "vfs"} and "+ rtc\n" not in components["vfs"]
    (said,) = HAS.withholds(without)
    assert said == "there is no service Rtc and no /dev/rtc: this Genode has no linux_rtc"
    (tmp_path / "linux_rtc").touch()
    made = equipment(tmp_path).provide(asking)
    assert not list(HAS.withholds(made))
    document = compile.subinit(made, TREE, [compile.Exec("exec-1", "hello")], has=HAS)
    components = starts(document)
    assert "+ rtc\n" in components["vfs"] and "+ binary linux_rtc\n" in components["rtc"]
    assert "ld: no" in components["rtc"].splitlines()[0] and "+ provides | + service Rtc" in components["rtc"]
    for name in ("main", "vfs", "exec-1"):
        assert "+ service Rtc" in components[name] and "+ child rtc" in components[name], name
    assert "Rtc" not in hid.write(document).partition("+ report")[0]  # nor of its parent
    outer = " ".join(hid.write(compile.containers([compile.entry(made)])).split())
    assert "+ service ROM | label_last: linux_rtc | + parent" in outer
    assert "Rtc" not in outer[outer.index("+ start c-1") :]
    assert compile.quota(made) == compile.quota(asking) + drivers.QUOTA
    assert compile.components(made) == compile.components(asking) + 1 and not compile.suits_spare(made)
    # Of one that somebody else has started, the services are what it has, whatever programs were put there.
    attached = equipment(tmp_path, attached=True).provide(asking)
    components = starts(compile.subinit(attached, TREE, has=HAS))
    assert attached == asking and "rtc" not in components and "+ rtc\n" in components["vfs"]


def test_the_seed_of_random_bytes_is_a_new_one_for_each_and_leads_to_its_vfs_alone(tmp_path: Path) -> None:
    (tmp_path / "containers").mkdir()
    where = Directory(tmp_path, tmp_path)
    seeds = []
    for name in ("c-1", "c-2", "c-1"):
        where.prepare_container(name)
        path = tmp_path / f"rom-seed-{name}"
        assert path.stat().st_mode & 0o777 == 0o600
        seeds.append(path.read_text())
        assert len(bytes.fromhex(seeds[-1])) == 32
        where.forget_container(name)
        assert os.listdir(tmp_path / "containers") == [] and not path.exists()
    assert len(set(seeds)) == 3
    components = starts(compile.subinit(read(spec()), TREE, [compile.Exec("exec-1", "hello")], has=HAS))
    assert [name for name, text in components.items() if "seed" in text] == ["vfs"]


def test_the_fixed_part_is_the_same_each_time() -> None:
    one, other = (hid.write(compile.system(Quota(1 << 30, 10_000))) for _ in range(2))
    assert one == other and "+ start containers | caps: 10000 | ram: 1G\n" in one
    # An init hands out all that it has; the sessions of a few dozen containers then starve it, and all of them.
    assert "+ resource RAM | preserve: 16M\n" in one and "+ resource CAP | preserve: 500\n" in one


def test_a_configuration_of_ones_own_is_kept_with_its_arguments() -> None:
    given = "config | verbose: yes\n+ vfs | + fs\n+ arg | : mine\n-\n"
    made = read(spec("hello", "theirs", config="@/etc/hello.hid"), {"/etc/hello.hid": given})
    text = hid.write(compile.subinit(made, file_servers.Tree("IMAGE", "/upper")))
    assert "+ config | verbose: yes\n" in text and "mine" in text and "theirs" not in text
    assert read(spec(env=("GENODE_CONFIG=config | a: b",))).config == hid.read("config | a: b\n-\n")


def test_limits_are_quotas() -> None:
    assert read(spec(limit=64 * MIB, ram="2M", caps="77")).quota == Quota(64 * MIB, 77)
    assert read(spec(ram="2M")).quota.ram == 2 * MIB
    assert compile.quota(read(spec(vfs="no", ram="2M"))) == budget.INIT + Quota(2 * MIB, budget.DEFAULT_CAPS)
    with pytest.raises(LaunchFailed, match="container x needs 9 MiB of RAM, and this Genode has 8 MiB left"):
        budget.check(Quota(9 * MIB, 1), Quota(8 * MIB, 100), "container x")
    with pytest.raises(LaunchFailed, match="needs 200 capabilities, and this Genode has 100 left"):
        budget.check(Quota(1, 200), Quota(8 * MIB, 100), "container x")
    budget.check_descriptors(4, 17_900, 20_000, "container x")
    budget.check_descriptors(4, 0, 0, "container x")  # where that is not known
    with pytest.raises(LaunchFailed, match="needs some 500 open files of core, and 400 are left of 20000"):
        budget.check_descriptors(4, 18_100, 20_000, "container x")


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (spec("nothing"), "there is no nothing in the image: its files are hello, ld.lib.so, libc.lib.so"),
        (spec("a b"), "cannot be the name of a component"),
        (spec(ram="lots"), "org.genode.ram is 'lots'"),
        (spec(ram="1K"), "too little"),
        (spec(limit=1024), "too little"),
        (spec(priority="7"), "org.genode.priority"),
        (spec(affinity="4/4"), "org.genode.affinity is '4/4'"),
        (spec(affinity="2-1/4"), "org.genode.affinity is '2-1/4'"),
        (spec(affinity="first"), "write 0/4 for the first of four processors, or 1-2/4"),
        (spec(heartbeat="maybe"), "write yes or no"),
        (spec(services="Pd"), "org.genode.services names 'Pd'"),
        (spec(colour="red"), "unknown setting org.genode.colour"),
        (spec(config="@/none"), "names /none, which is not a file of the image"),
        (spec(config="konfig\n-\n"), "begins with 'konfig'"),
        (spec(config="config\n+++\n-\n"), "is not HID"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_a_sentence(wanted: Spec, said: str) -> None:
    with pytest.raises(InvalidArgument, match=said):
        read(wanted)


def test_an_affinity_is_that_of_the_images_components_alone() -> None:
    wanted = compile.Exec("exec-1", "hello", (), (), None)
    made = msgspec.structs.replace(read(spec(affinity="1-2/4")), name="c-1")
    document = compile.subinit(made, TREE, [wanted], has=HAS)
    assert "\n+ affinity-space | width: 4 | height: 1\n+ start main" in hid.write(document)
    found = {each.name: [hid.write(node) for node in each.nodes("affinity")] for each in document.nodes("start")}
    place = ["affinity | xpos: 1 | width: 2\n-\n"]
    assert found == {"main": place, "exec-1": place, "files": [], "vfs": []}
    one = compile.subinit(read(spec(affinity="0/2", vfs="no")))
    assert "affinity | xpos: 0 | width: 1" in hid.write(one) and "affinity-space | width: 2" in hid.write(one)
    assert "affinity" not in hid.write(compile.subinit(read(spec(vfs="no"))))


WITH_TERMINAL = Equipment(cow=True, random=True, pipe=True, drivers=("Terminal",))
TERMINAL_NODE = """\
start terminal | caps: 60 | ram: 1M | ld: no
+ binary fifo_terminal
+ provides | + service Terminal
+ config | path: terminal/c-1/main | tty: yes | columns: 80 | lines: 24 | patient: vfs
+ route | + any-service | + parent
-
"""


def test_a_terminal_is_a_driver_of_the_containers_own_and_one_of_each_additional_component() -> None:
    wanted = spec(services="Terminal")
    assert wanted.process is not None
    wanted.process.terminal, wanted.process.console_size = True, Box(height=24, width=80)
    asking = read(wanted)
    made = WITH_TERMINAL.provide(asking)
    WITH_TERMINAL.check_input(made)
    execs = [compile.Exec("exec-1", "hello")]
    components = starts(compile.subinit(made, TREE, execs, has=WITH_TERMINAL))
    assert components["terminal"] == TERMINAL_NODE
    assert "+ config | path: terminal/c-1/exec-1 | tty: no\n" in components["terminal-exec-1"]
    for name, server in (("main", "terminal"), ("vfs", "terminal"), ("exec-1", "terminal-exec-1")):
        assert f"+ child {server}\n" in components[name], name
    assert "+ terminal\n" in components["vfs"]
    assert compile.quota(made) == compile.quota(asking) + drivers.QUOTA
    assert compile.quota(made, 1) - compile.quota(made) == budget.EXEC + drivers.QUOTA == compile.exec_quota(made)
    assert "+ start exec-1 | caps: 100 | ram: 4M\n" in hid.write(compile.subinit(made, TREE, execs, has=HAS))


@pytest.mark.parametrize(
    ("services", "has", "said"),
    [
        ("", WITH_TERMINAL, "it has to ask for one (org.genode.services=Terminal): leave --interactive and --tty out"),
        ("Terminal", HAS, "this Genode has no fifo_terminal: leave"),
        ("Terminal", Equipment(attached=True, drivers=("Terminal",)), "attached to has its own terminals: leave"),
    ],
)
def test_without_a_terminal_there_is_no_input(services: str, has: Equipment, said: str) -> None:
    with pytest.raises(Unsupported, match=re.escape(said)):
        has.check_input(has.provide(read(spec(services=services))))


@pytest.mark.parametrize("text", ["a | b", "a\nb", "a\0b", " a"])
def test_values_that_hid_cannot_hold_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="HID cannot hold"):
        nodes.node("policy", root=text)


def test_arguments_may_hold_anything_but_a_zero() -> None:
    nasty = ["hello", "a | b", "- ", "+ start x", "", "line\nline", "ü 語"]
    made = msgspec.structs.replace(read(spec(vfs="no")), arguments=tuple(nasty))
    text = hid.write(compile.subinit(made))
    main = hid.read(text).node("start", "main")
    assert main is not None
    config = main.node("config")
    assert config is not None and [each.text or "" for each in config.nodes("arg")] == nasty
    with pytest.raises(CapsaError, match="zero byte"):
        compile.subinit(msgspec.structs.replace(made, arguments=("a\0b",)))


def test_binds_become_directories_of_the_tree() -> None:
    wanted = spec()
    wanted.mounts = [
        Mount(destination="/data", type="bind", source="/srv/x", options=["rbind", "ro"]),
        Mount(destination="/proc", type="proc", source="proc"),
    ]
    assert read(wanted).volumes == (Volume("/srv/x", "/data", writable=False),)


def test_a_configuration_that_does_not_fit_leaves_the_one_that_is_there(tmp_path: Path) -> None:
    """It would end all children without a word."""
    schema = hid.Schema.load("schema config\n+ type any | : .*\n+ node start\n  + attr name | type: any\n-\n")
    (tmp_path / "config").mkdir()
    directory = Directory(tmp_path / "config", tmp_path / "report", {"init": schema})
    directory.write_containers(nodes.node("config", "", nodes.node("start", "good")), 1)
    before = (tmp_path / "config/containers").read_text()
    assert "+ start good" in before and before.endswith("-\n")
    for wrong in (
        nodes.node("config", "", nodes.node("stop", "bad")),
        nodes.node("konfig"),
        hid.Node("config", {}, [hid.Node("start", {"name": "a | b"})]),
        hid.Node("config", {}, [hid.Node("start", {"name": "a\n- "})]),
    ):
        with pytest.raises(LaunchFailed, match="the configuration of containers"):
            directory.write_containers(wrong, 2)
        assert (tmp_path / "config/containers").read_text() == before
    assert os.listdir(tmp_path / "config") == ["containers"]


# ---- what comes back ----

REPORT = b"""state | version: 7
+ ram  | quota: 60758588 | used: 384K | avail: 60365372
+ child c | binary: dummy | id: 4
  + ram  | assigned: 2M  | quota: 1996594 | used: 184K | avail: 1808178 | requested: 5124K
  + caps | assigned: 100 | quota: 72      | used: 13   | avail: 59
+ child d | binary: dummy | id: 5 | exited: 42
+ child e | binary: dummy | state: incomplete
+ child f | binary: dummy | id: 6 | skipped_heartbeats: 3
-
"""


def test_a_report_is_read() -> None:
    found = report.read(REPORT)
    assert found is not None and found.version == "7" and found.ram.used == 384 << 10
    assert found.children["c"].ram.requested == 5124 << 10 and found.children["c"].id == 4
    assert found.children["d"].exited == 42 and found.children["c"].exited is None
    assert found.children["e"].incomplete and found.children["e"].id is None
    assert found.children["f"].skipped_heartbeats == 3


@pytest.mark.parametrize("data", [b"", REPORT[:-2], REPORT[:100], b"garbage\n-\n", b"\0\xff-", b"config\n-\n"])
def test_a_report_that_is_none_or_half_is_no_report(data: bytes) -> None:
    assert report.read(data) is None


def test_numbers_of_a_report_may_be_nonsense() -> None:
    found = report.read(REPORT.replace(b"id: 4", b"id: x").replace(b"384K", b"-3"))
    assert found is not None and found.children["c"].id is None and found.ram.used == 0


def test_lines_go_to_who_wrote_them() -> None:
    lines = output.Lines()
    assert lines.feed(b"[init -> containers -> c-1 -> main] he") == []
    found = lines.feed(
        b"llo\x1b[0m\x1b[0m\n[init -> containers -> c-2 -> exec-1 -> sub] \x1b[31mError: x\x1b[0m\x1b[0m\n"
        b"[init -> containers] child\n[init -> containers -> c-1] of the sub-init\nplain\n"
    )
    assert [(each.container, each.component, each.text) for each in found] == [
        ("c-1", "main", b"hello"),
        ("c-2", "exec-1", b"\x1b[31mError: x\x1b[0m"),
        ("", "", b"[init -> containers] child"),
        ("c-1", "", b"of the sub-init"),
        ("", "", b"plain"),
    ]
    assert found[1].plain == b"Error: x"


@pytest.mark.parametrize(
    ("text", "end"),
    [
        (b"main] \x1b[31mError: Uncaught exception of type 'X'\x1b[0m", (134, "Uncaught exception of type 'X'")),
        (b"main] Error: stop because parent denied ROM-session: x", (126, "stop because parent denied ROM-session: x")),
        (b"main] Uncaught exception of type 'X'", None),
        (b"main] Error: it has no Uncaught exception", None),
        (b"main -> child] Error: Uncaught exception of type 'X'", None),  # the component goes on
    ],
)
def test_last_words_are_an_end(text: bytes, end: tuple[int, str] | None) -> None:
    (found,) = output.Lines().feed(b"[init -> containers -> c-1 -> " + text + b"\n")
    assert found.end == end


def test_a_line_without_end_is_bounded() -> None:
    lines = output.Lines()
    found = [line for _ in range(100) for line in lines.feed(b"x" * 4096)]
    assert found and sum(len(line.text) for line in found) >= 4096 * 100 - output.LONGEST


# ---- networks ----

ROUTER = """\
config
  icmp_echo_server:     no
  tcp_idle_timeout_sec: 7200
  udp_idle_timeout_sec: 120
+ policy | label_prefix: nic-eth0 -> | domain: network-eth0
+ policy | label: main -> eth0 | domain: main-eth0
+ policy | label_prefix: main -> | domain: main-eth0
+ policy | label_prefix: exec-   | domain: exec
+ domain network-eth0 | interface: 172.18.0.6/16 | gateway: 172.18.0.1
  + tcp | dst: 172.18.0.6/32 | + permit-any | domain: main-eth0
  + udp | dst: 172.18.0.6/32 | + permit-any | domain: main-eth0
  + icmp | dst: 172.18.0.6/32 | domain: main-eth0
  + nat | domain: main-eth0 | tcp-ports: 4096 | udp-ports: 4096 | icmp-ids: 4096
  + nat | domain: exec      | tcp-ports: 4096 | udp-ports: 4096 | icmp-ids: 4096
+ domain main-eth0 | interface: 172.18.0.5/30
  + dhcp-server | ip_first: 172.18.0.6 | ip_last: 172.18.0.6 | + dns-server | ip: 10.0.0.53
  + tcp | dst: 0.0.0.0/0 | + permit-any | domain: network-eth0
  + udp | dst: 0.0.0.0/0 | + permit-any | domain: network-eth0
  + icmp | dst: 0.0.0.0/0 | domain: network-eth0
+ domain exec | interface: 192.0.2.1/27
  + dhcp-server | ip_first: 192.0.2.2 | ip_last: 192.0.2.30 | + dns-server | ip: 10.0.0.53
  + tcp | dst: 0.0.0.0/0 | + permit-any | domain: network-eth0
  + udp | dst: 0.0.0.0/0 | + permit-any | domain: network-eth0
  + icmp | dst: 0.0.0.0/0 | domain: network-eth0
-
"""
FIRST = Link("eth0", "capsa0123456789", "02:42:ac:12:00:06", "172.18.0.6/16", "172.18.0.1")
SECOND = Link("eth1", "capsa9876543210", "02:42:ac:13:00:09", "172.19.0.9/16")


def networked(*links: Link) -> Bundle:
    return msgspec.structs.replace(read(spec(vfs="no", services="Nic")), network=True, links=links)


def test_a_network_is_a_domain_of_the_containers_router() -> None:
    assert hid.write(network.router([FIRST], ["10.0.0.53"])) == ROUTER


def test_a_component_has_its_network_through_its_router() -> None:
    text = " ".join(hid.write(compile.subinit(networked(FIRST))).split())
    assert "+ start nic-eth0 | caps: 100 | ram: 5M | ld: no + binary linux_nic" in text
    better = hid.write(compile.subinit(msgspec.structs.replace(networked(FIRST), driver="tap_nic")))
    assert "+ binary tap_nic" in better and "linux_nic" not in better
    assert "+ config | tap: capsa0123456789 | mac: 02:42:ac:12:00:06" in text
    assert "+ service Uplink | + child nic" in text and "+ service Nic | + child nic" in text
    outer = hid.write(compile.containers([compile.entry(networked(FIRST))]))
    assert "service Nic" not in outer and "label_last: nic_router" in outer  # what leaves the sub-init is the device
    assert "label_last: nic_router" not in hid.write(compile.containers([compile.entry(read(spec()))]))
    assert compile.quota(networked(FIRST)) - compile.quota(networked()) == network.DRIVER_QUOTA


def test_without_a_network_there_is_no_router() -> None:
    made = read(spec(vfs="no", services="Nic"))
    text = hid.write(compile.subinit(made))
    assert "nic" not in text.casefold()
    assert compile.quota(made) == budget.INIT + made.quota


def test_the_default_route_leads_through_one_network_and_others_are_reached_directly() -> None:
    for first, second in ((FIRST, SECOND), (msgspec.structs.replace(FIRST, gateway=""), SECOND)):
        router = network.router([first, second])
        for name in ("main-eth0", "main-eth1", "exec"):
            domain = router.node("domain", name)
            assert domain is not None
            ways = {each.get("dst"): each.get("domain") for each in domain.nodes("icmp")}
            subnet = "0.0.0.0/0" if first.gateway else "172.18.0.0/16"
            assert ways == {subnet: "network-eth0", "172.19.0.0/16": "network-eth1"}
        assert [each.get("domain") for each in router.nodes("policy") if each.get("label_prefix") == "main ->"] == [
            "main-eth0"
        ]


def test_a_router_without_networks_lets_nothing_pass() -> None:
    assert not network.router([]).nodes("domain") and not network.router([]).nodes("policy")


def test_names_that_hid_cannot_hold_are_refused_in_a_router_too() -> None:
    with pytest.raises(InvalidArgument, match="HID cannot hold"):
        network.router([msgspec.structs.replace(FIRST, name="a|b")])


@pytest.mark.parametrize(
    ("changed", "suits"),
    [
        ({}, True),
        ({"files": False}, True),
        ({"volumes": (Volume("/a", "/a"), Volume("/b", "/b"))}, True),
        ({"volumes": tuple(Volume(each, each) for each in ("/a", "/b", "/c"))}, False),
        ({"heartbeat": True, "read_only": True}, True),
        ({"quota": Quota(100 * MIB, 100)}, False),
        ({"quota": Quota(8 * MIB, 400)}, False),
        ({"services": ("Timer", "Rtc")}, False),
        ({"priority": -1}, False),
        ({"network": True}, False),
    ],
)
def test_the_sub_init_that_waits_is_for_containers_that_fit_and_want_nothing_else(
    changed: dict[str, Any], suits: bool
) -> None:
    made = msgspec.structs.replace(Bundle(name="c-1", binary="hello", roms=(("hello", "H" * 43),)), **changed)
    assert compile.suits_spare(made) is suits
    if suits:
        assert compile.quota(made).fits(compile.spare("sub-1").quota)
        assert set(compile.entry(made).services) <= set(compile.spare("sub-1").services)


TREE = file_servers.Tree("IMAGE", "/host/tree/c-1/upper", {"/a": "/host/tree/c-1/volume-0"})


def starts(document: hid.Node) -> dict[str, str]:
    """The text of the start nodes, by name."""
    return {each.name: hid.write(each) for each in document.nodes("start")}


def waited(**changed: Any) -> tuple[dict[str, str], dict[str, str]]:
    """The components of the sub-init that waits, and those when it is this container's."""
    made = msgspec.structs.replace(Bundle(name="c-1", binary="hello", roms=(("hello", "H" * 43),)), **changed)
    unused = compile.keeps_unused(made)
    later = compile.subinit(made, TREE, has=HAS, waited=True, unused=unused)
    return starts(compile.waiting("c-1", files=True, has=HAS)), starts(later)


def test_file_servers_that_have_waited_go_on_as_they_are() -> None:
    before, after = waited()
    assert set(before) == {"files", "vfs"} and set(after) == {"main", "files", "vfs"}
    assert after["files"] == before["files"] and "+ child vfs\n" in after["main"]
    assert "+ random urandom\n" in before["vfs"] and "+ parent | label: rom-seed-c-1\n" in before["vfs"]
    # Nothing but the way to the image: what else changes it would only see after somebody has asked it for files.
    served, server = " ".join(before["vfs"].split()), " ".join(after["vfs"].split())
    route = "+ service ROM | label_last: image | + parent | label: rom-IMAGE "
    assert route in server and server.replace(route, "") == served
    assert "rom-IMAGE" not in before["vfs"] and "main ->" in before["vfs"] and "late: yes" in before["vfs"]


@pytest.mark.parametrize("changed", [{"read_only": True}, {"volumes": (Volume("/x", "/a", writable=False),)}])
def test_other_files_are_served_by_a_vfs_of_their_own(changed: dict[str, Any]) -> None:
    before, after = waited(**changed)
    assert "vfs" not in after and "late" not in after["vfs-own"] and "+ binary vfs\n" in after["vfs-own"]
    assert "+ child vfs-own\n" in after["main"] and "writeable" not in (
        after["vfs-own"] if "read_only" in changed else ""
    )
    if "volumes" in changed:  # the server of directories has a policy for it that does not let it be written to
        assert after["files"] == before["files"] and "label: readonly-0 -> /" in after["vfs-own"]
        (policy,) = [line for line in before["files"].splitlines() if "vfs-own -> readonly-0" in line]
        assert "root: /host/tree/c-1/volume-0" in policy and "writeable" not in policy


@pytest.mark.parametrize(("ram", "caps", "stay"), [(8, 100, True), (8, 140, True), (9, 100, False), (8, 141, False)])
def test_servers_without_use_stay_for_a_while_where_nobody_lacks_what_they_have(
    ram: int, caps: int, stay: bool
) -> None:
    before, after = waited(files=False, quota=Quota(ram * MIB, caps))
    assert after == ({**before, "main": after["main"]} if stay else {"main": after["main"]})
    assert "File_system" not in after["main"]
    made = msgspec.structs.replace(Bundle(name="c-1", binary="hello"), files=False)
    first, later = compile.containers([compile.spare("c-1")]), compile.entry(made, compile.SPARE, waited=True)
    assert starts(compile.containers([later])) == starts(first)  # a route that is in use does not go


def test_the_server_of_directories_that_waits_has_those_of_one_container_only() -> None:
    policies = hid.read(hid.write(compile.waiting("sub-7", files=True, has=HAS))).node("start", "files")
    assert policies is not None
    config = policies.node("config")
    assert config is not None and {each.get("root").rpartition("/")[0] for each in config.nodes("policy")} == {
        "/host/tree/sub-7"
    }
    assert not compile.waiting("sub-7", files=False, has=HAS).nodes("start")


@pytest.mark.parametrize("name", ["a|b", 'a"b', "a\\b", "\x01", "é", "a,b", "a b", "", "x" * 64])
def test_an_interface_that_labels_cannot_hold_is_refused(name: str) -> None:
    made = Interface(name, "capsa0123456789", "br", "02:42:ac:12:00:06", ["172.18.0.6/16"])
    with pytest.raises(InvalidArgument, match="cannot be the name of an interface on Genode"):
        link_of(made)
    made.name = "eth0.1_a-b+"
    assert link_of(made).name == made.name


def test_queries_go_to_the_name_service_by_way_of_a_network_that_it_is_in() -> None:
    names = Names("eth0", "172.18.0.1", 40000)
    rules = "+ tcp-forward | port: 53 | domain: network-eth0 | to: 172.18.0.1 | to_port: 40000"
    first = network.router([FIRST, SECOND], ["10.0.0.53"], names)
    for domain, own in (("main-eth0", "172.18.0.5"), ("main-eth1", "172.19.0.10"), ("exec", "192.0.2.1")):
        made = first.node("domain", domain)
        dhcp = made.node("dhcp-server") if made is not None else None
        assert made is not None and dhcp is not None
        assert [each.get("ip") for each in dhcp.nodes("dns-server")] == [own, "10.0.0.53"]
        assert rules in hid.write(made) and rules.replace("tcp", "udp") in hid.write(made)
    for outside in ("network-eth0", "network-eth1"):
        made = first.node("domain", outside)
        assert made is not None and "forward" not in hid.write(made)  # nobody else's
    assert "forward" not in hid.write(network.router([SECOND], ["10.0.0.53"], names))
