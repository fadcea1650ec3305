"""``spec`` and ``features``: a specification to begin with, and what this runtime can do (features.md)."""

from __future__ import annotations

import json
import os

from capsa.errors import CapsaError, Conflict, reason
from capsa.runtime.verb import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from capsa.cli.options import Options
    from capsa.runtime.verb import Settings

_SPEC = """
  -b, --bundle string   Directory to write config.json to (default: the working directory)
      --rootless        One for a user namespace of the caller's own id
"""
_CAPABILITIES = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
_MASKED = ["/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list"]
_MASKED += ["/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi"]
_READ_ONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
_REFUSE = ["nosuid", "noexec", "nodev"]


def spec(_settings: Settings, options: Options) -> int:
    """``capsa-runtime spec``."""
    path = os.path.join(options.text("bundle") or ".", "config.json")
    try:
        with open(path, "x") as file:
            json.dump(example(rootless=options.switch("rootless")), file, indent="\t")
            file.write("\n")
    except FileExistsError:
        raise Conflict(f"file {path} exists: remove it first, or choose another directory") from None
    except OSError as error:
        raise CapsaError(f"cannot write {path}: {reason(error)}") from error
    return 0


def example(*, rootless: bool = False) -> dict[str, Any]:
    """A specification of a shell in ``rootfs``, with the usual restrictions."""
    from capsa.oci.runtime import VERSION

    namespaces = ["pid", "network", "ipc", "uts", "mount", "cgroup"]
    mounts: list[dict[str, Any]] = [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {
            "destination": "/dev",
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
        },
        {
            "destination": "/dev/pts",
            "type": "devpts",
            "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]
            + ([] if rootless else ["gid=5"]),
        },
        {
            "destination": "/dev/shm",  # noqa: S108
            "type": "tmpfs",
            "source": "shm",
            "options": [*_REFUSE, "mode=1777", "size=65536k"],
        },
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": _REFUSE},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*_REFUSE, "ro"]},
        {
            "destination": "/sys/fs/cgroup",
            "type": "cgroup",
            "source": "cgroup",
            "options": [*_REFUSE, "relatime", "ro"],
        },
    ]
    linux: dict[str, Any] = {"resources": {"devices": [{"allow": False, "access": "rwm"}]}}
    if rootless:
        namespaces = [*(name for name in namespaces if name != "network"), "user"]
        linux = {
            "uidMappings": [{"containerID": 0, "hostID": os.geteuid(), "size": 1}],
            "gidMappings": [{"containerID": 0, "hostID": os.getegid(), "size": 1}],
        }
        sys_ = {"destination": "/sys", "type": "none", "source": "/sys", "options": ["rbind", *_REFUSE, "ro"]}
        mounts = [*(one for one in mounts if not one["destination"].startswith("/sys")), sys_]
    linux["namespaces"] = [{"type": name} for name in namespaces]
    linux |= {"maskedPaths": _MASKED, "readonlyPaths": _READ_ONLY}
    return {
        "ociVersion": VERSION,
        "process": {
            "terminal": True,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), _CAPABILITIES),
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "capsa",
        "mounts": mounts,
        "linux": linux,
    }


def features(_settings: Settings, _options: Options) -> int:
    """``capsa-runtime features``."""
    print(json.dumps(known(), indent=2))
    return 0


def known() -> dict[str, Any]:
    """What this runtime knows, by the code that does it (features.md, features-linux.md)."""
    import capsa
    from capsa.oci.runtime import VERSION
    from capsa.platform.linux import capabilities, seccomp_compile
    from capsa.sys import namespace, schedule
    from capsa.vfs import options as mount_options

    return {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": VERSION,
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "mountOptions": mount_options.known(),
        "linux": {
            "namespaces": sorted(namespace.FLAGS),
            "capabilities": list(capabilities.NAMES),
            "cgroup": {"v1": True, "v2": True, "systemd": True, "systemdUser": False, "rdma": True},
            "seccomp": {"enabled": True, **seccomp_compile.known()},
            "apparmor": {"enabled": True},
            "selinux": {"enabled": True},
            "intelRdt": {"enabled": False},
            "memoryPolicy": {"modes": sorted(schedule.MEMORY_POLICIES), "flags": sorted(schedule.MEMORY_FLAGS)},
            "netDevices": {"enabled": True},
            "mountExtensions": {"idmap": {"enabled": True}},
        },
        "annotations": {"org.capsa.version": capsa.__version__},
        "potentiallyUnsafeConfigAnnotations": [],
    }


VERBS = {
    "features": Verb("features", "", "Print what this runtime can do, as JSON", "", features, least=0, most=0),
    "spec": Verb("spec", "", "Write a specification to begin with", _SPEC, spec, least=0, most=0),
}
