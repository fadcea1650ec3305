"""What every launch computes and does, done beforehand with a typical container.

In the zygote it makes the interpreter specialise this code once for all; in a sub-init in reserve it copies the pages
that running it writes to, so that the launch does not wait for page faults.
"""

from __future__ import annotations

import contextlib
import os

from capsa.errors import CapsaError
from capsa.oci import runtime
from capsa.platform.linux import capabilities, namespaces, process, rootfs
from capsa.platform.linux.cgroup import Mount
from capsa.platform.linux.cgroup.hierarchy import layout
from capsa.sys import mount, namespace
from capsa.vfs import compile as vfs_compile
from capsa.vfs import linux as vfs_linux
from capsa.vfs.tree import CopyOnWrite

_SPECIFICATION = b"""{
 "ociVersion": "1.2.0",
 "process": {
  "user": {"uid": 0, "gid": 0}, "args": ["true"], "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"], "cwd": "/",
  "capabilities": {"bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_SETUID"], "effective": ["CAP_CHOWN"],
                   "permitted": ["CAP_CHOWN"]}},
 "root": {"path": "rootfs"}, "hostname": "rehearsal",
 "mounts": [
  {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
  {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755"]},
  {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
   "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
  {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
  {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro", "nosuid", "nodev"]},
  {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
  {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "mode=1777", "size=65536k"]},
  {"destination": "/etc/hosts", "type": "bind", "source": "/etc/hosts", "options": ["rbind", "rprivate"]}],
 "linux": {
  "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}, {"type": "network"}],
  "maskedPaths": ["/proc/kcore", "/proc/keys"], "readonlyPaths": ["/proc/bus", "/proc/sys"]}
}"""
_ROOT = CopyOnWrite(layers=("/", "/"), upper="/", work="/")
_SCRATCH = "/var"  # any directory that is not needed; in the namespace of the rehearsal it is covered
_TREE = CopyOnWrite(layers=(f"{_SCRATCH}/a", f"{_SCRATCH}/b"), upper=f"{_SCRATCH}/upper", work=f"{_SCRATCH}/work")


def rehearse(times: int) -> None:
    """Compute what a launch computes; changes nothing outside this process."""
    for _ in range(times):
        spec = runtime.loads(_SPECIFICATION)
        assert spec.linux is not None and spec.process is not None
        vfs_linux.lower(vfs_compile.tree(spec, _ROOT, bundle="/"))
        namespaces.Namespaces(spec.linux)
        capabilities.Sets(spec.process.capabilities)
        process.check(spec.process)
        process.environment(spec.process)


def dress(times: int) -> None:
    """Make a typical root file system, each in a mount namespace that is thrown away; gives up where that fails."""
    spec = runtime.loads(_SPECIFICATION)
    found = layout()
    groups = [
        Mount(each.version, "unified" if each is found.v2 else each.mount.rpartition("/")[2], "", each.mount)
        for each in found.all
    ]
    if not found.v1:
        groups = [Mount(2, "", "", group.source) for group in groups]
    own = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        for _ in range(times):
            with namespace.mounts_kept():
                namespace.unshare(namespace.FLAGS["mount"])
                _build(spec, groups)
    except (OSError, CapsaError):
        if not os.path.samefile("/proc/self/ns/mnt", f"/proc/self/fd/{own}"):
            raise
    finally:
        os.close(own)


def _build(spec: runtime.Spec, groups: list[Mount]) -> None:
    mount.attributes(mount.AT_FDCWD, propagation=mount.MS_PRIVATE, recursive=True, path="/")
    place = os.open(_SCRATCH, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    scratch = mount.create("tmpfs", source="tmpfs")
    mount.attach(scratch, place, _SCRATCH)
    for name in ("a", "b", "upper", "work"):
        os.mkdir(name, 0o755, dir_fd=scratch)
    tree = rootfs.Rootfs(vfs_linux.lower(vfs_compile.tree(spec, _TREE, bundle="/")), cgroups=groups, id_maps={})
    with contextlib.ExitStack() as opened:
        opened.callback(os.close, scratch)
        opened.callback(os.close, place)
        opened.callback(tree.close)
        tree.leave_host()
        tree.build()
        tree.finish()
