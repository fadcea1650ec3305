"""Which of an index's images fits (image-spec, image-index.md; Go's names for systems and processors)."""

from __future__ import annotations

import os
import re

import msgspec

from capsa.errors import InvalidArgument, NotFound
from capsa.oci.image import INDEXES, MANIFESTS, Descriptor, ImageConfig, Platform

_MACHINES = {
    "x86_64": ("amd64", ""),
    "amd64": ("amd64", ""),
    "i386": ("386", ""),
    "i686": ("386", ""),
    "aarch64": ("arm64", "v8"),
    "armv8l": ("arm", "v8"),
    "armv7l": ("arm", "v7"),
    "armhf": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "armel": ("arm", "v6"),
    "riscv64": ("riscv64", ""),
    "ppc64le": ("ppc64le", ""),
    "s390x": ("s390x", ""),
    "x86-64": ("amd64", ""),
}
_PART = re.compile(r"[a-z0-9_.-]+")
_ARM = ("v8", "v7", "v6", "v5")
_SYSTEMS = frozenset({"linux", "genode", "windows", "darwin", "freebsd", "netbsd", "openbsd"})


def native() -> Platform:
    """This machine's platform."""
    machine = os.uname().machine
    architecture, variant = _MACHINES.get(machine, (machine, ""))
    return Platform(os="linux", architecture=architecture, variant=variant)


def parse(text: str) -> Platform:
    """``OS``, ``ARCHITECTURE``, ``OS/ARCHITECTURE`` or ``OS/ARCHITECTURE/VARIANT``; raises `InvalidArgument`.

    Clients of API 1.48 and newer write the same as a JSON object.
    """
    if text.startswith("{"):
        try:
            given = msgspec.json.decode(text, type=Platform)
        except msgspec.DecodeError as error:
            raise InvalidArgument(f"the platform {text[:200]!r} is malformed: {error}") from error
        text = str(given)
    parts = text.lower().split("/")
    if len(parts) > 3 or not all(_PART.fullmatch(part) for part in parts):
        raise InvalidArgument(f"the platform {text!r} is malformed: write OS/ARCHITECTURE or OS/ARCHITECTURE/VARIANT")
    here = native()
    if len(parts) == 1:
        if parts[0] in _SYSTEMS:
            return Platform(os=parts[0], architecture=here.architecture, variant=here.variant)
        parts = [here.os, *parts]
    architecture, variant = _MACHINES.get(parts[1], (parts[1], ""))
    if len(parts) == 3:
        variant = parts[2]
    elif not variant and architecture in ("arm", "arm64"):
        variant = "v7" if architecture == "arm" else "v8"
    return Platform(os=parts[0], architecture=architecture, variant=variant)


def check(config: ImageConfig, wanted: str, name: str) -> None:
    """An image of another platform than ``wanted`` (empty: any) will not do; raises `NotFound` in Docker's words."""
    if not wanted:
        return
    asked = parse(wanted)
    there = Platform(os=config.os, architecture=config.architecture, variant=config.variant)
    variants = {each for architecture, each in runs(asked) if architecture == asked.architecture}
    if (there.os, there.architecture) == (asked.os, asked.architecture) and there.variant in variants:
        return
    raise NotFound(
        f"image with reference {name} was found but its platform ({there}) does not match the specified "
        f"platform ({asked})"
    )


def runs(wanted: Platform) -> list[tuple[str, str]]:
    """(architecture, variant) of images that ``wanted`` can run, best first; no variant means the basic one."""
    name, variant = wanted.architecture, wanted.variant
    if name == "arm64":
        lesser = [variant] if variant not in ("", "v8") else []
        return [(name, each) for each in [*lesser, "v8", ""]] + [("arm", each) for each in (*_ARM, "")]
    if name == "arm":
        start = _ARM.index(variant) if variant in _ARM else 1
        return [(name, each) for each in _ARM[start:]] + [(name, "")]
    if name == "amd64":
        level = int(variant[1:]) if re.fullmatch(r"v[1-4]", variant) else 1
        return [(name, f"v{each}") for each in range(level, 0, -1)] + [(name, ""), ("386", "")]
    return [(name, variant), (name, "")] if variant else [(name, "")]


def choose(descriptors: list[Descriptor], wanted: Platform, name: str) -> Descriptor:
    """The best entry of an index for ``wanted``; raises `NotFound` that lists what there is.

    Attestations and other things that are no image are passed over. Entries without a platform are taken only
    where nothing says its platform, and there is one.
    """
    images = [
        each
        for each in descriptors
        if each.media_type in MANIFESTS | INDEXES
        and each.annotations.get("vnd.docker.reference.type") != "attestation-manifest"
        and not (each.platform and each.platform.os == "unknown")
    ]
    for architecture, variant in runs(wanted):
        for each in images:
            has = each.platform
            if has and (has.os, has.architecture, has.variant) == (wanted.os, architecture, variant):
                return each
    anonymous = [each for each in images if each.platform is None]
    if len(anonymous) == 1 and len(images) == 1:
        return anonymous[0]
    there = ", ".join(sorted({str(each.platform) for each in images if each.platform})) or "none with a platform"
    raise NotFound(f"no matching manifest for {wanted} in the manifest list entries of {name} (there: {there})")


def fits(has: Platform, wanted: Platform) -> bool:
    """Whether an image for ``has`` is what was asked for with ``wanted``."""
    return has.os == wanted.os and (has.architecture, has.variant) in runs(wanted)
