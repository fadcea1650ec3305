"""What calls of `capsa-runtime` use of a snapshot: they are made, and the kernel is asked at the end of each."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile

from capsa.errors import CapsaError
from capsa.runtime import description
from capsa.sys.ptrace import Traced

# Each container's program prints a line, and ends.
_CALLS = (("run", "first"), ("create", "second"), ("start", "second"), ("state", "second"), ("delete", "second"))


def used(launcher: str) -> set[int]:
    """Addresses of pages that are resident at the end of any of these calls; raises `CapsaError`, `OSError`.

    With a snapshot of which each page is a region.
    """
    with tempfile.TemporaryDirectory(prefix="capsa-runtime") as place:
        _bundle(place, launcher)
        found: set[int] = set()
        name = f"trial{os.getpid()}"
        try:
            for verb, container in _CALLS:
                command = [launcher, "--root", f"{place}/state", verb, f"{name}-{container}"]
                with Traced(command, dict(os.environ), f"{place}/bundle") as process:
                    if status := process.until_exit():
                        raise CapsaError(f"{' '.join(command)} ended with status {status}")
                    found |= {area.start for area in process.areas() if area.resident}
        finally:
            for container in os.listdir(f"{place}/state") if os.path.isdir(f"{place}/state") else ():
                subprocess.run([launcher, "--root", f"{place}/state", "delete", "--force", container], check=False)
        return found


def _bundle(place: str, program: str) -> None:
    """One whose program is the launcher itself, which needs nothing, and tells what processor this is."""
    os.makedirs(f"{place}/bundle/rootfs/bin")
    shutil.copy(program, f"{place}/bundle/rootfs/bin/processor")
    spec = description.example()
    spec["process"] |= {"terminal": False, "args": ["processor"]}
    with open(f"{place}/bundle/config.json", "w") as file:
        json.dump(spec, file)
