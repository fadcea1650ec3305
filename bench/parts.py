"""The measurements. Each takes what it compares and enters rows; a peer that fails costs its own values only."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from bench import images, memory
from bench.engines import Daemon, Peer, Podman
from bench.result import Results
from bench.runtimes import Runtime
from bench.spawn import BenchError

MB = 1e6
SLEEP = ["sleep", "100000"]
TRUE = ["true"]
LOADS = 3
SETTLE = 5  # seconds after which an engine has put away what it needed for loading


@dataclass
class Bench:
    """What a run consists of. ``samples`` a latency, ``containers`` at once."""

    results: Results
    work: Path
    cache: Path
    suite: str
    samples: int
    containers: int
    apaches: int
    variants: int
    peers: list[Peer] = field(default_factory=list)
    runtimes: list[Runtime] = field(default_factory=list)
    callable: list[Runtime] = field(default_factory=list)
    """Those that are OCI runtimes, ours among them."""

    def daemons(self) -> list[Daemon]:
        """Those with an API."""
        return [peer for peer in self.peers if isinstance(peer, Daemon)]


def say(text: str) -> None:
    """Progress, on standard error."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def measuring(
    bench: Bench, key: str, part: str, title: str, unit: str, subject: str
) -> Iterator[Callable[[Sequence[float]], None]]:
    """Enters what the block hands over; if the block fails, why."""
    say(f"{part}: {title}: {subject}")
    try:
        yield lambda samples: bench.results.add(key, part, title, unit, subject, samples)
    except (BenchError, OSError, KeyError, ValueError) as error:
        say(f"  failed: {error}")
        bench.results.fail(key, part, title, unit, subject, str(error))


def timed(action: Callable[[], float | None], samples: int, warm: int = 2) -> list[float]:
    """Milliseconds that ``action`` takes, as it says itself (in seconds) or as is seen; after ``warm`` other runs."""
    for _ in range(warm):
        action()
    found = []
    for _ in range(samples):
        before = time.perf_counter()
        told = action()
        found.append((time.perf_counter() - before if told is None else told) * 1e3)
    return found


def commands(bench: Bench) -> None:
    """``run --rm`` on the command line."""
    title = "run --rm busybox true, no network"
    for runtime in bench.runtimes:
        with measuring(bench, "run-none", "command line", title, "ms", runtime.name) as enter:
            enter(timed(runtime.run, bench.samples))
    for peer in bench.peers:
        with measuring(bench, "run-none", "command line", title, "ms", peer.name) as enter:
            arguments = peer.run_command(images.BUSYBOX, "none", *TRUE)
            enter(timed(partial(peer.cli, *arguments), bench.samples))
    for peer in bench.peers:
        with measuring(bench, "run-bridge", "command line", "run --rm busybox true, bridge", "ms", peer.name) as enter:
            arguments = peer.run_command(images.BUSYBOX, "bridge", *TRUE)
            enter(timed(partial(peer.cli, *arguments), bench.samples))
    for peer in bench.peers:
        with measuring(bench, "exec-cli", "command line", "exec of true", "ms", peer.name) as enter:
            limits = peer.limits() if isinstance(peer, Podman) else []
            peer.cli("run", "--detach", "--network", "none", "--name", "bench-exec", *limits, images.BUSYBOX, *SLEEP)
            try:
                enter(timed(partial(peer.cli, "exec", "bench-exec", *TRUE), bench.samples))
            finally:
                peer.cli("rm", "--force", "bench-exec")


def runtimes(bench: Bench) -> None:
    """OCI runtimes, each called as a command."""
    part = "OCI runtime"
    for key, title, action in (
        ("runtime-run", "run of busybox true", Runtime.run),
        ("runtime-steps", "create, start, delete of the same, three calls", Runtime.steps),
    ):
        for runtime in bench.callable:
            with measuring(bench, key, part, title, "ms", runtime.name) as enter:
                enter(timed(partial(action, runtime), bench.samples))
    for runtime in bench.callable:
        with measuring(bench, "runtime-memory", part, "most memory of run (RSS)", "MB", runtime.name) as enter:
            enter([runtime.memory() / MB for _ in range(3)])


def create(daemon: Daemon, image: str, network: str, command: list[str] | None) -> str:
    """A container made and started through the API: its id."""
    assert daemon.api is not None
    body: dict[str, object] = {"Image": image, "HostConfig": {"NetworkMode": network}}
    if command:
        body["Cmd"] = command
    identity: str = daemon.api.request("POST", "/containers/create", body)["Id"]
    daemon.api.request("POST", f"/containers/{identity}/start")
    return identity


def cycle(daemon: Daemon, network: str) -> None:
    """Create, start, wait, remove."""
    assert daemon.api is not None
    identity = create(daemon, images.BUSYBOX, network, TRUE)
    code = daemon.api.request("POST", f"/containers/{identity}/wait")["StatusCode"]
    daemon.api.request("DELETE", f"/containers/{identity}")
    if code:
        raise BenchError(f"true ended with {code}")


def api(bench: Bench) -> None:
    """The same through the socket, without a client."""
    for network, title in (("none", "create, start, wait, remove, no network"), ("bridge", "the same, bridge")):
        for daemon in bench.daemons():
            with measuring(bench, f"api-{network}", "API", title, "ms", daemon.name) as enter:
                enter(timed(partial(cycle, daemon, network), bench.samples))
    for daemon in bench.daemons():
        with measuring(bench, "exec-api", "API", "exec of true", "ms", daemon.name) as enter:
            assert daemon.api is not None
            identity = create(daemon, images.BUSYBOX, "none", SLEEP)
            try:
                enter(timed(partial(daemon.api.exec, identity, TRUE), bench.samples))
            finally:
                daemon.api.request("DELETE", f"/containers/{identity}?force=1")


def remove_all(peer: Peer, identities: Sequence[str]) -> None:
    """By force."""
    if isinstance(peer, Daemon):
        assert peer.api is not None
        for identity in identities:
            peer.api.request("DELETE", f"/containers/{identity}?force=1", expect=(204, 404))
    else:
        peer.cli("rm", "--all", "--force", "--time", "0")


@dataclass(frozen=True)
class Memory:
    """Of an engine's processes and of the machine, bytes."""

    engine: int
    available: int
    slab: int

    @classmethod
    def now(cls, peer: Peer) -> Memory:
        """After things have settled: what an engine does only while something happens is over."""
        time.sleep(5)
        system = memory.system()
        return cls(memory.pss(peer.processes()), system.available, system.slab)


def idle(bench: Bench) -> None:
    """Many containers that do nothing: how long they take to start, and what they cost."""
    count, part = bench.containers, f"{bench.containers} idle containers"
    for peer in bench.peers:
        with measuring(bench, "idle-start", part, "started one after another, bridge", "s", peer.name) as enter:
            before = Memory.now(peer)
            identities = []
            try:
                start = time.perf_counter()
                for _ in range(count):
                    if isinstance(peer, Daemon):
                        identities.append(create(peer, images.BUSYBOX, "bridge", SLEEP))
                    else:
                        limits = peer.limits() if isinstance(peer, Podman) else []
                        peer.cli("run", "--detach", *limits, images.BUSYBOX, *SLEEP)
                enter([time.perf_counter() - start])
                after = Memory.now(peer)
                for key, title, value in (
                    ("idle-pss", "engine processes, PSS each container", (after.engine - before.engine) / count),
                    ("idle-available", "off available memory, each", (before.available - after.available) / count),
                    ("idle-slab", "slab, each", (after.slab - before.slab) / count),
                    ("idle-base", "engine processes without containers, PSS", before.engine),
                ):
                    bench.results.add(key, part, title, "MB", peer.name, [value / MB])
            finally:
                start = time.perf_counter()
                remove_all(peer, identities)
                took = time.perf_counter() - start
            bench.results.add("idle-remove", part, "removed by force, one after another", "s", peer.name, [took])


def load(bench: Bench) -> None:
    """Loading images, and the disk they take."""
    layer = images.apache_layer(bench.cache, bench.suite)
    part = "images"
    title = f"load of a {layer.stat().st_size / MB:.0f} MB image, Debian with Apache"
    more = "load of one that differs in one file"
    later: dict[str, list[float]] = {}
    for number in range(bench.variants):
        variant = images.variant(layer, number, bench.work / "variant.tar")
        archive = images.archive(variant, images.apache(number), bench.work / "image.tar", images.APACHE_COMMAND)
        variant.unlink()
        if number == 0:
            _load_first(bench, archive, images.apache(number), title)
        else:
            for peer in bench.daemons():
                with measuring(bench, "load-more", part, more, "s", peer.name):
                    later.setdefault(peer.name, []).append(peer.cli("load", "--input", str(archive)))
        archive.unlink()
    for name, samples in later.items():
        bench.results.add("load-more", part, more, "s", name, samples)
    if bench.variants > 1:
        time.sleep(SETTLE)
        title = f"disk, {bench.variants} images that differ in one file"
        for peer in bench.daemons():
            bench.results.add("disk-n", part, title, "MB", peer.name, [peer.disk() / MB])


def _load_first(bench: Bench, archive: Path, name: str, title: str) -> None:
    """An image that no peer has anything of, in turns; it stays the last time."""
    part = "images"
    samples: dict[str, list[float]] = {}
    failed: set[str] = set()
    for again in range(LOADS):
        for peer in bench.peers:
            if peer.name in failed:
                continue
            failed.add(peer.name)
            with measuring(bench, "load", part, title, "s", peer.name):
                before = peer.disk()
                samples.setdefault(peer.name, []).append(peer.cli("load", "--input", str(archive)))
                time.sleep(SETTLE)
                if again < LOADS - 1:
                    peer.cli("rmi", name)
                else:
                    bench.results.add(
                        "disk-1", part, "disk, that image", "MB", peer.name, [(peer.disk() - before) / MB]
                    )
                failed.remove(peer.name)
    for name, each in samples.items():
        if name not in failed:
            bench.results.add("load", part, title, "s", name, each)


def apaches(bench: Bench) -> None:
    """Many Apaches, of one image and of several that share all but a file: does their code get shared?"""
    count = bench.apaches
    for key, used, part in (
        ("one", 1, f"{count} Apache containers, one image"),
        ("many", bench.variants, f"{count} Apache containers, {bench.variants} images that differ in one file"),
    ):
        for daemon in bench.daemons():
            with measuring(
                bench, f"apache-{key}-start", part, "started one after another, bridge", "s", daemon.name
            ) as enter:
                before = Memory.now(daemon)
                identities: list[str] = []
                try:
                    start = time.perf_counter()
                    for number in range(count):
                        identities.append(create(daemon, images.apache(number % used), "bridge", None))
                    enter([time.perf_counter() - start])
                    after = Memory.now(daemon)
                    usage = memory.usage(memory.running("apache2", _children(daemon)))
                    if usage.processes < count:
                        raise BenchError(f"only {usage.processes} Apache processes run in {count} containers")
                    for name, title, value in (
                        ("code", "Apache's code pages, PSS", usage.code),
                        ("pss", "Apache processes, PSS", usage.pss),
                        ("rss", "Apache processes, RSS", usage.rss),
                        ("engine", "engine processes, PSS", after.engine),
                        ("available", "off available memory", before.available - after.available),
                    ):
                        bench.results.add(f"apache-{key}-{name}", part, title, "MB", daemon.name, [value / MB])
                finally:
                    remove_all(daemon, identities)


def _children(daemon: Daemon) -> list[int]:
    """Processes below an engine's."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parent = int(Path(entry / "stat").read_text().rpartition(")")[2].split()[1])
                parents.setdefault(parent, []).append(int(entry.name))
    pending, found = list(daemon.processes()), []
    while pending:
        for child in parents.get(pending.pop(), []):
            found.append(child)
            pending.append(child)
    return list(dict.fromkeys(found))
