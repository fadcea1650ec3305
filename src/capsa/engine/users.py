"""Who a process is: ``user[:group]`` resolved with the container's own /etc/passwd and /etc/group.

The rules are Docker's: a name that is all digits may also be an id that no file knows; without a group a
known user has its primary group and all groups that list it; with a group that one only.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import msgspec

from capsa.engine.union import Union
from capsa.errors import InvalidArgument
from capsa.oci.runtime import User

_MOST = 1 << 20  # bytes of either file: containers write them, and each exec has them read
_LARGEST = (1 << 32) - 2
_DIGITS = 10


class Account(msgspec.Struct, frozen=True):
    """A line of /etc/passwd."""

    name: str
    uid: int
    gid: int
    home: str


class Group(msgspec.Struct, frozen=True):
    """A line of /etc/group."""

    name: str
    gid: int
    members: tuple[str, ...]


class Accounts(msgspec.Struct, frozen=True):
    """Both files; malformed lines are left out."""

    users: tuple[Account, ...]
    groups: tuple[Group, ...]


def parse(passwd: bytes | None, group: bytes | None) -> Accounts:
    """Both files' contents, None for a missing one."""
    users = []
    for line in (passwd or b"").decode(errors="replace").splitlines():
        fields = line.strip().split(":")
        if len(fields) >= 6 and _is_id(fields[2]) and _is_id(fields[3]):
            users.append(Account(fields[0], int(fields[2]), int(fields[3]), fields[5]))
    groups = []
    for line in (group or b"").decode(errors="replace").splitlines():
        fields = line.strip().split(":")
        if len(fields) >= 4 and _is_id(fields[2]):
            members = tuple(member for member in fields[3].split(",") if member)
            groups.append(Group(fields[0], int(fields[2]), members))
    return Accounts(tuple(users), tuple(groups))


def accounts(layers: Sequence[str], upper: str) -> Accounts:
    """The accounts of a container; ``layers`` uppermost first, below the writable directory ``upper``.

    Cached for the image's layers; read anew where the container may have its own.
    """
    if upper:
        with Union([upper]) as own, own.directory("/etc") as found:
            if found:
                return _read((upper, *layers))
    return _of_layers(tuple(layers))


@lru_cache(maxsize=32)
def _of_layers(layers: tuple[str, ...]) -> Accounts:
    return _read(layers)


def _read(layers: Sequence[str]) -> Accounts:
    with Union(layers) as tree:
        return parse(tree.read("/etc/passwd", _MOST), tree.read("/etc/group", _MOST))


def resolve(wanted: str, extra: Sequence[str], known: Accounts) -> tuple[User, str]:
    """The `User` for ``user[:group]`` with the additional groups ``extra``, and its home directory.

    Raises `InvalidArgument` in Docker's words for names that the container does not know.
    """
    name, colon, group = wanted.partition(":")
    account = _account(name or "0", known)
    if account is not None:
        uid, gid, home = account.uid, account.gid, account.home or "/"
    elif _is_id(name or "0"):
        uid, gid, home = int(name or "0"), 0, "/"
    else:
        raise InvalidArgument(f"unable to find user {name[:80]}: no matching entries in passwd file")
    additional: list[int] = []
    if colon and group:
        gid = _gid(group, known)
    elif account is not None:
        additional = [entry.gid for entry in known.groups if account.name in entry.members]
    for item in extra:
        additional.append(_gid(item, known, additional=True))
    return User(uid=uid, gid=gid, additional_gids=list(dict.fromkeys([gid, *additional]))), home


def _account(name: str, known: Accounts) -> Account | None:
    for account in known.users:
        if account.name == name:
            return account
    if _is_id(name):
        for account in known.users:
            if account.uid == int(name):
                return account
    return None


def _gid(name: str, known: Accounts, additional: bool = False) -> int:
    for group in known.groups:
        if group.name == name:
            return group.gid
    if _is_id(name):
        return int(name)
    if additional:
        raise InvalidArgument(f"Unable to find group {name}")
    raise InvalidArgument(f"unable to find group {name}: no matching entries in group file")


def _is_id(text: str) -> bool:
    return len(text) <= _DIGITS and text.isascii() and text.isdigit() and int(text) <= _LARGEST
