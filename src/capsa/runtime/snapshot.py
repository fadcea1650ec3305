"""Makes the snapshot of `capsa-runtime` (`capsa.start.snapshot`): ``python -m capsa.runtime.snapshot VENV``."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec

from capsa.runtime import awake, description, together
from capsa.start import snapshot
from capsa.sys.ptrace import Traced

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator

# Usual ones. Each container's program prints a line, and ends.
_CALLS = (("run", "first"), ("create", "second"), ("start", "second"), ("state", "second"), ("delete", "second"))


def program(venv: Path) -> snapshot.Program:
    """Of a virtual environment, as ``.ci/launcher`` makes it."""
    top = Path(os.path.realpath(venv))
    launcher, home = top / "bin" / "capsa-runtime", top / "lib" / "capsa-runtime"
    source = os.path.realpath(str(awake.__file__))
    packages = os.path.dirname(msgspec.__path__[0])
    return snapshot.Program(
        launcher=launcher,
        snapshot=home / "snapshot",
        mode=0o600,
        command=[str(home / "bin" / "python"), "-I", "-S", source, packages],
        locale="C",
        sources=[os.path.realpath(together.path()), source, *together.sources()],
        calls=lambda: _calls(str(launcher)),
    )


def _calls(launcher: str) -> Generator[Traced]:
    with tempfile.TemporaryDirectory(prefix="capsa-runtime") as place:
        _bundle(place, launcher)
        command, name = [launcher, "--root", f"{place}/state"], f"trial{os.getpid()}"
        try:
            for verb, container in _CALLS:
                with Traced([*command, verb, f"{name}-{container}"], dict(os.environ), f"{place}/bundle") as process:
                    yield process
        finally:
            for each in os.listdir(f"{place}/state") if os.path.isdir(f"{place}/state") else ():
                subprocess.run([*command, "delete", "--force", each], check=False)


def _bundle(place: str, program: str) -> None:
    """One whose program is the launcher itself, which needs nothing, and tells what processor this is."""
    os.makedirs(f"{place}/bundle/rootfs/bin")
    shutil.copy(program, f"{place}/bundle/rootfs/bin/processor")
    spec = description.example()
    spec["process"] |= {"terminal": False, "args": ["processor"]}
    with open(f"{place}/bundle/config.json", "w") as file:
        json.dump(spec, file)


if __name__ == "__main__":
    snapshot.provide(program(Path(sys.argv[1])))
