"""Where an engine listens: unix sockets, TCP with or without TLS, and sockets that systemd opened.

``unix:///PATH``, ``tcp://ADDRESS:PORT`` and ``fd://`` as dockerd's ``--host`` has them. Whoever reaches an engine is
root on its machine, so TCP beyond loopback needs certificates of its clients, or somebody's explicit word.
"""

from __future__ import annotations

import contextlib
import grp
import ipaddress
import logging
import os
import socket
import ssl
import stat
from pathlib import Path

import msgspec

from capsa.errors import CapsaError, Conflict, InvalidArgument, reason

BACKLOG = 4096
_FIRST_FD = 3  # sd_listen_fds(3)
_PORT, _SECURE_PORT = 2375, 2376  # those of dockerd
_log = logging.getLogger("capsa.engine")


class Certificates(msgspec.Struct, frozen=True):
    """Paths of PEM files; ``verify``: clients need a certificate that ``authority`` signed."""

    authority: str
    certificate: str
    key: str
    verify: bool = True

    def context(self) -> ssl.SSLContext:
        """For `capsa.api.docker.tls`; raises `InvalidArgument` naming the file that is missing or wrong."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(self.certificate, self.key)
        except OSError as error:
            raise InvalidArgument(
                f"cannot use the certificate {self.certificate} with the key {self.key}: {_why(error)}"
            ) from None
        if self.verify:
            try:
                context.load_verify_locations(self.authority)
            except OSError as error:
                raise InvalidArgument(f"cannot use the authority {self.authority}: {_why(error)}") from None
            context.verify_mode = ssl.CERT_REQUIRED
        return context


class Settings(msgspec.Struct, frozen=True):
    """How to listen. ``group`` may use unix sockets (empty: root's). ``plain``: TCP without TLS was asked for."""

    hosts: tuple[str, ...]
    group: str = ""
    certificates: Certificates | None = None
    plain: bool = False


class Listener(msgspec.Struct, frozen=True):
    """A listening socket; ``context`` where it speaks TLS, ``path`` where it has to be removed in the end."""

    socket: socket.socket
    name: str
    context: ssl.SSLContext | None = None
    path: Path | None = None

    @property
    def warning(self) -> str:
        """For those who ask the engine how it is, in Docker's words; empty where nobody unknown can come."""
        if self.socket.family == socket.AF_UNIX or (
            self.context is not None and self.context.verify_mode == ssl.CERT_REQUIRED
        ):
            return ""
        scheme, without = ("https", "TLS client verification") if self.context is not None else ("http", "encryption")
        return (
            f"WARNING: API is accessible on {scheme}{self.name.removeprefix('tcp')} without {without}.\n"
            "         Access to the remote API is equivalent to root access on the host."
        )

    def close(self) -> None:
        """Listen no more."""
        self.socket.close()
        if self.path is not None:
            with contextlib.suppress(OSError):
                self.path.unlink()


def listen(settings: Settings) -> list[Listener]:
    """Listen at every host; raises `CapsaError`, and then listens nowhere."""
    context = settings.certificates.context() if settings.certificates is not None else None
    found: list[Listener] = []
    try:
        for host in settings.hosts:
            scheme, separator, where = host.partition("://")
            if not separator:
                raise InvalidArgument(f"cannot listen on {host}: unix:///PATH, tcp://ADDRESS:PORT or fd:// is needed")
            match scheme:
                case "unix":
                    found.append(_unix(where, settings.group))
                case "tcp":
                    found += _tcp(where, settings, context)
                case "fd":
                    found += _passed(where, settings, context)
                case _:
                    raise InvalidArgument(
                        f"cannot listen on {host}: unix:///PATH, tcp://ADDRESS:PORT or fd:// is needed"
                    )
    except BaseException:
        for listener in found:
            listener.close()
        raise
    return found


def _unix(text: str, group: str) -> Listener:
    """A socket for root and its group only; one that nobody serves is replaced."""
    if not text.startswith("/"):
        raise InvalidArgument(f"cannot listen on unix://{text}: unix:///PATH is needed")
    number = _group(group) if group else -1
    path = Path(text)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() or path.is_symlink():
            _remove_stale(path)
        before = os.umask(0o177)
        try:
            listener.bind(text)
        finally:
            os.umask(before)
        if number >= 0:
            os.chown(path, -1, number)
        path.chmod(0o660)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise CapsaError(f"cannot listen on unix://{text}: {_why(error)}") from error
    except BaseException:
        listener.close()
        raise
    return Listener(listener, f"unix://{text}", path=path)


def _group(name: str) -> int:
    with contextlib.suppress(KeyError):
        return grp.getgrnam(name).gr_gid
    if name.isdecimal():
        return int(name)
    raise InvalidArgument(f"cannot give the socket to the group {name}: there is no such group (addgroup {name})")


def _remove_stale(path: Path) -> None:
    if not stat.S_ISSOCK(path.lstat().st_mode):
        raise Conflict(f"{path} is there and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except FileNotFoundError:
            return
    raise Conflict(f"somebody serves {path} already")


def _tcp(text: str, settings: Settings, context: ssl.SSLContext | None) -> list[Listener]:
    """One socket for each address of the name."""
    name, _colon, port = text.rstrip("/").rpartition(":")
    if not port.isdecimal() or text.endswith("]"):
        name, port = text.rstrip("/"), str(_SECURE_PORT if context is not None else _PORT)
    if int(port) > 0xFFFF:
        raise InvalidArgument(f"cannot listen on tcp://{text}: a port is at most 65535")
    try:
        addresses = socket.getaddrinfo(
            name.strip("[]") or "127.0.0.1", int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise InvalidArgument(f"cannot listen on tcp://{text}: {_why(error)}") from None
    found: list[Listener] = []
    for family, kind, protocol, _canonical, address in dict.fromkeys(addresses):
        listener = socket.socket(family, kind, protocol)
        try:
            _check(str(address[0]), text, settings)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(address[0] != "::"))
            listener.bind(address)
            listener.listen(BACKLOG)
            listener.setblocking(False)
        except BaseException as error:
            for one in (listener, *(each.socket for each in found)):
                one.close()
            if isinstance(error, OSError):
                raise CapsaError(f"cannot listen on tcp://{text}: {_why(error)}") from error
            raise
        found.append(Listener(listener, _name(listener), context))
    return found


def _check(address: str, text: str, settings: Settings) -> None:
    """Refuses, or warns of, what lets strangers in."""
    safe = settings.certificates is not None and settings.certificates.verify
    if safe:
        return
    if not ipaddress.ip_address(address.partition("%")[0]).is_loopback:
        if not settings.plain:
            raise InvalidArgument(
                f"cannot listen on tcp://{text} without --tlsverify: everybody who reaches it would be root here "
                "(to allow that all the same, say --tls=false; or --tls --tlsverify=false for TLS with any client)"
            )
        _log.warning("tcp://%s without --tlsverify is insecure: everybody who reaches it is root on this machine", text)
    else:
        _log.warning("tcp://%s without --tlsverify is insecure: every program and user here may use it as root", text)


def _passed(text: str, settings: Settings, context: ssl.SSLContext | None) -> list[Listener]:
    """The sockets that systemd opened (sd_listen_fds(3)): all of them, or that of one number."""
    count = os.environ.get("LISTEN_FDS", "")
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or not count.isdecimal() or not int(count):
        raise InvalidArgument(
            "cannot listen on fd://: no sockets were passed in, start the engine by a systemd socket unit"
        )
    descriptors = list(range(_FIRST_FD, _FIRST_FD + int(count)))
    if text not in ("", "*"):
        if not text.isdecimal() or int(text) not in descriptors:
            raise InvalidArgument(
                f"cannot listen on fd://{text}: the sockets passed in are {descriptors[0]} to {descriptors[-1]}"
            )
        descriptors = [int(text)]
    found = []
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
        try:
            passed = socket.socket(fileno=descriptor)
            if passed.type != socket.SOCK_STREAM:
                raise InvalidArgument(f"cannot listen on fd://{descriptor}: not a stream socket")
        except OSError as error:
            raise InvalidArgument(f"cannot listen on fd://{descriptor}: {_why(error)}") from None
        passed.setblocking(False)
        remote = passed.family != socket.AF_UNIX
        if remote:
            _check(str(passed.getsockname()[0]), _name(passed).removeprefix("tcp://"), settings)
        found.append(Listener(passed, _name(passed), context if remote else None))
    return found


def _name(listener: socket.socket) -> str:
    address = listener.getsockname()
    match listener.family:
        case socket.AF_UNIX:
            return f"unix://{address}"
        case socket.AF_INET6:
            return f"tcp://[{address[0]}]:{address[1]}"
        case _:
            return f"tcp://{address[0]}:{address[1]}"


def ready() -> None:
    """Tell systemd, where it asked to be told, that clients are served (sd_notify(3))."""
    path = os.environ.pop("NOTIFY_SOCKET", "")
    for name in ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"):  # nobody else's
        os.environ.pop(name, None)
    if not path:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.connect("\0" + path[1:] if path.startswith("@") else path)
        end.send(b"READY=1")


def _why(error: OSError) -> str:
    if error.errno and not isinstance(error, (ssl.SSLError, socket.gaierror)):
        return reason(error)
    return str(error)
