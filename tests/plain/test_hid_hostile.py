"""Texts that were made to hurt are refused, or read in the time that their length takes."""

from __future__ import annotations

import contextlib
import time

import pytest

from capsa import hid
from capsa.hid.runtime import misread
from capsa.hid.xml import read_xml, write_xml

DEEP = 700
LONG = 20_000
# Generous: each takes well below a second where nothing else runs. What is quadratic takes minutes.
SECONDS = 20


def nested(depth: int) -> str:
    return "a\n" + "".join(f"{'  ' * level}+ a\n" for level in range(depth)) + "-\n"


READERS = [hid.read, hid.read_relaxed, hid.Schema.load]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("text", [nested(DEEP), "a" + " | + a" * DEEP + "\n-\n"])
def test_depth_is_bounded(reader, text):
    with pytest.raises(hid.TooLarge, match="more than 100 levels"):
        reader(text)


def test_what_is_just_deep_enough_goes_everywhere():
    root = hid.read(nested(100))
    assert hid.read(hid.write(root)) == root == hid.read_relaxed(nested(100))
    assert read_xml(write_xml(root)) == root
    with pytest.raises(hid.TooLarge):
        read_xml("<a>" * DEEP + "</a>" * DEEP)


def test_a_tree_that_was_built_too_deep_is_refused():
    root = inner = hid.Node("a")
    for _ in range(DEEP):
        inner = inner.add(hid.Node("a"))
    for writer in (hid.write, write_xml):
        with pytest.raises(hid.TooLarge):
            writer(root)


@pytest.mark.parametrize("reader", [hid.read, hid.read_relaxed, read_xml])
def test_length_is_bounded(reader):
    text = "config\n" + "." * 2000
    for hostile in (text, text.encode(), "é" * 1990):
        with pytest.raises(hid.TooLarge, match="more than 2000 bytes"):
            reader(hostile, most=2000)


@pytest.mark.parametrize(
    "text",
    [
        "a" + " | a: 1" * LONG + "\n-\n",
        "a\n" + "".join(f"b{number}: {number}\n" for number in range(LONG)) + "-\n",
        "a\n" + "+ b\n" * LONG + "-\n",
        "a\n" + "+ b | + c | + d\n" * (LONG // 3) + "-\n",
        "a\n" + " " * LONG + "+ b\n-\n",
        "a\n" + "| " * LONG + "\n" + "| " * LONG + "!\n-\n",
        "a\n" + "|" * LONG + "\n-\n",
        "a\n" + ". comment\n" * LONG + "b: c\n-\n",
        "a\n" + ". c\nb: c\n" * LONG + "-\n",
        "a\n+ b\n  : " + "\t" * LONG + "\n" + "  : \t|\t\n" * LONG + "-\n",
        "a\n. " + "x\t|" * LONG + "\n-\n",
        "a\n" + "\n" * LONG + "-\n",
        "a\r\n" * LONG,
        "a\n" + "x b\n  : c\n" * LONG + "-\n",
        "a | b: " + "c " * LONG + "\n-\n",
        "a\n" + "- " * LONG,
        "a\n" + (" " * 198 + "+ b\n") * (LONG // 50) + "-\n",
    ],
    ids=range(17),
)
def test_time_grows_with_length(text):
    begin = time.monotonic()
    for reader in (hid.read, hid.read_relaxed):
        try:
            tree = reader(text)
            hid.write(tree)
            misread(text, tree)
        except hid.HidError:
            pass
    assert time.monotonic() - begin < SECONDS


@pytest.mark.parametrize(
    "text",
    [
        "<a>" + "x<!---->" * LONG + "</a>",
        "<a>" + "<b/>" * LONG + "</a>",
        "<a>" + "<b/>\n<!-- <c/> -->" * (LONG // 10) + "</a>",
        "<a>" + "<!-- x -->" * LONG + "</a>",
        "<a " + " ".join(f'b{number}=""' for number in range(LONG // 4)) + "/>",
        "<a><!-- " + "<b>" * LONG + " --></a>",
        "<a>" + "&#10;" * LONG + "x</a>",
        "<a>" + "\n" * LONG + "x</a>",
    ],
    ids=range(8),
)
def test_xml_takes_no_longer(text):
    begin = time.monotonic()
    with contextlib.suppress(hid.HidError):
        write_xml(read_xml(text))
    assert time.monotonic() - begin < SECONDS


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no XML: no element found"),
        ("<a>", "no XML"),
        ("<a></b>", "line 1, column 6: no XML: mismatched tag"),
        ("<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>", "a document type is not expected"),
        ("<!DOCTYPE a SYSTEM 'file:///etc/passwd'><a/>", "a document type is not expected"),
        ("<a>&b;</a>", "undefined entity"),
        ("<a>\n <B/></a>", "line 2, column 2: <B>: a node's type"),
        ("<a B=''/>", "B: an attribute's tag"),
        ("<a b='c|d'/>", "values cannot hold '|'"),
        ("<a b=' c'/>", "space around a value"),
        ("<a>text<b/></a>", "text beside the elements"),
        ("<a><b/>text</a>", "text beside the elements"),
        ("<a\ud800/>", "a character that UTF-8 does not have"),
        (b"\xff\xfe<", "no XML"),
        (b"<?xml version='1.0' encoding='nonsense'?><a/>", "no XML: unknown encoding"),
    ],
)
def test_xml_that_is_refused(text, message):
    with pytest.raises(hid.SyntaxViolation) as failure:
        read_xml(text)
    assert message in str(failure.value)


def test_xml_with_all_that_is_in_it():
    text = "\n".join(
        [
            '<?xml version="1.0"?>',
            "<!-- the whole -->",
            '<config verbose="yes">',
            "\t<!-- a timer,",
            "\t     for all -->",
            '\t<start ram="1M" name="timer"> <!-- not beside --> <provides/> </start> <!-- beside -->',
            '\t<!-- <start name="off"><binary name="x"/></start> -->',
            '\t<default caps="100"/> <!-- a note -->',
            "\t<arg>a &lt; b | c</arg>",
            "\t<script>",
            "\t\tif true",
            "\t\t  then",
            "\t\tfi",
            "\t</script>",
            "\t<!-- the end -->",
            "</config>",
        ]
    )
    expected = """\
config | verbose: yes
. the whole
+ start timer | ram: 1M
  . a timer,
  . for all
  + provides
    . not beside
x start off | + binary x
. beside
+ default | caps: 100 | . a note
+ arg | : a < b | c
+ script
  : if true
  :   then
  : fi
. the end
-
"""
    assert hid.write(read_xml(text)) in (
        expected,
        expected.replace(". beside\n", "").replace("x start", ". beside\nx start"),
    )


@pytest.mark.parametrize("text", ["\x00", "\x1b", "\ufffe", "\ud800"])
def test_what_xml_cannot_hold_is_refused(text):
    for node in (
        hid.Node("a", {"b": text}),
        hid.Node("a", {}, [hid.Quote(text)]),
        hid.Node("a", {}, [hid.Comment(text)]),
        hid.Node("a", {}, [hid.Node("b", {}, [hid.Quote(text)], enabled=False)]),
    ):
        with pytest.raises(hid.NotRepresentable):
            write_xml(node)


def test_what_is_disabled_and_cannot_be_a_comment_is_refused():
    with pytest.raises(hid.NotRepresentable, match="'a--b' is disabled"):
        write_xml(hid.read("a\nx a--b\n-\n"))


def test_old_genode_finds_values_as_they_are():
    root = hid.read('config\n+ policy | label: a -> "b" & <c\n+ arg | : a -> b & c\nx off | a: x--y\n-\n')
    assert write_xml(root) == (
        '<config>\n\t<policy label="a -> &quot;b&quot; &amp; &lt;c"/>\n\t<arg>a -&gt; b &amp; c</arg>\n'
        '\t<!-- <off a="x-&#45;y"/> -->\n</config>\n'
    )
    assert read_xml(write_xml(root)) == root
