"""The attendant: does a sub-init's work while there is any.

It makes the container, copies its output, answers engines, notices the end. A process of Python that has done all that
has touched two or three megabytes, which is much for a container that sleeps. So the sub-init proper
(`capsa.platform.linux.subinit`) only sleeps and reaps; its attendant is a child that shares its file descriptors, and
when nothing has happened for `LINGER_SECONDS` it writes down what it knows and ends. The next event brings another.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import termios
import time

import msgspec

from capsa import errors
from capsa.errors import CapsaError, Conflict, InvalidArgument
from capsa.oci import runtime
from capsa.platform import kept_exit, protocol
from capsa.platform.connection import Answer, failure_of
from capsa.platform.linux import container, running
from capsa.platform.linux.cgroup import Cgroup
from capsa.platform.linux.cgroup.hierarchy import layout
from capsa.platform.linux.execs import Execs
from capsa.platform.linux.pipes import Pipes
from capsa.platform.linux.running import Process
from capsa.platform.log import LogWriter
from capsa.platform.loop import HANGUP, READ, Loop
from capsa.platform.protocol import Done, Launch, Pids, Report, Status
from capsa.platform.reception import Reception
from capsa.platform.streams import Streams

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

LINGER_SECONDS = 2.0
DRAIN_SECONDS = 2.0
MOMENT_SECONDS = 0.001
SETTLE_SECONDS = 0.005
MOST_PIDS = protocol.LARGEST // 16  # what surely fits into a message


class Memory(msgspec.Struct, omit_defaults=True):
    """What one attendant leaves to the next; numbers of file descriptors are those they share.

    ``streams`` are the open ones of the main process by name, ``rest`` the unfinished lines of its log.
    """

    launch: Launch
    status: Status
    end: int
    listener: int | None = None
    engines: list[int] = []
    held: list[int] = []
    names: list[int] = []
    streams: dict[str, int] = {}
    rest: dict[str, bytes] = {}
    oom: int | None = None
    mounts: int | None = None
    unheard: list[Report] = []


def cgroup_path(spec: runtime.Spec, id: str) -> str:
    """Where the container's cgroup is: as its specification says, or a place of our own."""
    return (spec.linux.cgroups_path if spec.linux else "") or f"/capsa/{id}"


class Attendant:
    """One container, while something happens to it."""

    def __init__(self, launch: Launch, epoll: select.epoll, children: int) -> None:
        """``children`` tells of ended processes, see `Loop`."""
        self.launch = launch
        self.loop = Loop(epoll, children, self._child_ended)
        self.reception = Reception(self, self.loop, launch.control)
        self.released = False
        self._status = Status(state="creating")
        self._main: Process | None = None
        self._execs = Execs(self.loop, self._exec_ended)
        self._finishing: list[Streams] = []
        self._spec: runtime.Spec | None = None
        self._private = False
        self._cgroup: Cgroup | None = None
        self._oom_watch: int | None = None
        self._log: LogWriter | None = None
        self._trouble = ""
        self._held: list[int] = []
        self._names: list[int] = []
        self._mounts: int | None = None

    # -- the beginning and the end of an attendant

    def make(self, fds: list[int], network: int | None) -> None:
        """Make the container, with the file descriptors that came with its launch, and start it.

        ``network``: see `container.create`. What fails is reported to the engine.
        """
        control, *rest = fds
        self.reception.admit(socket.socket(fileno=control))
        attached = [socket.socket(fileno=fd) for fd in rest[: len(self.launch.attach)]]
        self._held = rest[len(self.launch.attach) :]
        try:
            self._make(attached, network)
        except BaseException as error:
            self._unmake()
            self._status = Status(state="failed", failure=failure_of(error))
            self.reception.say(self._status)
            self.released = True

    def _make(self, attached: list[socket.socket], network: int | None) -> None:
        launch = self.launch
        bundle = launch.bundle
        spec = self._specification()
        if spec.process is None:
            raise InvalidArgument(f"{bundle}/config.json has no process to run")
        pipes = Pipes(spec.process.terminal, launch.stdin)
        path = cgroup_path(spec, launch.id)
        cgroup = self._cgroup = Cgroup.create(path, spec.linux.resources if spec.linux else None)
        end = -1

        def prepare(birth: container.Birth) -> None:
            nonlocal end
            pipes.close_theirs()
            assert birth.end is not None
            end = birth.end
            self._mounts = running.mounts(birth.pid, end)
            self.reception.listen()
            if launch.log is not None:
                self._log = LogWriter(launch.log)
            self._watch_end(end)
            self._watch_memory(cgroup.oom_watch())

        birth = container.create(
            spec,
            id=launch.id,
            bundle=bundle,
            root=launch.root,
            cgroup=cgroup,
            stdio=pipes.theirs,
            interfaces=launch.interfaces,
            cache=launch.cache,
            init=launch.init,
            names=launch.names,
            sibling=True,
            network=network,
            meanwhile=prepare,
        )
        if network is not None:
            os.close(network)
        self._names = birth.names
        streams = self._main_streams(pipes.with_console(birth.console))
        self._main = Process(birth.pid, end, streams)
        for attachment, wanted in zip(attached, launch.attach, strict=True):
            streams.attach(attachment, wanted)
        birth.start()
        spaces = spec.linux.namespaces if spec.linux else []
        self._private = any(space.type == "pid" and not space.path for space in spaces)
        self._change(state="running", pid=birth.pid, started_at=time.time_ns())

    def _unmake(self) -> None:
        """A launch failed: leave nothing of it."""
        if self._main is not None:
            self._main.signal(signal.SIGKILL)
            self._main.streams.close()
        if self._cgroup is not None:
            with contextlib.suppress(OSError, CapsaError):
                self._cgroup.kill()
                self._cgroup.remove()
        self._unmount()
        self.reception.close()

    def remember(self, memory: Memory) -> None:
        """Go on where the attendant before ended."""
        self._status = memory.status
        self._private = True
        self._held = memory.held
        self._names = memory.names
        self._mounts = memory.mounts
        if self.launch.log is not None:
            log = self.launch.log
            try:
                self._log = LogWriter(log, memory.rest)
            except OSError as error:
                self._log_trouble(error)
        self._main = Process(memory.status.pid, memory.end, self._main_streams(memory.streams))
        self._watch_end(memory.end)
        self._watch_memory(memory.oom)
        self.reception.take_up(memory.listener, memory.engines, memory.unheard)

    def settle(self) -> None:
        """Work until nothing has happened for a moment, the container has ended and its engine knows, or it goes on."""
        until = time.monotonic() + SETTLE_SECONDS
        while self._status.state == "running" and time.monotonic() < until and self.loop.turn(MOMENT_SECONDS):
            pass

    def run(self) -> Memory | None:
        """Work; returns what to remember when there has been nothing to do for a while, None when all is over."""
        while not self.released:
            if not self.loop.turn(LINGER_SECONDS) and self._can_leave():
                return self._leave()
        deadline = time.monotonic() + DRAIN_SECONDS
        while self.reception.busy and time.monotonic() < deadline:
            self.loop.turn(0.1)
        self._unmount()
        self.reception.close()  # last: an engine that starts meanwhile has to find somebody here, and to wait
        return None

    def _can_leave(self) -> bool:
        """Nothing is under way that the next attendant could not take up.

        Orphans that share the host's processes have to be reaped when they end, so their attendant stays.
        """
        return (
            self._private
            and self._status.state in ("running", "paused")
            and not self._execs
            and not self.reception.busy
            and not any(streams.busy for streams in self._finishing)
            and self._main is not None
            and self._main.streams.idle
        )

    def _leave(self) -> Memory:
        assert self._main is not None
        if self._log is not None:
            self._log.close()
        if self._cgroup is not None:
            self._cgroup.close()
        listener, engines, unheard = self.reception.leave()
        return Memory(
            launch=self.launch,
            status=self._status,
            listener=listener,
            engines=engines,
            held=self._held,
            names=self._names,
            streams=self._main.streams.open_by_name(),
            rest=self._log.rest if self._log is not None else {},
            oom=self._oom_watch,
            mounts=self._mounts,
            end=self._main.end,
            unheard=unheard,
        )

    def _main_streams(self, fds: dict[str, int]) -> Streams:
        return running.streams(self.loop, fds, self.launch.stdin_once, self._log, self._log_trouble)

    def _watch_end(self, pidfd: int) -> None:
        """The end of the main process has to wake a sub-init without attendant; the attendant hears of it otherwise."""
        self.loop.watch(pidfd, READ, lambda _events: self.loop.forget(pidfd))

    def _watch_memory(self, watch: int | None) -> None:
        self._oom_watch = watch
        if watch is not None:
            self.loop.watch(watch, READ, self._out_of_memory)

    # -- what engines ask for

    def obey(self, command: protocol.Command, ends: list[socket.socket], answer: Answer) -> None:
        """Carry one command out; takes the sockets over unless it raises what the engine is to be told."""
        match command:
            case protocol.Exec():
                self._exec(command, ends, answer)
                return
            case protocol.Signal():
                self._signal(command)
            case protocol.Pause():
                self._pause()
            case protocol.Resume():
                if self._status.state != "paused":
                    raise Conflict(f"Container {self.launch.id} is not paused")
                self._running_cgroup().thaw()
                self._change(state="running")
            case protocol.Update():
                self._running_cgroup().update(command.resources)
            case protocol.Resize():
                console = self._process(command.exec).streams.console
                if console is None:
                    raise Conflict("it has no terminal to resize")
                termios.tcsetwinsize(console, (command.height, command.width))
            case protocol.AttachTo():
                self._process(command.attach.exec).streams.attach(ends[0], command.attach)
            case protocol.Processes():
                pids = self._running_cgroup().pids()
                if len(pids) > MOST_PIDS:
                    raise CapsaError(f"container {self.launch.id} has {len(pids)} processes, too many to list")
                answer(Pids(pids=pids))
                return
            case protocol.Measure():
                memory = self._running_cgroup().stats().memory
                answer(protocol.Measured(memory=memory.usage, limit=memory.limit or 0))
                return
            case protocol.Connect():
                wanted = command.names and not self._names
                self._names += container.connect(self._running().pid, command.interface, wanted)
            case protocol.Disconnect():
                container.disconnect(self._running().pid, command.name)
            case protocol.Route():
                container.route(self._running().pid, command.name, command.gateways)
            case protocol.NameSockets():
                self._running()
                answer(Done(), self._names)
                return
            case protocol.Release():
                self._release()
                answer(protocol.Unmounting())
                return
        answer(Done())

    def _running(self) -> Process:
        if self._main is None or self._main.exit_code is not None:
            raise Conflict(f"container {self.launch.id} is not running")
        return self._main

    def _running_cgroup(self) -> Cgroup:
        self._running()
        return self._open_cgroup()

    def _open_cgroup(self) -> Cgroup:
        """The container's cgroup, opened when first needed: few containers are ever asked about theirs."""
        if self._cgroup is None:
            self._cgroup = Cgroup(cgroup_path(self._specification(), self.launch.id), layout())
        return self._cgroup

    def _specification(self) -> runtime.Spec:
        if self._spec is None:
            self._spec = runtime.load(self.launch.bundle)
        return self._spec

    def _process(self, exec_id: str) -> Process:
        if exec_id:
            return self._execs.get(exec_id)
        assert self._main is not None
        return self._main

    def _signal(self, command: protocol.Signal) -> None:
        if command.all:
            cgroup = self._running_cgroup()
            if command.signal == signal.SIGKILL:
                cgroup.kill()
                return
            for pid in cgroup.pids():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, command.signal)
            return
        target = self._process(command.exec)
        if target.exit_code is not None:
            raise Conflict(f"container {self.launch.id} is not running")
        target.signal(command.signal)

    def _pause(self) -> None:
        if self._status.state == "paused":
            raise Conflict(f"Container {self.launch.id} is already paused")
        self._running_cgroup().freeze()
        self._change(state="paused")

    def _exec(self, command: protocol.Exec, ends: list[socket.socket], answer: Answer) -> None:
        main = self._running()
        if self._status.state != "running":
            raise Conflict(f"Container {self.launch.id} is {self._status.state}, unpause the container before exec")
        self._execs.begin(
            command,
            ends,
            answer,
            spec=self._specification(),
            pid=main.pid,
            cgroup=self._open_cgroup(),
            cache=self.launch.cache,
        )

    def _release(self) -> None:
        if self._status.state != "exited":
            raise Conflict(f"container {self.launch.id} is {self._status.state}, only an exited one can be released")
        deadline = time.monotonic() + DRAIN_SECONDS
        while any(streams.busy for streams in self._finishing) and time.monotonic() < deadline:
            self.loop.turn(0.1)
        self._open_cgroup().remove()
        _close_all([*self._held, *self._names])
        self._held, self._names = [], []
        self.released = True

    # -- what happens

    def _child_ended(self, pid: int, status: int) -> None:
        if self._main is None or pid != self._main.pid:
            self._execs.child_ended(pid, status)
        elif self._main.exit_code is None:
            self._main.exit_code = running.exit_code(status)
            self._container_ended(self._main)

    def _exec_ended(self, report: protocol.ExecExited, streams: Streams) -> None:
        self._finishing = [each for each in self._finishing if each.busy]
        self._finishing.append(streams)
        self.reception.say(report)

    def _container_ended(self, main: Process) -> None:
        assert main.exit_code is not None
        finished_at = time.time_ns()
        cgroup = self._open_cgroup()
        if self._status.state == "paused":
            cgroup.thaw()
        if not self._private:
            cgroup.kill()  # its other processes outlive the first one, unlike in a process namespace of its own
        deadline = time.monotonic() + DRAIN_SECONDS
        while self._execs.signal(signal.SIGKILL) and time.monotonic() < deadline:
            self.loop.turn(0.05)
        main.streams.drain()
        main.streams.close()
        self._finishing.append(main.streams)
        self._status = Status(
            state="exited",
            started_at=self._status.started_at,
            finished_at=finished_at,
            exit_code=main.exit_code,
            out_of_memory=cgroup.oom_kills() > 0,
        )
        kept_exit.write(self.launch.bundle, self._status)
        self.reception.say(self._status)
        if not self.reception.engines:  # an engine goes on with a release, which ends with this
            self._unmount()
        self._run_poststop()

    def _unmount(self) -> None:
        """Let go of the mounts, see `running.mounts`."""
        if self._mounts is not None:
            os.close(self._mounts)
            self._mounts = None

    def _run_poststop(self) -> None:
        for trouble in container.ended(self._specification(), id=self.launch.id, bundle=self.launch.bundle):
            print(f"container {self.launch.id[:12]}: {trouble}", file=sys.stderr, flush=True)

    def _out_of_memory(self, events: int) -> None:
        assert self._oom_watch is not None
        with contextlib.suppress(OSError):
            os.read(self._oom_watch, 4096)
        if events & HANGUP:
            self.loop.forget(self._oom_watch)
        if self._open_cgroup().oom_kills() > 0 and not self._status.out_of_memory:
            self._status = msgspec.structs.replace(self._status, out_of_memory=True)
            self.reception.say(protocol.OutOfMemory(at=time.time_ns()))

    def _log_trouble(self, error: OSError) -> None:
        assert self.launch.log is not None
        message = f"cannot write {self.launch.log.path}: {errors.reason(error)}"
        if message != self._trouble:  # which each piece of output may have
            self._trouble = message
            self.reception.say(protocol.LogTrouble(message=message))

    def _change(self, **changes: object) -> None:
        self._status = msgspec.structs.replace(self._status, **changes)
        self.reception.say(self._status)

    def greeting(self) -> Status:
        """What an engine is told first."""
        return msgspec.structs.replace(self._status, execs=self._execs.pids())


def _close_all(fds: Iterable[int]) -> None:
    for fd in fds:
        os.close(fd)
