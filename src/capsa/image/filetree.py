"""What a layer's archive amounts to, as plain data: the tree that its entries describe, one after the other.

Nothing here touches a file system. Names are resolved in this tree alone, as a kernel would with the layer as its root
directory, so an archive has nothing outside itself to name: not through ``..``, absolute names, links or the
targets of hard links. Later entries replace earlier ones; whiteouts (OCI image-spec, layer.md, "Whiteouts") are
gathered wherever they stand in the archive, since they speak about lower layers only.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from capsa.errors import BrokenArchive
from capsa.image.limits import DEFAULT, Limits
from capsa.image.objects import Metadata
from capsa.image.tar import shown

WHITEOUT = b".wh."
OPAQUE = b".wh..wh..opq"
RESERVED = b".wh..wh."  # what aufs kept for itself, and old images still carry
_LINKS = 40  # as the kernel
_TARGET = 4095
_KNOWN = 10_000

IMPLIED = Metadata(0o755, 0, 0, 0, {})


@dataclass(slots=True)
class File:
    """A regular file, staged under ``slot``. ``size`` in bytes; ``group`` counts the archive's hard links, 0: there
    are none.
    """

    slot: int
    key: str
    size: int
    group: int = 0


@dataclass(slots=True)
class Symlink:
    target: bytes
    metadata: Metadata


@dataclass(slots=True)
class Special:
    """A device or a fifo; ``format`` is its ``S_IF…``."""

    format: int
    major: int
    minor: int
    metadata: Metadata


@dataclass(slots=True)
class Directory:
    metadata: Metadata = IMPLIED
    children: dict[bytes, Node] = field(default_factory=dict)
    whiteouts: set[bytes] = field(default_factory=set)
    opaque: bool = False


Node = File | Symlink | Special | Directory


class FileTree:
    """The tree of one layer. All methods raise `BrokenArchive` for names that cannot be meant."""

    def __init__(self, limits: Limits = DEFAULT) -> None:
        self.root = Directory()
        self.count = 0
        self._limits = limits
        self._known: dict[bytes, Directory] = {}  # a cache of `_directory`

    def place(self, name: bytes, node: Node) -> None:
        """Put ``node`` at ``name``. A directory keeps what it replaces held, anything else replaces all."""
        parent, base = self._parent(name, create=True)
        if not base:
            if not isinstance(node, Directory):
                raise BrokenArchive(f"the layer's root is replaced by something else than a directory ({shown(name)})")
            self.root.metadata = node.metadata
            return
        old = parent.children.get(base)
        if isinstance(old, Directory) and isinstance(node, Directory):
            old.metadata = node.metadata
            return
        if old is None:
            self._counted()
        else:
            self._known.clear()
        parent.children[base] = node

    def whiteout(self, name: bytes) -> bool:
        """Take note if ``name`` is a whiteout, or aufs' own and of no meaning; False: it is an ordinary name."""
        if WHITEOUT not in name:
            return False
        components = self._components(name)
        for component in components[:-1]:
            if component.startswith(RESERVED):
                return True
            if component.startswith(WHITEOUT):
                raise BrokenArchive(f"{shown(name)} lies below a whiteout")
        base = components[-1] if components else b""
        if not base.startswith(WHITEOUT):
            return False
        if base == OPAQUE:
            self._parent(name, create=True)[0].opaque = True
        elif not base.startswith(RESERVED):
            hidden = base[len(WHITEOUT) :]
            if hidden in (b"", b".", b".."):
                raise BrokenArchive(f"{shown(name)} is a whiteout of nothing")
            self.hide(self._parent(name, create=True)[0], hidden)
        return True

    def hide(self, parent: Directory, name: bytes) -> None:
        """Let ``parent`` have a whiteout for ``name``."""
        if name not in parent.whiteouts:
            self._counted()
            parent.whiteouts.add(name)

    def hide_at(self, name: bytes) -> None:
        """The same for a whole name: a device 0:0 in the archive already is overlayfs' own form."""
        parent, base = self._parent(name, create=True)
        if not base:
            raise BrokenArchive(f"the layer's root is replaced by something else than a directory ({shown(name)})")
        parent.children.pop(base, None)
        self._known.clear()
        self.hide(parent, base)

    def find(self, name: bytes, link: bytes) -> Node:
        """What a hard link at ``name`` to ``link`` means.

        It has to be in the same layer, and to come first: what lies below is another layer's and may be any.
        """
        parent, base = self._parent(link, create=False)
        node = parent.children.get(base) if parent else None
        if node is None:
            raise BrokenArchive(f"{shown(name)} is a hard link to {shown(link)}, which is not in the layer before it")
        if isinstance(node, Directory):
            raise BrokenArchive(f"{shown(name)} is a hard link to the directory {shown(link)}")
        return node

    def at(self, name: bytes) -> Node | None:
        """What the kernel finds at ``name`` without following links; None also for a name that has ``..``."""
        node: Node | None = self.root
        for component in name.strip(b"/").split(b"/"):
            if not isinstance(node, Directory):
                return None
            if component and component != b".":
                node = node.children.get(component)
        return node

    def _counted(self) -> None:
        self.count += 1
        if self.count > self._limits.entries:
            raise BrokenArchive(f"the layer has more than {self._limits.entries} entries")

    def _components(self, name: bytes) -> list[bytes]:
        """Lexically clean, as tar extractors do; a name that leads out is refused rather than bent."""
        if len(name) > self._limits.path:
            raise BrokenArchive(f"the name {shown(name)} has {len(name)} bytes, more than {self._limits.path}")
        components: list[bytes] = []
        for component in name.split(b"/"):
            if component == b"..":
                if not components:
                    raise BrokenArchive(f"the name {shown(name)} leads out of the layer")
                components.pop()
            elif component and component != b".":
                if len(component) > 255:
                    raise BrokenArchive(f"the name {shown(name)} has a component of more than 255 bytes")
                components.append(component)
        if len(components) > self._limits.depth:
            raise BrokenArchive(f"the name {shown(name)} has more than {self._limits.depth} components")
        return components

    def _parent(self, name: bytes, *, create: bool) -> tuple[Directory, bytes]:
        """The directory that ``name`` lies in, and its last component (empty for the root)."""
        above, slash, base = name.rpartition(b"/")
        known = self._known.get(above) if slash else None
        if known is not None and 0 < len(base) <= 255 and base not in (b".", b"..") and len(name) <= self._limits.path:
            return known, base
        components = self._components(name)
        if not components:
            return self.root, b""
        directory = self._directory(components[:-1], name, create=create)
        if directory is None:
            return Directory(), components[-1]
        if slash and components[-1] == base:
            if len(self._known) >= _KNOWN:
                self._known.clear()
            self._known[above] = directory
        return directory, components[-1]

    def _directory(self, components: list[bytes], name: bytes, *, create: bool) -> Directory | None:
        """Walk from the root, through links as well; with ``create`` missing directories come into being."""
        trail = [self.root]
        todo = components[::-1]
        links = 0
        while todo:
            component = todo.pop()
            if component == b"..":
                if len(trail) > 1:
                    trail.pop()
                continue
            child = trail[-1].children.get(component)
            if child is None:
                if not create:
                    return None
                if component.startswith(WHITEOUT):
                    raise BrokenArchive(f"{shown(name)} leads through a link below a whiteout")
                if len(trail) > self._limits.depth:
                    raise BrokenArchive(f"the name {shown(name)} has more than {self._limits.depth} components")
                self._counted()
                child = trail[-1].children[component] = Directory()
            if isinstance(child, Symlink):
                links += 1
                if links > _LINKS or len(todo) > self._limits.path:
                    raise BrokenArchive(f"the name {shown(name)} leads through too many symbolic links")
                if child.target.startswith(b"/"):
                    trail = [self.root]
                todo += [part for part in reversed(child.target.split(b"/")) if part not in (b"", b".")]
            elif isinstance(child, Directory):
                trail.append(child)
            else:
                raise BrokenArchive(f"the name {shown(name)} leads through something that is not a directory")
        return trail[-1]


def symlink(name: bytes, target: bytes, metadata: Metadata) -> Symlink:
    """A symbolic link that the kernel would accept; where it leads is nobody's business here."""
    if not 0 < len(target) <= _TARGET:
        raise BrokenArchive(f"the symbolic link {shown(name)} has a target of {len(target)} bytes")
    return Symlink(target, metadata)
