"""What the tests on a real Genode share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fixtures.engine import EngineUnderTest


@pytest.fixture
def alone(engine: EngineUnderTest) -> Iterator[None]:
    """Each test has the engine's Genode for itself: its containers are removed after it."""
    yield
    for name in engine.docker("ps", "-aq").stdout.split():
        engine.docker("rm", "-f", name)
