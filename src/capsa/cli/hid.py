"""``capsa hid``: Genode's configuration files on the command line. Needs no engine."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile

from capsa.cli.context import Context
from capsa.cli.options import Command, Options, UsageError
from capsa.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from capsa.hid import Path

STANDARD = "-"
_IN_PLACE = """
  -i, --in-place           Write the result into the file itself
"""


def _content(name: str) -> bytes:
    """What is in a file, or on standard input."""
    from capsa.hid.grammar import MAX_BYTES

    if name == STANDARD:
        return sys.stdin.buffer.read(MAX_BYTES + 1)
    with open(name, "rb") as file:
        return file.read(MAX_BYTES + 1)


@contextlib.contextmanager
def _about(name: str = "") -> Iterator[None]:
    """Failures are those of the command line, and name the file."""
    from capsa.hid import HidError

    try:
        yield
    except HidError as error:
        place = f"{'standard input' if name == STANDARD else name}: " if name else ""
        raise InvalidArgument(f"{place}{error}") from None


def _deliver(text: str, name: str, *, in_place: bool) -> None:
    """Print a text, or put it into the place of the file at once."""
    if not in_place:
        sys.stdout.write(text)
        return
    if name == STANDARD:
        raise UsageError("standard input cannot be changed in place", 1)
    path = os.path.realpath(name)
    mode = os.stat(path).st_mode & 0o7777
    descriptor, temporary = tempfile.mkstemp(prefix=".hid-", dir=os.path.dirname(path))
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(text.encode())
            file.flush()
            os.fsync(descriptor)
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _format(context: Context, options: Options) -> int:
    from capsa import hid

    code = 0
    for name in options.arguments:
        with _about(name):
            content = _content(name)
            text = hid.write(hid.read(content))
        if options.switch("check"):
            if text.encode() != content:
                print(f"{name} would be formatted")
                code = 1
        else:
            _deliver(text, name, in_place=options.switch("in-place"))
    return code


def _check(context: Context, options: Options) -> int:
    from capsa.hid import Schema, read
    from capsa.hid.runtime import misread

    schema = None
    if wanted := options.text("schema"):
        with _about(wanted):
            schema = Schema.load(_content(wanted))
    wrong = False
    for name in options.arguments:
        with _about(name):
            content = _content(name)
            document = read(content)
            problems = schema.check(document) if schema else []
            if document.type == "schema":
                Schema(document)
            elif not options.switch("offline"):
                problems += misread(content, document)
        for problem in problems:
            print(f"{name}: {problem}", file=sys.stderr)
            wrong = True
    return 1 if wrong else 0


def _get(context: Context, options: Options) -> int:
    from capsa import hid

    question, name = options.arguments
    with _about():
        path, tag = hid.parse_question(question)
    with _about(name):
        found = path.find(hid.read(_content(name)))
    if tag is not None:
        found = [node for node in found if node.has(tag)]
    for node in found:
        if tag is not None:
            print(node.get(tag))
        else:
            node.enabled = True
            node.gap = False
            sys.stdout.write(hid.write(node))
    return 0 if found else 1


def _edit(change: Callable[[str], str], options: Options) -> int:
    from capsa.hid.grammar import MAX_BYTES, decode

    name = options.arguments[1]
    with _about(name):
        text = change(decode(_content(name), MAX_BYTES))
    _deliver(text, name, in_place=options.switch("in-place"))
    return 0


def _set(context: Context, options: Options) -> int:
    from capsa.hid import parse_assignment, set_values

    with _about():
        path, values = parse_assignment(options.arguments[0])
    return _edit(lambda text: set_values(text, path, values), options)


def _path(options: Options) -> Path:
    from capsa.hid import Path

    with _about():
        return Path.parse(options.arguments[0])


def _remove(context: Context, options: Options) -> int:
    from capsa.hid import remove

    path = _path(options)
    return _edit(lambda text: remove(text, path), options)


def _enable(context: Context, options: Options) -> int:
    from capsa.hid import set_enabled

    path = _path(options)
    return _edit(lambda text: set_enabled(text, path, True), options)


def _disable(context: Context, options: Options) -> int:
    from capsa.hid import set_enabled

    path = _path(options)
    return _edit(lambda text: set_enabled(text, path, False), options)


def _convert(context: Context, options: Options) -> int:
    from capsa import hid
    from capsa.hid.xml import read_xml, write_xml

    wanted, name = options.text("to"), options.arguments[0]
    if wanted not in (None, "hid", "xml"):
        raise UsageError(f'invalid argument "{wanted}" for "--to" flag: hid or xml', 1)
    with _about(name):
        content = _content(name)
        is_xml = content.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"<"
        document = read_xml(content) if is_xml else hid.read(content)
        text = write_xml(document) if (wanted or ("hid" if is_xml else "xml")) == "xml" else hid.write(document)
    sys.stdout.write(text)
    return 0


def _command(
    verb: str, arguments: str, summary: str, table: str, action: Callable[[Context, Options], int], count: int
) -> Command:
    most = None if arguments.endswith("...") else count
    return Command(f"hid {verb}", arguments, summary, table, action, least=count, most=most)


COMMANDS = {
    command.name: command
    for command in (
        _command(
            "format",
            "FILE...",
            "Print HID in its standard layout; - is standard input",
            """
      --check              Only say which files have another layout
"""
            + _IN_PLACE.lstrip("\n"),
            _format,
            1,
        ),
        _command(
            "check",
            "FILE...",
            "Check HID: its syntax, how Genode reads it at run time, and what a schema says",
            """
      --offline            Do not look at how Genode reads it at run time
      --schema string      File of a schema (.hsd)
""",
            _check,
            1,
        ),
        _command(
            "get",
            "PATH FILE",
            "Print nodes ('config | + start timer') or an attribute of them ('config | + start | : ram')",
            "",
            _get,
            2,
        ),
        _command(
            "set",
            "'PATH | : TAG: VALUE' FILE",
            "Set attributes of nodes ('config | + start timer | : ram: 2M | caps: 100')",
            _IN_PLACE,
            _set,
            2,
        ),
        _command("remove", "PATH FILE", "Remove nodes", _IN_PLACE, _remove, 2),
        _command("enable", "PATH FILE", "Enable nodes that are disabled (x becomes +)", _IN_PLACE, _enable, 2),
        _command("disable", "PATH FILE", "Disable nodes (+ becomes x)", _IN_PLACE, _disable, 2),
        _command(
            "convert",
            "FILE",
            "Convert HID to XML, or XML to HID",
            """
      --to string          hid or xml (default: what the file is not)
""",
            _convert,
            1,
        ),
    )
}
