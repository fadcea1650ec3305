"""Run a command in a virtual machine that has cgroup v2 only: ``python tests/guest/run.py [options] -- COMMAND…``.

The guest sees this machine's whole file tree, read-only with a layer in memory over it; so it has the same programs
and this repository, and nothing it does stays. Its kernel is Debian's, its processor emulated (no KVM is needed).
Output goes to standard output as it comes; the exit code is the command's, 124 after the time-out, 125 if the guest
failed. Kernel and initramfs are kept in ``.cache/guest`` of the repository, or below ``$CAPSA_CACHE``.

Debian packages: qemu-system-x86, busybox-static, on Debian 13 also virtiofsd.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import platform
import select
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from initramfs import initramfs
from kernel import Kernel, NoGuest, kernel

QEMU = "qemu-system-x86_64"
TIMED_OUT, GUEST_FAILED = 124, 125


def cache_directory() -> Path:
    """Where kernels are kept."""
    chosen = os.environ.get("CAPSA_CACHE")
    return (Path(chosen) if chosen else Path(__file__).resolve().parents[2] / ".cache") / "guest"


def virtiofsd(socket: str) -> list[str]:
    """The command that serves this machine's tree at ``socket``; raises `NoGuest`."""
    for path in ("/usr/libexec/virtiofsd", "/usr/lib/virtiofsd"):  # the one written in Rust, Debian 13
        if os.access(path, os.X_OK):
            options = f"--socket-path {socket} --shared-dir / --sandbox none --cache always --no-announce-submounts"
            return [path, *options.split()]
    path = "/usr/lib/qemu/virtiofsd"  # the one that came with QEMU, Debian 12
    if os.access(path, os.X_OK):
        options = "source=/,cache=always,sandbox=chroot"
        return [path, f"--socket-path={socket}", "-o", options, "--thread-pool-size=0"]
    raise NoGuest("needs Debian's virtiofsd")


def check() -> None:
    """Raises `NoGuest` if this machine lacks what a guest needs, before anything is fetched."""
    if platform.machine() != "x86_64":
        raise NoGuest(f"the guest is for x86-64 hosts (this is {platform.machine()})")
    if os.geteuid() != 0:
        raise NoGuest("needs root, to share this machine's tree with the guest")
    if shutil.which(QEMU) is None:
        raise NoGuest("needs Debian's qemu-system-x86")
    virtiofsd("")


def prepare() -> tuple[Kernel, Path]:
    """The kernel and the initramfs for it, made if they are not there; raises `NoGuest`."""
    check()
    cache = cache_directory()
    found = kernel(cache)
    archive = initramfs(found)
    path = cache / f"initramfs-{hashlib.sha256(archive).hexdigest()[:16]}"
    if not path.exists():
        for old in cache.glob("initramfs-*"):
            old.unlink(missing_ok=True)
        temporary = Path(tempfile.mkstemp(dir=cache)[1])
        temporary.write_bytes(archive)
        temporary.rename(path)
    return found, path


def run(command: str, timeout: float, memory: int, cpus: int, more: str = "") -> int:
    """Boot, run a shell command, return its exit code; ``memory`` in MiB, ``timeout`` in seconds for all of it.

    ``more``: further words for the kernel.
    """
    booted, archive = prepare()
    # Below /var/tmp, as the guest has a /run of its own; the socket's path has to be short.
    with tempfile.TemporaryDirectory(prefix="capsa-guest-", dir="/var/tmp") as directory:
        work = Path(directory)
        (work / "command").write_text(command)
        socket, status, log = str(work / "fs"), work / "status", work / "log"
        with (work / "virtiofsd.log").open("wb") as errors:
            server = subprocess.Popen(virtiofsd(socket), stdin=subprocess.DEVNULL, stdout=errors, stderr=errors)
        machine: subprocess.Popen[bytes] | None = None
        try:
            if not _appears(Path(socket), server):
                print(
                    f"guest: virtiofsd did not start: {(work / 'virtiofsd.log').read_text().strip()}", file=sys.stderr
                )
                return GUEST_FAILED
            words = f"console=ttyS0 quiet panic=-1 mitigations=off {more}"
            words += f" capsa.run={work} capsa.modules={booted.modules.parent}"
            # One thread for all processors: with several, QEMU's translator now and then runs code that the guest's
            # kernel is just patching (static keys), which kills it.
            machine = subprocess.Popen(
                [
                    *(QEMU, "-M", "q35", "-accel", "tcg,thread=single", "-cpu", "max", "-smp", str(cpus)),
                    *("-m", str(memory), "-object", f"memory-backend-memfd,id=memory,size={memory}M,share=on"),
                    *("-machine", "memory-backend=memory", "-nodefaults", "-no-user-config", "-no-reboot"),
                    *("-display", "none", "-serial", f"file:{log}"),
                    *("-kernel", str(booted.image), "-initrd", str(archive), "-append", words),
                    *(
                        "-chardev",
                        f"socket,id=host,path={socket}",
                        "-device",
                        "vhost-user-fs-pci,chardev=host,tag=host",
                    ),
                    *("-device", "virtio-rng-pci", "-device", "virtio-serial-pci"),
                    *(
                        "-chardev",
                        "file,id=output,path=/proc/self/fd/1,append=on",
                        "-device",
                        "virtserialport,chardev=output,name=output",
                    ),
                    *(
                        "-chardev",
                        f"file,id=status,path={status}",
                        "-device",
                        "virtserialport,chardev=status,name=status",
                    ),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
            )
            if not _copy_output(machine, time.monotonic() + timeout):
                print(f"guest: not finished within {timeout:.0f} s", file=sys.stderr)
                _print_logs(work)
                return TIMED_OUT
            text = status.read_text().strip() if status.exists() else ""
            if not text.isdigit():
                print(f"guest: ended without a result (qemu: {machine.returncode})", file=sys.stderr)
                _print_logs(work)
                return GUEST_FAILED
            return int(text)
        finally:
            for process in (machine, server):
                if process is not None:
                    _end(process)


def _copy_output(machine: subprocess.Popen[bytes], deadline: float) -> bool:
    """Pass on what the command prints until the machine ends; whether that was before ``deadline``."""
    assert machine.stdout is not None
    while (left := deadline - time.monotonic()) > 0:
        if not select.select([machine.stdout], [], [], left)[0]:
            break
        data = os.read(machine.stdout.fileno(), 65536)
        if not data:
            machine.wait()
            return True
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    return False


def _appears(path: Path, process: subprocess.Popen[bytes]) -> bool:
    for _ in range(500):
        if path.exists():
            return True
        if process.poll() is not None:
            return False
        time.sleep(0.02)
    return False


def _print_logs(work: Path) -> None:
    for name in ("virtiofsd.log", "log"):
        with contextlib.suppress(OSError):
            print("\n".join((work / name).read_text(errors="replace").splitlines()[-40:]), file=sys.stderr)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--timeout", type=float, default=180, help="seconds for all of it (%(default)s)")
    parser.add_argument("--memory", type=int, default=1024, help="of the guest, in MiB (%(default)s)")
    parser.add_argument("--cpus", type=int, default=2, help="of the guest (%(default)s)")
    parser.add_argument(
        "--check", action="store_true", help="only say whether a guest can be had (fetching the kernel)"
    )
    parser.add_argument(
        "--systemd", action="store_true", help="this machine's systemd as process 1, the command as a service of it"
    )
    parser.add_argument("--append", default="", metavar="WORDS", help="more on the kernel's command line")
    parser.add_argument("command", nargs="*", help="what to run (with a single word: a shell script)")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        if arguments.check:
            print(prepare()[0].version)
            return 0
        command = arguments.command[0] if len(arguments.command) == 1 else shlex.join(arguments.command)
        more = f"{arguments.append} {'capsa.systemd=1' if arguments.systemd else ''}"
        return run(command, arguments.timeout, arguments.memory, arguments.cpus, more)
    except NoGuest as error:
        print(f"guest: {error}", file=sys.stderr)
        return GUEST_FAILED


if __name__ == "__main__":
    sys.exit(main())
