"""What of an OCI bundle means something to Genode: the specification, and the annotations ``org.genode.*``.

``org.genode.ram``, ``org.genode.caps``: quotas of the main component where no limit is given; ``org.genode.config``:
its ``config`` node in HID (or the name of a file in the image that holds it: ``@/etc/config``), as the variable
``GENODE_CONFIG`` of the environment, which goes before it;
``org.genode.services``: more services of the Genode that it may use, by name; ``org.genode.vfs``: ``no`` where it
uses no files; ``org.genode.heartbeat``: ``yes`` where it answers heartbeats; ``org.genode.priority``: 0 (highest) to
-3; ``org.genode.affinity``: ``1-2/4``, the second and third of four processors. ``org.capsa.dns``: addresses of name
servers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import msgspec

from capsa import hid
from capsa.errors import InvalidArgument
from capsa.oci.runtime import Process, Spec
from capsa.platform.genode import budget
from capsa.platform.genode.budget import Quota

PREFIX = "org.genode."
KNOWN = ("ram", "caps", "config", "services", "vfs", "heartbeat", "priority", "affinity")
BASE_SERVICES = ("PD", "CPU", "RM", "LOG")
MORE_SERVICES = ("Timer", "Rtc", "Report", "Trace", "Gui", "Nic", "Terminal", "Audio_out", "Play", "Record", "Event")
MAIN = "main"
TERMINAL = "Terminal"
NO_TERMINAL = "org.genode.services=Terminal"
VARIABLE = "GENODE_CONFIG"
SERVERS = "org.capsa.dns"
NAME = re.compile(r"[A-Za-z0-9_.+-]{1,63}")
_AFFINITY = re.compile(r"([0-9]{1,4})(?:-([0-9]{1,4}))?/([0-9]{1,4})")


class Volume(msgspec.Struct, frozen=True):
    """A directory of the host in the container's tree: ``source`` on the host, ``target`` a path from the root."""

    source: str
    target: str
    writable: bool = True


class Link(msgspec.Struct, frozen=True):
    """A container's place in a network.

    ``name`` as in ``eth0``; ``tap``: the device of the host that leads there, with the ``mac`` that the container has
    there; ``address`` is ``A.B.C.D/N``; ``gateway``: the way to everywhere else, if it is through this network.
    """

    name: str
    tap: str
    mac: str
    address: str
    gateway: str = ""


class Names(msgspec.Struct, frozen=True):
    """Where a container's name server is: on the host, in the network that ``link`` leads to."""

    link: str
    address: str
    port: int


class Console(msgspec.Struct, frozen=True):
    """Who is at the other end of a component's Terminal sessions: a ``tty``, with its size in characters if known."""

    tty: bool = False
    columns: int = 0
    lines: int = 0


class Affinity(msgspec.Struct, frozen=True):
    """Processors: ``width`` of them from ``xpos`` on, where Genode counts ``space`` in a row."""

    xpos: int
    width: int
    space: int


class Bundle(msgspec.Struct, frozen=True):
    """One container, in Genode's terms.

    ``binary`` is a ROM name; ``roms`` are the files of the image by ROM name, with the name that the pool of ROMs knows
    their content by; ``quota`` is that of the main component alone. ``network``: it may use the networks that it has
    ``links`` to, now or later, by the program ``driver``; ``servers``: addresses of name servers, asked where
    ``names`` does not answer. ``volatile``: what changes of its files is kept in memory, as long as it runs.
    ``drivers``: services that a driver of its own provides; ``absent``: services of its that this Genode lacks.
    """

    name: str
    binary: str
    arguments: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    config: hid.Node | None = None
    roms: tuple[tuple[str, str], ...] = ()
    quota: Quota = Quota(budget.DEFAULT_RAM, budget.DEFAULT_CAPS)
    services: tuple[str, ...] = ("Timer",)
    files: bool = True
    read_only: bool = False
    volumes: tuple[Volume, ...] = ()
    heartbeat: bool = False
    priority: int = 0
    affinity: Affinity | None = None
    network: bool = False
    links: tuple[Link, ...] = ()
    driver: str = "linux_nic"
    names: Names | None = None
    servers: tuple[str, ...] = ()
    volatile: bool = False
    drivers: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    console: Console = Console()


def rom_name(path: str) -> str:
    """The ROM name of a file of an image: its last component."""
    return path.rpartition("/")[2]


def read(spec: Spec, name: str, roms: Mapping[str, str], text_of: Mapping[str, str]) -> Bundle:
    """A `Bundle` from a specification; ``roms`` as above, ``text_of``: files that ``org.genode.config`` may name.

    Raises `InvalidArgument`, `Unsupported` for what Genode does not have.
    """
    process = spec.process
    if process is None or not process.args:
        raise InvalidArgument("the specification has no process to run")
    annotations = {key: value for key, value in spec.annotations.items() if key.startswith(PREFIX)}
    for key in annotations:
        if key.removeprefix(PREFIX) not in KNOWN:
            raise InvalidArgument(f"unknown setting {key}: there are {', '.join(PREFIX + each for each in KNOWN)}")
    binary = rom_name(process.args[0])
    if not NAME.fullmatch(binary):
        raise InvalidArgument(f"{process.args[0][:80]!r} cannot be the name of a component on Genode")
    if binary not in roms:
        raise InvalidArgument(f"there is no {binary} in the image: its files are {_listed(roms)}")
    environment = variables(process.env)
    services = _services(annotations.get("org.genode.services", ""))
    volumes = []
    for mount in spec.mounts:
        if mount.type == "bind" or {"bind", "rbind"} & set(mount.options):
            volumes.append(Volume(mount.source, mount.destination, "ro" not in mount.options))
    return Bundle(
        name=name,
        binary=binary,
        arguments=tuple(process.args),
        environment=tuple(each for each in environment if each[0] != VARIABLE),
        config=config_of(dict(environment).get(VARIABLE) or annotations.get("org.genode.config", ""), text_of),
        roms=tuple(sorted(roms.items())),
        quota=_quota(spec, annotations),
        services=services,
        files=_flag(annotations, "vfs", True),
        read_only=bool(spec.root and spec.root.readonly),
        volumes=tuple(volumes),
        servers=tuple(spec.annotations.get(SERVERS, "").split()),
        heartbeat=_flag(annotations, "heartbeat", False),
        priority=_priority(annotations.get("org.genode.priority", "0")),
        affinity=_affinity(annotations.get("org.genode.affinity", "")),
        console=console_of(process),
    )


def console_of(process: Process) -> Console:
    """Of a process of the specification."""
    size = process.console_size if process.terminal else None
    return Console(process.terminal, size.width, size.height) if size else Console(process.terminal)


def variables(entries: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """``NAME=VALUE`` as pairs."""
    return tuple((key, value) for key, _, value in (entry.partition("=") for entry in entries))


def _listed(names: Mapping[str, str]) -> str:
    few = sorted(names)[:8]
    return ", ".join(few) + (", …" if len(names) > len(few) else "") if few else "none"


def config_of(given: str, text_of: Mapping[str, str]) -> hid.Node | None:
    """A ``config`` node from its text, or from the file that ``@PATH`` names; raises `InvalidArgument`."""
    if not given:
        return None
    if given.startswith("@"):
        if given[1:] not in text_of:
            raise InvalidArgument(f"org.genode.config names {given[1:]}, which is not a file of the image")
        given = text_of[given[1:]]
    if given.rstrip().rpartition("\n")[2] != "-":  # of a label nobody expects the end marker
        given = f"{given.rstrip()}\n-\n"
    try:
        found = hid.read(given)
    except hid.HidError as error:
        raise InvalidArgument(f"org.genode.config is not HID: {error}") from error
    if found.type != "config":
        raise InvalidArgument(f"org.genode.config begins with {found.type!r}: it has to be a config node")
    return found


def _quota(spec: Spec, annotations: Mapping[str, str]) -> Quota:
    ram = budget.bytes_of(annotations.get("org.genode.ram", str(budget.DEFAULT_RAM)), "org.genode.ram")
    networked = "Nic" in _services(annotations.get("org.genode.services", ""))
    usual = budget.DEFAULT_CAPS + (budget.NETWORK_CAPS if networked else 0)
    caps = annotations.get("org.genode.caps", str(usual))
    if not caps.isdecimal() or len(caps) > 6:
        raise InvalidArgument(f"org.genode.caps is {caps[:80]!r}: write a number of capabilities")
    memory = spec.linux.resources.memory if spec.linux and spec.linux.resources else None
    if memory is not None and memory.limit and memory.limit > 0:
        ram = memory.limit
    if ram < budget.LEAST_RAM:
        raise InvalidArgument(
            f"{ram} bytes of RAM are too little for a component: {budget.shown(budget.LEAST_RAM)} at least"
        )
    return Quota(ram, max(int(caps), budget.LEAST_CAPS))


def _services(text: str) -> tuple[str, ...]:
    wanted = ["Timer", *text.replace(",", " ").split()]
    for name in wanted:
        if name not in MORE_SERVICES:
            raise InvalidArgument(f"org.genode.services names {name[:80]!r}: there are {', '.join(MORE_SERVICES)}")
    return tuple(dict.fromkeys(wanted))


def _flag(annotations: Mapping[str, str], name: str, default: bool) -> bool:
    text = annotations.get(PREFIX + name)
    if text not in (None, "yes", "no"):
        raise InvalidArgument(f"{PREFIX}{name} is {text[:80]!r}: write yes or no")
    return default if text is None else text == "yes"


def _affinity(text: str) -> Affinity | None:
    if not text:
        return None
    found = _AFFINITY.fullmatch(text)
    first, last, space = (int(found[1]), int(found[2] or found[1]), int(found[3])) if found else (0, 0, 0)
    if not first <= last < space:
        raise InvalidArgument(
            f"org.genode.affinity is {text[:80]!r}: write 0/4 for the first of four processors, or 1-2/4"
        )
    return Affinity(first, last - first + 1, space)


def _priority(text: str) -> int:
    if text not in ("0", "-1", "-2", "-3"):
        raise InvalidArgument(f"org.genode.priority is {text[:80]!r}: write 0 (highest) to -3")
    return int(text)
