"""What a container would become on its platform, without making it: mounts on Linux, a configuration on Genode."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from capsa.engine import genode, launch
from capsa.engine.container import Container

if TYPE_CHECKING:
    from capsa.engine.engine import Engine
    from capsa.oci.runtime import Spec


async def plan(engine: Engine, container: Container) -> str:
    """The plan as text; raises what a start would raise before it makes anything."""
    layers = launch.layers_of(engine, container)
    spec = launch.specification(engine, container, layers)
    if container.document.platform == genode.OS:
        return await asyncio.to_thread(_on_genode, engine, container, spec, layers)
    return _on_linux(container, spec, layers)


def _on_linux(container: Container, spec: Spec, layers: list[str]) -> str:
    from capsa.vfs import compile as vfs
    from capsa.vfs.linux import lower

    tree = vfs.tree(spec, launch.root_of(container, layers), bundle=str(container.bundle))
    return "".join(f"{step.title()}\n" for step in lower(tree))


def _on_genode(engine: Engine, container: Container, spec: Spec, layers: list[str]) -> str:
    from capsa import hid
    from capsa.platform.genode import bundle, compile, file_servers
    from capsa.platform.genode.image import Images

    contents = Images(engine.root / "genode").get(layers)
    made = bundle.read(spec, container.name, contents.roms, contents.texts)
    made = msgspec.structs.replace(made, volatile=engine.genode is not None and engine.genode.attached)
    has = engine.genode.equipment if engine.genode is not None else compile.BARE
    made = has.provide(made)
    start = compile.containers([compile.entry(made)]).node("start", made.name)
    assert start is not None
    inner = compile.subinit(made, file_servers.tree(made, contents.archive), has=has)
    for sentence in (*(has.lacks() if made.files else ()), *has.withholds(made)):
        inner.content.append(hid.Comment(sentence))
    return f"{hid.write(start)}\n{hid.write(inner)}"
