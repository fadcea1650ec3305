"""The benchmark, in small: it measures the engine of this checkout, and removes all it made, also when interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: runs containers")
CHECKOUT = Path(__file__).parent.parent.parent
BENCH = [sys.executable, "-m", "bench", "--no-install", "--quick", "--only", "capsa", "--only", "kernel"]


def directories() -> set[Path]:
    return set(Path("/var/tmp").glob("bench*"))


def test_a_quick_run_prints_our_figures_and_leaves_nothing() -> None:
    before = directories()
    done = subprocess.run(
        [*BENCH, "commands", "runtimes", "api", "--samples", "2"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for line in (
        "run --rm busybox true, bridge",
        "create, start, wait, remove, no network",
        "exec of true",
        "run of busybox true",
    ):
        assert line in done.stdout
    assert "failed" not in done.stdout
    assert directories() == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_removes_what_it_started(number: signal.Signals) -> None:
    before = directories()
    process = subprocess.Popen(
        [*BENCH, "api", "--samples", "100000"],
        cwd=CHECKOUT,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "create, start" in line and "capsa" in line:
            break
    time.sleep(0.5)
    process.send_signal(number)
    try:
        code = process.wait(60)
    finally:
        process.terminate()
        process.stderr.close()
    assert code == 128 + number
    assert directories() == before
