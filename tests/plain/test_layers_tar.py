"""The tar reader: every dialect, and nothing that is not one."""

from __future__ import annotations

import io
import tarfile
from typing import Any

import pytest
from fixtures import tars
from hypothesis import given, settings
from hypothesis import strategies as st

from capsa.errors import BrokenArchive
from capsa.image import tar
from capsa.image.limits import Limits
from capsa.image.tar import Entry, TarReader
from capsa.image.tarwriter import Header, TarWriter


def read(data: bytes, piece: int = 1 << 20, limits: Limits | None = None) -> list[tuple[Entry, bytes]]:
    stream = io.BytesIO(data)
    reader = TarReader(lambda: stream.read(piece), limits or Limits())
    found = [(entry, b"".join(reader.parts())) for entry in reader]
    reader.drain()
    return found


def one(data: bytes) -> Entry:
    ((entry, _),) = read(data)
    return entry


def standard(members: list[tuple[tarfile.TarInfo, bytes]], format: int, **options: Any) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format, **options) as archive:
        for member, content in members:
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=150).map(
    lambda text: text.strip("/") or "x"
)


@st.composite
def members(draw: st.DrawFn, format: int) -> tuple[tarfile.TarInfo, bytes]:
    big = format != tarfile.USTAR_FORMAT
    member = tarfile.TarInfo(draw(names) if big else draw(st.text("abc/é", min_size=1, max_size=30)).strip("/") or "x")
    member.type = draw(
        st.sampled_from(
            [
                tarfile.REGTYPE,
                tarfile.DIRTYPE,
                tarfile.SYMTYPE,
                tarfile.LNKTYPE,
                tarfile.CHRTYPE,
                tarfile.BLKTYPE,
                tarfile.FIFOTYPE,
            ]
        )
    )
    content = draw(st.binary(max_size=2000)) if member.type == tarfile.REGTYPE else b""
    member.size = len(content)
    member.mode = draw(st.integers(0, 0o7777))
    ids = st.integers(0, (1 << 32) - 2 if big else 0o7777777)
    member.uid, member.gid = draw(ids), draw(ids)
    member.mtime = draw(st.integers(-(1 << 33) if big else 0, 1 << 33 if big else 0o77777777777))
    if member.type in (tarfile.SYMTYPE, tarfile.LNKTYPE):
        member.linkname = draw(names) if big else "target"
    if member.type in (tarfile.CHRTYPE, tarfile.BLKTYPE):
        member.devmajor, member.devminor = draw(st.integers(0, 4095)), draw(st.integers(0, 1 << 20))
    if format == tarfile.PAX_FORMAT:
        member.pax_headers = draw(
            st.dictionaries(
                st.sampled_from(["SCHILY.xattr.user.a", "SCHILY.xattr.user.b", "comment"]),
                st.text("xy=\n é", min_size=1, max_size=30),
            )
        )
    return member, content


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_reads_what_the_standard_library_writes(format: int) -> None:
    @settings(max_examples=60, deadline=None)
    @given(st.lists(members(format), max_size=6), st.sampled_from([1, 511, 700, 1 << 20]))
    def check(written: list[tuple[tarfile.TarInfo, bytes]], piece: int) -> None:
        found = read(standard(written, format), piece)
        assert len(found) == len(written)
        for (entry, content), (member, expected) in zip(found, written, strict=True):
            directory = member.type == tarfile.DIRTYPE
            assert (entry.name.rstrip(b"/") if directory else entry.name) == member.name.encode()
            assert (entry.type, content) == (member.type, expected)
            assert (entry.mode, entry.uid, entry.gid) == (member.mode, member.uid, member.gid)
            assert entry.mtime == member.mtime * 1_000_000_000
            assert entry.link == member.linkname.encode()
            if member.type in (tarfile.CHRTYPE, tarfile.BLKTYPE):
                assert (entry.major, entry.minor) == (member.devmajor, member.devminor)
            assert entry.xattrs == {
                key[len("SCHILY.xattr.") :].encode(): value.encode()
                for key, value in member.pax_headers.items()
                if key.startswith("SCHILY")
            }

    check()


def test_records_that_lead_back_to_the_first_one_are_refused() -> None:
    with pytest.raises(BrokenArchive, match="wrong length"):
        data = b"13 path=abcd\nnolengthinfrontofthis=1\n"
        read(tars.archive(tars.header(b"PaxHeaders/x", type=b"x", size=len(data)) + tars.padded(data)))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damage_is_refused_or_harmless(data: st.DataObject) -> None:
    good = tars.archive(
        tars.pax([(b"path", b"a" * 200), (b"SCHILY.xattr.user.x", b"y"), (b"mtime", b"1.5")]),
        tars.file(b"short", b"content"),
        tars.gnu_long(b"b" * 300),
        tars.file(b"x", b"more"),
        tars.pax([(b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.realsize", b"9000")]),
        tars.file(b"sparse", b"1\n8000\n5\n".ljust(512, b"\0") + b"holes"),
        tars.hard_link(b"l", b"x"),
    )
    damaged = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(0, len(good)))
    try:
        found = read(bytes(damaged[:end]))
    except BrokenArchive as error:
        assert "\n" not in str(error)
        assert str(error).isprintable()
    else:
        assert sum(len(content) for _, content in found) <= len(good)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=3000))
def test_noise_is_refused(noise: bytes) -> None:
    if noise.strip(b"\0"):
        with pytest.raises(BrokenArchive):
            read(noise)


def header_strategy() -> st.SearchStrategy[Header]:
    name = st.binary(min_size=1, max_size=300).map(lambda data: data.replace(b"\0", b"0").replace(b"\n", b"n"))
    number = st.integers(0, (1 << 32) - 2)
    return st.builds(
        Header,
        name=name,
        type=st.sampled_from([b"0", b"1", b"2", b"3", b"5", b"6"]),
        mode=st.integers(0, 0o7777),
        uid=number,
        gid=number,
        mtime=st.integers(-(1 << 62), 1 << 62),
        link=name,
        major=st.integers(0, 4095),
        minor=st.integers(0, (1 << 20) - 1),
        xattrs=st.dictionaries(st.sampled_from([b"user.a", b"security.capability"]), st.binary(max_size=100)),
    )


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(header_strategy(), st.binary(max_size=1500)), max_size=4))
def test_what_is_written_reads_back_the_same(entries: list[tuple[Header, bytes]]) -> None:
    out = io.BytesIO()
    writer = TarWriter(out)
    for header, content in entries:
        header.size = len(content) if header.type == b"0" else 0
        writer.begin(header)
        writer.write(content)
        writer.end()
    writer.close()
    assert writer.total == len(out.getvalue())
    found = read(out.getvalue())
    assert len(found) == len(entries)
    for (entry, content), (header, expected) in zip(found, entries, strict=True):
        assert (entry.name, entry.type, entry.link) == (header.name, header.type, header.link)
        assert (entry.mode, entry.uid, entry.gid, entry.mtime) == (header.mode, header.uid, header.gid, header.mtime)
        assert entry.xattrs == header.xattrs
        assert content == (expected if header.type == b"0" else b"")
        if header.type == b"3":
            assert (entry.major, entry.minor) == (header.major, header.minor)


def test_the_standard_library_reads_what_is_written() -> None:
    out = io.BytesIO()
    writer = TarWriter(out)
    writer.begin(
        Header(
            name=b"n" * 200,
            type=b"0",
            mode=0o4755,
            uid=1 << 31,
            mtime=1_500_000_000_250_000_000,
            size=3,
            xattrs={b"user.a": b"b"},
        )
    )
    writer.write(b"abc")
    writer.end()
    writer.begin(Header(name=b"holes", type=b"0", size=1 << 20, extents=[(4096, 5), (1 << 20, 0)]))
    writer.write(b"12345")
    writer.end()
    writer.close()
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as archive:
        first, second = archive.getmembers()
        assert (first.name, first.mode, first.uid, first.mtime) == ("n" * 200, 0o4755, 1 << 31, 1_500_000_000.25)
        assert first.pax_headers["SCHILY.xattr.user.a"] == "b"
        extracted = archive.extractfile(second)
        assert extracted is not None
        content = extracted.read()
    assert (second.name, len(content)) == ("holes", 1 << 20)
    assert content == bytes(4096) + b"12345" + bytes((1 << 20) - 4101)


@pytest.mark.parametrize(
    "entries",
    [
        tars.pax(
            [
                (b"GNU.sparse.major", b"1"),
                (b"GNU.sparse.minor", b"0"),
                (b"GNU.sparse.name", b"s"),
                (b"GNU.sparse.realsize", b"10000"),
            ]
        )
        + tars.file(b"other", b"2\n4096\n3\n10000\n0\n".ljust(512, b"\0") + b"abc"),
        tars.pax([(b"GNU.sparse.map", b"4096,3,10000,0"), (b"GNU.sparse.size", b"10000"), (b"GNU.sparse.name", b"s")])
        + tars.file(b"other", b"abc"),
        tars.pax(
            [
                (b"GNU.sparse.size", b"10000"),
                (b"GNU.sparse.numblocks", b"1"),
                (b"GNU.sparse.offset", b"4096"),
                (b"GNU.sparse.numbytes", b"3"),
            ]
        )
        + tars.file(b"s", b"abc"),
        tars.header(
            b"s",
            b"S",
            size=3,
            magic=b"ustar  \0",
            raw={386: b"%011o\0%011o\0" % (4096, 3), 410: b"%011o\0%011o\0" % (10000, 0), 483: b"%011o\0" % 10000},
        )
        + tars.padded(b"abc"),
    ],
    ids=["pax 1.0", "pax 0.1", "pax 0.0", "old gnu"],
)
def test_sparse_formats(entries: bytes) -> None:
    ((entry, content),) = read(tars.archive(entries))
    assert (entry.name, entry.type, entry.size, entry.stored) == (b"s", tar.REGULAR, 10000, 3)
    assert (entry.extents, content) == ([(4096, 3)], b"abc")


def test_old_sparse_files_with_extension_blocks() -> None:
    extents = [(index * 8192, 1) for index in range(40)]
    table = [b"%011o\0%011o\0" % extent for extent in extents]
    first = {386: b"".join(table[:4]), 482: b"\1", 483: b"%011o\0" % 400_000}
    data = tars.header(b"s", b"S", size=40, magic=b"ustar  \0", raw=first)
    data += b"".join(table[4:25]) + b"\1" + bytes(7)
    data += (b"".join(table[25:]) + bytes(504))[:504] + bytes(8)
    ((entry, content),) = read(tars.archive(data + tars.padded(b"z" * 40)))
    assert (entry.extents, content) == (extents, b"z" * 40)


def test_base_256_numbers() -> None:
    def big(value: int, length: int) -> bytes:
        return (value % (1 << (8 * length)) | 1 << (8 * length - 1)).to_bytes(length, "big")

    entry = one(
        tars.archive(tars.header(b"f", raw={108: big((1 << 32) - 2, 8), 116: big(1 << 31, 8), 136: big(-5, 12)}))
    )
    assert (entry.uid, entry.gid, entry.mtime) == ((1 << 32) - 2, 1 << 31, -5_000_000_000)


def test_names_in_prefix_long_name_and_pax() -> None:
    assert one(tars.archive(tars.header(b"b", prefix=b"a" * 155))).name == b"a" * 155 + b"/b"
    assert one(tars.archive(tars.gnu_long(b"n" * 2000) + tars.header(b"x"))).name == b"n" * 2000
    linked = one(tars.archive(tars.gnu_long(b"t" * 300, b"K") + tars.header(b"x", b"2")))
    assert (linked.name, linked.link) == (b"x", b"t" * 300)
    assert one(tars.archive(tars.pax([(b"path", b"p\xff\n=")]) + tars.header(b"x"))).name == b"p\xff\n="


def test_old_directories_and_contiguous_files() -> None:
    assert one(tars.archive(tars.header(b"d/", b"\0", magic=bytes(8)))).type == tar.DIRECTORY
    ((entry, content),) = read(tars.archive(tars.header(b"f", b"7", size=2) + tars.padded(b"ab")))
    assert (entry.type, content) == (tar.REGULAR, b"ab")


def test_global_headers_change_nothing() -> None:
    entry = one(tars.archive(tars.pax([(b"path", b"evil"), (b"uid", b"7")], b"g") + tars.header(b"good")))
    assert (entry.name, entry.uid) == (b"good", 0)


def test_entries_without_content_by_nature_have_none() -> None:
    found = read(tars.archive(tars.header(b"l", b"2", size=600, link=b"t"), tars.file(b"f", b"x")))
    assert [entry.name for entry, _ in found] == [b"l", b"f"]


def test_nanoseconds() -> None:
    entry = one(tars.archive(tars.pax([(b"mtime", b"12.0000000019")]) + tars.header(b"f")))
    assert entry.mtime == 12_000_000_001
    assert one(tars.archive(tars.pax([(b"mtime", b"-1.5")]) + tars.header(b"f"))).mtime == -1_500_000_000


def test_attributes_as_libarchive_writes_them() -> None:
    entry = one(tars.archive(tars.pax([(b"LIBARCHIVE.xattr.user.a%20b", b"AAEC")]) + tars.header(b"f")))
    assert entry.xattrs == {b"user.a b": b"\0\1\2"}


BROKEN = {
    "cut in a header": tars.file(b"a")[:300],
    "cut in content": tars.file(b"a", b"x" * 1000)[:600],
    "wrong checksum": tars.header(b"a")[:148] + b"0000001\0" + tars.header(b"a")[156:],
    "single zero block": bytes(512) + tars.file(b"a"),
    "octal with an underscore": tars.header(b"a", raw={124: b"0000000_001\0"}),
    "negative octal": tars.header(b"a", raw={124: b"-0000000001\0"}),
    "negative base 256": tars.header(b"a", raw={124: b"\xff" * 12}),
    "unknown type": tars.header(b"a", b"Z"),
    "continuation of another volume": tars.header(b"a", b"M"),
    "no name": tars.header(b""),
    "zero in a PAX name": tars.pax([(b"path", b"a\0b")]) + tars.header(b"a"),
    "PAX length too large": tars.header(b"p", b"x", size=12) + tars.padded(b"99 path=abc\n") + tars.header(b"a"),
    "PAX length zero": tars.header(b"p", b"x", size=9) + tars.padded(b"0 path=a\n") + tars.header(b"a"),
    "PAX length negative": tars.header(b"p", b"x", size=10) + tars.padded(b"-5 path=a\n") + tars.header(b"a"),
    "PAX without equals sign": tars.header(b"p", b"x", size=9) + tars.padded(b"9 path_a\n") + tars.header(b"a"),
    "PAX size not a number": tars.pax([(b"size", b"1e9")]) + tars.header(b"a"),
    "PAX size negative": tars.pax([(b"size", b"-1")]) + tars.header(b"a"),
    "PAX time": tars.pax([(b"mtime", b"nan")]) + tars.header(b"a"),
    "header bomb": tars.header(b"p", b"x", size=1 << 30),
    "long name bomb": tars.header(b"p", b"L", size=1 << 30),
    "sparse map overlaps": tars.pax([(b"GNU.sparse.map", b"5,5,0,5"), (b"GNU.sparse.size", b"10")])
    + tars.file(b"a", b"x" * 10),
    "sparse map too long": tars.pax([(b"GNU.sparse.map", b"5,50"), (b"GNU.sparse.size", b"10")])
    + tars.file(b"a", b"x" * 50),
    "sparse map too short": tars.pax([(b"GNU.sparse.map", b"5,5"), (b"GNU.sparse.size", b"10")])
    + tars.file(b"a", b"x" * 50),
    "sparse map odd": tars.pax([(b"GNU.sparse.map", b"5"), (b"GNU.sparse.size", b"10")]) + tars.file(b"a", b""),
    "sparse version": tars.pax([(b"GNU.sparse.major", b"2"), (b"GNU.sparse.minor", b"0")]) + tars.file(b"a", b""),
    "sparse head without end": tars.pax(
        [(b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.realsize", b"1")]
    )
    + tars.file(b"a", b"1" * 4096),
    "sparse head with a huge count": tars.pax(
        [(b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.realsize", b"1")]
    )
    + tars.file(b"a", b"9999999999999\n".ljust(512, b"\0")),
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN.keys())
def test_broken_archives_are_refused_in_one_sentence(data: bytes) -> None:
    with pytest.raises(BrokenArchive) as caught:
        read(data + (bytes(1024) if len(data) % 512 == 0 and b"cut" not in data else b""))
    assert "\n" not in str(caught.value)


def test_a_missing_end_mark_is_accepted() -> None:
    assert one(tars.file(b"a", b"x")).name == b"a"


def test_too_many_extents_are_refused() -> None:
    data = tars.pax([(b"GNU.sparse.map", b"0,0," * 50 + b"0,0"), (b"GNU.sparse.size", b"10")]) + tars.file(b"a", b"")
    with pytest.raises(BrokenArchive, match="sparse"):
        read(tars.archive(data), limits=Limits(extents=20))
