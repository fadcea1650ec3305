"""Listings: tables as docker aligns them, ``--format`` with its templates, ``--format json``."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_LEAST = 10
_GAP = 3


def align(rows: Sequence[Sequence[str]], *, least: int = _LEAST) -> str:
    """Columns of at least ``least`` characters, three spaces apart, the last one ragged."""
    widths: list[int] = []
    for row in rows:
        for number, cell in enumerate(row[:-1]):
            if number == len(widths):
                widths.append(least)
            widths[number] = max(widths[number], len(cell) + _GAP)
    lines = []
    for row in rows:
        cells = [cell.ljust(widths[number]) for number, cell in enumerate(row[:-1])]
        lines.append("".join([*cells, row[-1] if row else ""]))
    return "\n".join(lines)


def listing(
    items: Iterable[Mapping[str, object]],
    *,
    headers: Mapping[str, str],
    default: str,
    format: str | None,
    quiet: bool = False,
    key: str = "ID",
) -> None:
    """Print what `render` makes of ``items``; ``key`` is the field that ``quiet`` prints alone."""
    if quiet:
        if format and format != "table":
            import sys

            print("WARNING: Ignoring custom format, because both --format and --quiet are set.", file=sys.stderr)
        for item in items:
            print(item[key])
        return
    for line in render(items, headers=headers, default=default, format=format):
        print(line)


def render(
    items: Iterable[Mapping[str, object]],
    *,
    headers: Mapping[str, str],
    default: str,
    format: str | None,
) -> list[str]:
    """``items`` as pieces of text, mappings by the field names that templates use (strings all).

    ``headers`` gives each field's heading, ``default`` the fields of the plain table (separated by spaces). An item's
    ``_labels`` are what a template's ``.Label "name"`` looks in. Raises `InvalidArgument` for a bad format.
    """
    if not format or format == "table":
        fields = default.split()
        rows = [[str(item[field]) for field in fields] for item in items]
        return [align([[headers[field] for field in fields], *rows])]
    from capsa.cli.template import Template
    from capsa.cli.template_functions import dumps

    if format == "json":
        return [_escaped(dumps(_fields(item, headers))) for item in items]
    if format.startswith("table"):
        template = Template(unescape(format[len("table") :].strip()))
        head = {**headers, "Label": _heading}
        lines = [template.render(head), *[template.render(_fields(item, headers)) for item in items]]
        return [align([line.split("\t") for line in lines])]
    template = Template(unescape(format))
    return [template.render(_fields(item, headers)) for item in items]


def _escaped(text: str) -> str:
    """JSON as Go writes it, safe inside HTML."""
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _fields(item: Mapping[str, object], headers: Mapping[str, str]) -> dict[str, object]:
    """What a template sees of an item."""
    fields = {name: item[name] for name in sorted(headers) if name in item}
    if "_labels" in item:
        labels = item["_labels"]
        fields["Label"] = lambda name: labels.get(name, "")  # type: ignore[attr-defined]
    return fields


def formatted(data: object, format: str | None) -> bool:
    """Print one thing as ``format`` (``json``, or a template) says; false where that is empty."""
    if not format:
        return False
    from capsa.cli.template import Template
    from capsa.cli.template_functions import dumps

    print(dumps(data) if format == "json" else Template(unescape(format)).render(data))
    return True


def _heading(name: str) -> str:
    """A label's column is headed by the last part of its name."""
    return name.rpartition(".")[2].replace("-", " ").replace("_", " ")


def unescape(text: str) -> str:
    r"""``\t`` and ``\n`` typed in a shell stand for the characters."""
    return text.replace("\\t", "\t").replace("\\n", "\n")


def shorten(text: str, width: int) -> str:
    """Cut to ``width`` characters, the last an ellipsis."""
    return text if len(text) <= width else text[: width - 1] + "…"
