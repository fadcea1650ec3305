"""The verbs that look after containers, networks, volumes and the engine itself, with all of their options."""

from __future__ import annotations

import json

import pytest


@pytest.fixture(autouse=True)
def nothing_left(engine, busybox):
    yield
    engine.remove_containers()
    engine.capsa("network", "prune", "-f")
    engine.capsa("volume", "prune", "-af")


@pytest.fixture
def capsa(engine):
    return engine.capsa


@pytest.fixture
def inspect(capsa):
    return lambda *words: json.loads(capsa(*words).stdout)[0]


def test_top_takes_the_options_of_ps(capsa):
    capsa("run", "-d", "--name", "box", "busybox", "sleep", "1000")
    titles, process = capsa("top", "box").stdout.splitlines()
    assert titles.split() == ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
    assert process.endswith("sleep 1000")
    assert capsa("container", "top", "box", "-o", "pid,args").stdout.splitlines()[0].split() == ["PID", "COMMAND"]
    assert capsa("top", "box", "--nosuch", check=False).returncode == 1


def test_a_renamed_container_has_the_other_name_only(capsa):
    identifier = capsa("create", "--name", "old", "busybox").stdout.strip()
    assert capsa("rename", "old", "new").stdout == ""
    assert capsa("inspect", "-f", "{{.Id}}", "new").stdout.strip() == identifier
    assert capsa("rename", "old", "other", check=False).returncode == 1
    capsa("create", "--name", "taken", "busybox")
    done = capsa("rename", "new", "taken", check=False)
    assert done.returncode == 1
    assert "already in use" in done.stderr
    assert "empty" in capsa("rename", "new", " ", check=False).stderr


def test_an_update_holds_in_the_container_and_in_inspection(capsa, inspect):
    capsa("run", "-d", "--name", "box", "-m", "64m", "busybox", "sleep", "1000")
    done = capsa(
        *("update", "-m", "128m", "--memory-swap", "-1", "--memory-reservation", "16m", "--cpu-shares", "512"),
        *("--pids-limit", "33", "--restart", "on-failure:3", "box"),
    )
    assert done.stdout == "box\n"
    host = inspect("inspect", "box")["HostConfig"]
    assert (host["Memory"], host["MemorySwap"], host["MemoryReservation"]) == (128 << 20, -1, 16 << 20)
    assert (host["CpuShares"], host["PidsLimit"]) == (512, 33)
    assert host["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 3}
    assert capsa("stats", "--no-stream", "--format", "{{.MemUsage}}", "box").stdout.endswith(" / 128MiB\n")
    for argv, text in (
        (["box"], "one or more flags"),
        (["-m", "1k", "box"], "memory limit"),
        (["--restart", "nonsense", "box"], "restart policy"),
        (["--pids-limit", "5", "nosuch"], "No such container"),
    ):
        failed = capsa("update", *argv, check=False)
        assert failed.returncode == 1
        assert text in failed.stderr


def test_ports_are_shown_as_they_are_published(capsa):
    capsa("run", "-d", "--name", "box", "-p", "127.0.0.1:0:80", "-p", "127.0.0.1:0:53/udp", "busybox", "sleep", "1000")
    lines = capsa("port", "box").stdout.splitlines()
    assert [line.partition(" -> ")[0] for line in lines] == ["53/udp", "80/tcp"]
    assert capsa("port", "box", "80").stdout == lines[1].partition(" -> ")[2] + "\n"
    assert capsa("port", "box", "53/UDP").stdout.startswith("127.0.0.1:")
    assert "no public port '53/tcp'" in capsa("port", "box", "53", check=False).stderr


def test_waiting_for_several_prints_each_code(capsa):
    capsa("run", "-d", "--name", "aa", "busybox", "sh", "-c", "exit 3")
    capsa("run", "-d", "--name", "bb", "busybox", "sh", "-c", "sleep 0.3; exit 4")
    assert capsa("wait", "aa", "bb").stdout == "3\n4\n"
    assert capsa("container", "wait", "aa", "nosuch", check=False).returncode == 1


def test_a_network_is_made_as_its_options_say(capsa, inspect):
    capsa(
        *("network", "create", "--subnet", "10.89.0.0/24", "--ip-range", "10.89.0.128/25", "--gateway", "10.89.0.254"),
        *("--aux-address", "router=10.89.0.129", "--internal", "--attachable", "--label", "a=b"),
        *("-o", "com.docker.network.driver.mtu=1400", "--ipv6", "--subnet", "fd00:89::/64", "net"),
    )
    found = inspect("network", "inspect", "net")
    assert (found["Internal"], found["Attachable"], found["EnableIPv6"]) == (True, True, True)
    assert found["Labels"] == {"a": "b"}
    four, six = found["IPAM"]["Config"]
    assert (four["Subnet"], four["IPRange"], four["Gateway"]) == ("10.89.0.0/24", "10.89.0.128/25", "10.89.0.254")
    assert four["AuxiliaryAddresses"] == {"router": "10.89.0.129"}
    assert six["Subnet"] == "fd00:89::/64"
    assert capsa("network", "ls", "-f", "label=a=b", "--format", "{{.Name}} {{.Internal}} {{.IPv6}}").stdout == (
        "net true true\n"
    )


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["--gateway", "10.1.0.1", "x1"], "must have a corresponding subnet"),
        (["--subnet", "10.2.0.0/16", "--gateway", "10.3.0.1", "x1"], "no matching subnet for gateway 10.3.0.1"),
        (["--subnet", "10.2.0.0/16", "--ip-range", "10.3.0.0/24", "x1"], "no matching subnet for range"),
        (["--subnet", "10.2.0.0/16", "--aux-address", "a=10.3.0.1", "x1"], "no matching subnet for aux-address"),
        (["--subnet", "10.2.0.0/16", "--subnet", "10.2.1.0/24", "x1"], "overlapping"),
        (["--subnet", "nonsense", "x1"], "invalid --subnet"),
        (["-d", "nosuch", "x1"], "nosuch"),
        (["--scope", "swarm", "x1"], "scope"),
        (["--ingress", "x1"], "ngress"),
        (["--ipam-driver", "nosuch", "x1"], "nosuch"),
    ],
)
def test_a_network_that_cannot_be_is_refused_in_a_sentence(capsa, argv, text):
    done = capsa("network", "create", *argv, check=False)
    assert done.returncode == 1
    assert text in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert capsa("network", "ls", "-q", "-f", "name=x1").stdout == ""


def test_connecting_and_disconnecting(capsa, inspect):
    capsa("network", "create", "--subnet", "10.90.0.0/24", "net")
    capsa("run", "-d", "--name", "box", "busybox", "sleep", "1000")
    capsa("network", "connect", "--ip", "10.90.0.77", "--alias", "db", "--alias", "store", "net", "box")
    endpoint = inspect("inspect", "box")["NetworkSettings"]["Networks"]["net"]
    assert endpoint["IPAddress"] == "10.90.0.77"
    assert {"db", "store"} <= set(endpoint["Aliases"])
    assert "10.90.0.77" in capsa("exec", "box", "ip", "-4", "addr").stdout
    assert capsa("network", "connect", "net", "box", check=False).returncode == 1
    capsa("network", "disconnect", "net", "box")
    assert list(inspect("inspect", "box")["NetworkSettings"]["Networks"]) == ["bridge"]
    assert capsa("network", "rm", "net").stdout == "net\n"
    assert capsa("network", "rm", "net", check=False).returncode == 1
    assert capsa("network", "rm", "-f", "net").stdout == ""


def test_the_long_form_of_a_network(capsa, inspect):
    capsa("network", "create", "--subnet", "10.91.0.0/24", "net")
    capsa("network", "create", "--subnet", "10.92.0.0/24", "other")
    capsa(
        *("run", "-d", "--name", "box", "--network", "name=net,ip=10.91.0.9,alias=a,alias=b"),
        *("--network", "name=other,alias=c,mac-address=02:42:00:00:00:99", "busybox", "sleep", "1000"),
    )
    networks = inspect("inspect", "box")["NetworkSettings"]["Networks"]
    assert networks["net"]["IPAddress"] == "10.91.0.9"
    assert {"a", "b"} <= set(networks["net"]["Aliases"])
    assert "c" in networks["other"]["Aliases"]
    assert networks["other"]["MacAddress"] == "02:42:00:00:00:99"


def test_volumes_with_options_labels_and_filters(capsa, inspect):
    assert capsa("volume", "create", "-d", "local", "--label", "a=b", "vol1").stdout == "vol1\n"
    assert len(capsa("volume", "create").stdout.strip()) == 64
    found = inspect("volume", "inspect", "vol1")
    assert found["Labels"] == {"a": "b"}
    assert capsa("volume", "ls", "-q", "-f", "label=a").stdout == "vol1\n"
    capsa("create", "--name", "box", "-v", "vol1:/data", "busybox")
    assert capsa("volume", "ls", "-q", "-f", "dangling=false").stdout == "vol1\n"
    assert capsa("volume", "rm", "vol1", check=False).returncode == 1
    assert capsa("volume", "rm", "-f", "nosuch").returncode == 0
    assert len(capsa("volume", "prune", "-f").stdout.splitlines()) == 4
    capsa("rm", "box")
    assert "vol1" in capsa("volume", "prune", "-f", "--all").stdout


def test_what_is_on_disk(capsa):
    capsa(
        "run", "--name", "box", "-v", "vol:/data", "busybox", "sh", "-c", "head -c 100000 /dev/zero | tee /data/x > /x"
    )
    kinds = {
        line["Type"]: line for line in map(json.loads, capsa("system", "df", "--format", "json").stdout.splitlines())
    }
    assert list(kinds) == ["Images", "Containers", "Local Volumes", "Build Cache"]
    assert (kinds["Containers"]["TotalCount"], kinds["Containers"]["Active"]) == ("1", "0")
    assert kinds["Containers"]["Reclaimable"].endswith("(100%)")
    assert kinds["Local Volumes"]["Active"] == "1"
    detailed = capsa("system", "df", "-v").stdout
    for title in (
        "Images space usage:",
        "Containers space usage:",
        "Local Volumes space usage:",
        "Build cache usage: 0B",
    ):
        assert title in detailed
    [volume] = json.loads(capsa("system", "df", "-v", "--format", "json").stdout)["Volumes"]
    assert (volume["Name"], volume["Links"]) == ("vol", "1")
    assert capsa("system", "df", "-v", "--format", "table {{.Name}}", check=False).returncode == 1


def test_a_prune_of_everything(capsa):
    capsa("run", "--name", "box", "-v", "/data", "-l", "keep=no", "busybox", "true")
    capsa("create", "--name", "kept", "-l", "keep=yes", "busybox")
    capsa("network", "create", "net")
    capsa("volume", "create", "named")
    done = capsa("system", "prune", "-f", "--volumes", "--filter", "label!=keep=yes")
    for title in ("Deleted Containers:", "Deleted Networks:", "Deleted Volumes:", "Total reclaimed space: "):
        assert title in done.stdout
    assert capsa("ps", "-a", "--format", "{{.Names}}").stdout == "kept\n"
    assert capsa("volume", "ls", "-q").stdout == "named\n"
    assert '"until" filter' in capsa("system", "prune", "--volumes", "--filter", "until=1h", check=False).stderr


def test_history_of_an_image(capsa):
    title, step = capsa("history", "busybox").stdout.splitlines()
    assert title.split() == ["IMAGE", "CREATED", "CREATED", "BY", "SIZE", "COMMENT"]
    assert step.split()[0] == capsa("images", "-q", "busybox").stdout.strip()
    assert capsa("history", "-q", "--no-trunc", "busybox").stdout.startswith("sha256:")
    assert capsa("history", "--platform", "linux/nosuch", "busybox", check=False).returncode == 1


def test_other_names_of_the_same_verbs(capsa):
    capsa("create", "--name", "box", "busybox")
    plain = capsa("ps", "-a", "--format", "{{.Names}}").stdout
    for verb in ("ls", "list", "ps"):
        assert capsa("container", verb, "-a", "--format", "{{.Names}}").stdout == plain
    assert capsa("container", "remove", "box").stdout == "box\n"
    assert capsa("image", "list", "-q").stdout == capsa("images", "-q").stdout
    assert capsa("network", "list", "-q").stdout == capsa("network", "ls", "-q").stdout
    assert capsa("volume", "list").stdout == capsa("volume", "ls").stdout
    assert capsa("system", "info", "-f", "{{.ID}}").stdout == capsa("info", "-f", "{{.ID}}").stdout


def test_a_list_shows_where_the_words_of_a_command_end(capsa):
    capsa("run", "--name", "box", "busybox", "sh", "-c", "exit 3", check=False)
    assert capsa("ps", "-a", "--no-trunc", "--format", "{{.Command}}").stdout == "\"sh -c 'exit 3'\"\n"
    assert capsa("ps", "-q", "-f", "exited=3").stdout == ""
    assert capsa("ps", "-aq", "-f", "exited=3").stdout != ""


def test_words_to_complete(engine, capsa):
    def words(*typed):
        return capsa("completion", "words", *typed).stdout.split()

    capsa("run", "-d", "--name", "box", "busybox", "sleep", "1000")
    assert words("system", "") == ["df", "events", "info", "prune"]
    assert "stats" in words("st") and "update" in words("up")
    for verb in ("top", "port", "stats", "update", "rename"):
        assert words(verb, "b") == ["box"]
    assert "--no-stream" in words("stats", "--no")
    assert words("network", "connect", "br") == ["bridge"]
