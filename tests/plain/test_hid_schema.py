"""A document is checked against a schema: what is wrong, where, and what would be right."""

from __future__ import annotations

import pytest

from capsa.hid import BadSchema, HidError, Node, Schema, read

SCHEMA = """\
schema config
+ type any       | : .*
+ type size      | : \\d+[GMK]?
+ type bool      | : yes|no
+ category target
  + node parent
  + node child | + attr name | type: any
+ category route
  + node service
    + attr name  | type: any
    + attr label | type: any | default:
    + node | category: target | optional: no | multiple: no
  + node any-service | + node | category: target
+ attr verbose | type: bool | default: no
+ node start
  + attr name | type: any
  + attr ram  | type: size
  + attr caps | type: size | default: 100
  + node binary | multiple: no | + attr name | type: any
  + node route | optional: no
    + node | category: route
  + node config | + anything
  + node arg | + quote
-
"""

RIGHT = """\
config | verbose: yes
+ start a | ram: 1M
  + binary x
  + route
    + service ROM | label: b | + child c
    + any-service
      + parent
      + child d
  + config | anything: goes
    + here | : and quoted
  + arg | : quoted
-
"""


@pytest.fixture(scope="module")
def schema():
    return Schema.load(SCHEMA)


def test_nothing_is_wrong(schema):
    assert schema.check(read(RIGHT)) == []


@pytest.mark.parametrize(
    ("old", "new", "problems"),
    [
        ("verbose: yes", "verbose: true", ["line 1: config: 'verbose' is 'true', expected bool (yes|no)"]),
        ("verbose: yes", "verbose: yesno", ["line 1: config: 'verbose' is 'yesno', expected bool (yes|no)"]),
        (
            "ram: 1M",
            "ram: 1 M | cpus: 3",
            [
                "line 2: config | + start a: 'ram' is '1 M', expected size (\\d+[GMK]?)",
                "line 2: config | + start a: unknown attribute 'cpus' "
                "(expected: ram: size (\\d+[GMK]?), caps: size (\\d+[GMK]?))",
            ],
        ),
        (
            "+ start a | ram: 1M",
            "+ start",
            [
                "line 2: config | + start: lacks a name, expected any (.*)",
                "line 2: config | + start: lacks the attribute 'ram', expected size (\\d+[GMK]?)",
            ],
        ),
        (
            "  + binary x\n",
            "  + binary x\n  + binary y\n",
            ["line 4: config | + start a: 'binary' is one too many, as there is one of line 3"],
        ),
        ("  + route\n", "  x route\n", ["line 2: config | + start a: lacks the sub node 'route'"]),
        (
            " | + child c",
            "",
            [
                "line 5: config | + start a | + route | + service ROM: lacks a sub node of the category 'target' "
                "(expected: child, parent)"
            ],
        ),
        (
            "+ parent",
            "+ parents\n      + child",
            [
                "line 7: config | + start a | + route | + any-service: unknown node 'parents' "
                "(expected: child, parent)",
                "line 8: config | + start a | + route | + any-service | + child: lacks a name, expected any (.*)",
            ],
        ),
        (
            "+ any-service\n",
            "x any-service x\n",
            ["line 6: config | + start a | + route | + any-service x: 'any-service' cannot have a name"],
        ),
        (
            "+ binary x\n",
            "+ binary x | : text\n",
            ["line 3: config | + start a | + binary x: quoted content is not expected: 'text'"],
        ),
        (" | ram: 1M", "", ["line 2: config | + start a: lacks the attribute 'ram', expected size (\\d+[GMK]?)"]),
    ],
)
def test_what_is_wrong_is_said_with_line_path_and_what_is_expected(schema, old, new, problems):
    assert RIGHT.count(old)
    assert [str(problem) for problem in schema.check(read(RIGHT.replace(old, new, 1)))] == problems


def test_another_top_level_node(schema):
    assert [str(problem) for problem in schema.check(Node("runtime"))] == [
        "runtime: the top-level node is 'runtime' and should be 'config'"
    ]


def test_a_tree_that_was_built_has_no_lines_but_a_path(schema):
    root = Node("config", {}, [Node("start", {"name": "a"}, [Node("route")])])
    assert [str(problem) for problem in schema.check(root)] == [
        "config | + start a: lacks the attribute 'ram', expected size (\\d+[GMK]?)"
    ]


def test_there_is_an_end_to_complaints(schema):
    root = Node("config", {}, [Node("bad") for _ in range(5000)])
    assert len(schema.check(root)) == 100


@pytest.mark.parametrize(
    ("definition", "message"),
    [
        ("config\n-\n", "begins with 'schema'"),
        ("schema\n-\n", "begins with 'schema'"),
        ("schema a\n+ attr b | type: c\n-\n", "line 2: attribute 'b' has the unknown type 'c'"),
        ("schema a\n+ attr b\n-\n", "unknown type ''"),
        ("schema a\n+ type b\n-\n", "type 'b' lacks a pattern"),
        ("schema a\n+ type b | : (\n-\n", "'(' is no pattern"),
        ("schema a\n+ type | : x\n-\n", "'type' lacks a name"),
        ("schema a\n+ node\n-\n", "neither a name nor a category"),
        ("schema a\n+ node | category: b\n-\n", "there is no category 'b'"),
        ("schema a\n+ node b | multiple: maybe\n-\n", "'multiple' is 'maybe'"),
        ("schema a\n+ node b | colour: red\n-\n", "'node' has the unknown attribute 'colour'"),
        ("schema a\n+ nodes b\n-\n", "'nodes' is not expected in 'schema a'"),
        ("schema a\n+ anything\n-\n", "'anything' is not expected in 'schema a'"),
        ("schema a\n+ node b\n+ node b\n-\n", "node 'b' is defined twice"),
        ("schema a\n+ attr b | type: any\n+ attr b | type: any\n-\n", "attribute 'b' is defined twice"),
        ("schema a\n+ category b | + node | category: b\n+ node | category: b\n-\n", "defined by itself"),
        (
            "schema a\n+ category b | + node x\n+ category c | + node x\n+ category d\n  + node | category: b\n"
            "  + node | category: c\n+ node | category: d\n-\n",
            "has node 'x' from more than one category",
        ),
    ],
)
def test_a_schema_that_cannot_be_understood(definition, message):
    with pytest.raises(BadSchema) as failure:
        Schema.load(definition)
    assert message in str(failure.value)


def test_a_category_may_hold_itself_further_down():
    schema = Schema.load("schema a\n+ category b | + node c | + node | category: b\n+ node | category: b\n-\n")
    assert schema.check(read("a\n+ c | + c | + c\n-\n")) == []
    assert len(schema.check(read("a\n+ c | + c | + d\n-\n"))) == 1


def test_patterns_take_no_time_whatever_a_schema_holds():
    schema = Schema.load("schema a\n+ type b | : (x+x+)+y\n+ attr c | type: b\n-\n")
    assert len(schema.check(Node("a", {"c": "x" * 50_000}))) == 1


@pytest.mark.parametrize("count", [30, 3000])
def test_categories_that_multiply_are_refused(count):
    lines = ["schema a"]
    for number in range(count):
        lines += [f"+ category c{number}", *(f"  + node n{number}x{each}" for each in range(40))]
        lines += [f"  + node | category: c{number + 1}"] if number < count - 1 else []
    lines += [f"+ node | category: c{number}" for number in range(0, count)]
    with pytest.raises(HidError, match=r"choices|too deep|more than"):
        Schema.load("\n".join([*lines, *(f"+ node | category: c{count - 1}" for _ in range(3000)), "-\n"]))
