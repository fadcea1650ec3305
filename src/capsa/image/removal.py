"""Removing images as Docker does: names first, the image itself with its last name, unless something needs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from capsa.errors import Conflict
from capsa.image.catalog import Catalog
from capsa.image.digest import chain_ids, short
from capsa.image.reference import Reference


class User(msgspec.Struct, frozen=True):
    """A container that uses an image."""

    id: str
    running: bool


class Untagged(msgspec.Struct, frozen=True):
    """A name that is gone, familiar."""

    name: str


class Deleted(msgspec.Struct, frozen=True):
    """An image or a layer (its chain id) that is gone."""

    id: str


Users = Mapping[str, Sequence[User]]
Removed = Untagged | Deleted


def remove(
    catalog: Catalog,
    image: str,
    by: Reference | None,
    users: Sequence[User],
    *,
    force: bool,
    prune: bool,
    all_users: Users,
) -> list[Removed]:
    """Remove the name ``by`` (None: it was given by id) and, with the last name, the image.

    ``prune``: parents as well that nothing else needs. Raises `Conflict` in Docker's words.
    """
    with catalog.database.transaction():
        records: list[Removed] = []
        if by:
            if not force and users and _is_single(_references(catalog, image)):
                raise Conflict(
                    f'conflict: unable to remove repository reference "{by.familiar}" (must force) - container'
                    f" {users[0].id[:12]} is using its referenced image {short(image)}"
                )
            _untag(catalog, by, records)
            rest = _references(catalog, image)
            if not by.digest and not any(each.tag and each.repository == by.repository for each in rest):
                for each in rest:
                    if each.repository == by.repository:
                        _untag(catalog, each, records)
            if _references(catalog, image):
                return records
        elif _is_single(_references(catalog, image)):
            _check(catalog, image, users, force=force, names=False)
            for each in _references(catalog, image):
                _untag(catalog, each, records)
        _delete(catalog, image, all_users, records, force=force, prune=prune, quiet=by is not None)
        return records


def _references(catalog: Catalog, image: str) -> list[Reference]:
    return catalog.names_of(image) + catalog.digests_of(image)


def _is_single(known: list[Reference]) -> bool:
    """At most one tag, and no other repository than the tag's."""
    tags = [each for each in known if each.tag]
    return len(known) <= 1 or (len(tags) <= 1 and len({each.repository for each in known}) == 1)


def _untag(catalog: Catalog, name: Reference, records: list[Removed]) -> None:
    catalog.unname(name)
    records.append(Untagged(name.familiar))


def _check(catalog: Catalog, image: str, users: Sequence[User], *, force: bool, names: bool) -> None:
    """Raise `Conflict` if ``image`` cannot be removed, or not without force; ``names``: names are a reason, too."""

    def conflict(message: str, *, hard: bool) -> Conflict:
        how = "cannot be forced" if hard else "must be forced"
        return Conflict(f"conflict: unable to delete {short(image)} ({how}) - {message}")

    if catalog.children(image):
        raise conflict("image has dependent child images", hard=True)
    for user in users:
        if user.running:
            raise conflict(f"image is being used by running container {user.id[:12]}", hard=True)
    if force:
        return
    if names and _references(catalog, image):
        raise conflict("image is referenced in multiple repositories", hard=False)
    for user in users:
        raise conflict(f"image is being used by stopped container {user.id[:12]}", hard=False)


def _delete(
    catalog: Catalog, image: str, users: Users, records: list[Removed], *, force: bool, prune: bool, quiet: bool
) -> None:
    own = users.get(image, ())
    try:
        _check(catalog, image, own, force=force, names=True)
    except Conflict:
        if quiet:
            return
        raise
    for each in _references(catalog, image):
        _untag(catalog, each, records)
    found = catalog.image(image)
    chain = chain_ids(catalog.diff_ids(image))
    catalog.remove(image, keep=bool(own))
    records.append(Deleted(image))
    if not own:
        needed = {each for other in catalog.chains() for each in other}
        records.extend(Deleted(each) for each in reversed(chain) if each not in needed)
    if prune and found.parent and catalog.has(found.parent) and not _references(catalog, found.parent):
        _delete(catalog, found.parent, users, records, force=False, prune=True, quiet=True)
