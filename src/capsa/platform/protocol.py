"""Config goes down, report comes up: what an engine and a container's sub-init say to each other.

Every message is one JSON object in one packet (unix ``SOCK_SEQPACKET``), file descriptors ride along. The
engine sends `Request`s, each answered by a `Reply` with the same number; a sub-init sends `Report`s by itself.
Packets hold at most `PACKET` bytes; what is larger (up to `LARGEST`) is in a memory file, see `capsa.platform.packets`.

Streams (``attach``, ``exec``) travel on a socket of their own (``SOCK_STREAM``, one end of a pair that the
engine passes along): towards the engine raw bytes where there is a terminal, otherwise the frames of the Docker
Engine API ("Attach to a container", Stream format: one byte 1 stdout or 2 stderr, three zero bytes, four bytes of
length, big endian); towards the container raw bytes; shutting down one's writing side closes standard input.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from capsa.oci.runtime import Process, Resources
from capsa.vfs.tree import RootNode

PACKET = 1 << 16
LARGEST = 1 << 26


class Struct(msgspec.Struct, omit_defaults=True):
    """Base of all messages."""


class Log(Struct):
    """A log file in Docker's json-file form; ``max_size`` in bytes (0: never rotate), ``max_files`` kept in all.

    ``compress``: the predecessors; ``attributes`` are in every line.
    """

    path: str
    max_size: int = 0
    max_files: int = 1
    compress: bool = False
    attributes: dict[str, str] = {}


class Interface(Struct):
    """A network interface: a veth pair, its host end attached to ``bridge``.

    ``host_name`` is the host end's name, ``addresses`` are ``A.B.C.D/N`` (or IPv6), ``gateways`` the next hops of
    default routes. ``isolated``: others on the bridge that are, too, cannot be reached. ``sysctls`` by their path below
    ``/proc/sys``.
    """

    name: str
    host_name: str
    bridge: str
    mac: str
    addresses: list[str]
    gateways: list[str] = []
    mtu: int = 1500
    isolated: bool = False
    sysctls: dict[str, str] = {}


class Attach(Struct):
    """A stream to be connected with the container's (or, with ``exec``, that process's) standard streams."""

    stdin: bool = False
    stdout: bool = False
    stderr: bool = False
    exec: str = ""


class Launch(Struct):
    """Make a container from the bundle directory ``bundle`` (``config.json`` in it) and run it.

    File descriptors with it, in this order: the control connection, one stream for each of ``attach``, then ``held``
    sockets that live as long as the container (reserved ports).
    ``root`` replaces the ``root.path`` of the specification. ``control`` is the path of the socket to listen on for
    other engines. ``stdin``: keep standard input open; ``stdin_once``: close it when the first attached client leaves.
    ``init``: run a reaper as PID 1. ``names``: make the sockets of a name service (`NameSockets`). ``cache``: directory
    for compiled seccomp filters.
    """

    id: str
    bundle: str
    control: str
    cache: str
    root: RootNode | None = None
    stdin: bool = False
    stdin_once: bool = False
    log: Log | None = None
    interfaces: list[Interface] = []
    attach: list[Attach] = []
    held: int = 0
    init: bool = False
    names: bool = False


class Signal(Struct, tag="signal"):
    """Send ``signal`` (a number) to the main process, to the process ``exec``, or to ``all`` processes."""

    signal: int
    exec: str = ""
    all: bool = False


class Pause(Struct, tag="pause"):
    """Freeze all processes."""


class Resume(Struct, tag="resume"):
    """Thaw them."""


class Update(Struct, tag="update"):
    """Apply other limits."""

    resources: Resources


class Resize(Struct, tag="resize"):
    """Set the terminal's size in characters."""

    height: int
    width: int
    exec: str = ""


class AttachTo(Struct, tag="attach"):
    """Connect one more stream; its socket comes with the message."""

    attach: Attach


class Exec(Struct, tag="exec"):
    """Run one more process in the container; the sockets of ``attach`` come with the message.

    Answered with `Started` when it runs, with an error (code 126, 127) when it cannot.
    """

    exec: str
    process: Process
    stdin: bool = False
    attach: list[Attach] = []


class Processes(Struct, tag="processes"):
    """Ask for the ids (of the host) of all processes; answered with `Pids`."""


class Measure(Struct, tag="measure"):
    """Ask for the memory that it uses; answered with `Measured`."""


class Connect(Struct, tag="connect"):
    """Add a network interface to the running container; ``names``: and the sockets of a name service, once."""

    interface: Interface
    names: bool = False


class Disconnect(Struct, tag="disconnect"):
    """Remove it, by its name in the container."""

    name: str


class Route(Struct, tag="route"):
    """Let the default routes lead through the interface ``name`` to ``gateways``."""

    name: str
    gateways: list[str]


class NameSockets(Struct, tag="name-sockets"):
    """Ask for the sockets that the container's name service listens on, UDP and TCP; they come with the answer.

    The sub-init keeps them, too, so that they last from one name server to the next.
    """


class Release(Struct, tag="release"):
    """The exit code was taken: clean up and end. Answered when nothing is left."""


Command = (
    Signal
    | Pause
    | Resume
    | Update
    | Resize
    | AttachTo
    | Exec
    | Processes
    | Measure
    | Connect
    | Disconnect
    | Route
    | NameSockets
    | Release
)


class Request(Struct):
    """A numbered command."""

    number: int
    command: Command


class Failure(Struct):
    """Why something did not work; ``kind`` names a class in `capsa.errors`, ``code`` is that of `LaunchFailed`."""

    message: str
    kind: str = "CapsaError"
    code: int = 0


class Started(Struct, tag="started"):
    """The process runs; ``pid`` is its id on the host."""

    pid: int


class Pids(Struct, tag="pids"):
    """Process ids of the host."""

    pids: list[int]


class Measured(Struct, tag="measured"):
    """Memory in use, and what may be used, in bytes (0: no limit)."""

    memory: int
    limit: int = 0


class Done(Struct, tag="done"):
    """Done."""


class Unmounting(Struct, tag="unmounting"):
    """Released but for what was mounted: the connection ends when that is gone, which waits for the disk."""


Result = Started | Pids | Measured | Done | Unmounting


class Reply(Struct, tag="reply"):
    """The answer to request ``number``: a result or a failure."""

    number: int
    result: Result | None = None
    failure: Failure | None = None


class Status(Struct, tag="status"):
    """The first report on every control connection, and again at every change.

    Times are nanoseconds since the epoch. ``exit_code`` as a shell has it (128 + signal). ``out_of_memory``: the
    kernel ended a process for lack of memory. ``failure``: it could not be launched; nothing is left of it. ``reason``:
    why it ended, where the exit code does not tell.
    """

    state: Literal["creating", "running", "paused", "exited", "failed"]
    pid: int = 0
    started_at: int = 0
    finished_at: int = 0
    exit_code: int = 0
    out_of_memory: bool = False
    failure: Failure | None = None
    execs: dict[str, int] = {}
    reason: str = ""


class ExecExited(Struct, tag="exec-exited"):
    """An additional process ended."""

    exec: str
    exit_code: int
    at: int


class OutOfMemory(Struct, tag="oom"):
    """The kernel ended a process of the container for lack of memory."""

    at: int


class LogTrouble(Struct, tag="log-trouble"):
    """Output could not be written to the log (a full disk)."""

    message: str


class Shortage(Struct, tag="shortage"):
    """The container is blocked until it gets more of ``resource``; no ``message``: it goes on."""

    resource: str = ""
    requested: int = 0
    message: str = ""


Report = Status | ExecExited | OutOfMemory | LogTrouble | Shortage
FromSubInit = Reply | Status | ExecExited | OutOfMemory | LogTrouble | Shortage
