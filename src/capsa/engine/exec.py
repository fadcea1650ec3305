"""Additional processes in running containers (Docker Engine API, "Exec")."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from capsa.engine import links, securityopt, users
from capsa.engine import spec as compiler
from capsa.engine.config import Struct
from capsa.engine.container import Container
from capsa.engine.names import new_id
from capsa.errors import CapsaError, Conflict, InvalidArgument, LaunchFailed, NotFound
from capsa.oci.runtime import Box, Process, User
from capsa.platform import protocol
from capsa.platform.protocol import Attach

if TYPE_CHECKING:
    from capsa.engine.engine import Engine

#: How long (seconds) one that has ended can be inspected, and how many of a container at most.
KEPT = 600.0
KEPT_ENDED = 1024
#: How many of a container may be prepared and not started.
MOST_WAITING = 1024
#: What of a long command is told in events, which are kept.
LONGEST_TITLE = 4096


class ExecConfig(Struct):
    """The body of ``POST /containers/ID/exec``."""

    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    console_size: list[int] = []
    detach_keys: str = ""
    tty: bool = False
    env: list[str] = []
    cmd: list[str] = []
    privileged: bool = False
    user: str = ""
    working_dir: str = ""
    detach: bool = False
    container: str = ""  #: older clients say again what the path says


def check_console(size: Sequence[int]) -> None:
    """A terminal's size, empty where none is given; raises `InvalidArgument`."""
    if size and (len(size) != 2 or any(not 0 <= value < 65536 for value in size)):
        raise InvalidArgument("ConsoleSize has to be two numbers below 65536, height and width")


def _title(config: ExecConfig) -> str:
    """The command, as events tell it: they are kept, so not all of a very long one."""
    return " ".join(config.cmd)[:LONGEST_TITLE]


class Exec:
    """One additional process: to be started, running or ended."""

    def __init__(self, container: Container, config: ExecConfig) -> None:
        self.id = new_id()
        self.container = container
        self.config = config
        self.pid = 0
        self.running = False
        self.started = False
        self.exit_code: int | None = None
        self.ended_at = 0.0
        self.start: asyncio.Future[None] | None = None  #: the work of starting it
        self._ends: set[asyncio.Future[int]] = set()

    async def ended(self) -> int:
        """Wait for its end; the exit code."""
        if self.exit_code is not None:
            return self.exit_code
        waiter: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._ends.add(waiter)
        try:
            return await waiter
        finally:
            self._ends.discard(waiter)

    def end(self, code: int) -> None:
        """It has ended."""
        self.running = False
        self.exit_code = code
        self.ended_at = time.monotonic()
        self.config.env = []  # may be large, and nobody asks for it any more
        for waiter in self._ends:
            if not waiter.done():
                waiter.set_result(code)


class Execs:
    """All additional processes of an engine, by id. Those that ended can be inspected for some minutes more."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._execs: dict[str, Exec] = {}
        self._early: dict[str, int] = {}

    def find(self, identity: str) -> Exec:
        """By id or the unique beginning of one; raises `NotFound`."""
        found = self._execs.get(identity)
        if found is None and identity:
            matches = [each for key, each in self._execs.items() if key.startswith(identity)]
            found = matches[0] if len(matches) == 1 else None
        if found is None:
            raise NotFound(f"No such exec instance: {identity}")
        return found

    def create(self, container: Container, config: ExecConfig) -> Exec:
        """Prepare one.

        Raises `Conflict` if the container does not run or has too many that wait, `InvalidArgument` for what cannot be
        meant, such as a user whom the container does not know.
        """
        self._check(container)
        if not config.cmd or not config.cmd[0]:
            raise InvalidArgument("No exec command specified")
        if any("\0" in text for text in (*config.cmd, *config.env)):
            raise InvalidArgument("the command or its environment contains a null character")
        if config.working_dir and not config.working_dir.startswith("/"):
            raise InvalidArgument(
                f"the working directory '{config.working_dir}' is invalid, it needs to be an absolute path"
            )
        check_console(config.console_size)
        if config.user:
            self._user(container, config)
        self._drop_old(container)
        if sum(not each.started for each in container.execs.values()) >= MOST_WAITING:
            raise Conflict(f"Container {container.id} has {MOST_WAITING} exec commands that were never started")
        created = Exec(container, config)
        self._execs[created.id] = created
        container.execs[created.id] = created
        self._engine.events.container(f"exec_create: {_title(config)}", container, execID=created.id)
        return created

    def check_startable(self, which: Exec) -> None:
        """Raises `Conflict` if it was started before, or if its container does not run."""
        self._check(which.container)
        if which.started:
            state = "has already run" if which.exit_code is not None else "is already running"
            raise Conflict(f"Error: Exec command {which.id} {state}")

    async def start(self, which: Exec, end: socket.socket | None, size: Sequence[int] = ()) -> None:
        """Run it, connected with ``end`` (which is closed here); raises `LaunchFailed`, `Conflict`.

        Who gives up waiting does not stop it: what its sub-init was asked to run will run, and has to be known.
        """
        work = which.start = asyncio.ensure_future(self._start(which, end, size))
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            work.add_done_callback(lambda work: work.cancelled() or work.exception())  # which nobody waits for
            raise

    async def _start(self, which: Exec, end: socket.socket | None, size: Sequence[int]) -> None:
        try:
            container = which.container
            self.check_startable(which)
            which.started = True
            config = which.config
            attach = []
            if end is not None:
                attach.append(
                    Attach(stdin=config.attach_stdin, stdout=config.attach_stdout, stderr=config.attach_stderr)
                )
            assert container.sandbox is not None
            self._engine.events.container(f"exec_start: {_title(config)}", container, execID=which.id)
            try:
                command = protocol.Exec(
                    exec=which.id,
                    process=self._process(container, config, size or config.console_size),
                    stdin=config.attach_stdin and end is not None,
                    attach=attach,
                )
                started = await container.sandbox.request(command, [end.fileno()] if end is not None else [])
            except CapsaError as error:
                which.end(error.code if isinstance(error, LaunchFailed) else 126)
                raise
        finally:
            if end is not None:
                end.close()
        assert isinstance(started, protocol.Started)
        which.pid = started.pid
        early = self._early.pop(which.id, None)
        if early is None:
            which.running = True
        else:
            which.end(early)

    async def resize(self, which: Exec, height: int, width: int) -> None:
        """Set its terminal's size in characters."""
        if not which.running or which.container.sandbox is None:
            raise Conflict(f"cannot resize a stopped exec: {which.id} is not running")
        await which.container.sandbox.request(protocol.Resize(height=height, width=width, exec=which.id))

    def exited(self, container: Container, report: protocol.ExecExited) -> None:
        """The sub-init says that one has ended."""
        found = self._execs.get(report.exec)
        if found is None:
            return
        if not found.running:  # the report came before the answer to the request that started it
            self._early[report.exec] = report.exit_code
        else:
            found.end(report.exit_code)
        self._engine.events.container("exec_die", container, execID=report.exec, exitCode=str(report.exit_code))

    def container_ended(self, container: Container) -> None:
        """Its additional processes ended with it."""
        for each in container.execs.values():
            if each.running:
                each.end(137)
        self._early = {key: code for key, code in self._early.items() if key not in container.execs}

    def adopt(self, container: Container, running: dict[str, int]) -> None:
        """Those that a sub-init still runs: what they were asked for is not known after the engine's restart."""
        for identity, pid in running.items():
            found = self._execs.get(identity) or Exec(container, ExecConfig())
            found.id, found.pid, found.running, found.started = identity, pid, True, True
            self._execs[identity] = found
            container.execs[identity] = found

    def forget(self, container: Container) -> None:
        """The container is gone."""
        for identity in container.execs:
            self._execs.pop(identity, None)
        container.execs.clear()

    def _check(self, container: Container) -> None:
        match container.state.status:
            case "running":
                return
            case "paused":
                raise Conflict(f"Container {container.id} is paused, unpause the container before exec")
            case "restarting":
                raise Conflict(f"Container {container.id} is restarting, wait until the container is running")
            case _:
                raise Conflict(f"Container {container.id} is not running")

    def _drop_old(self, container: Container) -> None:
        ended = [each for each in container.execs.values() if each.exit_code is not None]
        oldest = time.monotonic() - KEPT
        for number, each in enumerate(ended, start=1):
            if each.ended_at < oldest or number <= len(ended) - KEPT_ENDED:
                del container.execs[each.id]
                self._execs.pop(each.id, None)

    def _user(self, container: Container, config: ExecConfig) -> tuple[User, str]:
        """Who it runs as, and where that one is at home; raises `InvalidArgument`."""
        document = container.document
        layers = [str(path) for path in self._engine.images.layers(document.image)][::-1]
        known = users.accounts(layers, str(container.bundle / "upper"))
        return users.resolve(config.user or document.config.user, container.host.group_add, known)

    def _process(self, container: Container, config: ExecConfig, size: Sequence[int]) -> Process:
        engine, document = self._engine, container.document
        user, home = self._user(container, config)
        hostname = engine.hostname_of(container)
        variables = compiler.environment(
            document, hostname, home, config.tty, links=links.environment(engine, container), extra=config.env
        )
        if config.privileged or container.host.privileged:
            names = list(engine.capabilities)
        else:
            names = compiler.capabilities(container.host, engine.capabilities)
        process = Process(
            terminal=config.tty,
            user=user,
            args=list(config.cmd),
            env=variables,
            cwd=config.working_dir or document.config.working_dir or "/",
            capabilities=compiler.capability_sets(names, user.uid == 0),
            no_new_privileges=securityopt.no_new_privileges(container.host),
            rlimits=compiler.rlimits(container.host),
            oom_score_adj=container.host.oom_score_adj,
        )
        if config.tty and len(size) == 2 and any(size):
            process.console_size = Box(height=size[0], width=size[1])
        return process
