"""How much a tree of files takes, whatever a container made of it."""

from __future__ import annotations

import os
from pathlib import Path


def size(directory: Path) -> int:
    """Bytes of the files below ``directory``; 0 where there is none.

    Follows no link, and goes as deep as names can be long: what cannot be looked at is not counted.
    """
    total = 0
    pending = [str(directory)]
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                    else:
                        total += entry.stat(follow_symlinks=False).st_size
        except OSError:
            continue
    return total
