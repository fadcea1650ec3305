"""A tree is written as somebody who knows Genode would lay it out."""

from __future__ import annotations

import pytest

from capsa import hid
from capsa.hid import Node, Quote

STANDARD = """\
config | verbose: yes | prio_levels: 2
. what all have
+ parent-provides
  + service ROM
  + service CPU
+ default-route
  + any-service
    + parent
    + any-child
+ start lx_fs | caps: 250 | ram: 8M | ld: no
  + binary file_system
  + provides | + service File_system
  + config
    + policy | label_prefix: config_fs_rom | root: /host/config
    + policy | label_prefix: fs_report     | root: /host/report | writeable: yes
    + policy | label: x | root: /
  + route
    + service ROM | label: config | + child config_fs_rom | label: sub.config
    + service File_system         | + child lx_fs
    + service Timer               | + child timer
    + any-service                 | + parent

x start bash | caps: 1000 | ram: 32M
  + config
    + vfs
      + tar bash.tar
      + dir dev
        + log
        + null
    + arg -c
      : while true; do
      :   sleep 1 | cat
      : done
    + env TERM  | : screen
    + env SHELL | : /bin/bash
    + libc | stdin: /dev/null | stdout: /dev/log | . not a terminal
+ start other
  label:   a label that is rather long and does not leave much room for anything else
  version: 7 | . bump me
  . and a line about it
  caps:    100
  + config | + vfs | + fs
+ state
  + ram  | quota: 60758588 | used: 384K | avail: 60365372
  + caps | quota: 1744     | used: 40   | avail: 1704     | requested: 5
-
"""


def test_the_layout():
    assert hid.write(hid.read(STANDARD)) == STANDARD


def test_other_layouts_become_the_standard_one():
    text = """config
                 verbose: yes
|      prio_levels:    2

|
| + start a |
""".replace("|\n| + start a |\n", "  + start a\n  |  ram:  1M\n  | + provides\n  |   + service Timer\n")
    assert hid.write(hid.read(text + "-\n")) == (
        "config | verbose: yes | prio_levels: 2\n\n+ start a | ram: 1M\n  + provides | + service Timer\n-\n"
    )


def test_a_table_that_would_be_too_wide_is_not_aligned():
    long = "x" * 70
    root = Node("config", {}, [Node("policy", {"label": label, "root": "/" + "y" * 20}) for label in ("a", long)])
    assert (
        hid.write(root)
        == f"config\n+ policy | label: a | root: /{'y' * 20}\n+ policy\n  label: {long}\n  root:  /{'y' * 20}\n-\n"
    )


def test_names_that_could_be_taken_for_attributes_have_their_tag():
    root = Node("config", {}, [Node("a", {"name": name}) for name in ("a:b", "c: d", ":", ". e", "+ f", "", "g h")])
    text = hid.write(root)
    assert text.split("\n")[1:-2] == [
        *("+ a | name: a:b", "+ a | name: c: d", "+ a | name: :", "+ a | name: . e", "+ a | name: + f", "+ a | name:"),
        "+ a g h",
    ]
    assert hid.read(text) == root
    assert [node.name for node in hid.read_relaxed(text).nodes()] == [node.name for node in root.nodes()]


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (Node("Config"), "'Config' cannot be a node's type"),
        (Node("config", {}, enabled=False), "the top-level node cannot be disabled"),
        (Node("config", {"A": 1}), "'A' cannot be an attribute's tag"),
        (Node("config", {"a": "x|y"}), r"attribute 'a' is 'x\|y', but values cannot hold '\|'"),
        (Node("config", {"a": "x\ny"}), "characters that cannot be printed"),
        (Node("config", {"a": "\ud800"}), "characters that cannot be printed"),
        (Node("config", [hid.Attribute("a", 1), hid.Attribute("a", 2)]), "an attribute is there twice"),
        (Node("config", {}, [Quote("a"), Node("b")]), "sub nodes or quoted content, not both"),
        (Node("config", {}, [Node("a", {}, [Quote("b|c\td")])]), r"^config \| \+ a: the quoted line .* Genode refuses"),
        (
            Node("config", {}, [Node("a", {}, [Node("b", {}, [Node("c", {"d": "|"})])])]),
            r"^config \| \+ a \| \+ b \| \+ c: ",
        ),
        (
            Node("config", {}, [Node("a"), Node("b", {}, [Node("c"), Node("D")])]),
            r"^config \| \+ b \| \+ D: 'D' cannot",
        ),
    ],
)
def test_what_hid_cannot_hold_is_refused(node, message):
    with pytest.raises(hid.NotRepresentable, match=message):
        hid.write(node)


def test_edits_keep_the_layout():
    text = STANDARD.replace("+ default-route\n", "+ default-route\n|\n").replace("ram: 8M | ", "ram: 8M    | ")
    changed = hid.set_values(text, *hid.parse_assignment("config | + start lx_fs | : ram: 100M | caps: 3 | version: 2"))
    assert changed == text.replace("caps: 250 | ram: 8M    | ld: no", "caps: 3   | ram: 100M  | ld: no | version: 2")
    changed = hid.set_values(text, *hid.parse_assignment("config | + start other | : caps: 5 | ram: 1M"))
    assert changed == text.replace("  caps:    100\n", "  caps:    5\n  ram:     1M\n")
    changed = hid.set_values(text, *hid.parse_assignment("config | + start bash | : name: a:b"))
    assert changed == text.replace("x start bash |", "x start | name: a:b |")
    changed = hid.set_values(changed, *hid.parse_assignment("config | + start | name: a:b | : name: bash"))
    assert changed == text.replace("x start bash |", "x start | name: bash |")
    changed = hid.set_values(text, *hid.parse_assignment("config | + state | : name: x"))
    assert changed == text.replace("+ state", "+ state x")
    changed = hid.set_enabled(text, hid.Path.parse("config | + start bash"), True)
    assert changed == text.replace("x start bash", "+ start bash")
    changed = hid.remove(text, hid.Path.parse("config | + start lx_fs | + config | + policy | root: /"))
    assert changed == text.replace("    + policy | label: x | root: /\n", "")
    changed = hid.remove(text, hid.Path.parse("config | + start other | + config | + vfs"))
    assert changed == text.replace("  + config | + vfs | + fs\n", "  + config\n")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda text: hid.set_values(text, *hid.parse_assignment("config | + start nobody | : ram: 1M")),
            "no node is found",
        ),
        (lambda text: hid.remove(text, hid.Path.parse("config")), "top-level node"),
        (lambda text: hid.set_values(text, *hid.parse_assignment("config | + start | + route")), "'| : tag: value'"),
        (lambda text: hid.Path.parse("Config"), "'Config' is no type"),
        (lambda text: hid.Path.parse("config | start"), "'start' is neither a node"),
        (lambda text: hid.parse_question("config | : a b"), "one attribute's tag"),
        (lambda text: hid.Path.parse("config | : ram"), "nothing is expected behind"),
    ],
)
def test_paths_that_lead_nowhere(change, message):
    with pytest.raises(hid.BadPath) as failure:
        change(STANDARD)
    assert message in str(failure.value)


def test_paths():
    root = hid.read(STANDARD)
    path, tag = hid.parse_question(
        "config | + start | ld: no | + route | + service ROM | label: config | + child | : label"
    )
    assert [node.get(tag) for node in path.find(root)] == ["sub.config"]
    assert [node.name for node in hid.Path.parse("config | + start").find(root)] == ["lx_fs", "bash", "other"]
    assert hid.Path.parse("schema").find(root) == []
