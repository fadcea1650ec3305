"""Control groups v2, for real, in a guest that has nothing else (tests/guest/run.py); each test there is one here."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RUN = ROOT / "tests/guest/run.py"
FILES = ("tests/guest/cases_v2.py", "tests/system/test_cgroup.py")
LONGEST = 420  # seconds; an emulated processor on a busy machine is slow


def names() -> list[str]:
    """The tests of those files, as FILE::FUNCTION, without importing them."""
    return [
        f"{file}::{node.name}"
        for file in FILES
        for node in ast.parse((ROOT / file).read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]


@pytest.fixture(scope="module")
def results() -> dict[str, tuple[list[str], str]]:
    """By test: the outcomes (several of a parametrised one), and what pytest printed in the guest."""
    check = subprocess.run([sys.executable, RUN, "--check"], capture_output=True, text=True, timeout=600)
    if check.returncode:
        pytest.skip(check.stderr.strip() or "no guest can be had here")
    options = "-vv -rs --tb=short --color=no -p no:cacheprovider --no-leak-check"
    command = f"cd {ROOT} && PYTHONPATH={ROOT}/src {sys.executable} -m pytest {options} {' '.join(FILES)}"
    done = subprocess.run(
        [sys.executable, RUN, "--timeout", str(LONGEST), "--", command],
        capture_output=True,
        text=True,
        timeout=LONGEST + 60,
    )
    found: dict[str, tuple[list[str], str]] = {}
    text = done.stdout + done.stderr
    line = re.compile(r"^(tests/\S+?::\w+)(?:\[.*\])? (PASSED|FAILED|ERROR|SKIPPED)", re.MULTILINE)
    for test, outcome in line.findall(text):
        found.setdefault(test, ([], text))[0].append(outcome)
    assert found, f"no test ran in the guest:\n{text[-5000:]}"
    return found


@pytest.mark.parametrize("test", names())
def test_on_cgroup_v2(test: str, results: dict[str, tuple[list[str], str]]) -> None:
    outcomes, text = results.get(test, (["did not run"], next(iter(results.values()))[1]))
    if set(outcomes) <= {"PASSED", "SKIPPED"} and "SKIPPED" in outcomes:
        reasons = [line for line in text.splitlines() if line.startswith("SKIPPED")]
        if "PASSED" not in outcomes:
            pytest.skip("in the guest: " + "; ".join(reasons))
        return
    assert set(outcomes) == {"PASSED"}, f"{test}: {', '.join(outcomes)}\n{text[-20000:]}"
