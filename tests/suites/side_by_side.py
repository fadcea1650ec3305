"""Runs test programs that speak TAP for several OCI runtimes, one after the other, and compares what they say.

Each runtime is called through a script of its own, which adds ``--root`` (so that what a test program leaves is found,
and ended, without a look at anybody else's containers) and changes the words that only some runtimes know. Files go
into a directory that is removed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from suites import tap

OURS = Path(sys.executable).parent / "capsa-runtime"
CGROUPS = Path("/sys/fs/cgroup")
#: A mount namespace for each program, since a container may be made in its: what is mounted goes away with it.
APART = [
    *("unshare", "--mount", "--propagation", "slave", "sh", "-ec"),
    *('mount --make-rshared / && exec "$@"', "sh"),
]


class Program(NamedTuple):
    """A test program: its name in the table, and its command line."""

    name: str
    command: Sequence[str | Path]


class Outcome(NamedTuple):
    """What a program said of a runtime; ``ending`` is how it ended if not well: an exit code, or no end at all."""

    lines: list[tap.Line]
    ending: str
    text: str

    def count(self, result: str) -> int:
        """How many tests had this result."""
        return sum(line.result == result for line in self.lines)

    def passed(self) -> Counter[str]:
        """What was ok or left out, by what it is about."""
        return Counter(line.about for line in self.lines if line.result in ("ok", "skip"))

    def failures(self) -> Counter[str]:
        """What was not ok, by what it is about; a program that did not come to its end counts as a test."""
        failed = Counter(line.about for line in self.lines if line.result == "not ok")
        if self.ending:
            failed[f"({self.ending})"] += 1
        return failed


class Stray(NamedTuple):
    """A process that nobody will end, and its cgroups as in proc(5)."""

    pid: int
    cgroups: str

    def end(self) -> None:
        """Kill it and remove its cgroups, save for those that we are in, too."""
        own = Path("/proc/self/cgroup").read_text().splitlines()
        places = []
        for line in self.cgroups.splitlines():
            _, controllers, path = line.split(":", 2)
            name = controllers.removeprefix("name=") or ("unified" if (CGROUPS / "unified").exists() else "")
            if line not in own:
                places.append(CGROUPS / name / path.lstrip("/"))
        with contextlib.suppress(ProcessLookupError):
            fd = os.pidfd_open(self.pid)
            signal.pidfd_send_signal(fd, signal.SIGKILL)
            for place in places:
                with contextlib.suppress(OSError):  # a frozen process does not end
                    (place / "freezer.state").write_text("THAWED")
            select.select([fd], [], [], 10)
            os.close(fd)
        for place in places:
            with contextlib.suppress(OSError):
                place.rmdir()


class Runtime:
    """An OCI runtime below ``base``, which has its state, its script, and the files of whoever tests it."""

    def __init__(self, command: Path, base: Path, script: str = "") -> None:
        """``script``: shell lines that may change the words ``"$@"`` before the runtime gets them."""
        self.name = command.name
        self.state = base / "state"
        self.files = base / "files"
        self.files.mkdir(parents=True)
        self._command = command
        self.script = base / self.name
        call = f'exec {shlex.quote(str(command))} --root {shlex.quote(str(self.state))} "$@"\n'
        self.script.write_text(f"#!/bin/sh\n{script}{call}")
        self.script.chmod(0o755)

    def clean(self) -> None:
        """End the containers that a program has left, and remove its files."""
        for directory in (self.state, *self.files.glob("*/root")):
            for left in directory.glob("*/"):
                words = [self._command, "--root", directory, "delete", "--force", left.name]
                subprocess.run(words, capture_output=True, timeout=60)
        for stray in self._strays():
            stray.end()
        if str(self.files) in Path("/proc/self/mountinfo").read_text():
            sys.exit(f"something is mounted below {self.files} that should not be: unmount it")
        for left in self.files.iterdir():
            shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink()

    def _strays(self) -> list[Stray]:
        """Processes of containers made here whose state is gone: in mount namespaces that show files of ours."""
        own = os.readlink("/proc/self/ns/mnt")
        found = []
        for each in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if os.readlink(each / "ns/mnt") != own and str(self.files) in (each / "mountinfo").read_text():
                    found.append(Stray(int(each.name), (each / "cgroup").read_text()))
        return found

    def run(self, program: Program, folder: Path, environment: Mapping[str, str], seconds: float) -> Outcome:
        """Run it in ``folder``, with at most so many seconds of time, and clean up."""
        with open(self.files / "said", "w+b") as said, open(self.files / "errors", "w+b") as errors:
            process = subprocess.Popen(
                [*APART, *program.command],
                cwd=folder,
                env={**os.environ, "TMPDIR": str(self.files), **environment},
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=errors,
                start_new_session=True,
            )
            try:
                code = process.wait(seconds)
                ending = f"exit code {code}" if code else ""
            except subprocess.TimeoutExpired:
                ending = f"no end within {seconds:.0f} s"
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            said.seek(0)
            errors.seek(0)
            text = said.read().decode(errors="replace")
            text += "".join(f"# {line}\n" for line in errors.read().decode(errors="replace").splitlines())
        self.clean()
        lines = tap.read(text)
        if not ending and (wanted := tap.planned(text)) is not None and wanted > len(lines):
            ending = f"{len(lines)} of {wanted} tests were run"
        return Outcome(lines, ending, text)


def options(description: str) -> argparse.ArgumentParser:
    """What all suites of this kind are told."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("programs", nargs="*", help="some of the programs (default: all)")
    parser.add_argument(
        "--runtime", action="append", help="a runtime's program (may be repeated; default: capsa-runtime)"
    )
    parser.add_argument("--json", type=Path, help="write all results to this file")
    parser.add_argument("--seconds", type=float, default=120, help="time that a program has (default 120)")
    parser.add_argument("--verbose", action="store_true", help="print what programs say that fail")
    return parser


def compare(
    chosen: argparse.Namespace,
    programs: Sequence[Program],
    environment: Callable[[Runtime], Mapping[str, str]],
    *,
    inside: bool = False,
    cgroups: Sequence[str] = (),
    script: Mapping[str, str] | None = None,
) -> int:
    """Run ``programs`` for each runtime, print the table; 1 where the first one fails in what another one passes.

    ``inside``: they run in a directory of ours, not in the checkout. ``cgroups``: those that the programs name, removed
    if they are left. ``script``: see `Runtime`, by the runtime's name, ``""`` for those that are not in it.
    """
    wanted = [each for each in programs if not chosen.programs or each.name in chosen.programs]
    commands = [
        Path(shutil.which(name) or sys.exit(f"no program {name}")).absolute() for name in chosen.runtime or [str(OURS)]
    ]
    scripts = script or {}
    results: dict[str, dict[str, Outcome]] = {}
    with tempfile.TemporaryDirectory(prefix="capsa-suite-", ignore_cleanup_errors=True) as base, _without(cgroups):
        Path(base).chmod(0o711)  # the root of a user namespace has to find its way
        for number, command in enumerate(commands):
            runtime = Runtime(command, Path(base) / str(number), scripts.get(command.name, scripts.get("", "")))
            found = results.setdefault(runtime.name, {})
            for each in wanted:
                folder = runtime.files if inside else chosen.checkout
                found[each.name] = runtime.run(each, folder, environment(runtime), chosen.seconds)
                print(f"{runtime.name} {each.name}: {_cell(found[each.name])}", file=sys.stderr)
                if chosen.verbose and found[each.name].failures():
                    print(found[each.name].text, file=sys.stderr)
    if chosen.json:
        chosen.json.write_text(json.dumps(_plain(results), indent=1) + "\n")
    print(table(results))
    first, *others = results
    behind = [
        f"ok with {other}, and not with {first}: {name}: {about}"
        for other in others
        for name in results[other]
        for about in results[other][name].passed() - results[first][name].passed()
    ]
    print(*behind, sep="\n", end="\n" if behind else "")
    return int(bool(behind))


@contextlib.contextmanager
def _without(names: Sequence[str]) -> Iterator[None]:
    """The cgroups of these names, in all hierarchies, are gone afterwards unless they were there before."""
    roots = [CGROUPS, *(each for each in CGROUPS.iterdir() if each.is_dir() and not each.is_symlink())]
    places = [root / name for root in roots for name in names]
    places = [place for place in places if not place.exists()]
    try:
        yield
    finally:
        for place in places:
            for below in sorted(place.glob("**/"), reverse=True):
                with contextlib.suppress(OSError):
                    below.rmdir()


def _cell(outcome: Outcome) -> str:
    words = [
        f"{outcome.count(result)} {result}" for result in ("ok", "not ok", "skip", "todo") if outcome.count(result)
    ]
    return ", ".join([*words, *([outcome.ending] if outcome.ending else [])]) or "nothing"


def table(results: Mapping[str, Mapping[str, Outcome]]) -> str:
    """Program by program what each runtime does, the sums, and what was not ok."""
    names = list(next(iter(results.values())))
    rows = [["", *results]]
    rows += [[name, *(_cell(found[name]) for found in results.values())] for name in names]
    sums = [Outcome([line for one in found.values() for line in one.lines], "", "") for found in results.values()]
    rows.append(["all", *map(_cell, sums)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    for runtime, found in results.items():
        for name, outcome in found.items():
            for about, times in outcome.failures().items():
                text.append(f"{runtime}: {name}: {about}" + (f" (x {times})" if times > 1 else ""))
    return "\n".join(text)


def _plain(results: Mapping[str, Mapping[str, Outcome]]) -> dict[str, object]:
    return {
        runtime: {
            name: {"ending": one.ending, "tests": [line._asdict() for line in one.lines], "text": one.text}
            for name, one in found.items()
        }
        for runtime, found in results.items()
    }
