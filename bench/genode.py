"""``python -m bench.genode DIRECTORY``: containers on a real Genode, whose programs that directory has (and ``dummy``).

How long it takes from the request to start one until its component's first line is in the log, one after the other, and
how many starts of ``/bin/true`` that is, in turn with them, as machines differ; the same for those that need more
capabilities than the sub-init in reserve has. And what many of them need in memory, with one program and with a program
for each: by Linux (sums of proportional set sizes) and by Genode's own reports (what is used of the quota).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from bench import memory
from bench.api import Api
from bench.spawn import BenchError

CAPSA = [str(Path(sys.executable).parent / "capsa")]
CONFIG = "GENODE_CONFIG=config\n+ log | string: up\n+ sleep | ms: 3600000\n-\n"
MIB = 1 << 20
PAUSE = 0.6  # seconds between starts: in use, there are some


@contextlib.contextmanager
def engine(binaries: Path) -> Iterator[tuple[Api, Path]]:
    """One with a Genode, in a directory of its own; its containers are gone afterwards."""
    base = Path(tempfile.mkdtemp(prefix="capsa-bench-"))
    socket = base / "run/docker.sock"
    command = [*CAPSA, "engine", "--root", f"{base}/root", "--run", f"{base}/run", "--host", f"unix://{socket}"]
    with open(base / "log", "wb") as log:
        process = subprocess.Popen([*command, "--platform", f"genode={binaries}"], stdout=log, stderr=log)
    api = Api(str(socket))
    try:
        deadline = time.monotonic() + 30
        while not socket.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise BenchError(f"the engine did not start: {(base / 'log').read_text()[-400:]}")
            time.sleep(0.01)
        yield api, base
    finally:
        if socket.exists() and process.poll() is None:
            remove(api)
        api.close()
        process.terminate()
        process.wait()
        shutil.rmtree(base, ignore_errors=True)


def remove(api: Api) -> None:
    """All containers."""
    for each in api.request("GET", "/containers/json?all=1"):
        api.request("DELETE", f"/containers/{each['Id']}?force=1")


def image(base: Path, name: str, program: bytes) -> None:
    """An image with that program as ``dummy``."""
    path = base / f"{name}.tar"
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo("bin/dummy")
        member.size = len(program)
        archive.addfile(member, io.BytesIO(program))
    environment = {**os.environ, "DOCKER_HOST": f"unix://{base}/run/docker.sock"}
    arguments = ["import", "--platform", "genode/amd64", "--change", 'CMD ["dummy"]', str(path), name]
    subprocess.run([*CAPSA, *arguments], env=environment, check=True, stdout=subprocess.DEVNULL)
    path.unlink()


def start(api: Api, base: Path, name: str, *, files: bool, reserve: bool = True) -> tuple[str, float]:
    """A new container's id, and the milliseconds from the request until its first line was written.

    Without ``reserve`` it gets a sub-init of its own.
    """
    body = {
        "Image": name,
        "Env": [CONFIG],
        "Labels": {"org.genode.vfs": "yes" if files else "no", "org.genode.caps": "100" if reserve else "450"},
        "HostConfig": {"NetworkMode": "none"},
    }
    identity = api.request("POST", "/containers/create", body)["Id"]
    begin = time.time()
    api.request("POST", f"/containers/{identity}/start")
    log = base / "root/containers" / identity / f"{identity}-json.log"
    deadline = time.monotonic() + 30
    while not log.exists() or not (text := log.read_text()):
        if time.monotonic() > deadline:
            raise BenchError(f"container {identity[:12]} wrote nothing")
        time.sleep(0.001)
    written = json.loads(text.splitlines()[0])["time"]
    end = datetime.fromisoformat(re.sub(r"(\.\d{6})\d*Z", r"\1+00:00", written)).timestamp()
    return identity, (end - begin) * 1000


def components(base: Path) -> list[int]:
    """The processes of the Genode."""
    for entry in filter(lambda entry: entry.name.isdigit(), Path("/proc").iterdir()):
        with contextlib.suppress(OSError):
            if os.readlink(entry / "cwd") == f"{base}/run/genode" and (entry / "comm").read_text() == "core\n":
                children = [Path(each).read_text() for each in entry.glob("task/*/children")]
                return [int(entry.name), *(int(pid) for text in children for pid in text.split())]
    raise BenchError("there is no Genode")


def used(api: Api, identity: str) -> int:
    """Bytes of its quota that a main component uses, as its sub-init reports."""
    return int(api.request("GET", f"/containers/{identity}/stats?stream=0&one-shot=1")["memory_stats"].get("usage", 0))


def times(api: Api, base: Path, count: int) -> None:
    """Print how long starts take, one kind in turn with the others; the first ones start Genode, and do not count."""
    kinds = [(files, reserve) for files in (False, True) for reserve in (True, False)]
    found: dict[tuple[bool, bool], list[float]] = {kind: [] for kind in kinds}
    plain = []
    for number in range(count + 1):
        for files, reserve in kinds:
            identity, took = start(api, base, "program", files=files, reserve=reserve)
            time.sleep(PAUSE)
            api.request("DELETE", f"/containers/{identity}?force=1")
            time.sleep(PAUSE)
            if number:
                found[files, reserve].append(took)
                plain.append(plain_start())
    for (files, reserve), took_all in found.items():
        low, middle, high = min(took_all), statistics.median(took_all), max(took_all)
        what = ("with files" if files else "without files") + ("" if reserve else ", a sub-init of its own")
        ratio = middle / statistics.median(plain)
        print(
            f"start to first line, {what}: {low:.0f} {middle:.0f} {high:.0f} ms (least, middle, most of {count}), "
            f"{ratio:.0f} starts of /bin/true"
        )


def plain_start() -> float:
    """The milliseconds from making a process of ``/bin/true`` to its end."""
    begin = time.perf_counter()
    os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)
    return (time.perf_counter() - begin) * 1000


def sharing(api: Api, base: Path, program: bytes, count: int) -> None:
    """Print what ``count`` containers need, with one program and with as many programs."""
    for kind in ("one program", f"{count} programs"):
        names = ["program"] * count
        if kind != "one program":
            names = [f"program{number}" for number in range(count)]
            for number, name in enumerate(names):
                image(base, name, program + b"%d" % number)
        start(api, base, "program", files=False)  # what all share is there already
        before = memory.usage(components(base))
        made = [start(api, base, name, files=False)[0] for name in names]
        time.sleep(3)  # a period of the reports
        after = memory.usage(components(base))
        usage = sum(used(api, each) for each in made)
        print(
            f"{count} containers of {kind}: {(after.pss - before.pss) / count / MIB:.2f} MB of memory each, "
            f"{(after.code - before.code) / count / 1024:.0f} kB of it code; by Genode's reports "
            f"{usage / count / 1024:.0f} kB used by each main component, {len(program) // 1024} kB is the program"
        )
        remove(api)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binaries", type=Path, help="the directory of Genode's programs")
    parser.add_argument("--starts", type=int, default=20)
    parser.add_argument("--containers", type=int, default=50)
    options = parser.parse_args()
    program = (options.binaries / "dummy").read_bytes()
    try:
        with engine(options.binaries.absolute()) as (api, base):
            image(base, "program", program)
            times(api, base, options.starts)
            sharing(api, base, program, options.containers)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
