"""A container between two calls of the runtime: a directory with what is known of it.

::

    ROOT/ID/state          `Record`, written by rename
    ROOT/ID/config.json    the specification as it was when the container was created
    ROOT/ID/start          a socket, as long as its process waits to be started (`capsa.platform.linux.door`)
    ROOT/ID/lock           locked by whoever changes something
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os

from capsa.errors import CapsaError, Conflict, InvalidArgument, NotFound, reason
from capsa.runtime.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Literal

    from capsa.oci.runtime import Spec, State
    from capsa.platform.linux.cgroup import Cgroup

    Status = Literal["creating", "created", "running", "paused", "stopped"]

# What an id is made of, and how many of them; a regular expression would take importing.
_ID = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_+.-")
_LONGEST = 1024


class Container:
    """One container below the directory of states; it need not be there."""

    def __init__(self, root: str, id: str) -> None:
        """Raises `InvalidArgument` for what cannot be an id."""
        if not _fits(id):
            raise InvalidArgument(f"invalid container id {id!r}: letters, digits and _+-. make one")
        self.id = id
        self.directory = f"{root}/{id}"
        self.door = f"{self.directory}/start"
        self._record: Record | None = None
        self._spec: Spec | None = None
        self._config: bytes | None = None

    # ---- its directory ----

    def make(self, config: bytes) -> None:
        """Begin one of this specification; raises `Conflict` where there is one of this id.

        The specification is stored by `keep`, which has to follow before there is a process that is known.
        """
        try:
            os.makedirs(os.path.dirname(self.directory), 0o711, exist_ok=True)
            os.mkdir(self.directory, 0o711)
        except FileExistsError:
            raise Conflict(f"container with id exists: {self.id} (delete it, or choose another id)") from None
        except OSError as error:
            raise CapsaError(f"cannot make {self.directory}: {reason(error)}") from error
        self._config = config

    def save(self, record: Record) -> None:
        """Store what is known."""
        self.prepare(record)
        self.commit(record)

    def prepare(self, record: Record) -> None:
        """Write what will be known, while there is time; it holds with `commit`."""
        self._write("state.new", record.dump())

    def commit(self, record: Record) -> None:
        """From now on ``record``, which was prepared, is what is known."""
        self._rename("state")
        self._record = record

    def keep(self) -> None:
        """Store the specification."""
        self._write("config.json.new", self.config)
        self._rename("config.json")

    def remove(self) -> None:
        """Forget it."""
        for name in ("state", "start", "config.json", "lock", "state.new", "config.json.new"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{self.directory}/{name}")
        try:
            os.rmdir(self.directory)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise CapsaError(f"cannot remove {self.directory}: {reason(error)}") from error

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Alone with it; raises `NotFound`."""
        try:
            fd = os.open(f"{self.directory}/lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            raise self._missing() from None
        except OSError as error:
            raise CapsaError(f"cannot lock {self.directory}: {reason(error)}") from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            self._record = None
            if not os.fstat(fd).st_nlink:  # it was deleted while we waited
                raise self._missing()
            yield
        finally:
            os.close(fd)

    def _write(self, name: str, data: bytes) -> None:
        path = f"{self.directory}/{name}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            fd = os.open(path, flags, 0o600)
            try:
                while data:
                    data = data[os.write(fd, data) :]
            finally:
                os.close(fd)
        except OSError as error:
            raise CapsaError(f"cannot write {path}: {reason(error)}") from error

    def _rename(self, name: str) -> None:
        path = f"{self.directory}/{name}"
        try:
            os.rename(f"{path}.new", path)
        except OSError as error:
            raise CapsaError(f"cannot write {path}: {reason(error)}") from error

    def _missing(self) -> NotFound:
        return NotFound(f"container {self.id} does not exist")

    # ---- what is known ----

    @property
    def record(self) -> Record:
        """What is remembered; raises `NotFound`."""
        if self._record is None:
            path = f"{self.directory}/state"
            try:
                with open(path, "rb") as file:
                    self._record = Record.load(file.read(), path)
            except (FileNotFoundError, NotADirectoryError):
                raise self._missing() from None
            except OSError as error:
                raise CapsaError(f"cannot read {path}: {reason(error)}") from error
        return self._record

    @property
    def spec(self) -> Spec:
        """Its specification, as it was at creation."""
        if self._spec is None:
            from capsa.runtime import lean

            lean.load(())
            from capsa.oci import runtime

            self._spec = runtime.loads(self.config, f"{self.directory}/config.json")
        return self._spec

    @property
    def config(self) -> bytes:
        """The same as JSON."""
        if self._config is not None:
            return self._config
        path = f"{self.directory}/config.json"
        try:
            with open(path, "rb") as file:
                return file.read()
        except FileNotFoundError:
            raise self._missing() from None
        except OSError as error:
            raise CapsaError(f"cannot read {path}: {reason(error)}") from error

    @property
    def half(self) -> bool:
        """There is no process yet: it is being created, or whoever created it was killed. Raises `NotFound`."""
        try:
            return not self.record.pid
        except NotFound:
            if os.path.isdir(self.directory):
                return True
            raise

    @property
    def known(self) -> bool:
        """Whether anything is remembered of it."""
        return os.path.exists(f"{self.directory}/state")

    def cgroup(self) -> Cgroup:
        """Its cgroup, which may be gone."""
        from capsa.platform.linux.cgroup import Cgroup, layout

        return Cgroup(self.record.cgroup, layout())

    def alive(self) -> bool:
        """Whether its first process is there and has not ended."""
        return bool(self.record.pid) and process_began(self.record.pid) == self.record.began

    def status(self) -> Status:
        """Where in its life it is (runtime.md, State; ``paused`` is what others add). Raises `NotFound`."""
        if self.half:
            return "creating"
        if not self.alive():
            return "stopped"
        try:
            with open(self.record.freezer, "rb") as file:
                paused = file.read().strip() in (b"1", b"FROZEN", b"FREEZING")
        except OSError:
            paused = False
        if paused:
            return "paused"
        return "created" if os.path.exists(self.door) else "running"

    def state(self, status: Literal["created"]) -> State:
        """Its state as hooks are told it."""
        from capsa.oci.runtime import State

        return State(
            id=self.id,
            status=status,
            bundle=self.record.bundle,
            pid=self.record.pid,
            oci_version=self.spec.oci_version,
            annotations=self.spec.annotations,
        )


def process_began(pid: int) -> int:
    """When process ``pid`` began, in clock ticks after the machine's start; 0 if it is not there or has ended."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ESRCH):
            return 0
        raise
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19])


def _fits(id: str) -> bool:
    return 0 < len(id) <= _LONGEST and _ID.issuperset(id) and id not in (".", "..")


def all_of(root: str) -> list[Container]:
    """Every container below ``root``, by id."""
    try:
        names = sorted(os.listdir(root))
    except FileNotFoundError:
        return []
    return [Container(root, name) for name in names if _fits(name) and os.path.isdir(f"{root}/{name}")]
