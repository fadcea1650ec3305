"""The start of the process that runs a Genode: alone, with room, out of sight of the host's mounts."""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import sys
from pathlib import Path

import msgspec

from capsa.errors import CapsaError, reason
from capsa.platform.genode.attached import AttachedHost
from capsa.platform.genode.host import GenodeHost, Settings
from capsa.sys import mount, namespace
from capsa.sys.title import set_title


def _alone(settings: Settings) -> None:
    """Wait until the one before has ended, which takes its working directory along; the lock ends with the process."""
    lock = os.open(f"{settings.control}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)


def _room_for_files() -> None:
    """Core has several hundred open files for each container: as many as the kernel lets a process have."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = max(hard, int(Path("/proc/sys/fs/nr_open").read_text()))
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    except (OSError, ValueError):  # no right to more than it was given
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _host(settings: Settings) -> GenodeHost:
    return AttachedHost(settings) if settings.report else GenodeHost(settings)


def main() -> None:
    """``python -m capsa.platform.genode.run SETTINGS``, as JSON."""
    settings = msgspec.json.decode(sys.argv[1], type=Settings)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    set_title("capsa: genode")
    try:
        _alone(settings)
        _room_for_files()
        namespace.unshare(namespace.FLAGS["mount"])
        mount.attributes(mount.AT_FDCWD, propagation=mount.MS_SLAVE, recursive=True, path="/")
        host = _host(settings)
        host.start()
    except (CapsaError, OSError) as error:
        text = str(error) if isinstance(error, CapsaError) else f"{error.filename}: {reason(error)}"
        print(f"cannot start Genode: {text}", file=sys.stderr)
        sys.exit(1)
    host.run()


if __name__ == "__main__":
    main()
