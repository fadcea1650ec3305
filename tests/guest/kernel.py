"""Debian's cloud kernel for the guest: fetched with apt, unpacked into the cache, never installed."""

from __future__ import annotations

import fcntl
import lzma
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

META_PACKAGE = "linux-image-cloud-amd64"


class NoGuest(Exception):
    """Why there can be no guest on this machine: a sentence for a skip."""


class Kernel:
    """An unpacked kernel: ``image`` to boot, ``modules`` (``…/usr/lib/modules/VERSION``)."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.version = (directory / "version").read_text()
        self.image = directory / "vmlinuz"
        self.modules = directory / "modules" / self.version

    def module(self, name: str) -> bytes:
        """The contents of a module, uncompressed (Debian 13 ships them as ``.ko.xz``)."""
        path = self._paths()[name]
        data = path.read_bytes()
        return lzma.decompress(data) if path.suffix == ".xz" else data

    def with_dependencies(self, names: list[str]) -> list[str]:
        """Those of ``names`` that are modules, each behind the ones it needs; what is built in is left out."""
        order: list[str] = []

        def add(name: str) -> None:
            if name in order or name not in self._paths():
                return
            for needed in _depends(self.module(name)):
                add(needed)
            order.append(name)

        for name in names:
            add(name)
        return order

    def _paths(self) -> dict[str, Path]:
        if not hasattr(self, "_found"):
            self._found = {
                path.name.split(".ko")[0].replace("-", "_"): path for path in (self.modules / "kernel").rglob("*.ko*")
            }
        return self._found


def _depends(module: bytes) -> list[str]:
    """What ``.modinfo`` of a module says it needs."""
    found = re.search(rb"\0depends=([^\0]*)\0", module)
    return [name.replace("-", "_") for name in found[1].decode().split(",") if name] if found else []


def kernel(cache: Path) -> Kernel:
    """The kernel in ``cache``, fetched if there is none yet; raises `NoGuest`."""
    with _locked(cache):
        present = sorted(cache.glob("kernel-*"))
        if present:
            return Kernel(present[-1])
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            return Kernel(_unpack(_fetch(Path(scratch)), Path(scratch), cache))


@contextmanager
def _locked(cache: Path) -> Iterator[None]:
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _fetch(directory: Path) -> Path:
    if shutil.which("apt-get") is None:
        raise NoGuest("needs apt-get, to fetch Debian's kernel")
    depends = _output(["apt-cache", "depends", META_PACKAGE])
    found = re.search(r"Depends: (linux-image-\S+)", depends)
    if not found:
        raise NoGuest(f"apt knows no package {META_PACKAGE} (apt-get update?)")
    directory.chmod(0o755)
    _output(["apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", found[1]], cwd=directory)
    return next(directory.glob("*.deb"))


def _unpack(package: Path, scratch: Path, cache: Path) -> Path:
    tree = scratch / "tree"
    _output(["dpkg-deb", "-x", str(package), str(tree)])
    modules = next(path for path in (tree / "usr/lib/modules", tree / "lib/modules") if path.is_dir())
    version = next(modules.iterdir()).name
    made = scratch / "made"
    made.mkdir()
    shutil.move(tree / "boot" / f"vmlinuz-{version}", made / "vmlinuz")
    shutil.move(modules, made / "modules")
    (made / "version").write_text(version)
    # depmod expects lib/modules; kmod's also writes the binary indexes that kmod's modprobe wants.
    base = scratch / "base"
    (base / "lib").mkdir(parents=True)
    (base / "lib/modules").symlink_to(made / "modules")
    depmod = [shutil.which("depmod", path=os.environ.get("PATH", "") + ":/sbin:/usr/sbin") or ""]
    _output([*(depmod if depmod[0] else ["busybox", "depmod"]), "-b", str(base), version])
    final = cache / f"kernel-{version}"
    made.chmod(0o755)
    made.rename(final)
    return final


def _output(command: list[str], cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoGuest(f"cannot make a guest: {error}") from error
    if done.returncode:
        raise NoGuest(f"cannot make a guest: {' '.join(command[:3])}: {done.stderr.strip().splitlines()[-1:]}")
    return done.stdout
