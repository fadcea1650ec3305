"""User and group ids: the maps of a container's user namespace, and user namespaces that exist to map a mount's ids."""

from __future__ import annotations

import os
import signal

from capsa.errors import InvalidArgument, LaunchFailed, reason
from capsa.oci.runtime import IDMapping
from capsa.platform.linux.rootfs import IDMap
from capsa.sys import process
from capsa.sys.namespace import FLAGS
from capsa.vfs.tree import IDRange

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def write_maps(pid: int, uids: list[IDMapping], gids: list[IDMapping]) -> None:
    """Give the new user namespace of process ``pid`` its maps; raises `LaunchFailed`."""
    _write(pid, _lines(uids), _lines(gids))


def _lines(mappings: Iterable[IDMapping]) -> str:
    return "".join(f"{one.container_id} {one.host_id} {one.size}\n" for one in mappings)


def ranges(mappings: Iterable[IDMapping]) -> tuple[IDRange, ...]:
    """What the specification says, as `namespace` takes it."""
    return tuple(IDRange(inside=one.container_id, outside=one.host_id, size=one.size) for one in mappings)


def _text(ranges: Iterable[IDRange]) -> str:
    return "".join(f"{one.inside} {one.outside} {one.size}\n" for one in ranges)


def _write(pid: int, uids: str, gids: str) -> None:
    for file, text in (("gid_map", gids), ("uid_map", uids)):
        try:
            fd = os.open(f"/proc/{pid}/{file}", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, text.encode())
            finally:
                os.close(fd)
        except OSError as error:
            shown = text.strip().replace("\n", ", ")
            raise LaunchFailed(f"cannot map ids ({file}: {shown}): {reason(error)}") from error


def namespace(id_map: IDMap) -> int:
    """A descriptor of a user namespace with these maps, for `capsa.sys.mount.attributes`; raises `LaunchFailed`.

    In a mount's map the specification's ``containerID`` is what the file system holds and ``hostID`` what is seen.
    """
    uids, gids = id_map
    if not uids or not gids:
        raise InvalidArgument("an id-mapped mount needs uidMappings and gidMappings")
    pid = process.clone(FLAGS["user"])
    if pid == 0:
        try:
            process.prctl(process.PR_SET_PDEATHSIG, signal.SIGKILL)
            signal.pause()
        finally:
            os._exit(0)
    try:
        _write(pid, _text(uids), _text(gids))
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
