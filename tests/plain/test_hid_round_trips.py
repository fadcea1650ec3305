"""What is written is read again as it was, by the rules for files and as Genode reads it."""

from __future__ import annotations

import os

import pytest
from fixtures.hid import effective, identifiers, lines, trees, values
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from capsa import hid
from capsa.hid import Attribute, Node, Quote
from capsa.hid.runtime import misread
from capsa.hid.xml import read_xml, write_xml

many = settings(deadline=None, max_examples=int(os.environ.get("CAPSA_EXAMPLES", "50")))


def written(tree: Node) -> str:
    try:
        return hid.write(tree)
    except hid.NotRepresentable as error:
        assert "tab behind a '|'" in str(error)
        assume(False)
        raise


@many
@given(trees())
def test_a_tree_is_read_as_it_was_written(tree):
    text = written(tree)
    again = hid.read(text)
    assert again == tree
    assert hid.write(again) == text


@many
@given(trees())
def test_genode_reads_what_is_written_as_it_was_meant(tree):
    text = written(tree)
    assert effective(hid.read_relaxed(text)) == effective(tree)
    assert misread(text, hid.read(text)) == []


@many
@given(trees(), st.data())
def test_a_text_that_was_cut_off_is_refused(tree, data):
    text = written(tree).removesuffix("-\n")
    cut = text[: data.draw(st.integers(0, len(text)))]
    for reader in (hid.read, hid.read_relaxed):
        with pytest.raises(hid.SyntaxViolation):
            reader(cut)


@many
@given(trees())
def test_a_file_may_have_line_ends_of_dos(tree):
    text = written(tree).replace("\n", "\r\n")
    assert hid.read(text.encode()) == tree
    assert effective(hid.read_relaxed(text)) == effective(tree)


@many
@given(trees(comments=False))
def test_xml_keeps_what_counts(tree):
    for node in tree.walk():
        node.gap = False
        # An element's text is one string: space alone is none, and its first line tells how it is laid out.
        for item in node.content:
            if isinstance(item, Quote):
                item.text = f"q{item.text}"
    try:
        again = read_xml(write_xml(tree))
    except hid.NotRepresentable as error:
        assert "a character that XML does not have" in str(error) or "cannot hold '--'" in str(error)
        return
    for node in [*tree.walk(), *again.walk()]:
        node.attributes.sort(key=lambda attribute: attribute.tag)
    if not any(not inner.enabled for node in tree.walk() if not node.enabled for inner in node.nodes(disabled=True)):
        assert again == tree
    assert effective(again) == effective(tree)


@many
@given(trees(least=1), st.data(), values)
def test_an_edit_changes_a_value_and_no_other_line(tree, data, value):
    text = written(tree)
    nodes = [node for node in tree.walk() if node.attributes]
    node = data.draw(st.sampled_from(nodes))
    tag = data.draw(st.sampled_from([attribute.tag for attribute in node.attributes]))
    way = next(way for way in ways(tree) if way[-1] is node)
    path = hid.Path([(step.type, {item.tag: item.value for item in step.attributes}) for step in way])
    changed = hid.set_values(text, path, {tag: value})
    for found in path.find(tree):
        found.set(tag, value)
    assert hid.read(changed) == tree


def ways(node, above=()):
    way = (*above, node)
    yield way
    for inner in node.nodes(disabled=True):
        yield from ways(inner, way)


@many
@given(trees(), identifiers, values)
def test_an_attribute_is_added_without_touching_the_rest(tree, tag, value):
    assume(tag != "name" and not tree.has(tag))
    text = written(tree)
    changed = hid.set_values(text, hid.Path.parse(tree.type), {tag: value})
    tree.set(tag, value)
    assert hid.read(changed) == tree
    old, new = text.split("\n"), changed.split("\n")
    while old and old[0] == new[0]:
        del old[0], new[0]
    while old and old[-1] == new[-1]:
        del old[-1], new[-1]
    assert len(old) <= 1
    assert len(new) == 1


@many
@given(trees(least=1))
def test_removed_and_disabled_nodes_are_all_that_changes(tree):
    text = written(tree)
    inner = tree.nodes(disabled=True)
    path = hid.Path([(tree.type, {}), (inner[0].type, {})])
    gone = path.find(tree)
    disabled = hid.set_enabled(text, path, False)
    removed = hid.remove(text, path)
    for node in gone:
        node.enabled = False
    assert hid.read(disabled) == tree
    tree.content = [item for item in tree.content if not any(item is node for node in gone)]
    assert hid.read(removed) == tree


@given(st.text(max_size=300) | st.binary(max_size=300))
def test_no_text_breaks_a_reader(text):
    for reader in (hid.read, hid.read_relaxed, read_xml, hid.Schema.load):
        try:
            reader(text)
        except hid.HidError as error:
            assert str(error)


PIECES = st.sampled_from(
    ["config", "\n", "\n", "\n  ", "\n    ", "+ a", "x b", " | ", "|", " ", ". c", ": d", "e: f", "-", "\n-", "\t", "ü"]
)


@given(st.lists(PIECES, max_size=30).map("".join))
def test_what_the_strict_rules_take_is_written_and_read_again(text):
    text = f"config{text}\n-\n"
    try:
        tree = hid.read(text)
    except hid.HidError as error:
        assert error.line >= 1
        assert error.column >= 1
        return
    try:
        again = hid.write(tree)
    except hid.NotRepresentable:
        assert "\t" in text
        return
    assert hid.read(again) == tree or "." in text  # a comment may move to where its node's attributes end
    assert hid.write(hid.read(again)) == again


@given(st.text(max_size=20))
def test_what_cannot_be_a_value_is_refused_with_the_place(text):
    tree = Node("config", {}, [Node("start", [Attribute("name", "a"), Attribute("ram", text)])])
    try:
        assert hid.read(hid.write(tree)) == tree
    except hid.NotRepresentable as error:
        assert str(error).startswith("config | + start a: attribute 'ram' is ")


@given(lines)
def test_quoted_content_keeps_every_character(text):
    tree = Node("arg", {}, [Quote(text)])
    assert hid.read(written(tree)).text == text


@pytest.mark.parametrize("text", ["a\nb", "a\rb", "\x00", "\x1b[0m", "\x85"])
def test_what_cannot_be_a_quoted_line_is_refused(text):
    with pytest.raises(hid.NotRepresentable, match="arg: the quoted line"):
        hid.write(Node("arg", {}, [Quote(text)]))
