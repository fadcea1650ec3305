"""``python -m bench``: options, and the order of things."""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from bench import disk, images, parts, report
from bench.chart import chart
from bench.clients import clients
from bench.engines import Capsa, Docker, Peer, Podman
from bench.parts import Bench, say
from bench.result import Results
from bench.runtimes import Kernel, Runtime
from bench.spawn import BenchError

HERE = Path(__file__).parent
CHECKOUT = HERE.parent
CACHE = CHECKOUT / ".cache" / "bench"
PARTS = {
    "commands": parts.commands,
    "runtimes": parts.runtimes,
    "api": parts.api,
    "clients": clients,
    "idle": parts.idle,
    "load": parts.load,
    "apache": parts.apaches,
}
PACKAGES = (
    "docker.io",
    "containerd",
    "iptables",
    "podman",
    "runc",
    "crun",
    "busybox-static",
    "mmdebstrap",
    "tar",
    "time",
    "e2fsprogs",
    "mount",
)
SUBJECTS = ("docker", "podman", "runc", "crun", "kernel", "capsa")


def main() -> int:
    """Measure, print, write."""
    options = _options()
    if options.redraw:
        results = report.read_json(options.output)
        options.chart.write_text(chart(results))
        return 0
    if os.geteuid():
        print("bench: containers need root; run this as root", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if not options.no_install:
        subprocess.run([CHECKOUT / ".ci" / "packages", *PACKAGES], check=True)
    results = Results()
    try:
        with contextlib.ExitStack() as stack:
            _measure(stack, results, options)
    except KeyboardInterrupt:
        say("interrupted; everything that was started is removed")
        return 130
    facts, programs = report.machine(), report.versions()
    print(report.table(results))
    if not options.quick:
        chosen = {name: value for name, value in vars(options).items() if isinstance(value, int | list)}
        report.write_json(options.output, results, facts, programs, chosen)
        options.output.with_suffix(".md").write_text(report.markdown(results, facts, programs))
        options.chart.write_text(chart(results))
        say(f"written: {options.output}, {options.output.with_suffix('.md')}, {options.chart}")
    return 1 if any("capsa" in row.failures for row in results.rows.values()) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"what to measure: {', '.join(PARTS)} (default: all)")
    parser.add_argument(
        "--only", action="append", choices=SUBJECTS, metavar="NAME", help="compare only these (again and again)"
    )
    parser.add_argument("--quick", action="store_true", help="few samples and containers; writes no files")
    parser.add_argument("--samples", type=int, help="measurements of each latency (default 30)")
    parser.add_argument("--containers", type=int, help="idle containers at once (default 100)")
    parser.add_argument("--apaches", type=int, help="Apache containers at once (default 100)")
    parser.add_argument("--variants", type=int, help="images that differ in one file (default 10)")
    parser.add_argument("--no-install", action="store_true", help="take the programs as they are")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "latest.json", help="the JSON file")
    parser.add_argument("--chart", type=Path, default=CHECKOUT / "docs" / "bench.svg", help="the SVG file")
    parser.add_argument("--redraw", action="store_true", help="only draw the chart again from the JSON file")
    options = parser.parse_args()
    for part in options.parts:
        if part not in PARTS:
            parser.error(f"no such part: {part} (there are {', '.join(PARTS)})")
    few = options.quick
    options.samples = options.samples or (5 if few else 30)
    options.containers = options.containers or (10 if few else 100)
    options.apaches = options.apaches or (10 if few else 100)
    options.variants = options.variants or (2 if few else 10)
    return options


def _measure(stack: contextlib.ExitStack, results: Results, options: argparse.Namespace) -> None:
    # Unix sockets have 107 characters at most: a short directory.
    work = Path(tempfile.mkdtemp(prefix="bench", dir="/var/tmp"))
    stack.callback(shutil.rmtree, work, ignore_errors=True)
    try:
        stack.enter_context(disk.own(work))
    except BenchError as error:
        say(f"everything happens on the file system of {work}, as there can be none of the benchmark's own: {error}")
    wanted = set(options.only or SUBJECTS)
    suite = platform.freedesktop_os_release().get("VERSION_CODENAME", "stable")
    bench = Bench(results, work, CACHE, suite, options.samples, options.containers, options.apaches, options.variants)
    layer = images.busybox_layer(work / "busybox.tar")
    busybox = images.archive(layer, images.BUSYBOX, work / "busybox-image.tar", ["sh"])
    for name in ("runc", "crun"):
        if name in wanted and shutil.which(name):
            runtime = Runtime(name, work, layer)
            stack.callback(runtime.close)
            bench.runtimes.append(runtime)
            bench.callable.append(runtime)
    if "capsa" in wanted:
        own = Runtime("capsa", work, layer, str(Path(sys.executable).parent / "capsa-runtime"))
        stack.callback(own.close)
        bench.callable.append(own)
    if "kernel" in wanted:
        kernel = Kernel(work, layer)
        stack.callback(kernel.close)
        bench.runtimes.append(kernel)
    kinds: tuple[type[Peer], ...] = (Docker, Podman, Capsa)
    for kind in kinds:
        if kind.name not in wanted:
            continue
        try:
            peer = stack.enter_context(kind(work))
            peer.cli("load", "--input", str(busybox))
        except (BenchError, OSError) as error:
            say(f"{kind.name} cannot be measured: {error}")
            results.fail("start", "engines", "starting it", "s", kind.name, str(error))
            continue
        bench.peers.append(peer)
    chosen = list(options.parts) or list(PARTS)
    if "apache" in chosen and "load" not in chosen:
        chosen.insert(chosen.index("apache"), "load")
    for part in chosen:
        PARTS[part](bench)


if __name__ == "__main__":
    sys.exit(main())
