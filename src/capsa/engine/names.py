"""Names and ids of containers, and of what else has a name."""

from __future__ import annotations

import re
import secrets
from collections.abc import Container

from capsa.errors import InvalidArgument

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


ADJECTIVES = _words(
    "agile amber ample apt bold brave breezy bright brisk calm candid careful cheerful civil clear clever cosy crisp "
    "curious daring deft diligent eager early earnest easy even exact fair fine firm fleet fluent fond frank fresh "
    "gentle glad golden grand happy hardy honest humble jolly keen kind lively loyal lucid lucky mellow merry mild "
    "modest neat nimble noble open patient placid plain polite prompt proud quick quiet ready robust rosy serene sharp "
    "silent simple sincere sleek smooth snug sober solid sound spry stable steady sunny supple sure swift tidy tough "
    "tranquil trim trusty upbeat vivid warm wise witty zesty"
)

NOUNS = _words(
    "acorn alder anchor anvil apple arbor aspen badger barrel basin basket beacon beech birch bobbin boulder bramble "
    "bridge brook bucket bushel cabin canoe casket cedar chest clover cobble compass coral crate creek cypress daisy "
    "delta drawer falcon fern finch fjord flask garnet glade granite grove hamper harbor hazel heron hollow ibis ivy "
    "jasper juniper kettle lagoon lantern larch lark locker lotus magpie maple marble meadow mill mortar moss otter "
    "owl parcel pebble pine pouch prairie quarry quill quince raven reef ridge robin saddle satchel sparrow spruce "
    "summit teal thicket thistle trunk tulip valley vault walnut willow wren"
)


def new_id() -> str:
    """64 hexadecimal digits; never all decimal in the first twelve, which could be taken for a number."""
    while True:
        identity = secrets.token_hex(32)
        if not identity[:12].isdecimal():
            return identity


def check_container(name: str) -> str:
    """A container's name without the slash that Docker's clients may put before it; raises `InvalidArgument`."""
    bare = name.removeprefix("/")
    if not _NAME.fullmatch(bare):
        raise InvalidArgument(f"Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")
    return bare


def check_volume(name: str) -> str:
    """A volume's name; raises `InvalidArgument`."""
    if not _NAME.fullmatch(name):
        if len(name) == 1:
            raise InvalidArgument("volume name is too short, names should be at least two alphanumeric characters")
        raise InvalidArgument(
            f'"{name}" includes invalid characters for a local volume name, only "[a-zA-Z0-9][a-zA-Z0-9_.-]" are '
            "allowed. If you intended to pass a host directory, use absolute path"
        )
    if len(name) > 255:
        raise InvalidArgument(f"the volume name {name[:20]}… is longer than 255 characters")
    return name


def generate(taken: Container[str]) -> str:
    """A free name such as ``calm_willow``."""
    for _ in range(20):
        name = f"{secrets.choice(ADJECTIVES)}_{secrets.choice(NOUNS)}"
        if name not in taken:
            return name
    while True:
        name = f"{secrets.choice(ADJECTIVES)}_{secrets.choice(NOUNS)}_{secrets.token_hex(3)}"
        if name not in taken:
            return name
