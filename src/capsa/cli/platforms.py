"""``--platform`` as the Engine API takes it for images that are there already."""

from __future__ import annotations

from capsa.cli.options import Options, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


def platform(options: Options) -> Mapping[str, str] | None:
    """An OCI platform of ``os[/architecture[/variant]]``, None where none was given; raises `UsageError`."""
    text = options.text("platform")
    if not text:
        return None
    parts = text.split("/")
    if len(parts) > 3 or not all(parts):
        raise UsageError(f'invalid platform "{text}" (os[/architecture[/variant]], such as linux/amd64)')
    return dict(zip(("os", "architecture", "variant"), parts, strict=False))
