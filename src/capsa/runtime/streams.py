"""Where a container's standard streams come from, for CRIU, which cannot know what is outside.

It is noted when the container begins: later on its programs may have them under other numbers.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container


def own() -> str:
    """Those of this process: for each a mount (0: it is no file of one), an inode and what it is, a line each."""
    lines = []
    for number in range(3):
        mount, inode, target = 0, 0, ""
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
            if target.startswith("/"):
                inode, mount = os.stat(number).st_ino, _mount(number)
        except OSError:  # it is closed
            pass
        lines.append(f"{mount} {inode} {target}")
    return "\n".join(lines)


def _mount(number: int) -> int:
    """The mount that a descriptor's file is of."""
    fd = os.open(f"/proc/self/fdinfo/{number}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        words = os.read(fd, 4096).split()
    finally:
        os.close(fd)
    return int(words[words.index(b"mnt_id:") + 1])


def names(noted: str, inside: Container[int]) -> dict[int, str]:
    """What CRIU calls those that come from outside, by number; ``inside``: the mounts that the container sees.

    Not among them are terminals, which are inside, and sockets, which CRIU does not take over.
    """
    found = {}
    for number, line in enumerate(noted.split("\n")):
        mount, inode, target = line.split(" ", 2) if line.count(" ") >= 2 else ("0", "0", "")
        if target.startswith("pipe:"):
            found[number] = target
        elif target.startswith("/") and int(mount) not in inside and not target.startswith("/dev/pts/"):
            found[number] = f"file[{int(mount):x}:{int(inode):x}]"
    return found
