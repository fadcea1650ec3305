"""The directory that a container is written to: CRIU's images, and what else is needed to take it up again."""

from __future__ import annotations

import contextlib
import os
import stat
from shutil import which

import msgspec

from capsa.errors import CapsaError, InvalidArgument, Unsupported, reason
from capsa.platform.linux.criu import client, mounts
from capsa.runtime import streams
from capsa.sys import mount as mounting
from capsa.sys import path as paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from capsa.cli.options import Options
    from capsa.oci.runtime import Spec
    from capsa.platform.linux.criu.client import Kind
    from capsa.platform.linux.criu.wire import Value

NAME = "capsa.json"
# criu_cg_mode; without a word of ours it is CRIU's default, which is "soft".
CGROUP_MODES = {"": 6, "ignore": 0, "soft": 3, "full": 4, "strict": 5}
# Options of both verbs that are CRIU's own, by CRIU's names.
SWITCHES = {
    "auto-dedup": "auto_dedup",
    "ext-unix-sk": "ext_unix_sk",
    "file-locks": "file_locks",
    "link-remap": "link_remap",
    "shell-job": "shell_job",
    "tcp-established": "tcp_established",
    "tcp-skip-in-flight": "tcp_skip_in_flight",
}
REFUSED = {
    "lazy-pages": "pages are read from --image-path, none later on",
    "page-server": "images are written to --image-path: copy them from there",
    "status-fd": "it belongs to --lazy-pages, which is not supported",
}
_LOG_LEVEL = 4
_NFTABLES = 2  # criu_network_lock_method
NETWORK_KEY, PID_KEY = "capsa-net", "capsa-pid"


class Note(msgspec.Struct, rename="camel", omit_defaults=True):
    """What restoring needs to know beside CRIU's images.

    ``mounts``: places of mounts from outside, with the destination in the specification that each belongs to (empty:
    none; it is a device or masked). ``places``: where something is mounted on the root file system, true for a
    directory. ``restrictions``: what mounts forbid. ``streams``: what CRIU calls the standard streams that come from
    outside, by number.
    """

    mounts: dict[str, str] = {}
    places: dict[str, bool] = {}
    restrictions: dict[str, tuple[str, ...]] = {}
    streams: dict[int, str] = {}

    def save(self, directory: int) -> None:
        """Write it, in the place of one that was there; raises `CapsaError`.

        The directory may be one that others can write to: what they have put there is not followed, nor written to.
        """
        hidden, flags = f".{NAME}.{os.getpid()}", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(hidden, dir_fd=directory)
            with open(os.open(hidden, flags, 0o600, dir_fd=directory), "wb") as file:
                file.write(msgspec.json.encode(self))
            os.rename(hidden, NAME, src_dir_fd=directory, dst_dir_fd=directory)
        except OSError as error:
            where = os.readlink(f"/proc/self/fd/{directory}")
            raise CapsaError(f"cannot write {where}/{NAME}: {reason(error)}") from error

    @classmethod
    def load(cls, directory: int, path: str) -> Note:
        """Read it; raises `InvalidArgument`."""
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            with open(os.open(NAME, flags, dir_fd=directory), "rb") as file:
                return msgspec.json.decode(file.read(), type=cls)
        except OSError as error:
            raise InvalidArgument(f"{path} is no checkpoint of {NAME[:5]}'s: {NAME}: {reason(error)}") from error
        except msgspec.DecodeError as error:
            raise InvalidArgument(f"{path}/{NAME} is damaged: {error}") from error


class Images:
    """The directory of images, and that of CRIU's log, both open."""

    def __init__(self, options: Options, stack: contextlib.ExitStack, *, make: bool) -> None:
        """From ``--image-path`` and ``--work-path``; ``make`` them if they are not there. Raises `InvalidArgument`."""
        self.path = os.path.abspath(options.text("image-path") or "checkpoint")
        self.work = os.path.abspath(options.text("work-path") or self.path)
        self.fd = self._open("--image-path", self.path, stack, make)
        self.work_fd = self._open("--work-path", self.work, stack, True)

    @staticmethod
    def _open(option: str, path: str, stack: contextlib.ExitStack, make: bool) -> int:
        try:
            if make:
                os.makedirs(path, 0o700, exist_ok=True)
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise InvalidArgument(f"{option} {path}: {reason(error)}") from error
        stack.callback(os.close, fd)
        return fd

    def open_again(self, readers: int | None = None) -> None:
        """After a change of the mount namespace: nothing can be mounted in directories of another one.

        ``readers``: a user namespace to whose root the images are to belong (`capsa.platform.linux.idmap`): processes
        of a container that has one read them as that. Raises `OSError`, `Unsupported`.
        """
        self._open_again(self.work_fd, self.work)
        if readers is not None:
            seen = mounting.clone(self.path)
            try:
                try:
                    mounting.attributes(seen, user_namespace=readers)
                except OSError as error:
                    raise Unsupported(
                        f"--image-path {self.path}: the container has a user namespace, whose root has to read it, and"
                        " that takes a file system that can map ids (ext4, xfs, btrfs; tmpfs from Linux 6.3 on)"
                    ) from error
                self._open_again(self.fd, self.path)
                mounting.attach(seen, self.fd, self.path)
            finally:
                os.close(seen)
        self._open_again(self.fd, self.path)

    @staticmethod
    def _open_again(fd: int, path: str) -> None:
        again = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        os.dup2(again, fd)
        os.close(again)

    def options(self, given: Options, kind: Kind) -> dict[str, Value]:
        """What CRIU is told in any case, and the switches that were given."""
        mode = given.text("manage-cgroups-mode") or ""
        if mode not in CGROUP_MODES:
            raise InvalidArgument(f"invalid --manage-cgroups-mode {mode!r}: it is soft, full, strict or ignore")
        if unknown := [each for each in given.all("empty-ns") if each != "network"]:
            raise InvalidArgument(f"--empty-ns {unknown[0]}: only network is supported")
        return {
            "images_dir_fd": self.fd,
            "work_dir_fd": self.work_fd,
            "log_level": _LOG_LEVEL,
            "log_file": self.log(kind),
            "notify_scripts": True,
            "orphan_pts_master": True,
            "manage_cgroups_mode": CGROUP_MODES[mode],
            **({} if which("iptables-restore") else {"network_lock": _NFTABLES}),
            **{theirs: True for ours, theirs in SWITCHES.items() if ours in given.switches and given.switch(ours)},
        }

    @staticmethod
    def log(kind: Kind) -> str:
        """The name of CRIU's log."""
        return f"{kind.name.lower().replace('_', '-')}.log"

    @contextlib.contextmanager
    def explained(self, kind: Kind, what: str) -> Iterator[None]:
        """Turn a failure of CRIU's into a sentence with the first error that it tells."""
        try:
            yield
        except client.Failed as error:
            where = f"{self.work}/{self.log(kind)}"
            said = client.first_error(str(error))
            if not said:
                with contextlib.suppress(OSError), open(where, errors="replace") as file:
                    said = client.first_error(file.read())
            said = said or str(error)
            raise CapsaError(f"CRIU cannot {what}: {said} (more in {where})") from error


def bound(spec: Spec, root: int) -> dict[str, str]:
    """Places in the file tree at descriptor ``root`` where the specification binds something, by destination."""
    found = {}
    top = os.readlink(f"/proc/self/fd/{root}").rstrip("/")
    for mount in spec.mounts:
        if mount.type == "bind" or {"bind", "rbind"} & set(mount.options):
            with contextlib.suppress(OSError):
                fd = paths.open_in_root(root, mount.destination, os.O_PATH)
                try:
                    found[mount.destination] = os.readlink(f"/proc/self/fd/{fd}").removeprefix(top) or "/"
                finally:
                    os.close(fd)
    return found


def mounted(pid: int) -> list[mounts.Mounted]:
    """All mounts that a process sees."""
    with open(f"/proc/{pid}/mountinfo", errors="surrogateescape") as file:
        return mounts.parse(file.read())


def note_of(spec: Spec, pid: int, noted: str) -> tuple[Note, list[str]]:
    """What is to be noted of container process ``pid`` with streams as `streams.own` has ``noted`` them.

    And what CRIU is to take for external.
    """
    table = mounted(pid)
    note = Note(restrictions=mounts.restrictions(table))
    root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_CLOEXEC)
    try:
        places = bound(spec, root)
        for point in mounts.external(table, list(places.values())):
            fits = [each for each, place in places.items() if point == place or point.startswith(f"{place}/")]
            note.mounts[point] = max(fits, key=lambda each: len(places[each]), default="")
        for point in mounts.on_root(table):
            with contextlib.suppress(OSError):
                fd = paths.open_in_root(root, point, os.O_PATH)
                note.places[point] = stat.S_ISDIR(os.fstat(fd).st_mode)
                os.close(fd)
    finally:
        os.close(root)
    note.streams = streams.names(noted, {mount.id for mount in table})
    files = [name for name in note.streams.values() if name.startswith("file[")]
    return note, [*(external(point, point) for point in note.mounts), *dict.fromkeys(files)]


def external(point: str, value: str) -> str:
    """How CRIU is told of a mount from outside; raises `InvalidArgument` for a place that it would misread."""
    if set(point) & set("[]:"):
        raise InvalidArgument(f"the mount at {point} is in the way: CRIU cannot have one of [ ] : in a name")
    return f"mnt[{point}]:{value}"


def namespaces(spec: Spec) -> Mapping[str, str]:
    """Those that were there before, by type, with their paths."""
    linux = spec.linux
    return {each.type: each.path for each in linux.namespaces if each.path} if linux is not None else {}
