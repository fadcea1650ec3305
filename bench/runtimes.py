"""Bare OCI runtimes, and the kernel alone, on an unpacked busybox."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import subprocess
from pathlib import Path

from bench import spawn
from bench.engines import remove_cgroups
from bench.spawn import Namespaces


class Runtime:
    """``runc``, ``crun`` or ours: containers of a bundle. ``name`` is its column, ``program`` what is called."""

    def __init__(self, name: str, base: Path, layer: Path, program: str = "") -> None:
        self.name = name
        self.program = program or name
        self.base = base / f"runtime-{name}"
        self.bundle = self.base / "bundle"
        self._numbers = itertools.count()
        self._cgroup = f"capsa-bench-{os.getpid()}"
        root = self.bundle / "rootfs"
        root.mkdir(parents=True)
        subprocess.run(["tar", "-xf", str(layer), "-C", str(root)], check=True)
        self.inside = Namespaces(hide_unified=True)
        self._prepare()

    def _prepare(self) -> None:
        subprocess.run([self.program, "spec"], cwd=self.bundle, check=True)
        path = self.bundle / "config.json"
        config = json.loads(path.read_text())
        config["process"]["terminal"] = False
        config["process"]["args"] = ["true"]
        config["linux"]["cgroupsPath"] = f"/{self._cgroup}/{self.name}"
        path.write_text(json.dumps(config))

    def run(self) -> float:
        """Create, start, wait, delete, in one command: seconds."""
        return self._call("run", "--bundle", str(self.bundle), self._new())

    def steps(self) -> float:
        """Create, start, delete, each a command, as engines call them: seconds."""
        name = self._new()
        calls = (("create", "--bundle", str(self.bundle), name), ("start", name), ("delete", "--force", name))
        return sum(self._call(*words) for words in calls)

    def memory(self) -> float:
        """Bytes that ``run`` has had resident at most, as time(1) tells: of a child of a small process, not of ours."""
        told = self.base / "memory"
        command = self._command("run", "--bundle", str(self.bundle), self._new())
        spawn.run(["time", "--format=%M", f"--output={told}", *command], inside=self.inside)
        return float(told.read_text()) * 1024

    def _new(self) -> str:
        return f"bench{next(self._numbers)}"

    def _command(self, *words: str) -> list[str]:
        return [self.program, "--root", str(self.base / "state"), *words]

    def _call(self, *words: str) -> float:
        return spawn.run(self._command(*words), inside=self.inside)

    def close(self) -> None:
        """Remove what it had."""
        self.inside.close()
        remove_cgroups(self._cgroup)
        shutil.rmtree(self.base, ignore_errors=True)


class Kernel(Runtime):
    """``unshare`` and ``chroot``: what the kernel takes for new namespaces and two execs."""

    def __init__(self, base: Path, layer: Path) -> None:
        super().__init__("kernel", base, layer)

    def _prepare(self) -> None:
        for name in ("proc",):
            with contextlib.suppress(FileExistsError):
                (self.bundle / "rootfs" / name).mkdir()

    def run(self) -> float:
        """One process in new namespaces: seconds."""
        root = str(self.bundle / "rootfs")
        return spawn.run(
            ["unshare", "-fmpnui", f"--mount-proc={root}/proc", "chroot", root, "/bin/true"],
            inside=self.inside,
        )
