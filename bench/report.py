"""The table on the terminal, the same in Markdown, and the JSON file."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

from bench.result import SUBJECTS, Results, Row, Value

_VERSIONS = {
    "docker": ["dockerd", "--version"],
    "containerd": ["containerd", "--version"],
    "podman": ["podman", "--version"],
    "runc": ["runc", "--version"],
    "crun": ["crun", "--version"],
}


def machine() -> dict[str, Any]:
    """What this ran on."""
    release = platform.freedesktop_os_release().get("PRETTY_NAME", "")
    memory = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    unified = Path("/sys/fs/cgroup/cgroup.controllers").exists()
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "system": release,
        "kernel": platform.release().partition("-")[0],
        "architecture": platform.machine(),
        "processors": os.cpu_count(),
        "processor": models[0].partition(":")[2].strip() if models else "",
        "memory_mb": int(memory.split()[1]) // 1024,
        "cgroup": "v2" if unified else "v1",
        "python": platform.python_version(),
    }


def versions() -> dict[str, str]:
    """Of the programs compared."""
    found = {}
    for name, command in _VERSIONS.items():
        try:
            done = subprocess.run(command, capture_output=True, text=True)
        except FileNotFoundError:
            continue
        found[name] = done.stdout.splitlines()[0].strip() if done.stdout else ""
    return found


def figure(value: float) -> str:
    """Three significant digits, without an exponent."""
    if abs(value) >= 100:
        return f"{value:.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}"


def _cell(row: Row, subject: str, spread: bool) -> str:
    value = row.values.get(subject)
    if value is None:
        return "failed" if subject in row.failures else ""
    text = figure(value.median)
    if spread and value.samples > 1:
        text += f" ({figure(value.low)}–{figure(value.high)})"
    return text


def _subjects(results: Results) -> list[str]:
    present = {subject for row in results.rows.values() for subject in (*row.values, *row.failures)}
    return [subject for subject in SUBJECTS if subject in present]


def _ratio(row: Row) -> str:
    ratio = row.ratio("docker")
    return f"{ratio:.2f}" if ratio is not None else ""


def table(results: Results) -> str:
    """For the terminal: medians with quartiles, and ours by docker's."""
    subjects = _subjects(results)
    lines: list[list[str]] = []
    for row in results.rows.values():
        cells = [_cell(row, subject, True) for subject in subjects]
        lines.append([row.part, f"{row.title} [{row.unit}]", *cells, _ratio(row)])
    head = ["", "", *subjects, "capsa/docker"]
    widths = [max(len(line[column]) for line in [head, *lines]) for column in range(1, len(head))]
    text, part = [], ""
    for line in [head, *lines]:
        if line[0] != part:
            part = line[0]
            text.append(f"\n{part}")
        cells = [
            line[1].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(line[2:], widths[1:], strict=True)),
        ]
        text.append("  " + "  ".join(cells).rstrip())
    for row in results.rows.values():
        for subject, why in row.failures.items():
            text.append(f"\n{row.title}: {subject} failed: {why}")
    return "\n".join(text)


def markdown(results: Results, facts: dict[str, Any], programs: dict[str, str]) -> str:
    """For the README: medians."""
    subjects = _subjects(results)
    lines = [
        f"| | unit | {' | '.join(subjects)} | capsa/docker |",
        f"|---|---|{'--:|' * (len(subjects) + 1)}",
    ]
    part = ""
    for row in results.rows.values():
        if row.part != part:
            part = row.part
            lines.append(f"| **{part}** |{' |' * (len(subjects) + 2)}")
        cells = [_cell(row, subject, False) for subject in subjects]
        lines.append(f"| {row.title} | {row.unit} | {' | '.join(cells)} | {_ratio(row)} |")
    lines += [
        "",
        f"{facts['system']}, kernel {facts['kernel']}, cgroup {facts['cgroup']}, {facts['processors']} processors, "
        f"{facts['memory_mb']} MB, {facts['date']}. " + "; ".join(programs.values()) + ". Medians of one run.",
    ]
    return "\n".join(lines) + "\n"


def write_json(
    path: Path, results: Results, facts: dict[str, Any], programs: dict[str, str], options: dict[str, Any]
) -> None:
    """Everything, for later comparisons."""
    data = {"machine": facts, "versions": programs, "options": options, "rows": results.plain()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=1) + "\n")


def read_json(path: Path) -> Results:
    """What `write_json` wrote."""
    results = Results()
    for each in json.loads(path.read_text())["rows"]:
        values = {subject: Value(**value) for subject, value in each.pop("values").items()}
        row = Row(**each)
        row.values = values
        results.rows[row.key] = row
    return results
