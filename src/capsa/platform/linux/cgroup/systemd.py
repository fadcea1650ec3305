"""systemd as the one who makes and removes cgroups: a part of org.freedesktop.systemd1(5).

Imported only where it is asked for: jeepney, the library that knows D-Bus's messages, takes 15 ms to import.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time

from jeepney.auth import BEGIN, AuthenticationError, Authenticator
from jeepney.bus import get_bus
from jeepney.low_level import HeaderFields, Message, MessageType, Parser
from jeepney.wrappers import DBusAddress, new_method_call

from capsa.errors import CapsaError, Conflict, Forbidden, InvalidArgument, NotFound, Unavailable, Unsupported
from capsa.platform.linux.cgroup.scope import Property

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

RUNNING = "/run/systemd/system"  # sd_booted(3)
PRIVATE = "/run/systemd/private"  # systemd's own socket, for root where there is no bus
PATIENCE = 30.0  # seconds that an answer, or a job, may take
_MANAGER = DBusAddress(
    "/org/freedesktop/systemd1",
    bus_name="org.freedesktop.systemd1",
    interface="org.freedesktop.systemd1.Manager",
)
_BUS = DBusAddress("/org/freedesktop/DBus", bus_name="org.freedesktop.DBus", interface="org.freedesktop.DBus")
_FINISHED = (
    "type='signal',sender='org.freedesktop.systemd1',path='/org/freedesktop/systemd1',"
    "interface='org.freedesktop.systemd1.Manager',member='JobRemoved'"
)
_ERRORS = {
    "org.freedesktop.systemd1.NoSuchUnit": NotFound,
    "org.freedesktop.systemd1.UnitExists": Conflict,
    "org.freedesktop.DBus.Error.AccessDenied": Forbidden,
    "org.freedesktop.DBus.Error.InvalidArgs": InvalidArgument,
    "org.freedesktop.DBus.Error.PropertyReadOnly": InvalidArgument,
}


def require() -> None:
    """Raises `Unsupported` where systemd is not the machine's init system."""
    if not os.path.isdir(RUNNING):
        raise Unsupported("systemd does not run on this machine, so it cannot make cgroups: leave --systemd-cgroup out")


class Systemd:
    """A connection to the system's service manager. Methods raise `CapsaError`."""

    def __init__(self) -> None:
        """Connect through the system bus, else directly; raises `Unsupported`, `Unavailable`."""
        require()
        self._parser = Parser()
        self._serial = 0
        self._jobs: dict[str, str] = {}  # those that have ended, with their results
        # Waiting for both takes no more than one of them may.
        self._deadline = time.monotonic() + PATIENCE
        try:
            self._socket = _connected(get_bus("SYSTEM"), self._deadline)
            private = False
        except (OSError, AuthenticationError, RuntimeError) as error:
            if os.geteuid() != 0:
                raise Unavailable(f"cannot reach systemd through the system bus: {error}") from error
            try:
                self._socket = _connected(PRIVATE, self._deadline)
            except (OSError, AuthenticationError) as second:
                raise Unavailable(
                    f"cannot reach systemd, neither through the system bus ({error}) nor at {PRIVATE} ({second})"
                ) from second
            private = True
        if not private:
            self._call(_BUS, "Hello")
            self._call(_BUS, "AddMatch", "s", (_FINISHED,))

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def __enter__(self) -> Systemd:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- units ----

    def start(self, unit: str, properties: Sequence[Property]) -> None:
        """Make and start a transient unit; returns when it is there. One of that name that has failed is replaced."""
        try:
            job = self._begin(unit, properties)
        except Conflict:
            with contextlib.suppress(NotFound):
                self._forget(unit)
            try:
                job = self._begin(unit, properties)
            except Conflict as error:
                raise Conflict(f"systemd has a unit {unit} already: choose another cgroupsPath") from error
        try:
            self._finish(job, f"start {unit}")
        except BaseException:
            with contextlib.suppress(CapsaError):
                self.stop(unit)
            raise

    def set(self, unit: str, properties: Sequence[Property]) -> None:
        """Change properties of a unit until it is stopped."""
        self._call(_MANAGER, "SetUnitProperties", "sba(sv)", (unit, True, list(properties)))

    def stop(self, unit: str) -> None:
        """Stop a unit, ending its processes, and forget that it failed; fine if it is gone."""
        for step in (self._stop, self._forget):
            try:
                step(unit)
            except NotFound:
                return

    def _begin(self, unit: str, properties: Sequence[Property]) -> str:
        """The job that starts it."""
        words: tuple[Any, ...] = (unit, "replace", list(properties), [])
        return str(self._call(_MANAGER, "StartTransientUnit", "ssa(sv)a(sa(sv))", words)[0])

    def _stop(self, unit: str) -> None:
        self._finish(self._call(_MANAGER, "StopUnit", "ss", (unit, "replace"))[0], f"stop {unit}")

    def _forget(self, unit: str) -> None:
        self._call(_MANAGER, "ResetFailedUnit", "s", (unit,))

    # ---- messages ----

    def _finish(self, job: str, what: str) -> None:
        """Wait for the end of a job."""
        while job not in self._jobs:
            self._receive(what)
        result = self._jobs.pop(job)
        if result not in ("done", "skipped"):
            raise CapsaError(f"systemd did not {what}: {result} (its journal may tell why)")

    def _call(self, to: DBusAddress, method: str, signature: str | None = None, body: tuple[Any, ...] = ()) -> Any:
        """The body of the answer."""
        self._serial += 1
        self._deadline = time.monotonic() + PATIENCE
        try:
            data = new_method_call(to, method, signature, body).serialise(serial=self._serial)
        except (TypeError, ValueError, struct.error) as error:
            raise InvalidArgument(f"cannot tell systemd ({method}): {error}") from error
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise Unavailable(f"systemd does not listen ({method}): {error}") from error
        while True:
            message = self._receive(method)
            fields = message.header.fields
            if fields.get(HeaderFields.reply_serial) != self._serial:
                continue
            if message.header.message_type is MessageType.error:
                name = fields.get(HeaderFields.error_name, "")
                said = message.body[0] if message.body else name
                raise _ERRORS.get(name, CapsaError)(f"systemd refuses {method}: {said}")
            return message.body

    def _receive(self, what: str) -> Message:
        """The next message; the end of a job is noted."""
        while (message := self._parser.get_next_message()) is None:
            left = self._deadline - time.monotonic()
            if left <= 0:
                raise Unavailable(f"systemd does not answer within {PATIENCE:.0f} seconds ({what})")
            self._socket.settimeout(left)
            try:
                data = self._socket.recv(65536)
            except TimeoutError:
                continue
            except OSError as error:
                raise Unavailable(f"the connection to systemd broke ({what}): {error}") from error
            if not data:
                raise Unavailable(f"systemd ended the connection ({what})")
            self._parser.add_data(data)
        fields = message.header.fields
        if message.header.message_type is MessageType.signal and fields.get(HeaderFields.member) == "JobRemoved":
            _, job, _, result = message.body
            self._jobs[job] = result
        return message


def _connected(path: str, deadline: float) -> socket.socket:
    """A connection on which we are who we are; raises `OSError`, `AuthenticationError`."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        made.settimeout(max(deadline - time.monotonic(), 0.1))
        made.connect(path)
        talk = Authenticator()
        # Without waiting for the answer in between, as systemd's own clients do: where its end reads BEGIN and the
        # first message at once, it forgets the message until the next one comes.
        made.sendall((talk.data_to_send() or b"") + BEGIN)
        while not talk.authenticated:
            data = made.recv(1024)
            if not data:
                raise ConnectionResetError(f"{path}: the connection was ended")
            talk.feed(data)
    except BaseException:
        made.close()
        raise
    return made
