"""The file servers that wait for a container with files: whose they become, and that nobody reaches another's files."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from fixtures import genode
from fixtures.cow import TREE, layer
from fixtures.engine import EngineUnderTest
from fixtures.genode import component, config, core_of, has, nodes, process, state, waiting
from fixtures.wait import until

LATE = b"cow: late"  # what a plugin says that can look at files later
LASTING = config("+ log | string: up", "+ sleep | ms: 600000")
SECRET = "the victim's own"
CHECKS = """GENODE_CONFIG=config | phase: either | local: no | base: /data | symlinks: no | mtime: no
+ vfs | + fs | label: root -> /
-
"""


@pytest.fixture(scope="module")
def engine(need_root: None) -> Iterator[EngineUnderTest]:
    where = genode.binaries("dummy", "vfs_cow.lib.so", "test-vfs_cow", "test-fs_reach")
    if LATE not in (where / "vfs_cow.lib.so").read_bytes():
        pytest.skip(f"needs a plugin cow that can be late, which {where} does not have")
    under_test = EngineUnderTest.start("--platform", f"genode={where}")
    try:
        import_images(under_test)
        under_test.docker("run", "--rm", "-e", config("+ exit"), "plain")  # a Genode starts with its first container
        yield under_test
    finally:
        under_test.close()


def import_images(engine: EngineUnderTest) -> None:
    genode.import_image(engine, "plain", "dummy", "dummy", vfs="no")
    genode.import_image(engine, "files", "dummy", "dummy")
    genode.import_image(engine, "reach", "test-fs_reach", "test-fs_reach")
    archive = engine.base / "cow.tar"
    program = genode.binaries() / "test-vfs_cow"
    archive.write_bytes(
        layer({f"data/{name}": each for name, each in TREE.items()} | {"bin/cow": program.read_bytes()})
    )
    engine.capsa("import", "--platform", genode.PLATFORM, "--change", 'CMD ["cow"]', str(archive), "cow")


@pytest.fixture(autouse=True)
def alone(engine: EngineUnderTest) -> Iterator[None]:
    yield
    for name in engine.docker("ps", "-aq").stdout.split():
        engine.docker("rm", "-f", name)
    # nothing is left of anybody's files but what is there for the next one
    name = waiting(engine)
    until(lambda: os.listdir(engine.run / "genode/host/tree") == [name])


def servers(engine: EngineUnderTest, name: str) -> list[int]:
    """The processes of a sub-init's file servers."""
    return [process(f"init -> containers -> {name} -> {each}", core_of(engine)) for each in ("files", "vfs")]


def there(engine: EngineUnderTest, name: str, which: str) -> bool:
    """Whether such a process is there now."""
    try:
        return bool(process(f"init -> containers -> {name} -> {which}", core_of(engine), seconds=0))
    except AssertionError:
        return False


def reach(*steps: str, label: str = "root -> /") -> str:
    """A configuration of `test-fs_reach`."""
    return "\n".join([f"GENODE_CONFIG=config | label: {label}", *steps, "-", ""])


def checks(output: str) -> int:
    """How many the component has made, none of which failed."""
    number, failed = re.findall(r"(\d+) checks, (\d+) failed", output)[-1]
    assert int(number) > 10 and failed == "0", output
    return int(number)


def test_they_become_the_containers(engine: EngineUnderTest) -> None:
    name = waiting(engine)
    before = servers(engine, name)
    engine.docker("run", "-d", "--name", "one", "-e", reach("+ make / | file: own | content: mine", "+ sleep"), "reach")
    until(lambda: engine.docker("logs", "one").stdout == "made\ndone\n")
    assert has(engine, "one", name) and servers(engine, name) == before
    command = reach("+ read / | file: own", "+ make /bin | file: new | content: beside the program")
    done = engine.docker("exec", "-e", command, "one", "test-fs_reach")
    assert (done.returncode, done.stdout) == (0, "read: mine\nmade\ndone\n")
    assert engine.docker("diff", "one").stdout.split() == ["C", "/bin", "A", "/bin/new", "A", "/own"]
    again = waiting(engine)
    engine.docker("restart", "-t", "0", "one")
    until(lambda: engine.docker("logs", "one").stdout == "made\ndone\nkept out: / own\ndone\n")  # it is there already
    before = servers(engine, again)
    assert has(engine, "one", again) and again != name and not there(engine, name, "vfs")
    assert engine.docker("exec", "-e", reach("+ read /bin | file: new"), "one", "test-fs_reach").stdout == (
        "read: beside the program\ndone\n"
    )
    engine.docker("update", "--memory", "24m", "--memory-swap", "-1", "one")
    done = engine.docker("exec", "-e", reach("+ read /bin | file: new"), "one", "test-fs_reach")
    assert done.returncode == 0 and servers(engine, again) == before


def test_all_that_a_file_system_does_works_there(engine: EngineUnderTest) -> None:
    taken = []

    def run(*arguments: str) -> int:
        taken.append(waiting(engine))
        done = engine.docker(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return checks(done.stdout)

    first = run("run", "--name", "one", "-e", CHECKS, "cow")
    assert run("start", "-a", "one") < first, "the second run did not see what the first one changed"
    assert run("run", "--name", "other", "-e", CHECKS, "cow") == first
    assert [has(engine, name, each) for name, each in zip(("one", "one", "other"), taken, strict=True)] == [True] * 3


OUTSIDE = [  # as seen from a container's directory of changes, where lx_fs has it
    *("{up}/{victim}/upper", "{up}/{victim}/volume-0", "{up}/../config", "{up}/../report", "{up}"),
    *("/", "/..", "/bin/{up}/{victim}/upper", "/dev/{up}/{victim}/upper", "//{up}//{victim}//upper/"),
]


def test_no_path_leads_to_another_containers_files(engine: EngineUnderTest, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(SECRET)
    make = reach(f"+ make / | file: secret | content: {SECRET}", "+ sleep")
    volume = ("-v", f"{tmp_path}:/volume")
    victims = {}
    for victim, flags in (("victim", ()), ("volumes", volume)):
        victims[victim] = waiting(engine)
        engine.docker("run", "-d", "--name", victim, *flags, "-e", make, "reach")
        until(lambda: engine.docker("logs", victim).stdout.endswith("done\n"))  # noqa: B023
        assert has(engine, victim, victims[victim])
    places = {*victims.values(), waiting(engine)}
    steps = []
    for path in dict.fromkeys(each.format(up="/../..", victim=place) for each in OUTSIDE for place in places):
        for name in ("secret", "containers", "..", "/secret", "upper/secret"):
            steps.append(f"+ read {path} | file: {name}")
        steps.append(f"+ make {path} | file: planted-{len(steps)} | content: x")
    for place in victims.values():
        for name in (f"../../{place}/upper/secret", f"../../../tree/{place}/upper/secret"):
            steps += [f"+ read / | file: {name}", f"+ make / | file: {name} | content: x"]

    def attack(label: str, given: list[str]) -> str:
        waiting(engine)
        return engine.docker("run", "--rm", "-e", reach(*given, label=label), "reach", check=False).stdout

    own = ["+ make / | file: own | content: the attacker's own", "+ read / | file: own"]
    said = attack("root -> /", [*own, *steps])
    assert said.startswith("made\nread: the attacker's own\n"), said
    assert said.endswith("done\n") and SECRET not in said and said.count("kept out") > len(steps) // 2, said
    assert "read: config" not in said and "read: state" not in said, said
    for label in (
        *("upper -> /", "vfs -> upper -> /", "volume-0 -> /", "files -> /", "image"),
        *(f"root -> /../../{place}/upper/" for place in places),
        *(f"root -> /../../{place}/" for place in places),
        *(f"{place} -> vfs -> upper -> /" for place in places),
    ):
        said = attack(label, ["+ read / | file: secret", "+ read /upper | file: secret"])
        assert SECRET not in said and "read:" not in said, (label, said)
    for victim in victims:
        assert state(engine, victim)["Running"]
        added = [line for line in engine.docker("diff", victim).stdout.splitlines() if line.startswith("A")]
        assert [line for line in added if line != "A /volume"] == ["A /secret"]
    assert os.listdir(tmp_path) == ["secret"] and (tmp_path / "secret").read_text() == SECRET
    assert not list((engine.run / "genode").rglob("planted-*"))


def test_a_link_leads_nowhere(engine: EngineUnderTest, tmp_path: Path) -> None:
    """Nothing in a container can make one; whoever else does finds the file server, which runs as root, not follow."""
    (tmp_path / "secret").write_text(SECRET)
    name = waiting(engine)
    engine.docker(
        "create", "--name", "linked", "-e", reach("+ read / | file: link", "+ read /dir | file: secret"), "reach"
    )
    (upper,) = engine.root.rglob("upper")
    (upper / "link").symlink_to(tmp_path / "secret")
    (upper / "dir").symlink_to(tmp_path)
    said = engine.docker("start", "-a", "linked").stdout
    assert has(engine, "linked", name) and said == "kept out: / link\nkept out: /dir secret\ndone\n"


def test_volumes_and_read_only_containers_have_a_vfs_of_their_own(engine: EngineUnderTest, tmp_path: Path) -> None:
    for each in ("free", "fixed"):
        (tmp_path / each).mkdir()
        (tmp_path / each / "there").write_text(each)
    flags = ("-v", f"{tmp_path}/free:/a/free", "-v", f"{tmp_path}/fixed:/fixed:ro")
    name = waiting(engine)
    files, vfs = servers(engine, name)
    steps = [f"+ read {path} | file: there" for path in ("/a/free", "/fixed")]
    steps += [f"+ make {path} | file: new | content: x" for path in ("/a/free", "/fixed", "/")]
    engine.docker("run", "-d", "--name", "volumes", *flags, "-e", reach(*steps, "+ sleep"), "reach")
    until(lambda: engine.docker("logs", "volumes").stdout.endswith("done\n"))
    assert (
        engine.docker("logs", "volumes").stdout == "read: free\nread: fixed\nmade\nkept out: /fixed new\nmade\ndone\n"
    )
    assert has(engine, "volumes", name) and component("volumes", engine, "files") == files
    assert (
        component("volumes", engine, "vfs-own") and not there(engine, name, "vfs") and not Path(f"/proc/{vfs}").exists()
    )
    until(lambda: (tmp_path / "free/new").read_text() == "x")  # servers write behind
    assert not (tmp_path / "fixed/new").exists()

    name = waiting(engine)
    steps = ["+ make / | file: new | content: x", "+ make /bin | file: new | content: x"]
    engine.docker("run", "-d", "--read-only", "--name", "fixed", "-e", reach(*steps, "+ sleep"), "reach")
    until(lambda: engine.docker("logs", "fixed").stdout == "kept out: / new\nkept out: /bin new\ndone\n")
    until(lambda: not there(engine, name, "files"))  # it has no directories
    assert has(engine, "fixed", name) and state(engine, "fixed")["Running"] and there(engine, name, "vfs-own")


def test_who_has_no_files_has_no_file_servers(engine: EngineUnderTest) -> None:
    name = waiting(engine)
    engine.docker("run", "-d", "--name", "plain", "-e", LASTING, "plain")
    main = component("plain", engine)
    until(lambda: not there(engine, name, "files") and not there(engine, name, "vfs"))
    assert has(engine, "plain", name) and component("plain", engine) == main and state(engine, "plain")["Running"]
    assert engine.docker("exec", "-e", config("+ log | string: in", "+ exit"), "plain", "dummy").stdout == "in\n"


@pytest.mark.parametrize("image", ["plain", "files"])
def test_what_follows_a_start_at_once_has_its_effect(engine: EngineUnderTest, image: str) -> None:
    """While servers without use are there still: another container, more memory, an additional component."""
    hungry = config("+ consume_ram | amount: 90M", "+ log | string: got it", "+ sleep | ms: 600000")
    for number in range(4):
        name = waiting(engine)
        engine.docker("run", "-d", "--name", f"hungry-{number}", "-e", hungry, image)
        if number % 2:
            engine.docker("run", "-d", "--name", f"other-{number}", "-e", LASTING, "plain")
        engine.docker("update", "--memory", "128m", "--memory-swap", "-1", f"hungry-{number}")
        command = ("exec", "-e", config("+ log | string: in", "+ exit"), f"hungry-{number}", "dummy")
        assert engine.docker(*command).stdout == "in\n"
        until(lambda: engine.docker("logs", f"hungry-{number}").stdout.endswith("got it\n"))  # noqa: B023
        assert has(engine, f"hungry-{number}", name)
    log = (engine.run / "genode.log").read_text(errors="replace")
    assert not re.findall(r"no route to service \"ROM\" \(label=\"sub-.*", log)


@pytest.mark.parametrize("image", ["plain", "files"])
def test_all_of_the_quota_is_the_containers(engine: EngineUnderTest, image: str) -> None:
    """What servers had that it has no use for is its own from the start, or what it needs would not be there."""
    ram, caps = ("28M", 300) if image == "plain" else ("8M", 100)
    for number in range(5):
        name = waiting(engine)
        flags = ("--label", f"org.genode.ram={ram}", "--label", f"org.genode.caps={caps}")
        engine.docker("run", "-d", "--name", f"all-{number}", "-e", LASTING, *flags, image)
        assert has(engine, f"all-{number}", name)
        report = engine.run / f"genode/host/report/containers/{name}/state"

        def assigned(report: Path = report) -> list[str]:
            main = report.read_text().partition("+ child main")[2].partition("+ child")[0]
            return re.findall(r"assigned: (\S+)", main)

        assert until(assigned) == [ram, str(caps)]
        assert "Error" not in state(engine, f"all-{number}") or not state(engine, f"all-{number}")["Error"]


@pytest.mark.parametrize("which", [0, 1])
def test_a_fault_of_one_that_waits_is_the_end_of_nothing_else(engine: EngineUnderTest, which: int) -> None:
    engine.docker("run", "-d", "--name", "bystander", "-e", LASTING, "files")
    main = component("bystander", engine)
    name = waiting(engine)
    os.kill(servers(engine, name)[which], signal.SIGSEGV)
    until(lambda: name not in nodes(engine))
    done = engine.docker("run", "--rm", "-e", CHECKS, "cow")  # it gets its own
    assert done.returncode == 0 and checks(done.stdout)
    assert component("bystander", engine) == main and state(engine, "bystander")["Running"]
    until(lambda: not (engine.run / "genode/host/tree" / name).exists())
    engine.docker("rm", "-f", "bystander")
    engine.down()  # after a fault it takes its time until another one waits, but not so in another Genode
    until(lambda: not (engine.run / "genode").exists())
    engine.up()
    engine.docker("run", "--rm", "-e", config("+ exit"), "plain")


def without_servers(engine: EngineUnderTest) -> str:
    """The sub-init that waits, if no file servers wait in it."""
    name = waiting(engine)
    path = engine.run / f"genode/host/config/config-{name}"
    return name if path.is_file() and "start vfs" not in path.read_text() else ""


@pytest.mark.parametrize("broken", ["old", "none", "dumb"])
def test_where_they_cannot_wait_containers_get_theirs_as_they_start(
    engine: EngineUnderTest, tmp_path: Path, broken: str
) -> None:
    """A plugin that cannot be late, a `vfs` that is no program, and one that ends at once."""
    where = tmp_path / "bin"
    shutil.copytree(genode.binaries(), where)
    if broken == "old":
        (where / "vfs_cow.lib.so").write_bytes((where / "vfs_cow.lib.so").read_bytes().replace(LATE, b"cow: soon"))
    elif broken == "none":
        (where / "vfs").write_bytes(b"no program")
    else:
        shutil.copy(where / "test-fs_reach", where / "vfs")  # it is denied a session
    other = EngineUnderTest.start("--platform", f"genode={where}")
    try:
        import_images(other)
        other.docker("run", "-d", "--name", "first", "-e", LASTING, "plain")
        if broken != "old":
            said = "no file servers are kept in reserve: "
            until(lambda: said in (other.run / "genode.log").read_text())
        name = str(until(lambda: without_servers(other)))  # on a busy machine the one before goes some time after that
        other.docker("run", "-d", "--name", "plain", "-e", LASTING, "plain")
        assert has(other, "plain", name)
        name = waiting(other)
        if broken == "old":
            assert checks(other.docker("run", "--name", "cow", "-e", CHECKS, "cow").stdout)
            assert has(other, "cow", name)
    finally:
        other.close()
