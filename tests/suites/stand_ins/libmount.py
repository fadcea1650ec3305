"""What crun's tests use of util-linux' binding ``libmount``, which Debian has not: to read ``mountinfo`` (proc(5))."""

from __future__ import annotations

from pathlib import Path


class FileSystem:
    """One line: options of the mount, and options of its file system."""

    def __init__(self, line: str) -> None:
        mount, _, behind = line.partition(" - ")
        fields = mount.split(" ")
        self.target = fields[4].encode().decode("unicode_escape")
        self.vfs_options = fields[5]
        self.fs_options = behind.split(" ")[2]


class Table:
    """A whole file."""

    def __init__(self, path: str) -> None:
        lines = Path(path).read_text().splitlines()
        self._all = [FileSystem(line) for line in lines if " - " in line]

    def find_target(self, path: str) -> FileSystem | None:
        """What is mounted at ``path``."""
        return next((each for each in self._all if each.target == path), None)
