"""The images that are measured with, made here: busybox, and a Debian with Apache in ten almost equal variants."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import shutil
import subprocess
import tarfile
from pathlib import Path

from bench.spawn import BenchError

ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
BUSYBOX = "bench/busybox:1"
APACHE_COMMAND = [
    "/bin/sh",
    "-c",
    ". /etc/apache2/envvars; mkdir -p $APACHE_RUN_DIR $APACHE_LOCK_DIR; exec apache2 -DFOREGROUND",
]


def apache(number: int) -> str:
    """The name of variant ``number``."""
    return f"bench/apache{number}:1"


def busybox_layer(target: Path) -> Path:
    """A root file system of one static busybox with a link for each applet."""
    program = shutil.which("busybox")
    if program is None:
        raise BenchError("busybox is missing: install busybox-static")
    applets = subprocess.run([program, "--list"], capture_output=True, text=True, check=True).stdout.split()
    with tarfile.open(target, "w") as tar:
        for name, mode in (
            ("bin", 0o755),
            ("etc", 0o755),
            ("proc", 0o755),
            ("sys", 0o755),
            ("dev", 0o755),
            ("tmp", 0o1777),
        ):
            directory = tarfile.TarInfo(name)
            directory.type, directory.mode = tarfile.DIRTYPE, mode
            tar.addfile(directory)
        _add(tar, "etc/passwd", b"root:x:0:0:root:/:/bin/sh\n", 0o644)
        _add(tar, "etc/group", b"root:x:0:\n", 0o644)
        _add(tar, "bin/busybox", Path(program).read_bytes(), 0o755)
        for applet in applets:
            if applet != "busybox":
                link = tarfile.TarInfo(f"bin/{applet}")
                link.type, link.linkname, link.mode = tarfile.SYMTYPE, "busybox", 0o777
                tar.addfile(link)
    return target


def apache_layer(cache: Path, suite: str) -> Path:
    """A minimal Debian with Apache, made by mmdebstrap; kept in ``cache``, it takes a while."""
    target = cache / f"apache-{suite}-{ARCHITECTURE}.tar"
    if not target.exists():
        cache.mkdir(parents=True, exist_ok=True)
        made = cache / f"apache-{suite}-{ARCHITECTURE}.half.tar"
        done = subprocess.run(
            ["mmdebstrap", "--quiet", "--variant=minbase", "--include=apache2", suite, str(made)],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise BenchError(f"mmdebstrap cannot make a Debian {suite} with Apache: {done.stderr[-500:]}")
        made.rename(target)
    return target


def variant(layer: Path, number: int, target: Path) -> Path:
    """The layer with one file more (variant 0: with none), as of an image that was built on another day."""
    shutil.copyfile(layer, target)
    if number:
        with tarfile.open(target, "a") as tar:
            _add(tar, "./etc/variant", f"{number}\n".encode(), 0o644)
    return target


def archive(layer: Path, name: str, target: Path, command: list[str]) -> Path:
    """A ``docker save`` archive of one uncompressed layer."""
    with layer.open("rb") as file:
        diff_id = hashlib.file_digest(file, "sha256").hexdigest()
    config = json.dumps(
        {
            "architecture": ARCHITECTURE,
            "os": "linux",
            "created": "2024-01-01T00:00:00Z",
            "config": {"Env": [PATH], "Cmd": command, "StopSignal": "SIGKILL"},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{diff_id}"]},
            "history": [{"created": "2024-01-01T00:00:00Z", "created_by": "bench"}],
        }
    ).encode()
    config_name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = [{"Config": config_name, "RepoTags": [name], "Layers": [f"{diff_id}/layer.tar"]}]
    with tarfile.open(target, "w") as tar:
        _add(tar, config_name, config, 0o644)
        entry = tarfile.TarInfo(f"{diff_id}/layer.tar")
        entry.size = layer.stat().st_size
        with layer.open("rb") as file:
            tar.addfile(entry, file)
        _add(tar, "manifest.json", json.dumps(manifest).encode(), 0o644)
    return target


def _add(tar: tarfile.TarFile, name: str, content: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    tar.addfile(entry, io.BytesIO(content))
