"""The engines that are compared, each private: own directories, own namespaces, removed in the end."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from bench import memory, spawn
from bench.api import Api
from bench.spawn import BenchError, Namespaces

CGROUPS = Path("/sys/fs/cgroup")


class Peer:
    """Something that runs containers: how it is called on the command line, and what it consists of."""

    name = ""

    def __init__(self, base: Path) -> None:
        self.base = base / self.name
        self.base.mkdir(parents=True)
        self.inside: Namespaces | None = None
        self.api: Api | None = None
        self.environment = {**os.environ, "LC_ALL": "C"}
        for name in ("DOCKER_HOST", "DOCKER_CONTEXT", "CONTAINER_HOST"):
            self.environment.pop(name, None)

    def __enter__(self) -> Peer:
        try:
            self.open()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def open(self) -> None:
        """Bring it up."""

    def close(self) -> None:
        """Remove its containers, end it, remove what it had."""
        if self.inside is not None:
            self.inside.close()
            self.inside = None
        shutil.rmtree(self.base, ignore_errors=True)

    def command(self, *arguments: str) -> list[str]:
        """Its command line."""
        return [self.name, *arguments]

    def cli(self, *arguments: str, stdin: Path | None = None, timeout: float = 300) -> float:
        """Run its command line to the end: seconds."""
        return self.run(self.command(*arguments), stdin=stdin, timeout=timeout)

    def run(self, command: list[str], *, stdin: Path | None = None, timeout: float = 300) -> float:
        """Run a program beside it to the end: seconds."""
        return spawn.run(command, environment=self.environment, inside=self.inside, stdin=stdin, timeout=timeout)

    def run_command(self, image: str, network: str, *command: str) -> list[str]:
        """``run --rm`` of a command."""
        return ["run", "--rm", *(["--network", "none"] if network == "none" else []), image, *command]

    def processes(self) -> list[int]:
        """The engine's processes, without the containers'."""
        return self.inside.processes() if self.inside is not None else []

    def disk(self) -> int:
        """Bytes its images take."""
        return memory.disk(self.base / "root")


class Daemon(Peer):
    """An engine with a socket."""

    def _wait(self, socket: Path, pids: list[int], log: Path) -> None:
        api = Api(str(socket))
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError, BenchError, ValueError):
                api.request("GET", "/version")
                break
            for pid in pids:
                if os.waitpid(pid, os.WNOHANG)[0]:
                    pids.remove(pid)
                    raise BenchError(f"{self.name} ended at once: {_tail(log)}")
            if time.monotonic() > deadline:
                raise BenchError(f"{self.name} does not answer: {_tail(log)}")
            time.sleep(0.05)
        self.api = api

    def _remove_containers(self) -> None:
        if self.api is None:
            return
        self.api.close()
        with contextlib.suppress(OSError, BenchError):
            for container in self.api.request("GET", "/containers/json?all=1"):
                self.api.request("DELETE", f"/containers/{container['Id']}?force=1&v=1", expect=(204, 404, 409))


class Docker(Daemon):
    """A private dockerd with a private containerd."""

    name = "docker"

    def __init__(self, base: Path, options: Sequence[str] = ()) -> None:
        """``options``: more of them for dockerd."""
        super().__init__(base)
        self.options = options
        self.cgroup = f"capsa-bench-{os.getpid()}"
        self._pids: list[int] = []

    def open(self) -> None:
        self.inside = self.inside or Namespaces()
        base, run = self.base, self.base / "run"
        log = base / "log"
        self._pids.append(containerd(base, self.inside))
        self._pids.append(
            spawn.daemon(
                [
                    "dockerd",
                    f"--config-file={_empty_config(base)}",
                    f"--containerd={run}/containerd.sock",
                    f"--data-root={base}/root",
                    f"--exec-root={run}/docker",
                    f"--pidfile={run}/docker.pid",
                    f"--host=unix://{run}/docker.sock",
                    f"--cgroup-parent=/{self.cgroup}",
                    "--exec-opt=native.cgroupdriver=cgroupfs",
                    *self.options,
                ],
                log,
                inside=self.inside,
            )
        )
        self.environment["DOCKER_HOST"] = f"unix://{run}/docker.sock"
        self.environment["DOCKER_CONFIG"] = str(base / "client")
        self._wait(run / "docker.sock", self._pids, log)

    def close(self) -> None:
        self._remove_containers()
        for pid in reversed(self._pids):
            spawn.end(pid)
        super().close()
        remove_cgroups(self.cgroup)

    def command(self, *arguments: str) -> list[str]:
        return [self.client(), *arguments]

    @staticmethod
    def client() -> str:
        """Debian's client beside Debian's daemon, whatever else is on the path."""
        return "/usr/bin/docker" if os.access("/usr/bin/docker", os.X_OK) else "docker"


class Capsa(Daemon):
    """Our engine, from this checkout."""

    name = "capsa"

    def __init__(self, base: Path) -> None:
        super().__init__(base)
        self._pids: list[int] = []
        script = Path(sys.executable).parent / "capsa"
        self._program = [str(script)] if script.exists() else [sys.executable, "-m", "capsa.cli.main"]

    def open(self) -> None:
        self.inside = Namespaces()
        socket, log = self.base / "run/docker.sock", self.base / "log"
        arguments = ["engine", "--root", f"{self.base}/root", "--run", f"{self.base}/run", "--host", f"unix://{socket}"]
        self._pids.append(spawn.daemon([*self._program, *arguments], log, inside=self.inside))
        self.environment["DOCKER_HOST"] = f"unix://{socket}"
        self._wait(socket, self._pids, log)

    def close(self) -> None:
        self._remove_containers()
        for pid in self._pids:
            spawn.end(pid)
        # Not at the top: this process is forked for every measured command, and should be small.
        from capsa.engine.engine import engine_name

        remove_cgroups(engine_name(self.base / "root"))
        super().close()

    def command(self, *arguments: str) -> list[str]:
        return [*self._program, *arguments]


class Podman(Peer):
    """podman, without a daemon: what stays with a container is its conmon."""

    name = "podman"

    _parent_was_there = True

    def open(self) -> None:
        self.inside = self.inside or Namespaces(hide_unified=True)
        self._parent_was_there = any(CGROUPS.glob("*/libpod_parent"))
        (self.base / "config").mkdir()
        self.environment["CONTAINERS_CONF"] = _empty_config(self.base, "containers.conf", "")
        self.cli("info")

    def close(self) -> None:
        if self.inside is not None:
            with contextlib.suppress(BenchError):
                self.cli("rm", "--all", "--force", "--time", "0")
        super().close()
        if not self._parent_was_there:
            remove_cgroups("libpod_parent")

    def command(self, *arguments: str) -> list[str]:
        base = self.base
        return [
            "podman",
            f"--root={base}/root",
            f"--runroot={base}/run",
            f"--tmpdir={base}/tmp",
            f"--network-config-dir={base}/networks",
            "--cgroup-manager=cgroupfs",
            "--events-backend=file",
            *arguments,
        ]

    def run_command(self, image: str, network: str, *command: str) -> list[str]:
        arguments = super().run_command(image, network, *command)
        return [arguments[0], *self.limits(), *arguments[1:]]

    def limits(self) -> list[str]:
        """podman raises hard limits; where CAP_SYS_RESOURCE lacks it has to be told lower ones."""
        if _may_raise_limits():
            return []
        found = []
        for name, number in (("nofile", resource.RLIMIT_NOFILE), ("nproc", resource.RLIMIT_NPROC)):
            hard = resource.getrlimit(number)[1]
            value = 1000 if hard == resource.RLIM_INFINITY else min(hard, 1000)
            found.append(f"--ulimit={name}={value}:{value}")
        return found


def containerd(base: Path, inside: Namespaces) -> int:
    """Start a private containerd below ``base``; its pid. It answers at ``run/containerd.sock``."""
    run, log, config = base / "run", base / "log", base / "containerd.toml"
    run.mkdir()
    config.write_text(
        'version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
        f'root = "{base}/containerd"\nstate = "{run}/containerd"\n'
        f'[grpc]\naddress = "{run}/containerd.sock"\n[ttrpc]\naddress = "{run}/containerd.sock.ttrpc"\n'
        f'[plugins."io.containerd.internal.v1.opt"]\npath = "{base}/opt"\n'
    )
    pid = spawn.daemon(["containerd", "--config", str(config)], log, inside=inside)
    _await(run / "containerd.sock", log)
    return pid


def _may_raise_limits() -> bool:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> 24 & 1)
    return False


def _empty_config(base: Path, name: str = "daemon.json", text: str = "{}") -> str:
    path = base / name
    path.write_text(text)
    return str(path)


def _await(path: Path, log: Path) -> None:
    deadline = time.monotonic() + 30
    while not path.exists():
        if time.monotonic() > deadline:
            raise BenchError(f"{path} does not appear: {_tail(log)}")
        time.sleep(0.02)


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-500:].strip().replace("\n", " / ") if log.exists() else "no log"


def remove_cgroups(name: str) -> None:
    """Remove an empty cgroup subtree in all hierarchies; one that is in use stays."""
    for top in [CGROUPS / name, *CGROUPS.glob(f"*/{name}")]:
        for directory, _, _ in os.walk(top, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(directory)
