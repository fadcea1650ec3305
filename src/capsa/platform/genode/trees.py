"""Directories of the host that containers on a Genode have: their writable layers, and volumes.

They are mounted where the Genode's file servers look for them, in a mount namespace that is its own: nobody else sees
them, and they go with it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from capsa.errors import Unsupported
from capsa.platform.genode import file_servers
from capsa.platform.genode.bundle import Bundle
from capsa.sys import mount
from capsa.vfs.tree import CopyOnWrite


class Trees:
    """Those of all containers of one Genode, whose working directory is ``work``."""

    def __init__(self, work: Path) -> None:
        self._work = work

    def bind(self, made: Bundle, root: CopyOnWrite, archive: str) -> file_servers.Tree:
        """Put a container's directories where Genode has them.

        Raises `Unsupported` for a volume that is a file, `OSError`; what is there already `unbind` takes away.
        """
        tree = file_servers.tree(made, archive)
        self.place(tree.upper).parent.mkdir(exist_ok=True)
        self._mount(root.upper, tree.upper, writable=True)
        for volume in made.volumes:
            if not os.path.isdir(volume.source):
                raise Unsupported(f"{volume.source} is no directory: only directories can be mounted on Genode")
            self._mount(volume.source, tree.volumes[volume.target], writable=volume.writable)
        return tree

    def await_one(self, name: str) -> None:
        """Make the directory in which a file server looks for files that are mounted later; raises `OSError`."""
        self.place(f"{file_servers.TREES}/{name}/upper").mkdir(parents=True)

    def _mount(self, source: str, path: str, *, writable: bool) -> None:
        """Genode's lx_fs, a process of the host with all its rights, would follow links wherever they lead."""
        self.place(path).mkdir(exist_ok=True)
        flags = mount.ATTR_NOSYMFOLLOW | mount.ATTR_NOSUID | mount.ATTR_NODEV | mount.ATTR_NOEXEC
        cloned = mount.clone(source)
        try:
            mount.attributes(cloned, set=flags | (0 if writable else mount.ATTR_RDONLY))
            target = os.open(self.place(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                mount.attach(cloned, target, path)
            finally:
                os.close(target)
        finally:
            os.close(cloned)

    def unbind(self, name: str) -> None:
        """Take a container's directories away again."""
        where = self.place(f"{file_servers.TREES}/{name}")
        with contextlib.suppress(FileNotFoundError):
            for entry in os.listdir(where):
                with contextlib.suppress(OSError):
                    mount.umount(str(where / entry), mount.MNT_DETACH | mount.UMOUNT_NOFOLLOW)
                with contextlib.suppress(OSError):
                    os.rmdir(where / entry)  # never more than that: a mount that stays is somebody's files
            with contextlib.suppress(OSError):
                os.rmdir(where)

    def remove_work(self) -> None:
        """Take the working directory away, mounts first: what is below them is not Genode's."""
        trees = self.place(file_servers.TREES)
        for name in os.listdir(trees) if trees.is_dir() else ():
            self.unbind(name)
        if not trees.is_dir() or not os.listdir(trees):
            shutil.rmtree(self._work, ignore_errors=True)

    def place(self, path: str) -> Path:
        """A path of Genode's, from its working directory on."""
        return Path(self._work, path.removeprefix("/"))
