"""Makes the snapshot of the `capsa` command (`capsa.start.snapshot`): ``python -m capsa.cli.snapshot VENV``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from capsa.cli import awake
from capsa.start import snapshot

# Which libc reads when Python starts.
_ZONE = "/etc/localtime"


def program(venv: Path) -> snapshot.Program:
    """Of a virtual environment, as ``.ci/launcher`` makes it."""
    top = Path(os.path.realpath(venv))
    home = top / "lib" / "capsa"
    awake.load()
    modules = {str(getattr(module, "__file__", None) or _ZONE) for module in tuple(sys.modules.values())}
    return snapshot.Program(
        launcher=top / "bin" / "capsa",
        snapshot=home / "snapshot",
        mode=0o644,
        command=[str(top / "bin" / "python"), "-P", str(awake.__file__), str(home / "capsa")],
        locale="C.UTF-8",
        sources=sorted(each for each in modules | {_ZONE} if os.path.exists(each)),
    )


if __name__ == "__main__":
    snapshot.provide(program(Path(sys.argv[1])))
