"""The contents of a container's ``/etc/hosts`` and ``/etc/resolv.conf``, by Docker's rules."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from pathlib import Path

from capsa.errors import InvalidArgument

# What Docker falls back to where the host only has a name server of its own on a loopback address.
PUBLIC_SERVERS = ("8.8.8.8", "8.8.4.4")
HOST_GATEWAY = "host-gateway"
_RESOLV_CONF = Path("/etc/resolv.conf")
NAME_SERVER = "127.0.0.11"
_BEHIND_RESOLVED = Path("/run/systemd/resolve/resolv.conf")
_LOCAL = """127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::\tip6-localnet
ff00::\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
"""


def hosts_file(
    hostname: str,
    *,
    domainname: str = "",
    addresses: Iterable[str] = (),
    extra: Iterable[str] = (),
    host_gateway: str = "",
    links: Iterable[str] = (),
) -> str:
    """``/etc/hosts`` of a container.

    ``addresses`` are the container's own, with or without prefix length. ``extra`` holds ``NAME:IP`` or ``NAME=IP``;
    the IP ``host-gateway`` stands for ``host_gateway``. ``links`` are whole lines. Raises `InvalidArgument` for a
    malformed entry.
    """
    lines = [_LOCAL]
    for entry in extra:
        name, address = split_extra_host(entry)
        if address == HOST_GATEWAY:
            if not host_gateway:
                raise InvalidArgument(
                    f"unable to derive the IP value for host-gateway of {name}: there is no bridge network"
                )
            address = host_gateway
        lines.append(f"{address}\t{name}\n")
    return "".join((*lines, *links, *hosts_lines(hostname, domainname, addresses)))


def hosts_lines(hostname: str, domainname: str, addresses: Iterable[str]) -> list[str]:
    """The lines of ``/etc/hosts`` for the container's own ``addresses``, with or without prefix length."""
    names = f"{hostname}.{domainname} {hostname}" if domainname else hostname
    return [f"{address.partition('/')[0]}\t{names}\n" for address in addresses]


def split_extra_host(entry: str) -> tuple[str, str]:
    """Name and address of ``NAME:IP`` or ``NAME=IP``; the address may be ``host-gateway``; raises `InvalidArgument`."""
    separator = "=" if "=" in entry else ":"
    name, found, address = entry.partition(separator)
    address = address.removeprefix("[").removesuffix("]")
    if not found or not name or any(character.isspace() for character in name):
        raise InvalidArgument(f'bad format for add-host: "{entry}"')
    if address != HOST_GATEWAY and not _is_address(address):
        raise InvalidArgument(f'invalid IP address in add-host: "{address}"')
    return name, address


def resolv_conf(
    *,
    servers: Sequence[str] = (),
    search: Sequence[str] = (),
    options: Sequence[str] = (),
    ipv6: bool = False,
    loopback: bool = False,
    served: bool = False,
    host: str | None = None,
) -> str:
    """``/etc/resolv.conf`` of a container: the host's, each part replaced by what is given.

    A search list of just ``.`` means none. The host's name servers on loopback addresses are of no use in another
    network namespace and are left out (kept with ``loopback``, for the host's network), those of IPv6 without
    ``ipv6`` too; where none is left, Docker's public ones stand in. ``served``: the only name server is that of the
    container's networks, which asks the others; single words go to it as they are (``ndots:0``, unless the options say
    otherwise). ``host`` is the text of the host's file (None: read it). Raises `InvalidArgument` for a server that is
    no address, or a domain or option with spaces.
    """
    for server in servers:
        if not _is_address(server):
            raise InvalidArgument(f"bad DNS address {server}: not an IP address")
    for word in (*search, *options):
        if not word or any(character.isspace() for character in word):
            raise InvalidArgument(f"bad DNS search domain or option {word!r}: one word each")
    found = _parse(_host_text(loopback) if host is None else host)
    chosen = [NAME_SERVER] if served else list(servers)
    if not chosen:
        chosen = [each for each in found["nameserver"] if loopback or _usable(each, ipv6)]
        if not chosen and not loopback:
            chosen = list(PUBLIC_SERVERS)
    domains = [each for each in (search or found["search"]) if each != "."]
    settings = list(options or found["options"])
    if served and not any(each.startswith("ndots:") for each in settings):
        settings.append("ndots:0")
    lines = [f"nameserver {server}\n" for server in chosen]
    if domains:
        lines.append(f"search {' '.join(domains)}\n")
    if settings:
        lines.append(f"options {' '.join(settings)}\n")
    return "".join(lines)


def ndots(options: Sequence[str]) -> int:
    """How many dots a name needs to be looked up as it is first, by the ``options`` of a container or the host."""
    for each in options or _parse(_host_text(loopback=True))["options"]:
        name, _, number = each.partition(":")
        if name == "ndots" and number.isascii() and number.isdigit():
            return int(number)
    return 0


def _host_text(loopback: bool) -> str:
    try:
        text = _RESOLV_CONF.read_text(errors="replace")
        if not loopback and _parse(text)["nameserver"] == ["127.0.0.53"] and _BEHIND_RESOLVED.exists():
            text = _BEHIND_RESOLVED.read_text(errors="replace")
    except OSError:
        return ""
    return text


def _parse(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {"nameserver": [], "search": [], "options": []}
    for line in text.splitlines():
        words = line.split("#")[0].split(";")[0].split()
        if len(words) < 2:
            continue
        if words[0] == "nameserver":
            found["nameserver"].append(words[1])
        elif words[0] in ("search", "domain"):
            found["search"] = words[1:]
        elif words[0] == "options":
            found["options"] = words[1:]
    return found


def _usable(server: str, ipv6: bool) -> bool:
    try:
        address = ipaddress.ip_address(server.partition("%")[0])
    except ValueError:
        return False
    # A link-local address means nothing without its interface, and that is the host's.
    return not address.is_loopback and not (address.version == 6 and (address.is_link_local or not ipv6))


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
