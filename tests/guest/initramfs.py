"""The guest's first root: a cpio archive with busybox, the modules needed to reach the host's tree, and a script."""

from __future__ import annotations

import shutil
from pathlib import Path

from kernel import Kernel, NoGuest

# What the script needs; containers load theirs (veth, nf_tables, …) through modprobe later.
MODULES = ["virtio_pci", "virtio_console", "virtiofs", "overlay", "virtio_rng"]

# Runs as process 1. The host's whole tree comes read-only through virtiofs, with a layer in memory over it.
INIT = r"""#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /host /memory /root
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
exec </dev/null >/dev/console 2>&1
for module in $(cat /modules/order); do insmod /modules/$module.ko || echo "guest: no $module"; done
fail() { echo "guest: $*"; sync; poweroff -f; sleep 60; }
mount -t virtiofs -o ro host /host || fail "cannot mount the host's tree"
mount -t tmpfs -o mode=755 memory /memory
mkdir /memory/upper /memory/work
mount -t overlay -o lowerdir=/host,upperdir=/memory/upper,workdir=/memory/work overlay /root || fail "no overlay"
mount --move /proc /root/proc
mount --move /sys /root/sys
mount --move /dev /root/dev
mount -t tmpfs -o mode=755 run /root/run
mkdir -p /root/run/guest /root/guest-tmp /root/dev/pts /root/dev/shm /root/dev/mqueue
mount -t tmpfs -o mode=1777 tmp /root/guest-tmp
cp /bin/busybox /root/run/guest/modprobe
cp /second /root/run/guest/second
grep -q capsa.systemd=1 /root/proc/cmdline || exec switch_root /root /run/guest/second
mkdir -p /root/run/systemd
rm -f /root/.dockerenv  # where this machine is a container itself
cp -r /units /root/run/systemd/system
export SYSTEMD_GENERATOR_PATH=/run/guest/none
exec switch_root /root /lib/systemd/systemd --unit=guest.target
"""

# With systemd as process 1: the least that there has to be. They hide units of the same name, and none else is started.
UNITS = {
    "guest.target": """
[Unit]
DefaultDependencies=no
Requires=guest.service
""",
    "guest.service": """
[Unit]
DefaultDependencies=no
Requires=dbus.socket
After=dbus.socket
[Service]
ExecStart=/run/guest/second
TimeoutStartSec=infinity
TasksMax=infinity
""",
    "dbus.socket": """
[Unit]
DefaultDependencies=no
[Socket]
ListenStream=/run/dbus/system_bus_socket
""",
    "dbus.service": """
[Unit]
DefaultDependencies=no
Requires=dbus.socket
[Service]
ExecStart=/usr/bin/dbus-daemon --system --address=systemd: --nofork --nopidfile --nosyslog
""",
}

# In the final root; sees the host's programs.
SECOND = r"""#!/bin/sh
export PATH=/run/guest:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
exec </dev/null >/dev/console 2>&1
word() { sed -n "s/.*capsa\.$1=\([^ ]*\).*/\1/p" /proc/cmdline; }
port() { for p in /sys/class/virtio-ports/*; do [ "$(cat $p/name)" = "$1" ] && echo "/dev/${p##*/}"; done; }
if ! grep -q ' /sys/fs/cgroup ' /proc/mounts; then  # systemd has mounted these
    mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
    mount -t tmpfs -o mode=1777 shm /dev/shm
    mount -t cgroup2 -o nsdelegate cgroup2 /sys/fs/cgroup
fi
mkdir -p /dev/mqueue
mount -t mqueue mqueue /dev/mqueue
mkdir -p /usr/lib/modules
mount --bind "$(word modules)" /usr/lib/modules
echo /run/guest/modprobe > /proc/sys/kernel/modprobe
ip link set lo up 2>/dev/null || ifconfig lo up
hostname guest 2>/dev/null || echo guest > /proc/sys/kernel/hostname
mount --make-rshared /
export HOME=/root LANG=C.UTF-8 TERM=dumb TMPDIR=/guest-tmp PYTHONDONTWRITEBYTECODE=1 CAPSA_GUEST=1
setsid /bin/sh "$(word run)/command" >"$(port output)" 2>&1
echo $? >"$(port status)"
sync
echo o >/proc/sysrq-trigger
sleep 60
"""


def initramfs(kernel: Kernel) -> bytes:
    """The archive (cpio, newc form) for a kernel; raises `NoGuest` without busybox."""
    busybox = shutil.which("busybox", path="/bin:/usr/bin")
    if busybox is None:
        raise NoGuest("needs Debian's busybox-static")
    order = kernel.with_dependencies(MODULES)
    archive = _Cpio()
    for directory in ("bin", "modules", "units"):
        archive.add(directory, b"", 0o040755)
    archive.add("bin/busybox", Path(busybox).read_bytes(), 0o100755)
    archive.add("init", INIT.encode(), 0o100755)
    archive.add("second", SECOND.encode(), 0o100755)
    for name, text in UNITS.items():
        archive.add(f"units/{name}", text.encode(), 0o100644)
    archive.add("modules/order", " ".join(order).encode(), 0o100644)
    for name in order:
        archive.add(f"modules/{name}.ko", kernel.module(name), 0o100644)
    return archive.finished()


class _Cpio:
    """Documentation/driver-api/early-userspace/buffer-format.rst of Linux."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._inode = 0

    def add(self, name: str, content: bytes, mode: int) -> None:
        self._inode += 1
        fields = [self._inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0]
        self._data += b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
        self._pad()
        self._data += content
        self._pad()

    def _pad(self) -> None:
        self._data += bytes(-len(self._data) % 4)

    def finished(self) -> bytes:
        self.add("TRAILER!!!", b"", 0)
        return bytes(self._data)
