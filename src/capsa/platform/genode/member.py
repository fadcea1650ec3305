"""One container on a Genode: what its sub-init reports, what its components write, who is told."""

from __future__ import annotations

import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from capsa.errors import CapsaError, Conflict, InvalidArgument, LaunchFailed, Unsupported, reason
from capsa.hid import Node
from capsa.platform import kept_exit, protocol
from capsa.platform.connection import Answer, failure_of
from capsa.platform.genode import additional, budget, bundle, compile, file_servers, network, output
from capsa.platform.genode.additional import INCOMPLETE_SECONDS, Additional
from capsa.platform.genode.budget import Quota
from capsa.platform.genode.bundle import MAIN, TERMINAL, Bundle, Console, Link, Names
from capsa.platform.genode.equipment import Equipment
from capsa.platform.genode.names import NameSockets
from capsa.platform.genode.report import Child, State
from capsa.platform.genode.terminals import Terminal
from capsa.platform.log import LogWriter
from capsa.platform.loop import Loop
from capsa.platform.protocol import Done, Launch, Started, Status
from capsa.platform.reception import Reception
from capsa.platform.streams import STDERR, STDOUT, Streams

MOST_SKIPPED = 3
LEAVE_SECONDS = 1.0  # until its end is told in any case: its components end in some milliseconds, or not at all
# Genode has no signals. These end a component, which is what they do to a Linux process that does not know them.
ENDING = frozenset({signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGKILL})


class Machine(Protocol):
    """The Genode that it runs on."""

    loop: Loop

    @property
    def notice(self) -> str:
        """What the output of each container begins with, a line; empty for nothing."""

    def apply(self, member: Member) -> None:
        """Write its configuration anew, and that of its sub-init; raises `LaunchFailed`."""

    def admit(self, member: Member, wanted: Quota, components: int = 0) -> None:
        """Raises `LaunchFailed` where that quota is not to be had, or so many components more are too many."""

    def plug(self, member: Member, interface: protocol.Interface) -> None:
        """Make the device that leads from a network to the container; raises `CapsaError`."""

    def unplug(self, interface: protocol.Interface) -> None:
        """Take that device away again, which no component has opened yet."""

    def terminal(self, container: str, component: str, console: Console) -> Terminal:
        """Make what clients are at who are attached to that component; raises `LaunchFailed`."""

    def withdraw(self, member: Member) -> int:
        """Take its start node away: all its components end; the number of the configuration that is without it."""

    def forget(self, member: Member) -> None:
        """It was released: nothing of it is left."""


def link_of(interface: protocol.Interface) -> Link:
    """A container's interface as its router has it; raises `InvalidArgument` for a name that cannot be in labels."""
    if not bundle.NAME.fullmatch(interface.name):
        raise InvalidArgument(
            f"{interface.name!r} cannot be the name of an interface on Genode: write letters, digits and any of _ . + -"
        )
    address, gateway = interface.addresses[0], gateway_of(interface.gateways)
    return Link(interface.name, interface.host_name, interface.mac, address, gateway)


def names_of(sockets: NameSockets | None) -> Names | None:
    """Where its name server is, as its router has it."""
    return Names(sockets.link, sockets.address, sockets.port) if sockets is not None else None


def gateway_of(gateways: Sequence[str]) -> str:
    """The one of IPv4, empty if there is none."""
    return next((each for each in gateways if ":" not in each), "")


class Member:
    """A container; the machine calls `reported` and `wrote`."""

    def __init__(
        self,
        machine: Machine,
        launch: Launch,
        made: Bundle,
        tree: file_servers.Tree | None,
        texts: Mapping[str, str],
        terminal: Terminal | None = None,
    ) -> None:
        """``texts``: small files of the image, which may be configurations."""
        self.launch = launch
        self.name = made.name
        self.bundle = made
        self._texts = texts
        self.tree = tree
        self.reception = Reception(self, machine.loop, launch.control)
        self.status = Status(state="creating")
        self._lacking = 0.0  # since when something is missing that it needs, as reports have it
        self.execs: dict[str, Additional] = {}
        self.least = Quota(0, 0)  # what its sub-init had before it was the container's
        self.granted = Quota(0, 0)  # what its start node had in the newest configuration
        self.version = 0  # of its sub-init's configuration
        self.waited = False  # whether file servers were in its sub-init before it was the container's
        self.unused = False  # whether those are there still that it does not need
        self.awaits = 0  # the configuration of all that has to be in effect before the next one of its own
        self.returns = 0  # the one of its own after which others may have what it has no more
        self._leaves = (0, 0.0)  # who ended it is told with that configuration, or at that time
        self.names: NameSockets | None = None
        self._interfaces = {each.name: each for each in launch.interfaces}
        self.held: list[socket.socket] = []  # which reserve the host's ports that are published
        self.usage = Child(MAIN)
        self._machine = machine
        self._exec_count = 0
        self._short: tuple[str, int, int] | None = None
        self._trouble = ""
        self._there: set[str] = set()  # its components, by the newest report
        log = LogWriter(launch.log) if launch.log is not None else None
        self._terminal = terminal
        self._answered = ""  # the configuration of its sub-init that it last said to have
        self._resized = False  # and there is another size of a terminal
        if terminal is not None:
            stdin = launch.stdin or made.console.tty
            self.streams = terminal.streams(
                machine.loop, stdin=stdin, once=launch.stdin_once, log=log, on_trouble=self._log_trouble
            )
        else:
            self.streams = Streams(machine.loop, fed=True, log=log, on_trouble=self._log_trouble)

    @property
    def quota(self) -> Quota:
        """What its start node has to have; never less than its sub-init began with.

        Genode 26.02 takes more than it is to take, and gives that back then: meanwhile there is nothing for sessions.
        """
        return compile.quota(self.bundle, len(self.execs)).larger(self.least)

    @property
    def active(self) -> bool:
        """It is among those that run or are about to."""
        return self.status.state in ("creating", "running")

    @property
    def watched(self) -> bool:
        """Something of it is to begin, and somebody waits for it."""
        return self.status.state == "creating" or any(each.answer is not None for each in self.execs.values())

    def entry(self) -> compile.Entry:
        """Its part of the configuration of all containers."""
        return compile.entry(self.bundle, self.quota, waited=self.waited)

    def subinit(self, has: Equipment) -> Node:
        """The configuration of its sub-init."""
        execs = [each.wanted for each in self.execs.values()]
        return compile.subinit(self.bundle, self.tree, execs, has=has, waited=self.waited, unused=self.unused)

    # -- what engines ask for

    def greeting(self) -> Status:
        """The first report to an engine."""
        return msgspec.structs.replace(self.status, execs=dict.fromkeys(self.execs, 0))

    def obey(self, command: protocol.Command, ends: list[socket.socket], answer: Answer) -> None:
        """As of `capsa.platform.connection.Servant`."""
        match command:
            case protocol.Exec():
                self._exec(command, ends, answer)
                return
            case protocol.Measure():
                self._running()
                answer(protocol.Measured(memory=self.usage.ram.used, limit=self.bundle.quota.ram))
                return
            case protocol.Signal():
                self._signal(command)
            case protocol.Update():
                self._update(command)
            case protocol.AttachTo():
                self._streams_of(command.attach.exec).attach(ends[0], command.attach)
            case protocol.NameSockets():
                self._running()
                found = self.names
                answer(Done(), found.descriptors if found is not None else [])
                return
            case protocol.Release():
                self._release()
            case protocol.Pause() | protocol.Resume():
                raise Unsupported("Genode cannot stop the processors of a component: containers there are not paused")
            case protocol.Resize():
                self._resize(command)
            case protocol.Connect():
                self._connect(command.interface, command.names)
            case protocol.Disconnect():
                self._disconnect(command.name)
            case protocol.Route():
                self._route(command)
            case protocol.Processes():
                raise Unsupported("a container on Genode has components, not processes")
        answer(Done())

    def _running(self) -> None:
        if self.status.state != "running":
            raise Conflict(f"container {self.launch.id} is not running")

    def _streams_of(self, exec: str) -> Streams:
        if not exec:
            return self.streams
        if exec not in self.execs:
            raise Conflict(f"exec {exec} is not running")
        return self.execs[exec].streams

    def _signal(self, command: protocol.Signal) -> None:
        self._running()
        if command.signal not in ENDING:
            raise Unsupported(
                f"Genode has no signals: {signal.Signals(command.signal).name} cannot be sent, and "
                "only HUP, INT, QUIT, TERM and KILL, which end a container, mean something"
            )
        if command.exec:
            self._exec_ended(self.execs[command.exec], 128 + command.signal)
            return
        self.end(128 + command.signal, by_request=True)

    def _update(self, command: protocol.Update) -> None:
        self._running()
        memory = command.resources.memory
        if memory is None or not memory.limit or memory.limit < 0:
            raise Unsupported("only the memory of a container can be changed on Genode")
        before = self.bundle
        if memory.limit < budget.LEAST_RAM:
            raise InvalidArgument(f"{memory.limit} bytes are too little: {budget.shown(budget.LEAST_RAM)} at least")
        wanted = msgspec.structs.replace(before, quota=Quota(memory.limit, before.quota.caps))
        self._machine.admit(self, compile.quota(wanted, len(self.execs)).larger(self.least) - self.quota)
        self._become(wanted)

    def _become(self, wanted: Bundle) -> None:
        """Change what it is; raises `CapsaError`, and is what it was."""
        before, self.bundle = self.bundle, wanted
        try:
            self._machine.apply(self)
        except CapsaError:
            self.bundle = before
            raise

    def _resize(self, command: protocol.Resize) -> None:
        self._running()
        if command.exec and command.exec not in self.execs:
            raise Conflict(f"exec {command.exec} is not running")
        which = self.execs.get(command.exec)
        console = which.wanted.console if which is not None else self.bundle.console
        if not console.tty:
            raise Conflict("it has no terminal to resize")
        changed = Console(True, command.width, command.height)
        if changed == console:
            return
        if which is not None:
            which.wanted = msgspec.structs.replace(which.wanted, console=changed)
        else:
            self.bundle = msgspec.structs.replace(self.bundle, console=changed)
        # A window that is dragged has many sizes: the last one counts.
        self._resized = True
        self._apply_size()

    def _apply_size(self) -> None:
        if self._resized and self._answered == str(self.version):
            self._resized = False
            self._apply_or_say()

    def _apply_or_say(self) -> None:
        try:
            self._machine.apply(self)
        except CapsaError as error:
            print(f"container {self.name}: {error}", file=sys.stderr, flush=True)

    def _connect(self, interface: protocol.Interface, names: bool) -> None:
        self._running()
        if not self.bundle.network:
            raise Unsupported("the component was started without a network: name one at its start (--network)")
        added = link_of(interface)
        links = self.bundle.links
        if added.gateway:
            links = tuple(msgspec.structs.replace(link, gateway="") for link in links)
        sockets = NameSockets(interface) if names and self.names is None else self.names
        self._change_links((*links, added), sockets, interface)
        self._interfaces[interface.name] = interface

    def _disconnect(self, name: str) -> None:
        self._running()
        sockets = self.names
        if sockets is not None and sockets.link == name:  # it is asked by way of another network from now on
            left = next((each for each in self._interfaces.values() if each.name != name), None)
            sockets = NameSockets(left) if left is not None else None
        self._change_links(tuple(link for link in self.bundle.links if link.name != name), sockets)
        self._interfaces.pop(name, None)

    def _route(self, command: protocol.Route) -> None:
        self._running()
        gateway = gateway_of(command.gateways)
        self._change_links(
            tuple(
                msgspec.structs.replace(link, gateway=gateway if link.name == command.name else "")
                for link in self.bundle.links
            ),
            self.names,
        )

    def _change_links(
        self, links: tuple[Link, ...], names: NameSockets | None, added: protocol.Interface | None = None
    ) -> None:
        """Be in other networks, one of which may be new; raises `CapsaError`, and is in those that it was in."""
        before = self.names
        try:
            if added is not None:
                self._machine.admit(self, network.DRIVER_QUOTA)
                self._machine.plug(self, added)
            try:
                self._become(msgspec.structs.replace(self.bundle, links=links, names=names_of(names)))
            except CapsaError:
                if added is not None:
                    self._machine.unplug(added)
                raise
        except CapsaError:
            if names is not None and names is not before:
                names.close()
            raise
        self.names = names
        if before is not None and before is not names:
            before.close()

    def _exec(self, command: protocol.Exec, ends: list[socket.socket], answer: Answer) -> None:
        self._running()
        wanted = additional.wanted(command, self.bundle, self._exec_count + 1, self._texts)
        has_terminal = TERMINAL in self.bundle.drivers
        self._machine.admit(self, compile.exec_quota(self.bundle), 1 + has_terminal)
        self._exec_count += 1
        terminal = None
        if has_terminal:
            terminal = self._machine.terminal(self.name, wanted.name, wanted.console)
            streams = terminal.streams(self._machine.loop, stdin=command.stdin or wanted.console.tty, once=True)
        else:
            streams = Streams(self._machine.loop, fed=True)
        added = Additional(command.exec, wanted, streams, answer, terminal)
        self.execs[command.exec] = added
        try:
            self._machine.apply(self)
        except CapsaError:
            del self.execs[command.exec]
            added.close()
            raise
        for end, attach in zip(ends, command.attach, strict=True):
            streams.attach(end, attach)

    def stuck(self, error: CapsaError) -> None:
        """The configuration of its sub-init cannot be written: what was to be added to it will not be there."""
        print(f"container {self.name}: {error}", file=sys.stderr, flush=True)
        for each in list(self.execs.values()):
            if each.answer is not None:
                each.answer(failure_of(error))
                each.answer = None
                self._exec_ended(each, 127, apply=False)

    def _release(self) -> None:
        if self.status.state != "exited":
            raise Conflict(f"container {self.launch.id} is {self.status.state}, only an exited one can be released")
        self._machine.forget(self)

    # -- what the Genode says

    def reported(self, outer: Child | None, inner: State | None) -> None:
        """A new report: on its sub-init, and by it."""
        if not self.active:
            return
        main = inner.children.get(MAIN) if inner is not None else None
        if outer is not None and outer.incomplete:
            self._incomplete("its sub-init")
        if main is not None:
            self.usage = main
            if self.status.state == "creating":
                if main.incomplete:
                    self._incomplete("a ROM or a service that the component needs")
                elif main.id is not None:
                    self.began()
        if inner is not None:
            self._answered = inner.version
            self._apply_size()
            self._there = {each.name for each in inner.children.values() if each.id is not None and not each.incomplete}
            self._notice_shortage(inner.children)
            for each in list(self.execs.values()):
                child = inner.children.get(each.wanted.name)
                code = each.reported(child) if child is not None else None
                if code is not None:
                    self._exec_ended(each, code)
        exited = next((each.exited for each in (main, outer) if each is not None and each.exited is not None), None)
        if exited is not None and self.active:
            self.began()
            self.end(exited & 0xFF)
        elif main is not None and main.skipped_heartbeats >= MOST_SKIPPED:
            self.end(137, f"the component did not answer {main.skipped_heartbeats} heartbeats")

    def began(self) -> None:
        """Its component runs."""
        if self.status.state == "creating":
            self.status = Status(state="running", started_at=time.time_ns())
            self.reception.say(self.status)
            if self._machine.notice:
                self.streams.emit(STDERR, f"{self._machine.notice}\n".encode())

    def _incomplete(self, what: str) -> None:
        if self.status.state != "creating":
            return
        self._lacking = self._lacking or time.monotonic()
        if time.monotonic() - self._lacking > INCOMPLETE_SECONDS:
            self.fail(LaunchFailed(f"{what} is not there: {self._trouble or 'see the log of the engine'}", 127))

    def _notice_shortage(self, components: Mapping[str, Child]) -> None:
        """One of its components waits for more RAM or capabilities than it has; the main one is looked at first."""
        waiting = [each for each in components.values() if each.ram.requested or each.caps.requested]
        first = min(waiting, key=lambda each: each.name != MAIN, default=None)
        short = (first.name, first.ram.requested, first.caps.requested) if first is not None else None
        if first is not None and short != self._short:
            who = "the component" if first.name == MAIN else f"its component {first.name}"
            if first.ram.requested:
                kind, amount = "RAM", budget.shown(first.ram.requested)
                remedy = " (docker update --memory gives it more)" if first.name == MAIN else ""
            else:
                kind, amount = "capabilities", str(first.caps.requested)
                remedy = " (org.genode.caps says how many it has from the start)" if first.name == MAIN else ""
            self.reception.say(
                protocol.Shortage(
                    resource=kind,
                    requested=first.ram.requested or first.caps.requested,
                    message=f"blocked: {who} waits for {amount} more {kind}{remedy}",
                )
            )
        elif self._short is not None and short is None:
            self.reception.say(protocol.Shortage())
        self._short = short

    def wrote(self, line: output.Line) -> None:
        """One of its components has written a line to LOG."""
        for each in list(self.execs.values()):
            if each.wanted.name == line.component:
                each.wrote(line.text)
                if line.end is not None:
                    self._exec_ended(each, line.end[0])
        if line.component.startswith("exec-"):
            return
        if line.component == MAIN:
            if self.status.state == "creating":
                self.began()
            self.streams.emit(STDOUT, additional.line(line.text, self.bundle.console))
            if line.end is not None:
                self.end(*line.end)
            return
        text = line.plain.decode(errors="replace")
        print(f"container {self.name} -> {line.component}: {text}", file=sys.stderr, flush=True)
        if text.startswith(("Error:", "Warning:")) or "denied" in text:
            self._trouble = text[:300]
        if line.end is not None and self.status.state == "running":
            self.end(137, f"its component {line.component or 'init'} has ended: {line.end[1]}")

    def components(self, has: Equipment) -> list[str]:
        """Those that run, as far as is known; an empty name for its sub-init."""
        waiting = {each.wanted.name for each in self.execs.values() if each.answer is not None}
        there = {MAIN, *self._there} - waiting
        return ["", *(each.name for each in self.subinit(has).nodes("start") if each.name in there)]

    def crashed(self, component: str, what: str) -> None:
        """The kernel has ended one of its components."""
        for each in list(self.execs.values()):
            if each.wanted.name == component:
                self._exec_ended(each, 139)
                return
        self.end(139, what if component == MAIN else f"its component {component or 'init'} had a fault ({what})")

    # -- its end

    def fail(self, error: BaseException) -> None:
        """It could not be launched; nothing of it stays."""
        self._machine.withdraw(self)
        self._let_go()
        self.status = Status(state="failed", failure=failure_of(error))
        self.reception.say(self.status)
        self._machine.forget(self)

    def end(self, code: int, why: str = "", *, by_request: bool = False) -> None:
        """It has ended, or ends now: ``by_request`` of somebody, who hears of it when nothing of it runs any more."""
        if not self.active:
            return
        for each in list(self.execs.values()):
            self._exec_ended(each, 137, apply=False)
        version = self._machine.withdraw(self)
        self._let_go()
        self.status = Status(
            state="exited",
            started_at=self.status.started_at,
            finished_at=time.time_ns(),
            exit_code=code,
            reason=why,
        )
        kept_exit.write(self.launch.bundle, self.status)
        if by_request:
            self._leaves = (version, time.monotonic() + LEAVE_SECONDS)
        else:
            self.reception.say(self.status)

    @property
    def leaving(self) -> bool:
        """It has been ended, and who did that is not told yet."""
        return self._leaves != (0, 0.0)

    def left(self, reported: int) -> None:
        """That configuration is in effect; tells its end, if that is the one without it, or has been waited for."""
        version, until = self._leaves
        if self.leaving and (reported >= version or time.monotonic() > until):
            self._leaves = (0, 0.0)
            self.reception.say(self.status)

    def _let_go(self) -> None:
        additional.close(self.streams, self._terminal)
        if self.names is not None:
            self.names.close()
            self.names = None
        for each in self.held:
            each.close()
        self.held = []

    def _exec_ended(self, which: Additional, code: int, *, apply: bool = True) -> None:
        del self.execs[which.exec]
        which.close()
        if which.answer is not None:
            which.answer(Started(pid=0))
        self.reception.say(protocol.ExecExited(exec=which.exec, exit_code=code, at=time.time_ns()))
        if apply:
            self._apply_or_say()

    def _log_trouble(self, error: OSError) -> None:
        assert self.launch.log is not None
        self.reception.say(protocol.LogTrouble(message=f"cannot write {self.launch.log.path}: {reason(error)}"))
