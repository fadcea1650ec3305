"""The process that runs a Genode and its containers: to the engine what zygote and sub-inits are on Linux.

It outlives engines, as they do. Core is its child, first process of a process namespace of its own: when it ends, no
component is left behind. Both are in a mount namespace of their own: what is mounted for containers is seen by nobody
else and goes with it. Core's temporary directory is there, too: cores of one user would meet in it otherwise.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from capsa import hid
from capsa.errors import CapsaError, InvalidArgument, LaunchFailed, Unsupported
from capsa.oci import runtime
from capsa.platform import packets
from capsa.platform.connection import failure_of
from capsa.platform.genode import budget, bundle, compile, drivers, file_servers, network, nodes, processes, spare
from capsa.platform.genode.budget import Quota
from capsa.platform.genode.bundle import MAIN, TERMINAL, Console
from capsa.platform.genode.deployment import Deployment
from capsa.platform.genode.directory import Directory, schemas_of
from capsa.platform.genode.equipment import equipment
from capsa.platform.genode.image import Images
from capsa.platform.genode.launches import Launches
from capsa.platform.genode.member import Member, link_of, names_of
from capsa.platform.genode.names import NameSockets
from capsa.platform.genode.output import Line, Lines
from capsa.platform.genode.spare import Reserve
from capsa.platform.genode.taps import Tap, Taps
from capsa.platform.genode.terminals import Terminal
from capsa.platform.genode.trees import Trees
from capsa.platform.loop import READ, Loop
from capsa.platform.protocol import Interface, Launch, Status
from capsa.sys.inotify import IN_CLOSE_WRITE, IN_CREATE, IN_MOVED_TO, Inotify
from capsa.vfs.tree import CopyOnWrite

NEEDED = ("core", "ld.lib.so", "init", "timer", "lx_fs", "fs_rom", "fs_report")
SHORT_ID = 12  # characters of a container's id in names: labels have 160 at most
LINGER_SECONDS = 5.0
SILENT_SECONDS = 30.0  # without a report on the newest configuration: it is of no use any more
FAULT_SECONDS = 0.05  # after a fault was said, until the process has gone
TICK = 0.1
_EVENTS = IN_CLOSE_WRITE | IN_CREATE | IN_MOVED_TO
_CORE = 'mkdir -p "/tmp/genode-$(id -u)" && mount -t tmpfs -o mode=700 tmpfs "/tmp/genode-$(id -u)" && exec ./core'
_APART = ("setpriv", "--pdeathsig", "KILL", "unshare", "--pid", "--fork", "--kill-child")


class Settings(msgspec.Struct):
    """``binaries``: the directory of Genode's programs; ``work``: of its own, gone with it; ``store``: for images.

    ``control``: where engines are listened to. ``ram`` (bytes), ``caps``: what containers may have together.
    ``report``: of a Genode that runs already, whose configurations are in ``binaries`` (`attached.AttachedHost`).
    """

    binaries: str
    work: str
    store: str
    control: str
    report: str = ""
    ram: int = 4 << 30
    caps: int = 60_000


def missing(binaries: Path) -> list[str]:
    """What a directory lacks to be one of Genode's programs."""
    return [name for name in NEEDED if not (binaries / name).is_file()]


def _has_late(binaries: Path) -> bool:
    """Whether file servers can wait for a container: the plugin `cow` has to be one that can look at files later."""
    try:
        return (binaries / "vfs").is_file() and b"cow: late" in (binaries / "vfs_cow.lib.so").read_bytes()
    except OSError:
        return False


class GenodeHost:
    """One Genode, and all containers on it."""

    gone = "the Genode that the container ran on has ended"
    keeps_spare = True

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._children = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)  # of which there are none that the loop has to know
        self.loop = Loop(select.epoll(), self._children[0], lambda _pid, _status: None)
        self.members: dict[str, Member] = {}
        binaries = Path(settings.binaries)
        self._directory = self._shared(settings)
        self._images = Images(Path(settings.store))
        self._trees = Trees(Path(settings.work))
        self._has = equipment(binaries, attached=bool(settings.report))
        self._launches = Launches(self.loop, settings.control, self._launch)
        self._inotify = Inotify()
        self._watched: dict[int, str] = {}
        self._lines = Lines()
        self._core: subprocess.Popen[bytes] | None = None
        self._named = 0
        self._last_need = time.monotonic()
        self._over = False
        self._last_words = ""
        self._fault: tuple[float, str] | None = None
        self._taps = Taps()
        self._warned = False  # of the driver of networks
        self._reserve = Reserve(self._directory, self._has, files=_has_late(binaries))
        self._most = Quota(settings.ram, settings.caps)
        self._deployment = Deployment(self._directory, self.members, self._reserve, self._most)

    @staticmethod
    def _shared(settings: Settings) -> Directory:
        """By what it is told, and tells; raises `CapsaError`."""
        host, work = Path(settings.work, "host"), Path(settings.work)
        return Directory(host / "config", host / "report", schemas_of(Path(settings.binaries)), work)

    @property
    def notice(self) -> str:
        """As of `capsa.platform.genode.member.Machine`."""
        return ""

    # -- begin and end

    def start(self) -> None:
        """Start core and listen for engines; raises `CapsaError`."""
        work = Path(self.settings.work)
        self._trees.remove_work()
        for name in ("config", "report", f"report/{compile.CONTAINERS}", "tree"):
            (work / "host" / name).mkdir(parents=True)
        for entry in os.scandir(self.settings.binaries):
            (work / entry.name).symlink_to(os.path.abspath(entry.path))
        (work / "config").write_text(hid.write(compile.system(self._most)))
        self._deployment.begin()
        self.loop.watch(self._inotify.fileno(), READ, self._changed)
        self._watch(self._directory.report / compile.CONTAINERS, "")
        self._core = subprocess.Popen(
            [*_APART, "sh", "-c", _CORE],
            cwd=work,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert self._core.stdout is not None
        os.set_blocking(self._core.stdout.fileno(), False)
        self.loop.watch(self._core.stdout.fileno(), READ, self._output)
        self._listen()

    def run(self) -> None:
        """Work until Genode has ended, or nobody has needed it for a while."""
        while not self._over:
            self.loop.turn(TICK if any(each.active or each.leaving for each in self.members.values()) else 1.0)
            self._tick()
        self._end()

    def _tick(self) -> None:
        now = time.monotonic()
        if self._launches.engines or self.members:
            self._last_need = now
        elif now - self._last_need > LINGER_SECONDS:
            self._over = True
        silence = self._deployment.silence()
        if silence > SILENT_SECONDS:
            self._last_words = f"it reported nothing for {silence:.0f} seconds"
            self._ended()
        if self._fault is not None and now > self._fault[0]:
            self._find_faulted(self._fault[1])
            self._fault = None
        for member in list(self.members.values()):
            if member.watched:
                self._look(member)
            member.left(self._deployment.reported)
            if member.unused and time.time_ns() - member.status.started_at > spare.QUIET_SECONDS * 1e9:
                self._end_unused(member)
        if self.keeps_spare and self._launches.engines and not self._reserve.resting and self._quiet(now):
            self._tidy()

    def _end(self) -> None:
        self._launches.close()
        if self._core is not None and self._core.poll() is None:
            os.killpg(self._core.pid, signal.SIGKILL)
            self._core.wait()
        deadline = time.monotonic() + 2
        while any(each.reception.busy for each in self.members.values()) and time.monotonic() < deadline:
            self.loop.turn(0.1)
        for member in self.members.values():
            member.reception.close()
        self._taps.unplug(lambda _each: True)
        self._trees.remove_work()

    # -- launches

    def _listen(self) -> None:
        for each in self._has.lacks():
            print(each, file=sys.stderr, flush=True)
        self._launches.listen()

    def _launch(
        self, launch: Launch, control: socket.socket, attached: list[socket.socket], held: list[socket.socket]
    ) -> None:
        try:
            member = self._member(launch)
        except (CapsaError, OSError) as error:
            with contextlib.suppress(OSError):
                packets.send(control, Status(state="failed", failure=failure_of(error)), [])
            for each in (control, *attached, *held):
                each.close()
            return
        member.held = held
        member.reception.admit(control)
        self.members[member.name] = member
        try:
            member.reception.listen()
            self._write_container(member)
            if not member.quota.fits(member.granted):
                self._deployment.write()
        except (CapsaError, OSError) as error:
            member.fail(error)
            for each in attached:
                each.close()
            return
        for end, wanted in zip(attached, launch.attach, strict=False):
            member.streams.attach(end, wanted)

    def _member(self, launch: Launch) -> Member:
        """A container, all that it needs prepared; raises `CapsaError`."""
        spec = runtime.load(Path(launch.bundle))
        if not isinstance(launch.root, CopyOnWrite):
            raise InvalidArgument("a container on Genode needs an image")
        contents = self._images.get(launch.root.layers)
        made = self._has.provide(self._placed(bundle.read(spec, "", contents.roms, contents.texts), launch))
        for sentence in self._has.withholds(made):
            print(f"container {launch.id[:SHORT_ID]}: {sentence}", file=sys.stderr, flush=True)
        if launch.stdin or made.console.tty:
            self._has.check_input(made)
        for content in (*([contents.archive] if made.files else []), *contents.roms.values()):
            self._offer(content)
        spare_suits = self._reserve.suits(made) and compile.SPARE.fits(self._deployment.left())
        wanted = compile.SPARE if spare_suits else compile.quota(made)
        there = len(self._reserve.there()) if spare_suits else 0
        self._fits(launch.id, wanted, max(0, compile.components(made) - there), beside=not spare_suits)
        name = self._reserve.name if spare_suits else self._new_name(f"{launch.id[:SHORT_ID]}-")
        names = NameSockets(launch.interfaces[0]) if launch.names and launch.interfaces else None
        made = msgspec.structs.replace(made, name=name, names=names_of(names))
        terminal = None
        try:
            if TERMINAL in made.drivers:
                terminal = self.terminal(name, MAIN, made.console)
            tree = self._tree(made, launch.root, contents.archive) if made.files else None
            for interface in launch.interfaces:
                self._taps.plug(name, network.driver(link_of(interface)), interface)
        except BaseException:
            self._trees.unbind(name)
            self._taps.unplug(lambda tap: tap.container == name)
            if names is not None:
                names.close()
            if terminal is not None:
                terminal.close()
            raise
        member = Member(self, launch, made, tree, contents.texts, terminal)
        member.names = names
        if not spare_suits:
            self._watch_reports(name, files=made.files)
        else:
            self._reserve.take()
            member.least = member.granted = compile.SPARE
            member.version = spare.VERSION
            member.waited = self._reserve.files
            member.unused = member.waited and compile.keeps_unused(made)
            print(f"container {launch.id[:SHORT_ID]} has the sub-init {name}", file=sys.stderr, flush=True)
        return member

    def _new_name(self, prefix: str) -> str:
        """Another one for each run: `init` would take a start node that it has not seen leave for the one it has."""
        self._named += 1
        return f"{prefix}{self._named}"

    def _placed(self, made: bundle.Bundle, launch: Launch) -> bundle.Bundle:
        """The same with what depends on where this Genode is: its networks. Raises `InvalidArgument`, `Unsupported`."""
        if not launch.interfaces:
            if "Nic" in made.services:
                raise InvalidArgument(
                    "the component asks for Nic (org.genode.services), and its container is in no network: name one "
                    "(--network)"
                )
            return made
        there = [name for name in network.ROMS if Path(self.settings.binaries, name).is_file()]
        driver = next((name for name in network.DRIVERS if name in there), "")
        if network.ROUTER_ROM not in there or not driver:
            lacks = [network.ROUTER_ROM] if network.ROUTER_ROM not in there else []
            lacks += [] if driver else [" or ".join(network.DRIVERS)]
            raise Unsupported(f"this Genode has no networks: {self.settings.binaries} lacks {', '.join(lacks)}")
        if driver != network.DRIVERS[0] and not self._warned:
            self._warned = True
            print(
                f"networks are those of {driver}, which stands still for ever after a flood: put {network.DRIVERS[0]} "
                f"into {self.settings.binaries}",
                file=sys.stderr,
                flush=True,
            )
        return msgspec.structs.replace(made, network=True, links=tuple(map(link_of, launch.interfaces)), driver=driver)

    def plug(self, member: Member, interface: Interface) -> None:
        """As of `capsa.platform.genode.member.Machine`."""
        self._taps.plug(member.name, network.driver(link_of(interface)), interface)

    def unplug(self, interface: Interface) -> None:
        """As of `capsa.platform.genode.member.Machine`."""
        self._taps.delete([interface.host_name])

    def terminal(self, container: str, component: str, console: Console) -> Terminal:
        """As of `capsa.platform.genode.member.Machine`."""
        return Terminal(self._trees.place(drivers.fifos(container, component)), console)

    def _unused(self, which: Tap) -> bool:
        """Whether the driver has ended, by what Genode says."""
        member = self.members.get(which.container)
        if member is not None and member.active:
            if any(network.driver(link) == which.driver for link in member.bundle.links):
                return False
            inner = self._directory.state_of(member.name)
            return inner is not None and which.driver not in inner.children
        state = self._directory.state()
        return state is not None and which.container not in state.children

    def _offer(self, content: str) -> None:
        """Let core's ROM service hand out a file of the pool."""
        with contextlib.suppress(FileExistsError):
            os.symlink(self._images.path(content), Path(self.settings.work, nodes.ROM_PREFIX + content))

    def _tree(self, made: bundle.Bundle, root: CopyOnWrite, archive: str) -> file_servers.Tree:
        """A container's directories, put where Genode has them."""
        return self._trees.bind(made, root, archive)

    # -- what containers need of it

    def apply(self, member: Member) -> None:
        """As of `capsa.platform.genode.member.Machine`: more first, less last, and one after the other.

        The sub-init would hand out what it has not got yet as far as it goes, and never come back to it; and what its
        components have, nobody can take from it.
        """
        member.unused = False
        if member.quota.fits(member.granted):
            self._write_container(member)
            member.returns = member.version
        else:
            member.awaits = self._deployment.write()

    def _write_container(self, member: Member) -> None:
        self._directory.write_container(member.name, member.subinit(self._has), member.version + 1)
        member.version += 1

    def _go_on(self) -> None:
        """Genode has done what the newest report is about: what waited for that is next."""
        try:
            self._deployment.catch_up()
        except CapsaError as error:
            print(f"the configuration cannot be written: {error}", file=sys.stderr, flush=True)
            for member in [each for each in self.members.values() if each.status.state == "creating"]:
                member.fail(error)
        for member in list(self.members.values()):
            if member.active and 0 < member.awaits <= self._deployment.reported:
                member.awaits = 0
                try:
                    self._write_container(member)
                except CapsaError as error:
                    member.stuck(error)
            member.left(self._deployment.reported)
        for name in self._reserve.gone(self._deployment.reported):
            self._forget_reports(name)
            self._trees.unbind(name)

    def admit(self, member: Member, wanted: Quota, components: int = 0) -> None:
        """As of `capsa.platform.genode.member.Machine`."""
        self._fits(member.launch.id, wanted, components)

    def _fits(self, container: str, wanted: Quota, components: int, *, beside: bool = True) -> None:
        """Raises `LaunchFailed` where it does not; the spare sub-init goes where there is no room ``beside`` it."""
        what, left = f"container {container[:SHORT_ID]}", self._deployment.left()
        budget.check(wanted, left, what)
        if components:
            budget.check_descriptors(components, *self._descriptors(), what)
        if beside and not wanted.fits(left - compile.SPARE):
            self._reserve.drop(self._deployment.version + 1)

    def _descriptors(self) -> tuple[int, int]:
        """How many files core has open, and how many it may; zeros where nobody knows."""
        found = processes.children(self._core.pid) if self._core is not None else []
        return processes.descriptors(found[0]) if found else (0, 0)

    # -- the sub-init in reserve

    def _quiet(self, now: float) -> bool:
        """Whether nothing else is to be done, and that for a while."""
        deployment = self._deployment
        settled = deployment.answered and now - deployment.written_at > spare.QUIET_SECONDS
        return settled and not any(each.watched or each.leaving for each in self.members.values())

    def _tidy(self) -> None:
        """Have a spare sub-init, where there is room for one."""
        try:
            if self._reserve.crippled:
                self._no_file_servers("they do not begin")
            changed = self._reserve.overdue(self._deployment.version)
            if not self._reserve.name and spare.affordable(self._deployment.left(), *self._descriptors()):
                self._make_spare(self._new_name(spare.PREFIX))
                changed = True
            if changed:
                self._deployment.write()
        except (CapsaError, OSError) as error:
            self._reserve.rest()
            print(f"no sub-init is kept in reserve: {error}", file=sys.stderr, flush=True)

    def _make_spare(self, name: str) -> None:
        """With the next configuration of all; raises `CapsaError`, `OSError`, and nothing is left of it."""
        try:
            if self._reserve.files:  # its file server opens that directory, and what is put there later
                self._trees.await_one(name)
            self._watch_reports(name, files=True)
            self._reserve.make(name)
        except BaseException:
            self._forget_reports(name)
            self._trees.unbind(name)
            raise

    def _no_file_servers(self, why: str) -> None:
        """None wait any more: containers get theirs when they start."""
        print(f"no file servers are kept in reserve: {why}", file=sys.stderr, flush=True)
        self._reserve.files = False
        self._reserve.drop(self._deployment.version + 1)

    def _end_unused(self, member: Member) -> None:
        """A container runs whose sub-init has file servers that it does not need: they would only take memory."""
        inner = self._directory.state_of(member.name) if member.status.state == "running" else None
        if inner is None or inner.version != str(member.version):
            return
        member.unused = False
        try:
            self._write_container(member)
        except CapsaError as error:
            print(f"container {member.name} keeps file servers without use: {error}", file=sys.stderr, flush=True)

    def withdraw(self, member: Member) -> int:
        """As of `capsa.platform.genode.member.Machine`."""
        member.status = msgspec.structs.replace(member.status, state="exited")
        return self._deployment.write_if_possible(f"container {member.name}")

    def forget(self, member: Member) -> None:
        """As of `capsa.platform.genode.member.Machine`."""
        if self.members.pop(member.name, None) is None:
            return
        member.reception.close()
        self._forget_reports(member.name)
        self._trees.unbind(member.name)

    # -- what Genode says

    def _watch(self, directory: Path, name: str) -> None:
        self._watched[self._inotify.add(directory, _EVENTS)] = name

    def _watch_reports(self, name: str, *, files: bool) -> None:
        """Make the directory of a sub-init's reports, and notice them; ``files``: its container may have some."""
        where = self._directory.prepare_container(name, seed=files and self._has.random)
        self._watch(where, name)

    def _forget_reports(self, name: str) -> None:
        for number, watched in list(self._watched.items()):
            if watched == name:
                self._inotify.remove(number)
                del self._watched[number]
        self._directory.forget_container(name)

    def _changed(self, _events: int) -> None:
        concerned = {self._watched[number] for number, _file in self._inotify.happened() if number in self._watched}
        if "" in concerned:
            state = self._directory.state()
            if state is not None:
                self._deployment.take(state)
                self._go_on()
                concerned |= set(self.members)
        for name in concerned:
            if name in self.members:
                self._look(self.members[name])
        if self._reserve.name in concerned:
            self._reserve.there()
        if self._taps:
            self._taps.unplug(self._unused)

    def _look(self, member: Member) -> None:
        state = self._directory.state()
        outer = state.children.get(member.name) if state is not None else None
        inner = self._directory.state_of(member.name)
        if inner is not None and member.active and inner.version == str(member.returns):
            member.returns = 0
            self._deployment.write_if_possible(f"container {member.name}")
        self._output(READ)  # what a component wrote before its end has to be taken before that
        member.reported(outer, inner)

    def _output(self, _events: int) -> None:
        """Take what core has written, all of it."""
        assert self._core is not None and self._core.stdout is not None
        while not self._over:
            try:
                data = os.read(self._core.stdout.fileno(), 1 << 16)
            except BlockingIOError:
                return
            if not data:
                self.loop.forget(self._core.stdout.fileno())
                self._ended()
                return
            for line in self._lines.feed(data):
                self._wrote(line)

    def _wrote(self, line: Line) -> None:
        member = self.members.get(line.container)
        if member is not None:
            member.wrote(line)
            return
        plain = line.plain.decode(errors="replace")
        if line.end is not None and line.container and line.container == self._reserve.name:
            self._no_file_servers(f"{line.component}: {line.end[1]}")
            self._deployment.write_if_possible("the sub-init in reserve")
        if plain.startswith("Kernel:"):
            self._fault = (time.monotonic() + FAULT_SECONDS, plain.removeprefix("Kernel:").partition(",")[0].strip())
        if plain:
            self._last_words = plain[:300]
            print(plain, file=sys.stderr, flush=True)

    def _find_faulted(self, what: str) -> None:
        """Core has said that some component had a fault."""
        assert self._core is not None
        for core in processes.children(self._core.pid):
            running = {
                f"init -> {compile.CONTAINERS} -> {each.name}" + (f" -> {name}" if name else ""): (each, name)
                for each in self.members.values()
                if each.status.state == "running"
                for name in each.components(self._has)
            }
            waiting = [
                f"init -> {compile.CONTAINERS} -> {self._reserve.name}" + (f" -> {name}" if name else "")
                for name in {"", *self._reserve.there()}
                if self._reserve.name
            ]
            faulted = processes.faulted(core, [*compile.SYSTEM, *running, *waiting])
            if any(label in waiting for label in faulted):
                faulted = [label for label in faulted if label not in waiting]
                self._reserve.drop(self._deployment.version + 1)
                self._reserve.rest()
                self._deployment.write_if_possible("the sub-init in reserve")
            for label in faulted:
                if label in running:
                    member, name = running[label]
                    member.crashed(name, what)
            broken = [label for label in faulted if label not in running]
            if broken:
                self._last_words = f"its component {broken[0]} had a fault ({what})"
                self._ended()

    def _ended(self) -> None:
        """Genode is gone, and all containers with it."""
        why = f"{self.gone}: {self._last_words or 'without a word'}"
        for member in list(self.members.values()):
            if member.status.state == "creating":
                member.fail(LaunchFailed(why))
            else:
                member.end(137, why)
                member.left(self._deployment.version + 1)
        self._over = True
