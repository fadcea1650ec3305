"""HID is read by the rules for files and by those of run time; what is wrong is said with line and column."""

from __future__ import annotations

import subprocess
import sys

import pytest

from capsa import hid
from capsa.hid import Attribute, Comment, Quote
from capsa.hid.runtime import misread

EVERYTHING = """\
config | verbose: yes | . trailing, with a | in it
.
. what this is
.
+ start osci | ram: 8M | pkg: nfeske/pkg/osci
  .
  . of the node above
  .
  + config
  |        fps:        50
  |        phase_lock: no    | . more stable
  |        . of the attribute above
  |        width:
  |
  | + channel | label: mic -> left  | color: #ff6633
  | + channel | label: mic -> right | color: #cc7777

  + route
    + service ROM | label: recording | + child record_rom | label: a b
    + any-service                    | + parent
  x heartbeat
+ arg -c
  : while true; do |
  :
  :   done \t|
+ env A | : | b
-
"""


def test_the_package_stands_alone():
    code = "import sys, capsa.hid, capsa.hid.xml, capsa.hid.runtime; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    ours = {name for name in loaded if name.partition(".")[0] == "capsa"}
    assert {name for name in ours if not name.startswith("capsa.hid")} == {"capsa"}
    assert "re2" not in loaded


def test_all_of_the_syntax():
    root = hid.read(EVERYTHING)
    assert (root.type, root.name, root.get("verbose")) == ("config", "", "yes")
    assert root.attributes[0].note == "trailing, with a | in it"
    assert [item.text for item in root.content[:3]] == ["", "what this is", ""]
    start = root.node("start")
    assert start.name == "osci"
    assert (start.get("ram"), start.get("pkg"), start.get("no", "none")) == ("8M", "nfeske/pkg/osci", "none")
    assert [type(item) for item in start.content[:4]] == [Comment, Comment, Comment, hid.Node]
    config = start.node("config")
    assert [attribute.tag for attribute in config.attributes] == ["fps", "phase_lock", "width"]
    assert (config.attributes[1].note, list(config.attributes[1].comments)) == (
        "more stable",
        ["of the attribute above"],
    )
    assert config.get("width", "absent") == ""
    assert [node.get("label") for node in config.nodes("channel")] == ["mic -> left", "mic -> right"]
    route = start.node("route")
    assert route.gap
    assert [node.heading for node in route.nodes()] == ["service ROM", "any-service"]
    child = route.node("service", "ROM").node("child")
    assert (child.name, child.get("label"), child.line, child.column) == ("record_rom", "a b", 19, 40)
    assert (start.node("heartbeat"), [node.type for node in start.nodes(disabled=True)][-1]) == (None, "heartbeat")
    assert root.node("arg").text == "while true; do |\n\n  done \t|"
    assert root.node("env").text == "| b"
    assert misread(EVERYTHING, root) == []


def test_a_node_behind_another_on_its_line_may_have_siblings_below():
    root = hid.read("config\n+ a | + b | c: d\n    | + e\n    | + f\n-\n")
    assert [node.type for node in root.node("a").nodes()] == ["b", "e", "f"]


def test_genode_takes_them_for_its_sub_nodes_which_is_said():
    text = "config\n+ a | + b | c: d\n    | + e\n-\n"
    problems = misread(text, hid.read(text))
    assert [str(problem) for problem in problems] == [
        "line 3: config | + a | + e: is in 'config | + a | + b' at run time"
    ]
    assert misread(hid.write(hid.read(text)), hid.read(hid.write(hid.read(text)))) == []


@pytest.mark.parametrize(
    ("text", "line", "column", "message"),
    [
        ("", 1, 1, "no top-level node"),
        ("\n\n", 3, 1, "no top-level node"),
        ("-\n", 1, 1, "the end marker '-' stands where"),
        ("config\n", 2, 1, "the end marker '-' is missing"),
        ("\nconfig\n-\n", 2, 1, "must be on the first line"),
        ("<config/>\n-\n", 1, 1, "no top-level node"),
        (". comment\nconfig\n-\n", 1, 1, "a comment cannot stand above"),
        ("Config\n-\n", 1, 1, "no top-level node"),
        ("config.x\n-\n", 1, 1, "no top-level node"),
        ("config\nother\n-\n", 2, 1, "'other' would be a second top-level node"),
        ("config\n-\nmore\n", 3, 1, "behind the end marker"),
        ("config\n-x\n-\n", 2, 1, "'-x' is no attribute"),
        ("config\n+ start a ram: 8M\n-\n", 2, 9, None),
        ("config\n+ start ram: 8M\n-\n", 2, 9, "'|' is missing before the attribute 'ram'"),
        ("config\n+ start a | ram:8M\n-\n", 2, 17, "a space is missing between 'ram:' and its value"),
        ("config\n+ start a |ram: 8M\n-\n", 2, 11, "'|' needs a space on both sides"),
        ("config\n+ start a| ram: 8M\n-\n", 2, 10, "'|' needs a space on both sides"),
        ("config\n+ start a | ram: 8M | \n-\n", 2, 22, "at the end of a line separates nothing"),
        ("config\n+ start a | ram: 8M |\n-\n", 2, 21, "'|' needs a space on both sides"),
        ("config\n|| + start\n-\n", 2, 1, "'|' needs a space on both sides"),
        ("config\n+ start a | Ram: 8M\n-\n", 2, 13, "'Ram: 8M' is no attribute"),
        ("config\n+ Start\n-\n", 2, 3, "does not begin with a type"),
        ("config\n+start\n-\n", 2, 1, "'+' is followed by a space"),
        ("config\n+  start\n-\n", 2, 3, "'+' is followed by one space"),
        ("config\n+ a: b\n-\n", 2, 1, "'+' begins a node, 'a:' is an attribute"),
        ("config\n+ a.b\n-\n", 2, 4, "'.b' is not expected behind 'a'"),
        ("config\n.comment\n-\n", 2, 1, "'.' is followed by a space"),
        ("config\n+ arg\n  :quoted\n-\n", 3, 3, "':' is followed by a space"),
        ("config\n+ a\n\t+ b\n-\n", 3, 1, "a tab cannot indent"),
        ("config | a: b\tc\n-\n", 1, 14, "a tab cannot be part of the value of 'a'"),
        ("config x\ty\n-\n", 1, 9, "a tab cannot be part of a name"),
        ("config | a: \x1b\n-\n", 1, 13, "control character 0x1b"),
        ("config\n\r  + a\n-\n", 2, 1, "control character 0x0d"),
        ("config | a: 1 | a: 2\n-\n", 1, 17, "attribute 'a' is there twice"),
        ("config x | name: y\n-\n", 1, 12, "attribute 'name' is there twice"),
        ("config\n+ a\n + b\n-\n", 3, 2, "indented by two spaces at least"),
        ("config\n+ a\n  + b\n  ram: 1\n-\n", 4, 3, "attribute 'ram' is not deeper than 'b' of line 3"),
        ("config\n+ a\nram: 1\n-\n", 3, 1, "attribute 'ram' is not deeper than 'a' of line 2"),
        ("config\n+ a\n  : text\n  ram: 1\n-\n", 4, 3, "comes after the quoted content of 'a'"),
        ("config\n+ a\n  : text\n  + b\n-\n", 4, 3, "'a' has quoted content, so it cannot have sub nodes"),
        ("config\n+ a\n  + b\n  : text\n-\n", 4, 3, "quoted content is not deeper than 'b' of line 3"),
        (b"config\n+ \xff\n-\n", 2, 3, "byte 0xff is not UTF-8"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(text, line, column, message):
    if message is None:
        assert hid.read(text).nodes()[0].name == "a ram: 8M"  # a name may hold anything
        return
    with pytest.raises(hid.SyntaxViolation) as failure:
        hid.read(text)
    assert (failure.value.line, failure.value.column) == (line, column), str(failure.value)
    assert message in str(failure.value)


@pytest.mark.parametrize(
    ("text", "type", "attributes"),
    [
        ("config|a: 1|b: 2\n-", "config", {"a": "1", "b": "2"}),
        ("config a: 1 | b: 2\n-", "config", {"a": "1", "b": "2"}),
        ("config x:y\n-", "config", {"name": "x:y"}),
        ("config | a: 1 | a: 2\n-", "config", {"a": "1"}),
        ("config\nother\na: 1\nB: 2\n-", "config", {"a": "1"}),
        ("config\r\n  a: 1\r\n-", "config", {"a": "1"}),
        ("config | a:1\n-", "config", {"a": ""}),
        ("config | a: 1\n- anything\n\x00", "config", {"a": "1"}),
    ],
)
def test_at_run_time_lines_that_are_wrong_are_ignored(text, type, attributes):
    node = hid.read_relaxed(text)
    assert node.type == type
    assert {attribute.tag: attribute.value for attribute in node.attributes} == attributes


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ("", 1, 1),
        (" config\n-", 1, 1),
        ("config", 1, 1),
        ("config\n + a\n", 3, 1),
        ("config\ta\n-", 1, 7),
        ("config\n\t+ a\n-", 2, 1),
        ("config\n+ a | : b|c\td\n-", 2, 12),
        ("config\n+ a\r + b\n-", 2, 4),
    ],
)
def test_at_run_time_a_text_is_refused_for_a_missing_mark_or_a_control_character(text, line, column):
    with pytest.raises(hid.SyntaxViolation) as failure:
        hid.read_relaxed(text)
    assert (failure.value.line, failure.value.column) == (line, column)


def test_at_run_time_disabled_nodes_and_late_attributes_do_not_count():
    node = hid.read_relaxed("config\nx start a | ram: 1M\n+ start b\n  + config\n  ram: 2M\n  : quoted\n-")
    assert [start.name for start in node.nodes("start")] == ["b"]
    assert node.node("start").get("ram") == ""
    assert node.node("start").node("config").get("ram") == "2M"
    assert node.node("start").node("config").text == "quoted"


def test_a_tree_is_built_queried_and_changed():
    root = hid.Node("config", {"verbose": True, "prio_levels": 2})
    start = root.add(hid.Node("start", {"name": "timer", "ram": "1M"}))
    start.set("caps", 100)
    start.set("ram", "2M")
    start.unset("nothing")
    start.add(hid.Node("provides", {}, [hid.Node("service", {"name": "Timer"})]))
    arg = root.add(hid.Node("arg"))
    arg.text = "a\nb"
    assert [item.text for item in arg.content if isinstance(item, Quote)] == ["a", "b"]
    assert hid.write(root) == (
        "config | verbose: yes | prio_levels: 2\n"
        "+ start timer | ram: 2M | caps: 100\n  + provides | + service Timer\n"
        "+ arg\n  : a\n  : b\n-\n"
    )
    start.set("name", "clock")
    assert start.attributes[0] == Attribute("name", "clock")
    assert [node.type for node in root.walk()] == ["config", "start", "provides", "service", "arg"]
    with pytest.raises(hid.NotRepresentable, match="sub nodes of 'start'"):
        start.text = "no"
    assert root.text is None
