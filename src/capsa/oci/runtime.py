"""Types of the OCI runtime-spec 1.2 (``config.json``), as msgspec structs.

Field by field the documents ``config.md`` and ``config-linux.md``. Unknown properties are ignored, as the
specification asks; a wrong type is a `msgspec.ValidationError` that names the path (``$.process.user.uid``).
`load` turns that into one sentence.
"""

import os
from typing import Any, Literal

import msgspec

from capsa.errors import InvalidArgument

VERSION = "1.3.0"


class Struct(msgspec.Struct, rename="camel", omit_defaults=True):
    """Base of all: camel case on the wire, defaults left out."""


class Box(Struct):
    height: int = 0
    width: int = 0


class User(Struct):
    uid: int = 0
    gid: int = 0
    umask: int | None = None
    additional_gids: list[int] = []
    username: str | None = None


class Capabilities(Struct):
    bounding: list[str] = []
    effective: list[str] = []
    inheritable: list[str] = []
    permitted: list[str] = []
    ambient: list[str] = []


class Rlimit(Struct):
    type: str
    soft: int
    hard: int


class IOPriority(Struct):
    class_: str = msgspec.field(name="class")
    priority: int = 0


class Scheduler(Struct):
    policy: str
    nice: int = 0
    priority: int = 0
    flags: list[str] = []
    runtime: int = 0
    deadline: int = 0
    period: int = 0


class ExecCPUAffinity(Struct):
    initial: str = ""
    final: str = ""


class Process(Struct):
    terminal: bool = False
    console_size: Box | None = None
    user: User = msgspec.field(default_factory=User)
    args: list[str] = []
    command_line: str | None = None
    env: list[str] = []
    cwd: str = "/"
    capabilities: Capabilities | None = None
    rlimits: list[Rlimit] = []
    no_new_privileges: bool = False
    apparmor_profile: str = ""
    oom_score_adj: int | None = None
    selinux_label: str = ""
    scheduler: Scheduler | None = None
    io_priority: IOPriority | None = None
    exec_cpu_affinity: ExecCPUAffinity | None = msgspec.field(name="execCPUAffinity", default=None)


class Root(Struct):
    path: str
    readonly: bool = False


class IDMapping(Struct):
    container_id: int = msgspec.field(name="containerID")
    host_id: int = msgspec.field(name="hostID")
    size: int


class Mount(Struct):
    destination: str
    type: str = ""
    source: str = ""
    options: list[str] = []
    uid_mappings: list[IDMapping] = []
    gid_mappings: list[IDMapping] = []


class Hook(Struct):
    path: str
    args: list[str] = []
    env: list[str] | None = None
    timeout: int | None = None


class Hooks(Struct):
    prestart: list[Hook] = []
    create_runtime: list[Hook] = []
    create_container: list[Hook] = []
    start_container: list[Hook] = []
    poststart: list[Hook] = []
    poststop: list[Hook] = []


class Namespace(Struct):
    type: Literal["pid", "network", "mount", "ipc", "uts", "user", "cgroup", "time"]
    path: str = ""


class Device(Struct):
    type: Literal["c", "b", "u", "p"]
    path: str
    major: int = 0
    minor: int = 0
    file_mode: int | None = None
    uid: int | None = None
    gid: int | None = None


class DeviceRule(Struct):
    allow: bool
    type: Literal["a", "c", "b", ""] = ""
    major: int | None = None
    minor: int | None = None
    access: str = ""


class Memory(Struct):
    limit: int | None = None
    reservation: int | None = None
    swap: int | None = None
    kernel: int | None = None
    kernel_tcp: int | None = msgspec.field(name="kernelTCP", default=None)
    swappiness: int | None = None
    disable_oom_killer: bool | None = msgspec.field(name="disableOOMKiller", default=None)
    use_hierarchy: bool | None = None
    check_before_update: bool | None = None


class CPU(Struct):
    shares: int | None = None
    quota: int | None = None
    burst: int | None = None
    period: int | None = None
    realtime_runtime: int | None = None
    realtime_period: int | None = None
    cpus: str = ""
    mems: str = ""
    idle: int | None = None


class Pids(Struct):
    limit: int | None = None


class WeightDevice(Struct):
    major: int
    minor: int
    weight: int | None = None
    leaf_weight: int | None = None


class ThrottleDevice(Struct):
    major: int
    minor: int
    rate: int


class BlockIO(Struct):
    weight: int | None = None
    leaf_weight: int | None = None
    weight_device: list[WeightDevice] = []
    throttle_read_bps_device: list[ThrottleDevice] = []
    throttle_write_bps_device: list[ThrottleDevice] = []
    throttle_read_iops_device: list[ThrottleDevice] = msgspec.field(name="throttleReadIOPSDevice", default_factory=list)
    throttle_write_iops_device: list[ThrottleDevice] = msgspec.field(
        name="throttleWriteIOPSDevice", default_factory=list
    )


class HugepageLimit(Struct):
    page_size: str
    limit: int


class InterfacePriority(Struct):
    name: str
    priority: int


class NetworkClass(Struct):
    class_id: int | None = msgspec.field(name="classID", default=None)
    priorities: list[InterfacePriority] = []


class RdmaLimit(Struct):
    hca_handles: int | None = None
    hca_objects: int | None = None


class Resources(Struct):
    devices: list[DeviceRule] = []
    memory: Memory | None = None
    cpu: CPU | None = None
    pids: Pids | None = None
    block_io: BlockIO | None = msgspec.field(name="blockIO", default=None)
    hugepage_limits: list[HugepageLimit] = []
    network: NetworkClass | None = None
    rdma: dict[str, RdmaLimit] = {}
    unified: dict[str, str] = {}


class SeccompArg(Struct):
    index: int
    value: int
    op: str
    value_two: int = 0


class SyscallRule(Struct):
    names: list[str]
    action: str
    errno_ret: int | None = None
    args: list[SeccompArg] = []


class Seccomp(Struct):
    default_action: str
    default_errno_ret: int | None = None
    architectures: list[str] = []
    flags: list[str] = []
    listener_path: str = ""
    listener_metadata: str = ""
    syscalls: list[SyscallRule] = []


class IntelRdt(Struct):
    clos_id: str = msgspec.field(name="closID", default="")
    l3_cache_schema: str = ""
    mem_bw_schema: str = ""
    enable_cmt: bool = msgspec.field(name="enableCMT", default=False)
    enable_mbm: bool = msgspec.field(name="enableMBM", default=False)


class Personality(Struct):
    domain: str
    flags: list[str] = []


class MemoryPolicy(Struct):
    mode: str
    nodes: str = ""
    flags: list[str] = []


class NetDevice(Struct):
    name: str = ""


class TimeOffset(Struct):
    secs: int = 0
    nanosecs: int = 0


class Linux(Struct):
    namespaces: list[Namespace] = []
    uid_mappings: list[IDMapping] = []
    gid_mappings: list[IDMapping] = []
    time_offsets: dict[str, TimeOffset] = {}
    devices: list[Device] = []
    net_devices: dict[str, NetDevice] = {}
    cgroups_path: str = ""
    resources: Resources | None = None
    intel_rdt: IntelRdt | None = None
    sysctl: dict[str, str] = {}
    seccomp: Seccomp | None = None
    rootfs_propagation: str = ""
    masked_paths: list[str] = []
    readonly_paths: list[str] = []
    mount_label: str = ""
    personality: Personality | None = None
    memory_policy: MemoryPolicy | None = None


class Spec(Struct):
    """One ``config.json``."""

    oci_version: str
    root: Root | None = None
    mounts: list[Mount] = []
    process: Process | None = None
    hostname: str = ""
    domainname: str = ""
    hooks: Hooks | None = None
    annotations: dict[str, str] = {}
    linux: Linux | None = None
    windows: Any = None
    solaris: Any = None
    vm: Any = None


class State(msgspec.Struct, rename="camel"):
    """What hooks get on their standard input, and what ``state`` prints (runtime.md, State)."""

    id: str
    status: Literal["creating", "created", "running", "stopped", "paused"]
    bundle: str
    pid: int = 0
    oci_version: str = VERSION
    annotations: dict[str, str] = {}


class ContainerProcessState(Struct, kw_only=True):
    """What a seccomp agent gets together with the listener (config-linux.md, Container Process State)."""

    oci_version: str
    fds: list[str]
    pid: int
    metadata: str = ""
    state: State


_decoder = msgspec.json.Decoder(Spec)


def loads(data: bytes, where: str = "config.json") -> Spec:
    """Parse a ``config.json``; raises `InvalidArgument` naming ``where`` and the offending field."""
    try:
        spec = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"malformed {where}: {error}") from error
    except RecursionError:
        raise InvalidArgument(f"malformed {where}: it is nested too deeply") from None
    if spec.linux is not None and spec.linux.resources is not None:
        interpret(spec.linux.resources, spec.oci_version)
    return spec


def interpret(resources: Resources, version: str) -> None:
    """Let ``resources`` mean what they meant in ``version`` of the specification.

    Before 1.3 a limit of 0 processes was none (config-linux.md, PIDs), and podman asks for no limit that way.
    """
    numbers = [int(part) if part.isdecimal() else 0 for part in version.partition("-")[0].split(".")[:2]]
    if resources.pids is not None and resources.pids.limit == 0 and numbers < [1, 3]:
        resources.pids.limit = -1


def load(bundle: str | os.PathLike[str]) -> Spec:
    """Read ``config.json`` of a bundle directory; raises `InvalidArgument`."""
    path = os.path.join(bundle, "config.json")
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise InvalidArgument(f"cannot read {path}: {error.strerror}") from error
    return loads(data, path)


def dumps(value: Struct) -> bytes:
    """Any of these structs as JSON."""
    return msgspec.json.encode(value)
