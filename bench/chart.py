"""The chart for the README: a panel for each of a few rows, bars to its own scale; SVG that follows light and dark."""

from __future__ import annotations

from xml.sax.saxutils import escape

from bench.report import figure
from bench.result import SUBJECTS, Results, Row

PANELS = (
    ("api-none", "A container through the API"),
    ("run-none", "run --rm on the command line"),
    ("exec-api", "exec through the API"),
    ("idle-pss", "Engine memory per idle container"),
    ("load", "Loading an Apache image"),
    ("apache-many-code", "Apache's code pages"),
)
COLUMNS, WIDTH, GAP = 2, 380, 40
LABEL, VALUE, BAR, STEP, HEAD = 66, 74, 18, 26, 52

_STYLE = """
  text { font: 13px system-ui, -apple-system, 'Segoe UI', sans-serif; fill: #24292f }
  .title { font-weight: 600; font-size: 14px }
  .note { fill: #57606a; font-size: 12px }
  .own { font-weight: 600 }
  .bar { fill: #8c959f }
  .bar.own { fill: #0969da }
  .axis { stroke: #d0d7de; stroke-width: 1 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 }
    .note { fill: #8d96a0 }
    .bar { fill: #6e7681 }
    .bar.own { fill: #4493f8 }
    .axis { stroke: #3d444d }
  }
"""


def chart(results: Results) -> str:
    """The SVG document; panels without a value of ours are left out."""
    panels = [(results.rows[key], title) for key, title in PANELS if key in results.rows]
    panels = [(row, title) for row, title in panels if "capsa" in row.values]
    heights = [HEAD + STEP * len(_bars(row)) for row, _ in panels]
    rows = [heights[start : start + COLUMNS] for start in range(0, len(heights), COLUMNS)]
    width = COLUMNS * WIDTH + (COLUMNS - 1) * GAP
    height = sum(max(row) for row in rows) + GAP // 2 * max(len(rows) - 1, 0) if rows else 0
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
        f' width="{width}" height="{height}" role="img">',
        "<title>capsa beside docker, podman, runc and crun: less is better</title>",
        f"<style>{_STYLE}</style>",
    ]
    top = 0
    for number, (row, title) in enumerate(panels):
        column = number % COLUMNS
        if column == 0 and number:
            top += max(rows[number // COLUMNS - 1]) + GAP // 2
        parts += _panel(row, title, column * (WIDTH + GAP), top)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _bars(row: Row) -> list[tuple[str, float]]:
    return [
        (subject, row.values[subject].median) for subject in SUBJECTS if subject in row.values and subject != "kernel"
    ]


def _note(row: Row) -> str:
    """What exactly: the row's title, or where that says less than its part, this."""
    return row.part if row.key.startswith("apache") else row.title


def _panel(row: Row, title: str, left: float, top: float) -> list[str]:
    bars = _bars(row)
    scale = (WIDTH - LABEL - VALUE) / max([value for _, value in bars if value > 0], default=1)
    parts = [
        f'<text class="title" x="{left}" y="{top + 16}">{escape(title)}</text>',
        f'<text class="note" x="{left}" y="{top + 34}">{escape(_note(row))}</text>',
    ]
    first = top + HEAD - 6
    for number, (subject, value) in enumerate(bars):
        y = first + number * STEP
        own = " own" if subject == "capsa" else ""
        length = max(value * scale, 1.5)
        end = round(left + LABEL + length + 7, 1)
        middle = y + BAR / 2 + 4.5
        parts += [
            f'<text class="name{own}" x="{left + LABEL - 8}" y="{middle}" text-anchor="end">{escape(subject)}</text>',
            f'<rect class="bar{own}" x="{left + LABEL}" y="{y}" width="{length:.1f}" height="{BAR}" rx="2"/>',
            f'<text class="value{own}" x="{end}" y="{middle}">{figure(value)} {row.unit}</text>',
        ]
    bottom = first + (len(bars) - 1) * STEP + BAR
    axis = left + LABEL - 0.5
    parts.append(f'<line class="axis" x1="{axis}" y1="{first - 4}" x2="{axis}" y2="{bottom + 4}"/>')
    return parts
