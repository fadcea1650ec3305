"""The `cow` VFS plugin (genode/src/lib/vfs/cow) on a real Genode, by its test component (genode/src/test/vfs_cow).

The component prints a line for each check and exits with the number of those that failed.
"""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path

import pytest
from fixtures.base_linux import BaseLinux, missing
from fixtures.cow import BASE, MIDDLE, layer

WHY_NOT = missing(["core", "ld.lib.so", "init", "vfs", "vfs.lib.so", "lx_fs", "vfs_cow.lib.so", "test-vfs_cow"])
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))

ROMS = {"base.tar": BASE, "middle.tar": MIDDLE}

# The timer of base-linux is left out: nothing here needs one.
HEAD = """config
+ parent-provides
  + service ROM
  + service PD
  + service RM
  + service CPU
  + service LOG
+ default-route
  + any-service
    + parent
    + any-child
+ default | caps: 200 | ram: 4M
"""

LX_FS = """+ start lx_fs | caps: 400 | ram: 16M | ld: no
  + provides | + service File_system
  + config
    + policy | label_prefix: {client} | root: /upper | writeable: yes
"""

LOWER_TARS = "+ lower | + tar middle.tar\n+ lower | + tar base.tar\n"


def indented(text: str, by: int) -> str:
    return "".join(f"{' ' * by}{line}\n" for line in text.splitlines())


def server(name: str, vfs: str, ram: str = "32M") -> str:
    """A VFS server whose whole tree any client may use."""
    return f"""+ start {name} | caps: 400 | ram: {ram}
  + binary vfs
  + provides | + service File_system
  + config
    + vfs
{indented(vfs, 6)}    + default-policy | root: / | writeable: yes
"""


def component(attributes: str, vfs: str, routes: str = "", ram: str = "32M", caps: int = 400) -> str:
    """The test component; `routes` are lines for its sessions of services other than the parent's."""
    start = f"+ start test | caps: {caps} | ram: {ram}\n  + binary test-vfs_cow\n"
    if routes:
        start += f"  + route\n{indented(routes, 4)}    + any-service | + parent\n"
    return start + f"  + config | {attributes}\n    + vfs\n{indented(vfs, 6)}"


def cow(upper: str, lower: str = LOWER_TARS, attributes: str = "") -> str:
    return f"+ dir cow\n  + cow{attributes}\n    + upper{upper}\n{indented(lower, 4)}"


def run(work: Path, config: str, upper: Path | None = None, roms: dict[str, bytes] = ROMS) -> None:
    """Runs the component until its end and fails with the log of the checks that failed."""
    if upper is not None:
        work.mkdir(parents=True, exist_ok=True)
        (work / "upper").symlink_to(upper)
    with BaseLinux(work, HEAD + config + "-\n", roms) as genode:
        log = genode.wait_for('child "test" exited with exit value', seconds=60)
    summary = re.search(r"(\d+) checks, (\d+) failed", log)
    assert summary and int(summary[1]) > 0, log
    assert int(summary[2]) == 0 and 'child "test" exited with exit value 0' in log, log


LATE = pytest.mark.parametrize("attributes", ["", " | late: yes"], ids=["at once", "late"])


@LATE
def test_local_with_ram(tmp_path: Path, attributes: str) -> None:
    """The component's own VFS: two tar archives below, RAM on top."""
    run(tmp_path / "work", component("local: yes", cow(" | + ram", attributes=attributes)))


@LATE
def test_session_with_ram(tmp_path: Path, attributes: str) -> None:
    """The same through a File_system session of a VFS server."""
    config = server("vfs", cow(" | + ram", attributes=attributes)) + component(
        "local: no", "+ dir cow | + fs | label: cow -> /cow/", "+ service File_system | + child vfs"
    )
    run(tmp_path / "work", config)


def test_at_the_root(tmp_path: Path) -> None:
    """As the whole tree of a VFS server, whose client has it as its whole tree: the set-up of a container."""
    config = server("vfs", cow(" | + ram").removeprefix("+ dir cow\n")) + component(
        "local: no | base:", "+ fs | label: cow -> /", "+ service File_system | + child vfs"
    )
    run(tmp_path / "work", config)


@pytest.mark.parametrize(
    "broken",
    [
        cow(" | + ram", LOWER_TARS + "+ lower | + cow\n"),
        cow(" | + ram", LOWER_TARS + "+ lower | + cow\n", " | late: yes"),
        cow("\n      + ram\n      + ram"),
        "+ dir cow\n  + cow\n    + lower | + tar base.tar\n",
    ],
    ids=["lower", "late lower", "two uppers", "no upper"],
)
def test_missing_layer(tmp_path: Path, broken: str) -> None:
    """A stack without one of its layers would show what it should not: it shows nothing.

    (A layer whose ROM module or session is denied stops the component, as everywhere in Genode.)
    """
    run(tmp_path / "work", component("phase: broken", broken))


def test_layers_by_sessions(tmp_path: Path) -> None:
    """All layers are remote, so that reading and writing complete later. The upper one is looked at as well."""
    lower = "+ lower | + fs | label: lower -> /middle/\n+ lower | + fs | label: lower -> /base/\n"
    config = (
        server("lower", "+ dir base | + tar base.tar\n+ dir middle | + tar middle.tar")
        + server("upper", "+ ram")
        + component(
            "local: yes | raw: yes",
            cow(" | + fs | label: upper -> /", lower) + "+ dir upper | + fs | label: upper -> /",
            "+ service File_system | label_prefix: lower | + child lower\n"
            "+ service File_system | label_prefix: upper | + child upper",
        )
    )
    run(tmp_path / "work", config)


def test_persistent(tmp_path: Path) -> None:
    """The upper layer is a directory of the host. A second Genode sees what the first one changed."""
    upper = tmp_path / "upper"
    upper.mkdir()
    vfs = cow(" | + fs | label: upper -> /") + "+ dir upper | + fs | label: upper -> /"
    # Genode's lx_fs refuses symbolic links and gets modification times wrong.
    features = "local: yes | raw: yes | symlinks: no | mtime: no"
    route = "+ service File_system | + child lx_fs"

    def start(phase: str) -> None:
        config = LX_FS.format(client="test") + component(f"phase: {phase} | {features}", vfs, route)
        run(tmp_path / phase, config, upper)

    start("first")
    assert (upper / "etc/passwd").read_bytes() == b"roXX\n"
    assert (upper / "big").stat().st_size == 640 * 1024 + 16
    assert sorted(path.name for path in (upper / "gone").iterdir()) == [".wh..wh..opq", "y"]
    assert (upper / "late/.wh.l").stat().st_size == 0
    assert not (upper / "etc/extra").exists()
    # what a copy leaves behind when the power fails
    (upper / ".wh..wh.work/.wh..wh.99").write_bytes(b"half a copy")
    start("second")
    assert not list((upper / ".wh..wh.work").iterdir())


@LATE
def test_persistent_by_session(tmp_path: Path, attributes: str) -> None:
    """The same with the plugin in a VFS server: the set-up of a container with a volume for its changes."""
    upper = tmp_path / "upper"
    upper.mkdir()

    def start(phase: str) -> None:
        config = (
            LX_FS.format(client="vfs")
            + server("vfs", cow(" | + fs | label: upper -> /", attributes=attributes)).replace(
                "  + provides",
                "  + route\n    + service File_system | + child lx_fs\n    + any-service | + parent\n  + provides",
            )
            + component(
                f"phase: {phase} | local: no | symlinks: no | mtime: no",
                "+ dir cow | + fs | label: cow -> /cow/",
                "+ service File_system | + child vfs",
            )
        )
        run(tmp_path / phase, config, upper)

    start("first")
    (upper / ".wh..wh.work/.wh..wh.99").write_bytes(b"half a copy")
    start("second")
    assert not list((upper / ".wh..wh.work").iterdir())


def test_no_space(tmp_path: Path) -> None:
    """A copy that does not fit: an error, the lower file as before, nothing half."""
    run(tmp_path / "work", component("phase: space | local: yes", cow(" | limit: 512K | + ram")))


def test_no_space_in_the_quota(tmp_path: Path) -> None:
    """The same where the component's own RAM is what ends: it must not block."""
    run(tmp_path / "work", component("phase: space | local: yes", cow(" | + ram"), ram="1800K"))


def test_no_space_by_session(tmp_path: Path) -> None:
    """The same for a client of a VFS server: an error instead of a server that blocks."""
    config = server("vfs", cow(" | limit: 512K | + ram")) + component(
        "phase: space | local: no", "+ dir cow | + fs | label: cow -> /cow/", "+ service File_system | + child vfs"
    )
    run(tmp_path / "work", config)


def test_no_space_on_the_host(tmp_path: Path, need_root: None) -> None:
    """The upper layer is a host directory whose file system is full, of which Genode's lx_fs tells nothing."""
    upper = tmp_path / "upper"
    upper.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "capsa-cow", upper], check=True)
    try:
        config = LX_FS.format(client="test") + component(
            "phase: space | local: no | raw: yes",
            cow(" | + fs | label: upper -> /") + "+ dir upper | + fs | label: upper -> /",
            "+ service File_system | + child lx_fs",
        )
        run(tmp_path / "work", config, upper)
    finally:
        subprocess.run(["umount", upper], check=True)


SMALL = {
    "a": None,
    "a/a": b"lower a/a\n",
    "a/b": None,
    "a/b/c": b"lower a/b/c\n",
    "b": b"lower b\n",
    "c": None,
    "c/c": b"lower c/c\n",
    "c/d": None,
    "c/d/a": b"lower c/d/a\n",
}
SMALL_ABOVE = {"a": None, "a/b": None, "a/b/c": b"above a/b/c\n", "a/.wh.a": b"", "c": None, "c/b": b"above c/b\n"}


RANDOM_ROMS = {"base.tar": layer(SMALL), "middle.tar": layer(SMALL_ABOVE)}


def test_random_operations(tmp_path: Path) -> None:
    """Random operations, open files among them, have the same results as on a plain file system."""
    vfs = cow(" | + ram") + "+ dir model | + ram"
    config = component("phase: random | rounds: 60 | steps: 200", vfs, ram="128M", caps=3000)
    run(tmp_path / "work", config, roms=RANDOM_ROMS)


def test_random_operations_by_session(tmp_path: Path) -> None:
    """The same with a remote upper layer, in which another instance finds the same."""
    tree = cow(" | + fs | label: upper -> /")
    config = (
        server("upper", "+ ram")
        + component(
            "phase: random | steps: 600 | seed: 99",
            tree + "+ dir model | + ram",
            "+ service File_system | + child upper",
        )
        + "    + again\n"
        + indented(tree, 6)
    )
    run(tmp_path / "work", config, roms=RANDOM_ROMS)


def test_killed_while_copying(tmp_path: Path) -> None:
    """Genode ends at any time during a copy-up: the next one finds the old file or the new one, and no remains."""
    upper = tmp_path / "upper"
    upper.mkdir()
    vfs = cow(" | + fs | label: upper -> /") + "+ dir upper | + fs | label: upper -> /"
    route = "+ service File_system | + child lx_fs"
    config = HEAD + LX_FS.format(client="test") + component("phase: %s | local: yes", vfs, route) + "-\n"
    interrupted = 0
    for attempt in range(12):
        work = tmp_path / f"kill{attempt}"
        work.mkdir()
        (work / "upper").symlink_to(upper)
        with BaseLinux(work, config % "rewrite", ROMS) as genode:
            genode.wait_for("rewriting")
            # at times in the middle of the copy, at times at any other moment
            deadline = time.monotonic() + attempt * 0.01
            while time.monotonic() < deadline and (attempt % 2 or not list(upper.glob(".wh..wh.work/*"))):
                time.sleep(0.0005)
        interrupted += bool(list(upper.glob(".wh..wh.work/*")))
        run(tmp_path / f"check{attempt}", config.removeprefix(HEAD).removesuffix("-\n") % "intact", upper)
        assert not list(upper.glob(".wh..wh.work/*"))
        for entry in upper.iterdir():
            if entry.is_file():
                entry.unlink()
    print(f"{interrupted} of 12 interrupted a copy")
