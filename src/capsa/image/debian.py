"""Debian images without any registry: mmdebstrap makes the root file system from the machine's own mirror.

Runs in the command line's process, which sends the resulting archive to an engine (``POST /images/load``). Imports
little, since the command line has to start fast.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from capsa.errors import CapsaError, Forbidden, InvalidArgument, Unsupported, reason
from capsa.image import envelope

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CHUNK = 1 << 20
DAY = 86400
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}
_SUITE = re.compile(r"[a-z][a-z0-9-]{0,63}")
_PACKAGE = re.compile(r"[a-z0-9?~][A-Za-z0-9+.:~=?-]{0,127}")
_UNSTABLE = frozenset({"sid", "unstable", "experimental"})
# As in Debian's own images: nothing is started while packages are installed, nothing of this machine stays inside
_HOOKS = (
    """printf '#!/bin/sh\\nexit 101\\n' >"$1/usr/sbin/policy-rc.d" && chmod 755 "$1/usr/sbin/policy-rc.d\"""",
    """rm -f "$1/etc/hostname" "$1/etc/resolv.conf" "$1/var/cache/ldconfig/aux-cache" "$1"/var/log/*.log""",
    """rm -f "$1"/var/log/apt/*.log "$1"/var/cache/debconf/*-old "$1"/var/lib/dpkg/*-old""",
)

# Runs a command and removes its scratch directory afterwards. When standard input is closed, as it is when the
# process that began this dies in whatever way, the command is killed with all that it started.
_KEEPER = """
exec 3<&0 4>&2 </dev/null 2>/dev/null
trap '' INT TERM HUP
"$@" 2>&4 3<&- 4>&- &
command=$!
exec 4>&-
( read -r nothing <&3; kill -KILL "$command" ) >/dev/null &
watcher=$!
wait "$command"
code=$?
kill "$watcher"
rm -rf --one-file-system "$TMPDIR" || { sleep 1; rm -rf --one-file-system "$TMPDIR"; }
exit "$code"
"""


@dataclass(frozen=True, slots=True)
class Source:
    """One line of apt's sources: ``options`` as in ``[signed-by=…]``, without the brackets."""

    uri: str
    suite: str
    components: tuple[str, ...]
    options: str = ""

    def __str__(self) -> str:
        return f"deb {f'[{self.options}] ' if self.options else ''}{self.uri} {self.suite} {' '.join(self.components)}"


@dataclass(frozen=True, slots=True)
class DebianArchive:
    """A ``docker save`` archive of ``size`` bytes; ``id`` is the image's."""

    id: str
    size: int
    _parts: tuple[bytes, IO[bytes], bytes]

    def chunks(self) -> Iterator[bytes]:
        """The archive, piece by piece; once."""
        head, layer, tail = self._parts
        yield head
        layer.seek(0)
        while chunk := layer.read(CHUNK):
            yield chunk
        yield tail


@contextmanager
def make_debian(
    name: str,
    *,
    suite: str = "",
    include: Sequence[str] = (),
    variant: str = "minbase",
    output: Callable[[str], None] | None = None,
    apt: Path = Path("/etc/apt"),
) -> Iterator[DebianArchive]:
    """Make an image ``name`` (a reference with a tag) of a Debian ``suite``, by default this machine's own.

    ``include`` are packages to install as well; ``output`` gets mmdebstrap's lines. The same package versions give the
    same image on the same day (or with the same ``SOURCE_DATE_EPOCH``). Nothing is left on disk, whatever happens.
    Raises `Unsupported` without mmdebstrap, `Forbidden` without root, `InvalidArgument` for impossible names,
    `CapsaError` when it fails.
    """
    program = shutil.which("mmdebstrap")
    if not program:
        raise Unsupported("mmdebstrap is not installed: apt-get install mmdebstrap")
    suite = suite or own_suite()
    if not _SUITE.fullmatch(suite):
        raise InvalidArgument(f"{suite!r} is not the name of a Debian suite")
    for package in include:
        if not _PACKAGE.fullmatch(package):
            raise InvalidArgument(f"{package!r} is not the name of a Debian package")
    if os.geteuid() != 0:
        raise Forbidden("making a Debian image needs root: files of several owners are written")
    lines = [str(source) for source in choose(sources(apt), suite, own_suite())]
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH") or time.time() // DAY * DAY)
    command = [program, f"--variant={variant}", "--format=tar"]
    command += [f"--include={','.join(include)}"] if include else []
    command += [f"--customize-hook={hook}" for hook in _HOOKS]
    command += ["--skip=output/dev", suite, "-", *lines]
    with tempfile.TemporaryFile() as layer:
        diff_id = _run(command, layer, epoch, output)
        yield _archive(name, suite, include, epoch, diff_id, layer)


def own_suite() -> str:
    """The code name of this machine's Debian; raises `Unsupported` on anything else."""
    for file in (Path("/etc/os-release"), Path("/usr/lib/os-release")):
        with suppress(OSError):
            fields = dict(line.partition("=")[::2] for line in file.read_text().splitlines())
            name = fields.get("VERSION_CODENAME", "").strip("\"'")
            if fields.get("ID", "").strip("\"'") == "debian":
                return name or "sid"
    raise Unsupported("this machine is no Debian: say which suite to take with --suite")


def sources(apt: Path) -> list[Source]:
    """What apt's configuration directory lists for binary packages, in both forms of its files (sources.list(5))."""
    found: list[Source] = []
    for path in [apt / "sources.list", *sorted((apt / "sources.list.d").glob("*"))]:
        try:
            text = path.read_text(errors="replace")
        except OSError:
            continue
        if path.suffix == ".list":
            found += _one_line(text)
        elif path.suffix == ".sources":
            found += _deb822(text)
    return found


def _one_line(text: str) -> Iterator[Source]:
    for line in text.splitlines():
        match = re.match(r"deb\s+(?:\[([^]]*)\]\s*)?(\S+)\s+(\S+)\s*(.*)", line.partition("#")[0].strip())
        if match:
            yield Source(match[2], match[3], tuple(match[4].split()), (match[1] or "").strip())


def _deb822(text: str) -> Iterator[Source]:
    for stanza in re.split(r"\n\s*\n", text):
        fields: dict[str, str] = {}
        key = ""
        for line in stanza.splitlines():
            if line.startswith("#"):
                continue
            if line[:1].isspace() and key:
                fields[key] += "\n" + line.strip()
            elif ":" in line:
                key, _, value = line.partition(":")
                key = key.strip().lower()
                fields[key] = value.strip()
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() in ("no", "false"):
            continue
        options = []
        if fields.get("signed-by", "").startswith("/"):
            options.append(f"signed-by={fields['signed-by'].split()[0]}")
        if fields.get("trusted", "").lower() == "yes":
            options.append("trusted=yes")
        for uri in fields.get("uris", "").split():
            for suite in fields.get("suites", "").split():
                yield Source(uri, suite, tuple(fields.get("components", "").split()), " ".join(options))


def choose(known: list[Source], suite: str, own: str) -> list[Source]:
    """The sources for ``suite``: from where this machine, which is of the suite ``own``, has its packages.

    Raises `Unsupported` where no Debian mirror is configured.
    """
    aliases = {own, "stable", "testing", "unstable", "sid"} if own else {suite}

    def first(names: set[str]) -> Source | None:
        fitting = [each for each in known if each.suite in names and "main" in each.components]
        exact = [each for each in fitting if each.suite.startswith(own)]
        return next(iter(exact or fitting), None)

    mirror = first({suite}) or first(aliases)
    if mirror is None:
        raise Unsupported("apt has no Debian mirror configured on this machine (/etc/apt/sources.list)")
    chosen = [Source(mirror.uri, suite, ("main",), mirror.options)]
    if suite in _UNSTABLE:
        return chosen
    if first({f"{own}-updates"}):
        chosen.append(Source(mirror.uri, f"{suite}-updates", ("main",), mirror.options))
    security = first({f"{each}-security" for each in (suite, own)})
    if security:
        chosen.append(Source(security.uri, f"{suite}-security", ("main",), security.options))
    return chosen


def _run(command: list[str], layer: IO[bytes], epoch: int, output: Callable[[str], None] | None) -> str:
    """Run mmdebstrap with its archive going to ``layer``; returns the archive's digest."""
    apart = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    scratch = tempfile.mkdtemp(prefix="capsa-debian-")
    Path(scratch).chmod(0o755)  # apt downloads as another user
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(epoch), "LC_ALL": "C.UTF-8", "TMPDIR": scratch}
    last: list[str] = []
    try:
        process = subprocess.Popen(
            ["/bin/sh", "-c", _KEEPER, "capsa-debian", *apart, *command],
            stdin=subprocess.PIPE,
            stdout=layer,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        shutil.rmtree(scratch, ignore_errors=True)
        raise CapsaError(f"cannot start mmdebstrap: {reason(error)}") from error
    if process.stdin is None or process.stderr is None:
        raise CapsaError("mmdebstrap cannot be spoken to")
    try:
        for line in process.stderr:
            text = line.decode(errors="replace").rstrip()
            last = [*last[-20:], text]
            if output and text:
                output(text)
        code = process.wait()
    finally:
        process.stdin.close()  # if it still runs, this ends it
        process.stderr.close()
        process.wait()
    if code:
        errors = [line for line in last if line.startswith(("E:", "W:")) and "apt-get" not in line] or last[-3:]
        raise CapsaError(f"mmdebstrap failed: {' '.join(errors)[:1000] or f'exit code {code}'}")
    layer.seek(0)
    digest = hashlib.sha256()
    while chunk := layer.read(CHUNK):
        digest.update(chunk)
    return "sha256:" + digest.hexdigest()


def _archive(
    name: str, suite: str, include: Sequence[str], epoch: int, diff_id: str, layer: IO[bytes]
) -> DebianArchive:
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch))
    made = f"mmdebstrap {suite}" + (f" with {','.join(include)}" if include else "")
    machine = platform.machine()
    config = json.dumps(
        {
            "architecture": _ARCHITECTURES.get(machine, machine),
            "os": "linux",
            "created": created,
            "config": {"Env": [f"PATH={PATH}"], "Cmd": ["bash"]},
            "rootfs": {"type": "layers", "diff_ids": [diff_id]},
            "history": [{"created": created, "created_by": made}],
        },
        sort_keys=True,
    ).encode()
    id = hashlib.sha256(config).hexdigest()
    manifest = json.dumps([{"Config": f"{id}.json", "RepoTags": [name], "Layers": ["layer.tar"]}]).encode()
    size = layer.seek(0, os.SEEK_END)
    head = envelope.file(f"{id}.json", config) + envelope.header("layer.tar", size)
    tail = envelope.padding(size) + envelope.file("manifest.json", manifest) + envelope.END
    return DebianArchive(f"sha256:{id}", len(head) + size + len(tail), (head, layer, tail))
