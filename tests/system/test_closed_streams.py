"""An engine whose caller has closed its standard streams."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import pytest
from fixtures import images
from fixtures.engine import CAPSA, EngineUnderTest

BUSYBOX = "/bin/busybox"
pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(not os.path.exists(BUSYBOX), reason="needs Debian's busybox-static"),
]


def test_nothing_takes_the_place_of_an_engines_closed_streams() -> None:
    engine = EngineUnderTest(Path(tempfile.mkdtemp(prefix="capsa-test-", dir="/tmp")))
    engine.prefix = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh"]
    try:
        engine.up()
        assert {os.readlink(f"/proc/{engine.pid}/fd/{number}") for number in range(3)} == {"/dev/null"}
        engine.load(images.busybox_archive(BUSYBOX))
        engine.capsa("run", "--name", "box", "busybox", "true")
        assert "root:" in engine.capsa("cp", "box:/etc/passwd", "-").stdout
    finally:
        engine.close()


def test_a_client_with_closed_streams_says_how_it_ended() -> None:
    command = [*CAPSA, "--version"]
    assert subprocess.run(["sh", "-c", '"$@" <&- >&- 2>&-', "sh", *command]).returncode == 0
