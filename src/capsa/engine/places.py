"""Where the engine mounts something of its own in every container, as a layer below those of the image.

What an image lacks of it is there without being made in the container's writable layer, at each start anew. What the
image has, or says is not there, goes before it.
"""

from __future__ import annotations

import os
from pathlib import Path

DIRECTORIES = ("dev", "etc", "proc", "sys")
FILES = ("etc/hostname", "etc/hosts", "etc/resolv.conf")


def prepare(layer: Path) -> Path:
    """Make the layer, or what is missing of it; returns ``layer``. Raises `OSError`."""
    for path in (layer, *(layer / name for name in DIRECTORIES)):
        path.mkdir(exist_ok=True)
        path.chmod(0o755)
    for name in FILES:
        path = layer / name
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))
        path.chmod(0o644)
    return layer
