"""How much a layer may ask for: generous to every real image, finite to every hostile one."""

from __future__ import annotations

from dataclasses import dataclass

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Bounds on one layer archive; sizes in bytes.

    ``size``: of the uncompressed archive, and of what its sparse files allocate. ``entries``: names, parents that are
    only implied included. ``header``: of one extension header (PAX records, a GNU long name), as Go's reader has it.
    ``extents``: of one sparse file. ``path`` and ``depth``: of one name, in bytes and in components. ``ratio``:
    uncompressed to compressed size, looked at once more than ``ratio_free`` came out (deflate cannot exceed 1032).
    """

    size: int = TIB
    entries: int = 2_000_000
    header: int = MIB
    extents: int = 1_000_000
    path: int = 4096
    depth: int = 256
    ratio: int = 2000
    ratio_free: int = GIB


DEFAULT = Limits()
