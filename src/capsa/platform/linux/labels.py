"""Security modules (config.md, ``apparmorProfile`` and ``selinuxLabel``): what a program runs under."""

from __future__ import annotations

import errno
import os

from capsa.errors import LaunchFailed, Unsupported, reason
from capsa.oci.runtime import Process
from capsa.sys import path as paths
from capsa.sys.call import failed

_APPARMOR = "/sys/module/apparmor/parameters/enabled"
_SELINUX = "/sys/fs/selinux/enforce"


def check(process: Process) -> None:
    """Refuse what this kernel lacks, while the host's /sys is in sight; raises `Unsupported`."""
    if process.apparmor_profile and not _has_apparmor():
        raise Unsupported(f"this kernel has no AppArmor, which profile {process.apparmor_profile!r} needs")
    if process.selinux_label and not os.path.exists(_SELINUX):
        raise Unsupported(f"this kernel has no SELinux, which label {process.selinux_label!r} needs")


def _has_apparmor() -> bool:
    """A kernel may have been built with it and yet run without."""
    try:
        fd = os.open(_APPARMOR, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.read(fd, 1) == b"Y"
    finally:
        os.close(fd)


def apply(process: Process) -> None:
    """Have the next ``execve`` of this process change to its profile or label; raises `LaunchFailed`."""
    if process.apparmor_profile:
        _write("attr/apparmor/exec", f"exec {process.apparmor_profile}", process.apparmor_profile)
    if process.selinux_label:
        _write("attr/exec", process.selinux_label, process.selinux_label)


def _write(file: str, value: str, name: str) -> None:
    """Write to this task's own file in proc, and only in proc: the container's /proc may be anything."""
    try:
        root = os.open("/", os.O_PATH | os.O_CLOEXEC)
        try:
            fd = paths.open_in_root(root, f"/proc/thread-self/{file}", os.O_WRONLY)
        finally:
            os.close(root)
        try:
            if paths.file_system(fd) != paths.PROC_SUPER_MAGIC:
                raise failed("open", "/proc", errno.EINVAL)
            os.write(fd, value.encode())
        finally:
            os.close(fd)
    except OSError as error:
        raise LaunchFailed(f"cannot run under {name!r}: {reason(error)} (it needs proc at /proc)") from error
