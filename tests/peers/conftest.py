"""Docker's SDK for Python, spoken with the engine under test."""

from __future__ import annotations

from collections.abc import Iterator

import docker
import pytest
from fixtures.engine import EngineUnderTest


@pytest.fixture(scope="module")
def sdk(
    engine: EngineUnderTest, busybox: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[docker.DockerClient]:
    """The SDK's models (``sdk.containers``, …), and its low level as ``sdk.api``. ``busybox`` is there."""
    client = docker.DockerClient(base_url=engine.host, version="auto", timeout=60)
    client.api._general_configs = {}  # whatever the user has in ~/.docker is none of our business
    try:
        yield client
    finally:
        client.close()


@pytest.fixture
def tidy(engine: EngineUnderTest) -> Iterator[None]:
    """No container is left for the next test."""
    yield
    engine.remove_containers()


@pytest.fixture
def testcontainers(engine, monkeypatch) -> None:
    """Testcontainers for Python with the engine, without a reaper."""
    pytest.importorskip("testcontainers", reason="needs Testcontainers for Python (PyPI's testcontainers)")
    monkeypatch.setenv("DOCKER_HOST", engine.host)
    from testcontainers.core.config import testcontainers_config

    monkeypatch.setattr(testcontainers_config, "_ryuk_disabled", True)
    monkeypatch.setattr(testcontainers_config, "sleep_time", 0.1)
