"""Published ports as docker writes them: ``127.0.0.1:8000-8002:80-82/tcp``."""

from __future__ import annotations

from capsa.cli.options import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_PROTOCOLS = ("tcp", "udp", "sctp")


def port_range(text: str, whole: str) -> tuple[int, int]:
    """First and last port of ``80`` or ``80-90``; raises `UsageError` quoting ``whole``."""
    first, dash, last = text.partition("-")
    try:
        begin = int(first)
        end = int(last) if dash else begin
    except ValueError:
        begin = end = -1
    if not 0 <= begin <= end <= 65535:
        raise UsageError(f"invalid port: {whole} ([[ip:]port:]port[/protocol], ports between 0 and 65535)")
    return begin, end


def _protocol(text: str, whole: str) -> tuple[str, str]:
    ports, slash, protocol = text.partition("/")
    protocol = protocol.lower() if slash else "tcp"
    if protocol not in _PROTOCOLS:
        raise UsageError(f"invalid protocol in {whole}: {protocol} (use {', '.join(_PROTOCOLS)})")
    return ports, protocol


def exposed(texts: Iterable[str]) -> list[str]:
    """``80/tcp`` and so on, for ``--expose`` with its ranges."""
    result = []
    for text in texts:
        ports, protocol = _protocol(text, text)
        begin, end = port_range(ports, text)
        result += [f"{port}/{protocol}" for port in range(begin, end + 1)]
    return result


def published(texts: Iterable[str]) -> dict[str, list[dict[str, str]]]:
    """The ``PortBindings`` of the Engine API, for ``--publish``."""
    result: dict[str, list[dict[str, str]]] = {}
    for text in texts:
        rest, protocol = _protocol(text, text)
        rest, _, container = rest.rpartition(":")
        address, host = "", rest
        if rest.startswith("["):
            address, _, host = rest[1:].partition("]")
            host = host.removeprefix(":")
        elif ":" in rest:
            address, _, host = rest.rpartition(":")
        begin, end = port_range(container, text)
        if not host:
            hosts = [""] * (end - begin + 1)
        else:
            first, last = port_range(host, text)
            if last - first == end - begin:
                hosts = [str(port) for port in range(first, last + 1)]
            elif begin == end:
                hosts = [host]  # one of the range, whichever is free
            else:
                raise UsageError(f"invalid ranges in {text}: {host} and {container} differ in length")
        for port, on_host in zip(range(begin, end + 1), hosts, strict=True):
            result.setdefault(f"{port}/{protocol}", []).append({"HostIp": address, "HostPort": on_host})
    return result


def shown(ports: Iterable[Mapping[str, object]]) -> str:
    """The PORTS column of ``ps``: neighbouring ports together."""
    runs: list[list[object]] = []  # [address, protocol, first private, last private, first public, last public]
    for port in sorted(ports, key=_order):
        private, public = int(str(port["PrivatePort"])), int(str(port.get("PublicPort") or 0))
        address, protocol = str(port.get("IP") or ""), str(port.get("Type") or "tcp")
        if runs:
            last = runs[-1]
            follows = last[:2] == [address, protocol] and last[3] == private - 1
            if follows and last[5] == (public - 1 if public else 0):
                last[3], last[5] = private, public
                continue
        runs.append([address, protocol, private, private, public, public])
    return ", ".join(_run(*run) for run in runs)


def _order(port: Mapping[str, object]) -> tuple[bool, str, str, int, int]:
    public = int(str(port.get("PublicPort") or 0))
    address = str(port.get("IP") or "")
    return public == 0, str(port.get("Type")), address, int(str(port["PrivatePort"])), public


def _run(address: object, protocol: object, first: object, last: object, public: object, public_last: object) -> str:
    inside = f"{first}" if first == last else f"{first}-{last}"
    if not public:
        return f"{inside}/{protocol}"
    outside = f"{public}" if public == public_last else f"{public}-{public_last}"
    host = f"[{address}]" if ":" in str(address) else address
    return f"{host}:{outside}->{inside}/{protocol}"
