"""The compiler: what a container was asked to be, to an OCI ``config.json``.

`compile` is a pure function: everything that depends on the machine (accounts, host devices, processes to join)
comes in a `Surroundings`. Docker's defaults are here: capabilities, mounts, device rules, masked paths.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from capsa.engine import securityopt
from capsa.engine.config import HostConfig
from capsa.engine.container import Document, MountPoint
from capsa.engine.limits import resources
from capsa.oci.runtime import (
    VERSION,
    Box,
    Capabilities,
    Device,
    DeviceRule,
    Linux,
    Mount,
    Namespace,
    Process,
    Rlimit,
    Root,
    Seccomp,
    Spec,
    User,
)

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SHM = 64 << 20


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


CAPABILITIES = tuple(
    f"CAP_{name}"
    for name in _words(
        "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE "
        "NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT "
        "SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL "
        "SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
    )
)
DEFAULT_CAPABILITIES = tuple(
    f"CAP_{name}"
    for name in _words(
        "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT KILL "
        "AUDIT_WRITE"
    )
)

MASKED = _words(
    "/proc/asound /proc/acpi /proc/interrupts /proc/kcore /proc/keys /proc/latency_stats /proc/timer_list "
    "/proc/timer_stats /proc/sched_debug /proc/scsi /sys/firmware /sys/devices/virtual/powercap"
)
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

DEVICE_RULES = (
    DeviceRule(allow=False, access="rwm"),
    DeviceRule(allow=True, type="c", access="m"),
    DeviceRule(allow=True, type="b", access="m"),
    *(
        DeviceRule(allow=True, type="c", major=major, minor=minor, access="rwm")
        for major, minor in ((1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2), (136, None))
    ),
)


class Surroundings(msgspec.Struct, kw_only=True):
    """What `compile` has to know of the machine and of other containers.

    ``files`` are single files of the host by their place in the container (/etc/hosts), ``images`` the layers of those
    that are mounted, lowest first, by id. The ``*_path`` are namespaces
    to join, empty: a new one. ``shm`` is a host directory for /dev/shm, ``links`` are variables. ``capabilities``:
    those that can be had here.
    """

    engine: str
    id: str
    hostname: str
    user: User
    home: str
    seccomp: Seccomp | None = None
    files: dict[str, str] = {}
    images: dict[str, list[str]] = {}
    devices: list[Device] = []
    device_rules: list[DeviceRule] = []
    capabilities: Sequence[str] = CAPABILITIES
    network_path: str = ""
    pid_path: str = ""
    ipc_path: str = ""
    shm: str = ""
    links: Sequence[str] = ()


def capabilities(host: HostConfig, available: Sequence[str] = CAPABILITIES) -> list[str]:
    """The capabilities that a container may have (``--cap-add``, ``--cap-drop``, ``--privileged``)."""
    if host.privileged:
        return list(available)
    add = {capability_name(name) for name in host.cap_add}
    drop = {capability_name(name) for name in host.cap_drop}
    start: Sequence[str] = DEFAULT_CAPABILITIES
    if "ALL" in add:
        start = available
    elif "ALL" in drop:
        start = ()
    wanted = [name for name in start if name not in drop]
    wanted += [name for name in CAPABILITIES if name in add and name not in wanted]
    return wanted


def capability_name(name: str) -> str:
    """``net_admin`` as ``CAP_NET_ADMIN``; ``ALL`` stays."""
    name = name.upper()
    return name if name == "ALL" or name.startswith("CAP_") else f"CAP_{name}"


def compile(document: Document, around: Surroundings) -> Spec:
    """The ``config.json`` of a container. Its root file system travels beside it (``Launch.root``)."""
    config, host = document.config, document.host
    namespaces = _namespaces(host, around)
    limits = resources(host)
    limits.devices = (
        [DeviceRule(allow=True, access="rwm")] if host.privileged else [*DEVICE_RULES, *around.device_rules]
    )
    private_network = any(item.type == "network" and not item.path for item in namespaces)
    spec = Spec(
        oci_version=VERSION,
        root=Root(path="rootfs", readonly=host.readonly_rootfs),
        process=process(document, around),
        mounts=_mounts(document, around),
        annotations=dict(host.annotations),
        linux=Linux(
            namespaces=namespaces,
            cgroups_path=f"/{host.cgroup_parent.strip('/') or around.engine}/{around.id}",
            resources=limits,
            devices=around.devices,
            sysctl=_sysctls(host, private_network),
            seccomp=around.seccomp,
            rootfs_propagation=_propagation(document.mounts),
        ),
    )
    assert spec.linux is not None
    if host.uts_mode != "host":
        spec.hostname = around.hostname
        spec.domainname = config.domainname
    if not securityopt.open_system_paths(host):
        spec.linux.masked_paths = list(MASKED if host.masked_paths is None else host.masked_paths)
        spec.linux.readonly_paths = list(READ_ONLY if host.readonly_paths is None else host.readonly_paths)
    return spec


def process(document: Document, around: Surroundings) -> Process:
    """The container's first process."""
    config, host = document.config, document.host
    result = Process(
        terminal=config.tty,
        user=around.user,
        args=[document.path, *document.args],
        env=environment(document, around.hostname, around.home, config.tty, links=around.links),
        cwd=config.working_dir or "/",
        capabilities=capability_sets(capabilities(host, around.capabilities), around.user.uid == 0),
        rlimits=rlimits(host),
        no_new_privileges=securityopt.no_new_privileges(host),
        oom_score_adj=host.oom_score_adj,
    )
    if config.tty and any(host.console_size):
        result.console_size = Box(height=host.console_size[0], width=host.console_size[1])
    return result


def environment(
    document: Document, hostname: str, home: str, tty: bool, *, links: Sequence[str] = (), extra: Sequence[str] = ()
) -> list[str]:
    """The variables of a process: Docker's own, those of links, the container's, then ``extra``; later ones win."""
    variables = {"PATH": PATH, "HOSTNAME": hostname}
    if tty:
        variables["TERM"] = "xterm"
    for entry in (*links, *document.config.env, *extra):
        name, equals, value = entry.partition("=")
        if equals:
            variables[name] = value
        else:
            variables.pop(name, None)
    variables.setdefault("HOME", home)
    return [f"{name}={value}" for name, value in variables.items()]


def capability_sets(names: Sequence[str], root: bool) -> Capabilities:
    """The five sets; a process of another user than root begins without any in effect."""
    effective = list(names) if root else []
    return Capabilities(bounding=list(names), effective=effective, permitted=list(effective))


def rlimits(host: HostConfig) -> list[Rlimit]:
    """The limits of each process (``--ulimit``); -1 is unlimited."""
    return [
        Rlimit(type=f"RLIMIT_{limit.name.upper()}", soft=_unlimited(limit.soft), hard=_unlimited(limit.hard))
        for limit in host.ulimits
    ]


def _unlimited(value: int) -> int:
    return (1 << 64) - 1 if value < 0 else value


def _namespaces(host: HostConfig, around: Surroundings) -> list[Namespace]:
    found = [Namespace(type="mount")]
    if host.network_mode != "host":
        found.append(Namespace(type="network", path=around.network_path))
    if host.pid_mode != "host":
        found.append(Namespace(type="pid", path=around.pid_path))
    if host.ipc_mode != "host":
        found.append(Namespace(type="ipc", path=around.ipc_path))
    if host.uts_mode != "host":
        found.append(Namespace(type="uts"))
    if host.cgroupns_mode != "host":
        found.append(Namespace(type="cgroup"))
    return found


def _sysctls(host: HostConfig, private_network: bool) -> dict[str, str]:
    found = {}
    if private_network:  # nobody but the container is affected: let it use low ports and ping without capabilities
        found["net.ipv4.ip_unprivileged_port_start"] = "0"
        found["net.ipv4.ping_group_range"] = "0 2147483647"
    return found | host.sysctls


def _mounts(document: Document, around: Surroundings) -> list[Mount]:
    host = document.host
    access = "rw" if host.privileged else "ro"
    table = {
        "/proc": Mount(destination="/proc", type="proc", source="proc", options=["nosuid", "noexec", "nodev"]),
        "/dev": Mount(
            destination="/dev",
            type="tmpfs",
            source="tmpfs",
            options=["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        "/dev/pts": Mount(
            destination="/dev/pts",
            type="devpts",
            source="devpts",
            options=["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        "/sys": Mount(destination="/sys", type="sysfs", source="sysfs", options=["nosuid", "noexec", "nodev", access]),
        "/sys/fs/cgroup": Mount(
            destination="/sys/fs/cgroup",
            type="cgroup",
            source="cgroup",
            options=["nosuid", "noexec", "nodev", "relatime", "rw" if securityopt.writable_cgroups(host) else "ro"],
        ),
        "/dev/mqueue": Mount(
            destination="/dev/mqueue", type="mqueue", source="mqueue", options=["nosuid", "noexec", "nodev"]
        ),
    }
    if host.network_mode == "host" or around.network_path:
        # a new sysfs shows the network namespace of whoever mounts it, and needs its privileges
        table["/sys"] = Mount(
            destination="/sys",
            type="bind",
            source="/sys",
            options=["rbind", "nosuid", "noexec", "nodev", "rslave", access],
        )
        if access == "ro":
            table["/sys"].options.append("rro")
    if host.pid_mode == "host":
        table["/proc"].options.append("rw")
    if around.shm:
        table["/dev/shm"] = Mount(  # noqa: S108
            destination="/dev/shm",  # noqa: S108
            type="bind",
            source=around.shm,
            options=["rbind", "rprivate", "nosuid", "noexec", "nodev"],
        )
    elif host.ipc_mode != "none":
        table["/dev/shm"] = Mount(  # noqa: S108
            destination="/dev/shm",  # noqa: S108
            type="tmpfs",
            source="shm",
            options=["nosuid", "noexec", "nodev", "mode=1777", f"size={host.shm_size or SHM}"],
        )
    own = [file(path, source, host.readonly_rootfs) for path, source in around.files.items()]
    own += [mount(point, around.images.get(point.name, ())) for point in document.mounts]
    for each in sorted(own, key=lambda each: each.destination.count("/")):
        table.pop(each.destination, None)
        table[each.destination] = each
    return list(table.values())


def file(path: str, source: str, read_only: bool) -> Mount:
    """A single file of the host at ``path``."""
    options = ["rbind", "rprivate"]
    if read_only:
        options.append("ro")
    return Mount(destination=path, type="bind", source=source, options=options)


def mount(point: MountPoint, layers: Sequence[str] = ()) -> Mount:
    """A mount that was asked for, as the runtime wants it; ``layers``, lowest first, are the image's."""
    if point.type == "tmpfs":
        return Mount(destination=point.destination, type="tmpfs", source="tmpfs", options=list(point.options))
    subdir = [f"X-mount.subdir={point.subpath}"] if point.subpath else []
    if point.type == "image":
        lower = ":".join(layer.replace(":", "\\:") for layer in reversed(layers))
        options = [f"lowerdir={lower}", "ro", "rprivate", *subdir]
        return Mount(destination=point.destination, type="overlay", source="overlay", options=options)
    options = [*(point.options or ["rbind"]), point.propagation or "rprivate", *subdir]
    if not point.writable:
        options += ["ro", "rro"] if "non-recursive-read-only" not in options else ["ro"]
    options = [option for option in options if option != "non-recursive-read-only"]
    return Mount(destination=point.destination, type="bind", source=point.source, options=options)


def _propagation(mounts: Sequence[MountPoint]) -> str:
    wanted = {point.propagation for point in mounts}
    if wanted & {"shared", "rshared"}:
        return "shared"
    if wanted & {"slave", "rslave"}:
        return "slave"
    return ""
