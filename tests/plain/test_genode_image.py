"""Depot archives of Genode as images."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from capsa import hid
from capsa.errors import BrokenArchive, CapsaError, InvalidArgument
from capsa.image.genode import CONFIG, read

RUNTIME = """runtime | ram: 3M | caps: 150 | binary: hello
+ requires
  + timer
  + rtc
  + terminal
+ config
  + arg | : "quoted" $HOME
+ content
  + rom | label: ld.lib.so
  + rom | label: hello
  + rom | label: data
-
"""
XML = (
    '<runtime ram="3M" caps="150" binary="hello"><requires><timer/></requires>'
    '<config><arg value="x"/></config><content><rom label="hello"/></content></runtime>'
)


def archive(path: Path, **files: bytes | str) -> Path:
    with tarfile.open(path, "w:xz") as out:
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(f"2026-01-01/{name}")
            member.size = len(data)
            out.addfile(member, io.BytesIO(data))
    return path


def test_a_package_with_its_archives_is_an_image(tmp_path: Path) -> None:
    package = read(
        [
            archive(tmp_path / "pkg.tar.xz", runtime=RUNTIME, README="text", archives="user/bin/x86_64/hello/1"),
            archive(tmp_path / "bin.tar.xz", hello=b"\x7fELF"),
            archive(tmp_path / "raw.tar.xz", data=b"data"),
        ]
    )
    assert package.changes() == [
        'CMD ["hello"]',
        'LABEL org.genode.ram="3M"',
        'LABEL org.genode.caps="150"',
        'LABEL org.genode.services="Rtc Terminal"',
        f'LABEL org.genode.config="@/{CONFIG}"',
    ]
    with tarfile.open(fileobj=io.BytesIO(b"".join(package.tar()))) as made:
        assert sorted(made.getnames()) == ["data", CONFIG, "hello"]
        file = made.extractfile(CONFIG)
        assert file is not None
        config = hid.read(file.read())
    assert config.type == "config" and config.nodes("arg")[0].text == '"quoted" $HOME'


def test_an_older_package_has_its_runtime_file_in_xml(tmp_path: Path) -> None:
    package = read([archive(tmp_path / "pkg.tar.xz", runtime=XML), archive(tmp_path / "bin.tar.xz", hello=b"x")])
    assert package.changes()[:2] == ['CMD ["hello"]', 'LABEL org.genode.ram="3M"']


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"hello": "x"}, "none of the archives is a package"),
        ({"runtime": "runtime | ram: 1M\n-\n"}, "names no binary"),
        ({"runtime": RUNTIME, "data": "x"}, "binary hello is in none of the archives"),
        ({"runtime": RUNTIME, "hello": "x"}, "needs data, which none of the archives has"),
        ({"runtime": RUNTIME.replace("+ rtc", "+ usb"), "hello": "x", "data": "x"}, "requires 'usb'"),
    ],
)
def test_what_is_missing_is_said(tmp_path: Path, files: dict[str, str], said: str) -> None:
    with pytest.raises(InvalidArgument, match=said):
        read([archive(tmp_path / "a.tar.xz", **files)]).changes()


def test_broken_archives_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no archive")
    (tmp_path / "cut").write_bytes(archive(tmp_path / "a.tar.xz", hello=b"x" * 10_000).read_bytes()[:60])
    for name in ("text", "cut"):
        with pytest.raises(BrokenArchive, match=f"{name} is no depot archive"):
            read([tmp_path / name])
    with pytest.raises(CapsaError, match="cannot read"):
        read([tmp_path / "absent"])
    for runtime in ("runtime", "<runtime", b"\xff", "other\n-\n", "runtime\n+" * 10_000):
        with pytest.raises(BrokenArchive, match="runtime file of"):
            read([archive(tmp_path / "b.tar.xz", runtime=runtime, **{"a b": "x"})])
