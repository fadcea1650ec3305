"""``checkpoint``: a container as it is, written to disk by CRIU."""

from __future__ import annotations

import contextlib
import os

from capsa.errors import Conflict, InvalidArgument, Unsupported
from capsa.platform.linux.criu import client
from capsa.platform.linux.criu.client import Kind
from capsa.runtime import images, removal
from capsa.runtime.container import Container
from capsa.runtime.verb import Verb
from capsa.sys.namespace import FLAGS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from capsa.cli.options import Options
    from capsa.platform.linux.criu.wire import Value
    from capsa.runtime.verb import Settings

_TABLE = """
      --auto-dedup                   Free in earlier images what later ones have
      --empty-ns list                Write nothing of these namespaces (network, as in any case)
      --ext-unix-sk                  Allow unix sockets that are connected to outside
      --file-locks                   Allow locked files, and lock them again
      --image-path string            Directory to write to (default "checkpoint")
      --leave-running                Let the container go on
      --link-remap                   Give files that were removed a name again, if need be
      --manage-cgroups-mode string   "soft", "full", "strict" or "ignore" (default "soft")
      --parent-path string           Images of a --pre-dump, relative to --image-path
      --pre-dump                     Write memory only, and let the container go on
      --shell-job                    Allow a terminal of the caller's
      --tcp-established              Allow TCP connections
      --tcp-skip-in-flight           Leave out TCP connections that are being made
      --work-path string             Directory for CRIU's log (default: that of the images)
"""


def checkpoint(settings: Settings, options: Options) -> int:
    """``capsa-runtime checkpoint ID``."""
    container = Container(settings.root, options.arguments[0])
    kind = Kind.PRE_DUMP if options.switch("pre-dump") else Kind.DUMP
    with contextlib.ExitStack() as stack:
        stack.enter_context(container.locked())
        status = container.status()
        if status not in ("running", "paused"):
            raise Conflict(f"cannot checkpoint container {container.id}: it is {status}")
        client.check(settings.criu)
        where = images.Images(options, stack, make=True)
        wanted = _options(container, options, where, kind)
        with where.explained(kind, f"checkpoint container {container.id}"):
            client.ask(settings.criu, kind, wanted, notified=_nothing, passed=(where.fd, where.work_fd))
        if kind == Kind.DUMP and not options.switch("leave-running"):
            removal.remove(settings, container, force=True)
    return 0


def _nothing(_point: str, _pid: int, fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)


def _options(container: Container, given: Options, where: images.Images, kind: Kind) -> dict[str, Value]:
    record = container.record
    wanted = where.options(given, kind) | {
        "pid": record.pid,
        "root": record.rootfs,
        "leave_running": given.switch("leave-running"),
        "ext_masters": True,
    }
    if record.freezer and os.path.exists(record.freezer):
        wanted["freeze_cgroup"] = os.path.dirname(record.freezer)
    if parent := given.text("parent-path"):
        if os.path.isabs(parent) or not os.path.isdir(os.path.join(where.path, parent)):
            raise InvalidArgument(f"--parent-path {parent}: there is no such directory, relative to --image-path")
        wanted |= {"parent_img": parent, "track_mem": True}
    if kind == Kind.PRE_DUMP:
        return wanted | {"track_mem": True}
    note, external = images.note_of(container.spec, record.pid, record.streams)
    empty = FLAGS["network"]
    for space, path in images.namespaces(container.spec).items():
        if space in ("network", "pid"):
            key, name = (images.NETWORK_KEY, "net") if space == "network" else (images.PID_KEY, "pid")
            external.append(f"{name}[{os.stat(f'/proc/{record.pid}/ns/{name}').st_ino}]:{key}")
            empty &= ~FLAGS[space]
        elif space not in ("ipc", "uts"):
            raise Unsupported(f"a container that joins a {space} namespace ({path}) cannot be restored")
    note.save(where.fd)
    return wanted | {"external": external, "empty_ns": empty}


VERBS = {
    "checkpoint": Verb(
        "checkpoint", "ID", "Write a container as it is to disk, and end it", _TABLE, checkpoint, refused=images.REFUSED
    )
}
