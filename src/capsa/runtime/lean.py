"""What msgspec imports and this program has no use for, left out: half of the time until a container is made.

msgspec knows types (``uuid.UUID``, ``decimal.Decimal``) and formats (MessagePack, YAML, TOML, JSON Schema) that nothing
here has, and prefers ``typing_extensions`` where it is installed. Together they import 60 modules. While msgspec is
imported, empty ones stand in their place; afterwards whoever needs a real one imports it.
"""

from __future__ import annotations

import sys
from types import ModuleType

_TYPES = {"uuid": ("UUID", "SafeUUID"), "decimal": ("Decimal",)}
_FORMATS = ("_json_schema", "inspect", "msgpack", "toml", "yaml")


def import_msgspec() -> None:
    """Import it; without effect where it is there already."""
    if "msgspec" in sys.modules:
        return
    placed: dict[str, ModuleType | None] = {}
    for name, kinds in _TYPES.items():
        module = ModuleType(name)
        for kind in kinds:
            setattr(module, kind, type(kind, (), {"unknown": None}))
        placed[name] = module
    for name in _FORMATS:
        module = ModuleType(f"msgspec.{name}")
        module.schema = module.schema_components = None  # type: ignore[attr-defined]
        placed[f"msgspec.{name}"] = module
    placed["typing_extensions"] = None
    placed = {name: module for name, module in placed.items() if name not in sys.modules}
    sys.modules.update(placed)  # type: ignore[arg-type]
    try:
        import msgspec  # noqa: F401
    finally:
        for name in placed:
            del sys.modules[name]
