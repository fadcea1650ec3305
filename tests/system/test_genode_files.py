"""Files of a container on Genode, whose writable layer has OCI's markers where overlayfs has devices and attributes.

No Genode is needed: the containers do not run, and what the plugin `cow` would have written is put there.
"""

from __future__ import annotations

import io
import json
import os
import random
import tarfile
import urllib.parse
from collections.abc import Callable
from pathlib import Path

import pytest
from fixtures.engine import EngineUnderTest
from fixtures.files import Create, Files, hard_link, tar_of

MODIFIED, ADDED, DELETED = 0, 1, 2
IMAGE = tar_of(
    *(("d", None), ("d/a", b"1"), ("d/b", b"2"), ("d/sub", None), ("d/sub/x", b"3"), ("gone", None), ("gone/y", b"4")),
    *(("solid", None), ("solid/old", b"5"), ("solid/deep", None), ("solid/deep/z", b"6"), ("file", b"7"), ("v", None)),
    *(("both", b"8"), ("tree", None), ("tree/old", b"9"), ("link", "d/a")),
)
CHANGED = tar_of(
    *(("d", None), ("d/.wh.a", b""), ("d/new", b"n"), ("d/sub", None), ("d/sub/.wh.x", b""), (".wh.gone", b"")),
    *(("solid", None), ("solid/.wh..wh..opq", b""), ("solid/new", b"m"), ("solid/deep", None), ("both", b"changed")),
    *((".wh.both", b""), ("tree", None), (".wh.tree", b""), ("tree/new", b"t"), (".wh..wh.work", None)),
    *((".wh..wh.work/1", b"half a copy"), (".wh.file", b"")),
)
SEEN = {
    *("both", "d", "d/b", "d/new", "d/sub", "link", "solid", "solid/deep", "solid/new", "tree", "tree/new", "v"),
}


@pytest.fixture(scope="module")
def image(engine: EngineUnderTest) -> str:
    path = engine.base / "native.tar"
    path.write_bytes(IMAGE)
    engine.capsa("import", "--platform", "genode/amd64", "-c", 'CMD ["a"]', str(path), "native")
    return "native"


@pytest.fixture
def native(files: Create, image: str) -> Callable[..., Files]:
    """Makes a container of that image, with changes as the plugin would have made them."""

    def make(changes: bytes = CHANGED, image: str = image, **host: object) -> Files:
        found = files(start=False, Image=image, HostConfig=host)
        with tarfile.open(fileobj=io.BytesIO(changes)) as archive:
            archive.extractall(upper(found))
        return found

    return make


def upper(files: Files) -> Path:
    return Path(files.engine.root, "containers", files.id, "upper")


def listed(files: Files) -> dict[str, int] | None:
    status, found = files.engine.api("GET", f"/containers/{files.id}/changes")
    assert status == 200, found
    return found and {change["Path"]: change["Kind"] for change in found}


def exported(files: Files) -> dict[str, bytes | str | None]:
    """Name and content (that of a file, a link's target, None) of everything."""
    status, body = files.engine.api("GET", f"/containers/{files.id}/export")
    assert status == 200, body
    found: dict[str, bytes | str | None] = {}
    with tarfile.open(fileobj=io.BytesIO(body)) as archive:
        for member in archive:
            if member.islnk():
                found[member.name] = found[member.linkname]
                continue
            file = archive.extractfile(member) if member.isreg() else None
            found[member.name] = file.read() if file else member.linkname if member.issym() else None
    return found


def commit(files: Files, name: str) -> None:
    query = urllib.parse.urlencode({"container": files.id, "repo": name})
    status, answer = files.engine.api("POST", f"/commit?{query}")
    assert status == 201, answer


def layer(engine: EngineUnderTest, image: str) -> list[str]:
    """The names in the uppermost layer of an image."""
    archive = engine.api("GET", f"/images/{image}/get")[1]
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        manifest = tar.extractfile("manifest.json")
        assert manifest is not None
        data = tar.extractfile(json.load(manifest)[0]["Layers"][-1])
        assert data is not None
        with tarfile.open(fileobj=io.BytesIO(data.read())) as inner:
            return inner.getnames()


def test_removed_files_are_told_as_removed(native: Callable[..., Files]) -> None:
    assert listed(native()) == {
        **{"/d": MODIFIED, "/d/a": DELETED, "/d/new": ADDED, "/d/sub": MODIFIED, "/d/sub/x": DELETED, "/gone": DELETED},
        **{"/solid": MODIFIED, "/solid/old": DELETED, "/solid/new": ADDED, "/file": DELETED, "/both": MODIFIED},
        **{"/tree": MODIFIED, "/tree/old": DELETED, "/tree/new": ADDED, "/solid/deep": MODIFIED},
        **{"/solid/deep/z": DELETED},
    }
    assert listed(native(tar_of((".wh..wh.work", None), (".wh.absent", b"")))) is None


def test_copies_and_exports_show_what_the_component_sees(native: Callable[..., Files]) -> None:
    container = native()
    assert set(exported(container)) == SEEN
    assert list(container.get("/d")) == ["d", "d/b", "d/new", "d/sub"]
    assert list(container.get("/solid")) == ["solid", "solid/deep", "solid/new"]
    assert container.read("/both") == b"changed"
    for path in ("/d/a", "/gone", "/gone/y", "/.wh.gone", "/d/.wh.a", "/.wh..wh.work/1", "/solid/old", "/tree/old"):
        assert container.refusal(path)[0] == 404, path
        assert container.stat(path)[0] == 404, path
    assert set(exported(native(b"\0" * 10240))) == {
        *SEEN - {"d/new", "solid/new", "tree/new"},
        *("d/a", "d/sub/x", "gone", "gone/y", "solid/old", "solid/deep/z", "file", "tree/old"),
    }


def test_names_like_markers_are_only_names_in_a_volume(native: Callable[..., Files], tmp_path: Path) -> None:
    (tmp_path / ".wh.x").write_bytes(b"mine")
    container = native(CHANGED, Binds=[f"{tmp_path}:/v"])
    assert container.read("/v/.wh.x") == b"mine"
    assert list(container.get("/v")) == ["v", "v/.wh.x"]
    assert container.put("/v", tar_of((".wh.y", b"too"), ("link", "nowhere"))) == (200, "")
    assert (tmp_path / ".wh.y").read_bytes() == b"too" and (tmp_path / "link").is_symlink()


def test_what_is_copied_in_takes_its_whiteout_away(native: Callable[..., Files]) -> None:
    container = native()
    archive = tar_of(
        *(
            ("d/a", b"again"),
            ("file", None),
            ("file/in", b"i"),
            ("gone", None),
            ("gone/z", b"z"),
            ("tree", b"now a file"),
        ),
        *(("solid/newer/er", b"deep"),),
    )
    assert container.put("/", archive) == (200, "")
    found = exported(container)
    assert set(found) == SEEN - {"tree/new"} | {
        "d/a",
        "file",
        "file/in",
        "gone",
        "gone/z",
        "solid/newer",
        "solid/newer/er",
    }
    assert (found["d/a"], found["tree"], found["solid/newer/er"]) == (b"again", b"now a file", b"deep")
    own = {str(path.relative_to(upper(container))) for path in upper(container).rglob(".wh.*")}
    assert own == {
        *(".wh.both", ".wh..wh.work", "d/sub/.wh.x", "solid/.wh..wh..opq"),
        *("file/.wh..wh..opq", "gone/.wh..wh..opq"),
    }
    assert os.listdir(upper(container).parent / "work") == []
    assert listed(container) == {
        **{"/d": MODIFIED, "/d/a": MODIFIED, "/d/new": ADDED, "/d/sub": MODIFIED, "/d/sub/x": DELETED},
        **{"/gone": MODIFIED, "/gone/y": DELETED, "/gone/z": ADDED, "/file": MODIFIED, "/file/in": ADDED},
        **{
            "/solid": MODIFIED,
            "/solid/old": DELETED,
            "/solid/new": ADDED,
            "/solid/newer": ADDED,
            "/solid/newer/er": ADDED,
        },
        **{"/solid/deep": MODIFIED, "/solid/deep/z": DELETED, "/both": MODIFIED, "/tree": MODIFIED},
    }


@pytest.mark.parametrize(
    ("archive", "said"),
    [
        (tar_of(("ok", b"1"), (".wh.d", b"")), "/.wh.d cannot be in a layer"),
        (tar_of(("d/.wh..wh..opq", b"")), "/d/.wh..wh..opq cannot be in a layer"),
        (tar_of(("ok", b"1"), ("sub", None), ("sub/link", "/etc")), "/sub/link is a symbolic link"),
        (tar_of(("n" * 128, b"")), "longer than Genode's 127 bytes"),
        (tar_of(*((f"{'x/' * 600}{name}", b"") for name in "ab")), "deeper than 500"),
    ],
)
def test_what_no_component_could_see_is_refused_and_nothing_is_changed(
    native: Callable[..., Files], archive: bytes, said: str
) -> None:
    container = native()
    before = sorted(upper(container).rglob("*"))
    status, message = container.put("/", archive)
    assert status >= 400 and said in message
    assert sorted(upper(container).rglob("*")) == before
    assert os.listdir(upper(container).parent / "work") == []


def test_devices_are_refused(native: Callable[..., Files]) -> None:
    for kind in (tarfile.CHRTYPE, tarfile.FIFOTYPE):
        info = tarfile.TarInfo("special")
        info.type, info.devmajor, info.devminor = kind, 1, 3
        container = native()
        status, message = container.put("/", tar_of(info))
        assert status >= 400 and "/special is neither a file nor a directory" in message
        assert not (upper(container) / "special").exists()
    info = tarfile.TarInfo("whiteout")
    info.type = tarfile.CHRTYPE
    assert native().put("/", tar_of(info))[0] >= 400


def test_places_of_mounts_are_no_change(native: Callable[..., Files], tmp_path: Path) -> None:
    container = native(b"\0" * 10240, Binds=[f"{tmp_path}:/d/sub/here", "/n/m/o"])
    assert container.put("/d", tar_of(("new", b"1"))) == (200, "")
    assert listed(container) == {"/d": MODIFIED, "/d/new": ADDED}
    assert container.put("/d/sub/here", tar_of(("kept", b"1"))) == (200, "")
    assert (tmp_path / "kept").read_bytes() == b"1"
    assert listed(container) == {"/d": MODIFIED, "/d/new": ADDED}


def test_a_committed_image_has_the_same_files(native: Callable[..., Files], engine: EngineUnderTest) -> None:
    container = native()
    commit(container, "made")
    assert sorted(layer(engine, "made")) == sorted(
        [
            *(".wh.file", ".wh.gone", "both", "d", "d/.wh.a", "d/new", "d/sub", "d/sub/.wh.x", "solid"),
            *("solid/.wh..wh..opq", "solid/deep", "solid/new", "tree", "tree/.wh..wh..opq", "tree/new"),
        ]
    )
    other = native(b"\0" * 10240, "made")
    assert exported(other) == exported(container)
    assert listed(other) is None
    assert engine.api("GET", "/images/made/json")[1]["Os"] == "genode"


def test_links_of_an_archive_are_files_of_their_own_or_one(native: Callable[..., Files]) -> None:
    container = native()
    assert container.put("/", tar_of(("one", b"same"), hard_link("two", "one"), hard_link("both2", "both"))) == (
        200,
        "",
    )
    found = exported(container)
    assert (found["one"], found["two"], found["both2"]) == (b"same", b"same", b"changed")
    assert found["both"] == b"changed"


@pytest.mark.parametrize("seed", range(12))
def test_any_sequence_of_copies_gives_what_it_gives_on_linux(
    native: Callable[..., Files], files: Create, engine: EngineUnderTest, seed: int
) -> None:
    """The same archives put into a container on each platform; what the layers amount to is the same as well."""
    chance = random.Random(seed)
    if engine.api("GET", "/images/alike/json")[0] != 200:
        engine.capsa("import", "-c", 'CMD ["a"]', str(engine.base / "native.tar"), "alike")
    linux, genode = files(start=False, Image="alike"), native(b"\0" * 10240)
    names = [
        "d",
        "d/a",
        "d/sub",
        "d/sub/x",
        "gone",
        "gone/y",
        "solid",
        "solid/deep",
        "file",
        "new",
        "new/er",
        "tree/old",
    ]
    for number in range(8):
        chosen = chance.sample(names, chance.randint(1, 4))
        archive = tar_of(*((name, chance.choice((None, b"%d" % number * (number + 2)))) for name in chosen))
        if genode.put("/", archive)[0] == 200:  # else nothing was changed, which the comparison shows
            assert linux.put("/", archive) == (200, "")
        if chance.random() < 0.3:
            commit(genode, f"step{seed}")
            genode = native(b"\0" * 10240, f"step{seed}")
        assert exported(genode) == {
            name: content
            for name, content in exported(linux).items()
            if not name.startswith(("dev", "proc", "sys", "etc", ".dockerenv"))
        }
