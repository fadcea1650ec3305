"""A file system of the benchmark's own, so that all peers write to the same new one.

An ext4 without a journal, as some virtual machines have, does not give the number of a deleted inode away again for
five minutes and passes over each of them one by one (the kernel's ``recently_deleted``, fs/ext4/ialloc.c): there the
time of everything that makes files depends on what was deleted before it, by whomever, and varies by a factor of
three. What Debian's installer makes has a journal, and no such effect.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from bench.spawn import BenchError

SIZE = 24 << 30  # bytes, as far as they are used
INODES = 600_000


@contextlib.contextmanager
def own(place: Path) -> Iterator[None]:
    """An empty ext4 with Debian's features at the directory ``place``, in a sparse file beside it.

    Raises `BenchError` where there are no loop devices.
    """
    image = place.with_suffix(".img")
    with contextlib.ExitStack() as stack:
        stack.callback(image.unlink, missing_ok=True)
        with image.open("wb") as file:
            file.truncate(SIZE)
        # written in full at once: otherwise the kernel goes on with it in the background for minutes
        now = "lazy_itable_init=0,lazy_journal_init=0,nodiscard"
        _run("mkfs.ext4", "-q", "-F", "-N", str(INODES), "-E", now, str(image))
        _run("mount", "-o", "loop", str(image), str(place))
        stack.callback(_run, "umount", str(place))
        yield


def _run(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise BenchError(f"{command[0]} is not installed") from error
    if done.returncode:
        raise BenchError(f"{command[0]}: {done.stderr.strip()[-300:]}")
