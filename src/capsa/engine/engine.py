"""The engine: what there is, and the parts that act on it. `capsa.api.docker` speaks for it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from capsa.database import Database
from capsa.engine import containers, disk, endpoint, genode, name_service, networking, places, reconcile, volumes
from capsa.engine.config import EndpointConfig, HostConfig
from capsa.engine.container import Container, Waiting
from capsa.engine.containers import Containers
from capsa.engine.events import Events
from capsa.engine.exec import Execs
from capsa.engine.health import HealthChecks
from capsa.engine.lifecycle import LifeCycle
from capsa.engine.spec import CAPABILITIES
from capsa.engine.volume_mounts import VolumeMounts
from capsa.engine.volumes import Volumes
from capsa.errors import CapsaError, InvalidArgument, NotFound, Unavailable, reason
from capsa.platform import kept_exit
from capsa.platform.protocol import Attach, AttachTo, Status

if TYPE_CHECKING:
    from capsa.engine.archive_helpers import Helpers
    from capsa.image.store import Images
    from capsa.network.dns.service import NameService
    from capsa.network.networks import Networks
    from capsa.platform.genode.platform import GenodePlatform, Place
    from capsa.platform.linux.platform import LinuxPlatform
    from capsa.platform.sandbox import Sandbox

DEFAULT_ROOT = Path("/var/lib/capsa")
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


class Engine:
    """One engine over a pair of directories; for a single event loop."""

    def __init__(self, root: Path, run: Path, genode: Place | None = None) -> None:
        """``root`` keeps what has to last, ``run`` what lives as long as the machine is up.

        ``genode``: where one is, for images made for it.
        """
        self.root = root
        self.run = run
        self._genode = genode
        self.name = engine_name(root)
        self.log = logging.getLogger("capsa.engine")
        self.closing = False
        self.clearing: asyncio.TimerHandle | None = None
        """When `networking.clear_later` is due."""
        self.warnings: list[str] = []
        """What whoever asks about the engine should know."""
        self.database: Database
        self.images: Images
        self.networks: Networks
        self.names: NameService
        self.platform: LinuxPlatform
        self.genode: GenodePlatform | None = None
        self.containers: Containers
        self.volumes: Volumes
        self.volume_mounts: VolumeMounts
        self.helpers: Helpers | None = None
        self.places: str
        self.events = Events()
        self.execs = Execs(self)
        self.health = HealthChecks(self)
        self.lifecycle: LifeCycle
        self.capabilities = available_capabilities()
        self.architecture = _MACHINES.get(os.uname().machine, os.uname().machine)

    async def start(self) -> None:
        """Open everything, and take up what an earlier engine left."""
        self._make_directories()
        self.database = Database(self.root / "capsa.db")
        self.database.migrate("engine", [*containers.MIGRATIONS, *volumes.MIGRATIONS])
        self.containers = Containers(self.database, self.root / "containers")
        self.containers.load()
        self.volumes = Volumes(self.database, self.root / "volumes", self.volume_users)
        self.volume_mounts = VolumeMounts(self.volumes)
        self.lifecycle = LifeCycle(self)
        await self._open_parts()
        await self.platform.start()
        await self.images.start()
        await reconcile.reconcile(self)

    def _make_directories(self) -> None:
        """Nobody else may pass: images have setuid programs, volumes what containers would not show to everybody."""
        private = [self.root / name for name in ("containers", "volumes", "cache", "image")]
        private += [self.run / name for name in ("containers", "shm")]
        for directory in private:
            directory.mkdir(parents=True, exist_ok=True)
            directory.chmod(0o710)
        (self.root / "cache" / "seccomp").mkdir(exist_ok=True)
        self.places = str(places.prepare(self.root / "places"))

    async def _open_parts(self) -> None:
        from capsa.image.store import Images
        from capsa.network.dns.service import NameService
        from capsa.network.networks import Networks
        from capsa.platform.linux.platform import LinuxPlatform

        self.images = Images(self.root / "image", self.database, users=self.image_users)
        self.networks = Networks(self.database, self.name, self.run)
        self.names = NameService(self.run)
        self.names.on_new = lambda container: name_service.renew(self, container)
        self.platform = LinuxPlatform(self.run, self.root / "cache" / "seccomp")
        if self._genode is not None:
            from capsa.platform.genode.platform import GenodePlatform

            self.genode = GenodePlatform(self.run, self.root / "genode", self._genode)

    async def close(self) -> None:
        """Let go; containers live on."""
        self.closing = True
        if not hasattr(self, "platform"):
            return  # the start failed early: what is open by now ends with the process
        self.health.close()
        await self.lifecycle.close()
        for container in self.containers:
            if container.restarting is not None:
                container.restarting.cancel()
            container.drop_waiting()
            if container.sandbox is not None:
                container.sandbox.close()
                container.sandbox = None
        if self.helpers is not None:
            self.helpers.close()
        await self.platform.close()
        if self.genode is not None:
            await self.genode.close()
        await self.images.close()
        await self.names.close()
        if self.clearing is not None:
            self.clearing.cancel()
        try:
            self.networks.close()
        except CapsaError as error:
            self.log.warning("bridges and rules of networks stay: %s", error)
        self.database.close()
        from capsa.platform.linux.cgroup import remove_parent

        with contextlib.suppress(CapsaError):
            remove_parent(f"/{self.name}")  # it stays where containers run on

    # -- what the parts ask each other for

    async def reconnect(self, container: Container) -> Sandbox | None:
        """Connect to the sub-init of a container that runs already; None if there is none."""
        if container.document.platform == genode.OS and self.genode is not None:
            return await self.genode.reconnect(container.id)
        return await self.platform.reconnect(container.id)

    def platform_of(self, container: Container) -> LinuxPlatform | GenodePlatform:
        """Where a container runs; raises `Unavailable` for a Genode image where there is no Genode."""
        if container.document.platform != genode.OS:
            return self.platform
        if self.genode is None:
            raise Unavailable("this engine has no Genode: start it with 'capsa engine --platform genode=DIRECTORY'")
        return self.genode

    def image_users(self) -> dict[str, list[Any]]:
        from capsa.image.store import User

        users: dict[str, list[Any]] = {}
        for container in self.containers:
            mounted = {point.name for point in container.document.mounts if point.type == "image"}
            for image in {container.document.image, *mounted}:
                users.setdefault(image, []).append(User(container.id, container.active))
        return users

    def volume_users(self) -> dict[str, list[str]]:
        users: dict[str, list[str]] = {}
        for container in self.containers:
            for point in container.document.mounts:
                if point.type == "volume":
                    users.setdefault(point.name, []).append(container.id)
        return users

    def hostname_of(self, container: Container) -> str:
        """The host name that processes in it see."""
        other = networking.joined(container.host.network_mode)
        if other:
            try:
                return self.hostname_of(self.containers.find(other))
            except NotFound:
                return container.id[:12]
        if container.config.hostname:
            return container.config.hostname
        if container.host.network_mode == "host" or container.host.uts_mode == "host":
            return socket.gethostname()
        return container.id[:12]

    def check_joins(self, host: HostConfig, endpoints: dict[str, EndpointConfig]) -> None:
        """The containers and networks that a new container names exist; raises `NotFound`. Names become ids."""
        for field in ("network_mode", "ipc_mode", "pid_mode"):
            other = networking.joined(getattr(host, field))
            if other:
                setattr(host, field, f"container:{self.containers.find(other).id}")
        for reference, wish in endpoints.items():
            try:
                endpoint.check_fits(wish, self.networks.get(reference))
            except InvalidArgument as error:
                raise InvalidArgument(f"invalid config for network {reference}: {error}") from error

    async def attach(self, container: Container, wanted: Attach) -> socket.socket:
        """Connect a stream with the container, at once or when it starts; the engine's end."""
        ours, theirs = self.stream_pair()
        try:
            if container.running and container.sandbox is not None:
                with theirs:
                    await container.sandbox.request(AttachTo(attach=wanted), [theirs.fileno()])
            else:
                container.waiting.append(Waiting(wanted, theirs, ours))
        except BaseException:
            ours.close()
            raise
        return ours

    @staticmethod
    def forget_waiting(container: Container, ours: socket.socket) -> None:
        """The client of this stream has left, perhaps before the container was started."""
        for waiting in container.waiting:
            if waiting.ours is ours:
                container.waiting.remove(waiting)
                waiting.end.close()
                return

    @staticmethod
    def stream_pair() -> tuple[socket.socket, socket.socket]:
        """A stream: the engine's end (not blocking) and the sub-init's."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        ours.setblocking(False)
        return ours, theirs

    def kept_exit(self, container: Container) -> Status | None:
        """The exit that the sub-init wrote down, if it is that of the last run."""
        found = kept_exit.read(str(container.bundle))
        if found is None:
            return None
        if found.state != "exited" or (found.started_at and found.started_at < container.state.started_at):
            return None
        return found

    def remove_remains(self, container: Container) -> None:
        """Its sub-init is gone: kill what is left of its processes, remove their cgroup and its socket; best effort."""
        self.remove_cgroup(container)
        self.remove_control(container)

    def remove_cgroup(self, container: Container) -> None:
        """Kill what is left of its processes and remove their cgroup; best effort."""
        from capsa.platform.linux.cgroup import Cgroup

        try:
            cgroup = Cgroup.open(self.cgroup_path(container))
            cgroup.kill()
            cgroup.remove()
        except (OSError, CapsaError) as error:
            self.log.debug("cgroup of container %s: %s", container.name, error)

    def remove_control(self, container: Container) -> None:
        """Remove the socket at which its sub-init listens: nobody is to look for it any more."""
        control = self.platform.control(container.id)
        with contextlib.suppress(OSError):
            control.unlink(missing_ok=True)
            control.parent.rmdir()

    def cgroup_path(self, container: Container) -> str:
        """Where its processes are, in every hierarchy."""
        return f"/{container.host.cgroup_parent.strip('/') or self.name}/{container.id}"

    def remove_bundle(self, container: Container) -> None:
        """Delete its directories: where that is little work once whoever waits for it is told, else in a thread."""
        gone = self.containers.directory / f".gone-{container.id}"
        little = False
        try:
            os.rename(container.bundle, gone)
        except FileNotFoundError:
            return
        except OSError as error:
            self.log.warning("cannot remove %s: %s", container.bundle, reason(error))
            return
        if container.host.ipc_mode == "shareable":
            self._remove_tree(self.run / "shm" / container.id)
        with contextlib.suppress(OSError):
            little = not any(os.scandir(gone / "upper"))
        loop = asyncio.get_running_loop()
        if little:
            loop.call_soon(self._remove_tree, gone)
        else:
            loop.run_in_executor(None, self._remove_tree, gone)

    async def remove_files(self, container: Container) -> None:
        """Delete its directories and wait until they are gone."""
        await asyncio.to_thread(self._remove_tree, container.bundle)

    def writable_size(self, container: Container) -> int:
        """Bytes of the files that the container wrote into its own layer."""
        return disk.size(container.bundle / "upper")

    def _remove_tree(self, path: Path) -> None:
        from capsa.image.rmtree import remove_tree

        try:
            remove_tree(path)
        except OSError as error:
            self.log.warning("cannot remove %s: %s", path, reason(error))


def engine_name(root: Path) -> str:
    """``capsa`` for the default root directory, else with six digits of its path's hash."""
    if root == DEFAULT_ROOT:
        return "capsa"
    return f"capsa-{hashlib.sha256(os.fsencode(root)).hexdigest()[:6]}"


def available_capabilities() -> tuple[str, ...]:
    """Those that this process may hand on: its bounding set."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            line = next(line for line in file if line.startswith("CapBnd:"))
    except (OSError, StopIteration):
        return CAPABILITIES
    mask = int(line.split()[1], 16)
    return tuple(name for number, name in enumerate(CAPABILITIES) if mask >> number & 1)
