"""capsa.hid against Genode's own tool, on what Genode ships: ``python tests/suites/hid.py CHECKOUT``.

CHECKOUT is a clone of Genode's repository; nothing of it is part of capsa. Every HID text in it is taken:
configurations, schemas (``.hsd``), recipes, and what stands in the scripts of its tests (``.run``, ``.inc``, with a
word for each Tcl command and variable; texts that Tcl cuts up within a line are left out). ``--parser PROGRAM`` also
compares with Genode's run-time parser: PROGRAM reads texts that end with a zero byte each, and prints for each a line
``n TYPE`` a node, ``a TAG=VALUE`` an attribute, ``q TEXT`` a quoted line, indented by a space a level (``\\`` and tab
escaped), or ``!`` for a text it refuses, and a zero byte. Needs tclsh. docs/conformance.md has the result.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import multiprocessing.pool
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, assume, given, settings

sys.path[:0] = [str(Path(__file__).resolve().parent.parent)]

from fixtures.hid import trees  # noqa: E402

from capsa import hid  # noqa: E402
from capsa.hid.xml import read_xml, write_xml  # noqa: E402

Tree = tuple[Any, ...]
QUERY = "config | + start | : name"
ASSIGNMENT = "config | + start | : ram: 1G | capsa: yes"
_HEAD = re.compile(r"[a-z][a-z0-9_-]*( [^{};]*)?\Z")


class Text:
    """A HID text, or an XML text, and where it is from."""

    def __init__(self, path: Path, line: int, text: str) -> None:
        self.path, self.line, self.text = path, line, text

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"


def texts(checkout: Path) -> Iterator[Text]:
    """All HID texts in a checkout."""
    for path in files(checkout):
        content = path.read_bytes()
        if b"\0" in content or len(content) > 1 << 20:
            continue
        lines = content.decode("utf-8", "replace").split("\n")
        name = path.relative_to(checkout)
        if path.suffix in (".run", ".inc"):
            yield from scripted(name, lines)
        elif lines and _HEAD.match(lines[0]) and "-" in [line.rstrip() for line in lines]:
            yield Text(name, 1, "\n".join(lines))


def cut_up(text: Text) -> bool:
    """Whether a Tcl command stands within a word or ends the text early."""
    scripted = text.path.suffix in (".run", ".inc")
    return scripted and re.search(r"^(?! *[|]* *[.:] ).*(\} *tcl *\{|\}$)", text.text, re.MULTILINE) is not None


def files(checkout: Path) -> Iterator[Path]:
    for directory, names, inside in os.walk(checkout):
        names[:] = sorted(name for name in names if name != ".git")
        for name in sorted(inside):
            path = Path(directory, name)
            if path.is_file() and not path.is_symlink() and path.suffix != ".patch":
                yield path


def scripted(name: Path, lines: list[str]) -> Iterator[Text]:
    """What stands between braces in a script: whole texts, and nodes alone, which become one."""
    begin = None
    for number, line in enumerate(lines):
        above = lines[number - 1].rstrip() if number else ""
        if begin is None:
            opened = above.endswith("{")
            if opened and (line.startswith("+ ") or (_HEAD.match(line) and not line.endswith("{"))):
                begin = number
        if begin is not None and line.rstrip() == "-":
            head = ["config"] if lines[begin].startswith("+ ") else []
            yield Text(name, begin + 1, "\n".join([*head, *plain(lines[begin : number + 1])]) + "\n")
            begin = None
        elif begin is not None and line.startswith("}"):
            if lines[begin].startswith("+ "):
                yield Text(name, begin + 1, "\n".join(["config", *plain(lines[begin:number]), "-"]) + "\n")
            begin = None


def plain(lines: list[str]) -> list[str]:
    """With a word for each Tcl command or variable; a line that is nothing else is empty."""
    lines = [re.sub(r"\[[^\]]*\]|\$\{?\w+\}?", "tcl", line) for line in lines]
    return ["" if re.fullmatch(r"\s*(tcl|append_if .*|\} ?.*|\\)", line) else line for line in lines]


def xml_texts(checkout: Path) -> Iterator[Text]:
    for path in files(checkout):
        if path.suffix in (".xml", ".config", "") and path.stat().st_size < 1 << 20:
            content = path.read_bytes()
            if content.lstrip()[:1] == b"<" and b"\0" not in content and b"<!DOCTYPE" not in content:
                yield Text(path.relative_to(checkout), 1, content.decode("utf-8", "replace"))


# Genode's tool


class Tool:
    def __init__(self, checkout: Path) -> None:
        self.path = checkout / "tool" / "hid"

    def run(self, *arguments: str, text: str) -> tuple[bool, str, str]:
        """Whether it succeeded, and what it said."""
        with tempfile.NamedTemporaryFile("w", suffix=".hid", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            done = subprocess.run(
                ["tclsh", self.path, *arguments, file.name],
                capture_output=True,
                text=True,
                check=False,
                timeout=600,
                env={**os.environ, "LC_ALL": "C.UTF-8"},
            )
        return done.returncode == 0, done.stdout, done.stderr

    def tree(self, text: str, *options: str) -> Tree | None:
        """What it reads, None where it refuses."""
        done, out, _ = self.run(*options, "--output-tcl", "format", text=text)
        return tool_tree(tcl_list(out.rstrip("\n"))) if done and out.strip() else None


def tcl_list(text: str) -> list[str]:
    """The words of a Tcl list as Tcl prints one."""
    words, position, length = [], 0, len(text)
    while position < length:
        character = text[position]
        if character in " \n\t":
            position += 1
        elif character == "{":
            depth, start = 0, position + 1
            while position < length:
                if text[position] == "\\":
                    position += 1
                elif text[position] == "{":
                    depth += 1
                elif text[position] == "}":
                    depth -= 1
                    if not depth:
                        break
                position += 1
            words.append(text[start:position])
            position += 1
        else:
            word = ""
            while position < length and text[position] not in " \n\t":
                if text[position] == "\\":
                    position += 1
                    word += {"n": "\n", "t": "\t"}.get(text[position], text[position])
                else:
                    word += text[position]
                position += 1
            words.append(word)
    return words


def tool_tree(fields: list[str]) -> Tree:
    type, _, _, _, anchor, _, attributes, children, *_ = fields
    pairs = [tuple(tcl_list(attribute)) for attribute in tcl_list(attributes)]
    quotes, nodes = [], []
    for child in map(tcl_list, tcl_list(children)):
        if child[0] == ":":
            quotes.append(child[8].rstrip(" "))
        else:
            nodes.append(tool_tree(child))
    return (type, anchor.strip() != "x", [(pair[2], pair[4].strip(" ")) for pair in pairs], quotes, nodes)


def our_tree(node: hid.Node) -> Tree:
    quotes = [item.text.rstrip(" ") for item in node.content if isinstance(item, hid.Quote)]
    pairs = [(attribute.tag, attribute.value) for attribute in node.attributes]
    return (node.type, node.enabled, pairs, quotes, [our_tree(item) for item in node.nodes(disabled=True)])


def effective(tree: Tree) -> Tree:
    """What counts at run time."""
    nodes = [effective(node) for node in tree[4] if node[1]]
    return (tree[0], True, sorted(tree[2]), [] if nodes else tree[3], nodes)


def named_first(tree: Tree) -> Tree:
    """Without the order of attributes, and of quoted lines what XML keeps."""
    quotes = " ".join(" ".join(tree[3]).split())
    return (tree[0], tree[1], sorted(tree[2]), quotes, [named_first(node) for node in tree[4]])


# The comparisons. Each gives (what was compared, whether it was the same, what was different)

Result = tuple[str, bool, str]


def compare(tool: Tool, text: Text) -> Iterator[Result]:
    accepted, _, said = tool.run("check", text=text.text)
    theirs = tool.tree(text.text)
    try:
        ours = hid.read(text.text)
    except hid.HidError as error:
        yield "accepted by both, or by none", not accepted, f"{text}: only capsa refuses: {error}"
        return
    yield "accepted by both, or by none", accepted, f"{text}: only Genode refuses: {said.split('Error:')[-1].strip()}"
    if not accepted or theirs is None:
        return
    tree = our_tree(ours)
    yield "read as the same tree", tree == theirs, f"{text}: {first_difference(tree, theirs)}"
    written = hid.write(ours)
    again = hid.read(written)
    yield "written by capsa, read by capsa", again == ours and hid.write(again) == written, f"{text}"
    accepted, _, said = tool.run("check", text=written)
    read = tool.tree(written)
    same = accepted and read == tree
    yield "written by capsa, read by Genode's tool", same, f"{text}: {said} {first_difference(tree, read)}"
    done, formatted, said = tool.run("format", text=text.text)
    try:
        read = our_tree(hid.read(formatted))
        yield (
            "written by Genode's tool, read by capsa",
            done and named_first(read) == named_first(theirs),  # it moves names in front of other attributes
            f"{text}: {first_difference(read, theirs)}",
        )
    except hid.HidError as error:
        yield "written by Genode's tool, read by capsa", False, f"{text}: {error}"
    run_time = effective(our_tree(hid.read_relaxed(written)))
    yield (
        "written by capsa, read by the relaxed rules",
        run_time == effective(tree),
        (f"{text}: {first_difference(run_time, effective(tree))}"),
    )
    run_time = effective(our_tree(hid.read_relaxed(text.text)))
    yield (
        "the layout means the same by both rules",
        run_time == effective(tree),
        (f"{text}: {first_difference(effective(tree), run_time)}"),
    )
    yield from as_xml(tool, text, ours, tree)
    yield from asked(tool, text, ours, tree)


def as_xml(tool: Tool, text: Text, ours: hid.Node, tree: Tree) -> Iterator[Result]:
    try:
        xml = write_xml(ours)
        yield "to XML and back", named_first(our_tree(read_xml(xml))) == named_first(tree), f"{text}"
    except hid.HidError as error:
        yield "to XML and back", False, f"{text}: {error}"
        return
    read = tool.tree(re.sub(r"<!--.*?-->", "", xml, flags=re.DOTALL), "--import-xml")
    enabled = named_first(without_disabled(tree))
    same = read is not None and named_first(read) == enabled
    yield (
        "XML of capsa, read by Genode's tool",
        same,
        f"{text}: {read and first_difference(named_first(read), enabled)}",
    )
    done, out, _ = tool.run("--output-xml", "format", text=text.text)
    try:
        read = named_first(our_tree(read_xml(re.sub(r"<!--.*?-->", "", out, flags=re.DOTALL))))
        yield (
            "XML of Genode's tool, read by capsa",
            done and read == enabled,
            f"{text}: {first_difference(read, enabled)}",
        )
    except hid.HidError as error:
        yield "XML of Genode's tool, read by capsa", False, f"{text}: {error}"


def without_disabled(tree: Tree) -> Tree:
    return (*tree[:4], [without_disabled(node) for node in tree[4] if node[1]])


def asked(tool: Tool, text: Text, ours: hid.Node, tree: Tree) -> Iterator[Result]:
    path, tag = hid.parse_question(QUERY)
    values = [node.get(tag or "") for node in path.find(ours)]
    if not values:
        return
    _, out, _ = tool.run("get", QUERY, text=text.text)
    yield "get: the same answer", out.split("\n")[:-1] == values, f"{text}: {out!r} {values}"
    changed = our_tree(hid.read(hid.set_values(text.text, *hid.parse_assignment(ASSIGNMENT))))
    _, out, _ = tool.run("set", ASSIGNMENT, text=text.text)
    read = tool.tree(out)
    yield "set: the same tree", changed == read, f"{text}: {first_difference(changed, read)}"
    _, out, _ = tool.run("disable", "config | + start", text=text.text)
    changed = our_tree(hid.read(hid.set_enabled(text.text, hid.Path.parse("config | + start"), False)))
    read = tool.tree(out)
    yield "disable: the same tree", changed == read, f"{text}: {first_difference(changed, read)}"
    _, out, _ = tool.run("subnodes", "config | + start | + route", text=text.text)
    nodes = hid.Path.parse("config | + start | + route").find(ours)
    parts = [part for part in out.split("\n-\n") if part.strip()]
    read_nodes = [tool.tree(part + "\n-\n") for part in parts]
    yield (
        "subnodes: the same nodes",
        [(*our_tree(node)[:1], True, *our_tree(node)[2:]) for node in nodes]
        == [node and (node[0], True, *node[2:]) for node in read_nodes],
        f"{text}",
    )


def described(text: Text) -> Iterator[tuple[str, Text]]:
    """What of a text a schema describes, with the schema's name: itself, the configurations of children."""
    try:
        root = hid.read(text.text)
    except hid.HidError:
        return
    if root.type == "runtime":
        yield "pkg_runtime.hsd", text
    pending = [root] if root.type == "config" and root.nodes("start") else []
    if pending:
        yield "init.hsd", text
    while pending:
        for start in pending.pop().nodes("start"):
            binary, config = start.node("binary"), start.node("config")
            name = binary.name if binary else start.name
            if config is None:
                continue
            if name == "init":
                pending.append(config)
            yield f"{name}.hsd", Text(text.path, config.line, hid.write(config))


def validate(tool: Tool, schema: Text, text: Text) -> Iterator[Result]:
    """Both find something wrong with a text, or neither does."""
    try:
        document = hid.read(text.text)
    except hid.HidError:
        return
    problems = hid.Schema.load(schema.text).check(document)
    with tempfile.NamedTemporaryFile("w", suffix=".hsd", encoding="utf-8") as file:
        file.write(schema.text)
        file.flush()
        right, _, said = tool.run("check", "--schema", file.name, text=text.text)
    label = "checked: right by both" if right and not problems else "checked: wrong by both, or by one alone"
    yield label, right == (not problems), f"{text} by {schema.path.name}: {problems[:2]} Genode: {said.strip()[:300]}"


def first_difference(one: Any, other: Any) -> str:
    """Where two trees differ."""
    if isinstance(one, tuple | list) and isinstance(other, tuple | list) and len(one) == len(other):
        for a, b in zip(one, other, strict=True):
            if a != b:
                return first_difference(a, b)
    if isinstance(one, str) and isinstance(other, str):
        same = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), 0)
        at = max(same - 20, 0)
        one, other = one[at:], other[at:]
    return f"{str(one)[:200]} / {str(other)[:200]}"


def compare_drawn(tool: Tool, text: Text) -> Iterator[Result]:
    """What holds for any tree; what Genode's tool writes and converts holds for simpler ones."""
    tree = our_tree(hid.read(text.text))
    accepted, _, said = tool.run("check", text=text.text)
    read = tool.tree(text.text)
    yield (
        "random trees: read by Genode's tool",
        accepted and tree == read,
        f"{text}: {said} {first_difference(tree, read)}",
    )
    run_time = effective(our_tree(hid.read_relaxed(text.text)))
    yield "random trees: read by the relaxed rules", run_time == effective(tree), f"{text}"


def at_run_time(program: str, found: list[Text], what: str) -> Iterator[Result]:
    asked = [text.text for text in found]
    done = subprocess.run(
        [program], input="".join(text + "\0" for text in asked).encode(), capture_output=True, check=True
    )
    for text, answer in zip(found, done.stdout.decode("utf-8", "replace").split("\0"), strict=False):
        try:
            lines = list(dumped(hid.read_relaxed(text.text), 0))
        except hid.HidError:
            lines = ["!"]
        yield what, "\n".join(lines) + "\n" == answer, f"{text}"


def dumped(node: hid.Node, depth: int) -> Iterator[str]:
    def escaped(text: str) -> str:
        return text.replace("\\", "\\\\").replace("\t", "\\t")

    yield " " * depth + f"n {node.type}"
    for attribute in node.attributes:
        yield " " * (depth + 1) + f"a {attribute.tag}={escaped(attribute.value)}"
    if not node.nodes():
        for inner in node.walk():  # Genode counts quoted lines of disabled sub nodes here, too
            for item in inner.content:
                if isinstance(item, hid.Quote):
                    yield " " * (depth + 1) + f"q {escaped(item.text)}"
    for inner in node.nodes():
        yield from dumped(inner, depth + 1)


def compare_xml(tool: Tool, text: Text) -> Iterator[Result]:
    theirs = tool.tree(text.text, "--import-xml")
    try:
        ours = read_xml(text.text)
    except hid.HidError as error:
        yield "XML that Genode ships: read by both, or by none", theirs is None, f"{text}: {error}"
        return
    yield "XML that Genode ships: read by both, or by none", theirs is not None, f"{text}: Genode refuses"
    if theirs is not None:
        one, other = named_first(our_tree(ours)), named_first(theirs)
        yield "XML that Genode ships: the same tree", one == other, f"{text}: {first_difference(one, other)}"


def drawn(count: int) -> list[Text]:
    """Texts of random trees."""
    made: list[Text] = []

    @settings(max_examples=count, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(trees())
    def draw(tree: hid.Node) -> None:
        assume(tree.type != "x")  # which Genode's tool takes for a disabled node
        with contextlib.suppress(hid.NotRepresentable):
            made.append(Text(Path("drawn"), len(made), hid.write(tree)))

    draw()
    return made


def main() -> int:
    """Compare, print the counts and, with ``--verbose``, every difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--parser", help="a program that prints what Genode's run-time parser reads")
    parser.add_argument("--only", default="", help="only texts whose path holds this")
    parser.add_argument("--drawn", type=int, default=0, help="also compare what is read in so many random trees")
    parser.add_argument("--verbose", action="store_true", help="print every difference")
    asked_for = parser.parse_args()
    tool = Tool(asked_for.checkout)
    found = [text for text in texts(asked_for.checkout) if asked_for.only in str(text)]
    whole = [text for text in found if not cut_up(text)]
    kinds = collections.Counter(text.path.suffix or "no suffix" for text in whole)
    print(f"{len(whole)} HID texts:", ", ".join(f"{count} {kind}" for kind, count in kinds.most_common()))
    print(f"{len(found) - len(whole)} more are cut up by Tcl and left out")
    found = whole
    good: collections.Counter[str] = collections.Counter()
    all_of: collections.Counter[str] = collections.Counter()
    differences: dict[str, list[str]] = collections.defaultdict(list)

    def note(results: Iterable[Result]) -> None:
        for what, same, detail in results:
            all_of[what] += 1
            good[what] += same
            if not same:
                differences[what].append(detail)

    schemas = {text.path.name: text for text in found if text.path.suffix == ".hsd"}
    random = drawn(asked_for.drawn) if asked_for.drawn else []
    tasks: list[tuple[Any, Any]] = [(compare, (tool, text)) for text in found]
    tasks += [(compare_drawn, (tool, text)) for text in random]
    tasks += [(compare_xml, (tool, text)) for text in xml_texts(asked_for.checkout) if asked_for.only in str(text)]
    for text in found:
        tasks += [(validate, (tool, schemas[name], part)) for name, part in described(text) if name in schemas]
    with multiprocessing.pool.ThreadPool(os.cpu_count()) as pool:
        for results in pool.imap(lambda task: list(task[0](*task[1])), tasks):
            note(results)
    if asked_for.parser:
        note(at_run_time(asked_for.parser, found, "relaxed rules: as Genode's run-time parser"))
        note(at_run_time(asked_for.parser, random, "random trees: as Genode's run-time parser"))
    for what in all_of:
        print(f"{good[what]:6} of {all_of[what]:4}  {what}")
        if asked_for.verbose:
            for detail in differences[what]:
                print("          ", detail.replace("\n", " ")[:600])
    return 0


if __name__ == "__main__":
    sys.exit(main())
