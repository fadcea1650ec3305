"""Genode images from depot archives: what a package's ``runtime`` file says becomes an image's configuration.

An archive is a ``.tar.xz`` as Genode's depot tools make it: binaries (``bin``), data (``raw``), or a package (``pkg``)
with its ``runtime`` file. Everything is below one directory, whose name is the version.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from capsa import hid
from capsa.errors import BrokenArchive, CapsaError, InvalidArgument, reason
from capsa.hid.xml import read_xml

PLATFORM_OS = "genode"
MOST_BYTES = 1 << 30  # unpacked
_RUNTIME = "runtime"
CONFIG = "etc/genode/main.config"  # the package's own configuration, in the image
_NAME = re.compile(r"[A-Za-z0-9_.+-]{1,63}")
# Files of a package that describe it and are not content.
_DESCRIPTIONS = frozenset({"README", "LICENSE", "archives", "api", "used_apis", "hash", _RUNTIME})
_REQUIRED = {
    "timer": "Timer",
    "rtc": "Rtc",
    "terminal": "Terminal",
    "report": "Report",
    "trace": "Trace",
    "nic": "Nic",
    "uplink": "Uplink",
    "gui": "Gui",
    "event": "Event",
}


class Package:
    """The files of all archives by name, and what the package's runtime file says."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.runtime: hid.Node | None = None

    def add(self, path: Path) -> None:
        """Take an archive in; raises `BrokenArchive`, `InvalidArgument`."""
        try:
            with tarfile.open(path, "r:*") as archive:
                for member in archive:
                    self._take(path, archive, member)
        except (tarfile.TarError, EOFError, ValueError) as error:
            why = str(error).partition("\n")[0].rstrip(":")
            raise BrokenArchive(f"{path} is no depot archive: {why}") from error
        except OSError as error:
            raise CapsaError(f"cannot read {path}: {reason(error)}") from error

    def _take(self, path: Path, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        parts = [part for part in member.name.split("/") if part not in ("", ".")]
        if not member.isreg() or len(parts) != 2:
            return
        name = parts[1]
        if not _NAME.fullmatch(name):
            raise BrokenArchive(f"{path} has a file {name[:80]!r}, which cannot be a ROM module of Genode")
        if member.size + sum(map(len, self.files.values())) > MOST_BYTES:
            raise BrokenArchive(f"{path} holds more than {MOST_BYTES >> 20} MiB")
        file = archive.extractfile(member)
        assert file is not None
        data = file.read()
        if name == _RUNTIME:
            self.runtime = _runtime(path, data)
        elif name not in _DESCRIPTIONS:
            self.files.setdefault(name, data)

    def changes(self) -> list[str]:
        """The image's configuration, as instructions of a Dockerfile; raises `InvalidArgument`."""
        if self.runtime is None:
            raise InvalidArgument("none of the archives is a package: one of them has to have a runtime file")
        binary = self.runtime.get("binary") or (getattr(self.runtime.node("binary"), "name", ""))
        if not binary:
            raise InvalidArgument("the package's runtime file names no binary")
        if binary not in self.files:
            raise InvalidArgument(f"the package's binary {binary} is in none of the archives: add the one that has it")
        missing = [name for name in _wanted(self.runtime) if name not in self.files and name != "ld.lib.so"]
        if missing:
            raise InvalidArgument(f"the package needs {', '.join(missing)}, which none of the archives has")
        labels = {"ram": self.runtime.get("ram"), "caps": self.runtime.get("caps")}
        services = _services(self.runtime)
        labels["services"] = " ".join(services)
        config = self.runtime.node("config")
        if config is not None:
            labels["config"] = f"@/{CONFIG}"
        elif "config" in self.files or self.runtime.get("config"):
            labels["config"] = f"@/{self.runtime.get('config') or 'config'}"
        return [
            f'CMD ["{binary}"]',
            *(f"LABEL org.genode.{name}={json.dumps(value)}" for name, value in labels.items() if value),
        ]

    def tar(self) -> Iterator[bytes]:
        """The root file system, as an archive."""
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
            config = self.runtime.node("config") if self.runtime is not None else None
            more = {CONFIG: hid.write(config).encode()} if config is not None else {}
            for name, data in sorted((self.files | more).items()):
                member = tarfile.TarInfo(name)
                member.size, member.mode = len(data), 0o755
                archive.addfile(member, io.BytesIO(data))
        yield out.getvalue()


def read(archives: Sequence[Path]) -> Package:
    """All ``archives`` as one package."""
    package = Package()
    for path in archives:
        package.add(path)
    return package


def _runtime(path: Path, data: bytes) -> hid.Node:
    try:
        text = data.decode()
        found = read_xml(text) if text.lstrip().startswith("<") else hid.read_relaxed(text)
    except (UnicodeDecodeError, hid.HidError) as error:
        raise BrokenArchive(f"the runtime file of {path} cannot be read: {error}") from error
    if found.type != _RUNTIME:
        raise BrokenArchive(f"the runtime file of {path} begins with {found.type!r}")
    return found


def _wanted(runtime: hid.Node) -> list[str]:
    content = runtime.node("content")
    return [each.get("label") or each.name for each in content.nodes("rom")] if content is not None else []


def _services(runtime: hid.Node) -> list[str]:
    requires = runtime.node("requires")
    found = []
    for each in requires.nodes() if requires is not None else []:
        if each.type in _REQUIRED:
            found.append(_REQUIRED[each.type])
        elif each.type not in ("file_system", "rom", "log"):
            raise InvalidArgument(f"the package requires {each.type!r}, which containers do not have")
    return [name for name in dict.fromkeys(found) if name != "Timer"]
