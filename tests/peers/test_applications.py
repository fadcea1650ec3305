"""PostgreSQL and Redis in containers: a web application by docker-compose, and the modules of Testcontainers."""

from __future__ import annotations

import json
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from fixtures import applications
from fixtures.compose import Compose, find
from fixtures.debs import NoPackage
from fixtures.ports import free_port
from fixtures.wait import until

CACHE = Path(__file__).parent.parent.parent / ".cache"


@pytest.fixture(scope="module")
def images(engine, docker_client) -> None:
    """The images `postgres`, `redis`, `web` and `reaper`."""
    if shutil.which("mmdebstrap") is None:
        pytest.skip("needs Debian's mmdebstrap")
    applications.load(engine, applications.archive(CACHE))


@pytest.fixture(params=[1, 2], ids=["v1", "v2"])
def shop(request, engine, images, tmp_path) -> Iterator[Compose]:
    """The web application as a Compose project."""
    try:
        made = Compose(engine, find(request.param, CACHE), request.param, tmp_path / "shop")
    except NoPackage as error:
        pytest.skip(str(error))
    made.file((applications.FILES / "docker-compose.yml").read_text())
    made.file("DATABASE_HOST=db\nCACHE_HOST=cache\n", "web.env")
    made.file("PASSWORD=very secret\n", ".env")
    made.file("very secret", "password")
    yield made
    made.gone()


def test_a_web_application_with_a_database_and_a_cache(shop):
    port = free_port()
    shop.file(f"PASSWORD=very secret\nPORT={port}\n", ".env")

    def visit() -> tuple[int, int, str]:
        def answer() -> dict[str, object]:
            try:
                with urlopen(f"http://127.0.0.1:{port}/shop", timeout=30) as reply:
                    return json.load(reply)
            except (URLError, ConnectionError):
                return {}

        found = until(answer)
        return found["visits"], found["hits"], found["greeting"]

    shop("up", "-d")
    assert visit() == (1, 1, "hello")
    assert visit() == (2, 2, "hello")
    until(lambda: shop("ps").stdout.count("(healthy)") == 3)
    assert shop("exec", "-T", "database", "psql", "-h", "/tmp", "-U", "shop", "-Atc", "SELECT path FROM visits",
                "shop").stdout == "/shop\n/shop\n"  # fmt: skip
    assert shop("exec", "-T", "cache", "redis-cli", "-h", "cache", "get", "hits").stdout.strip() == "2"

    shop.engine.restart()  # the application does not notice
    assert visit() == (3, 3, "hello")
    expected = 4
    if shop.generation == 2:
        started = shop.inspect("web")["State"]["StartedAt"]
        shop("restart", "-t", "20", "database", "cache")
        until(lambda: shop.inspect("database")["State"]["Health"]["Status"] == "healthy")
        assert visit() == (4, 4, "hello")
        assert shop.inspect("web")["State"]["StartedAt"] == started
        expected = 5

    shop("down")
    shop.file(f"PASSWORD=very secret\nPORT={port}\nGREETING=welcome back\n", ".env")
    shop("up", "-d")
    assert visit() == (expected, expected, "welcome back")
    shop("down", "-v")
    assert not shop.engine.api("GET", "/volumes")[1]["Volumes"]


def test_testcontainers_postgres(images, testcontainers):
    from testcontainers.community.postgres import PostgresContainer

    with PostgresContainer("postgres", dbname="books", username="reader", password="it's", driver=None) as postgres:
        address = (postgres.get_container_host_ip(), postgres.get_exposed_port(5432))
        with socket.create_connection(address, timeout=30) as connection:
            connection.sendall(struct.pack(">II", 8, 80877103))  # "do you speak TLS?", which a PostgreSQL answers
            assert connection.recv(1) in (b"S", b"N")
        done = postgres.exec(["psql", "-h", "/tmp", "-U", "reader", "-Atc", "SELECT 6 * 7", "books"])
        assert (done.exit_code, done.output) == (0, b"42\n")


def test_testcontainers_redis(images, testcontainers):
    from testcontainers.community.redis import RedisContainer

    with RedisContainer("redis", password="secret") as redis:
        client = redis.get_client()
        assert client.incr("visits") == 1
        assert client.info()["tcp_port"] == 6379
        client.close()


def test_a_reaper_removes_what_a_killed_client_leaves(engine, images):
    program = """
import os
from testcontainers.core.container import DockerContainer
left = DockerContainer("redis").with_exposed_ports(6379).start()
print(left.get_exposed_port(6379), flush=True)
os.kill(os.getpid(), 9)
"""
    environment = {
        **engine.environment(),
        "RYUK_CONTAINER_IMAGE": "reaper",
        "TESTCONTAINERS_DOCKER_SOCKET_OVERRIDE": str(engine.socket),
    }
    pytest.importorskip("testcontainers", reason="needs Testcontainers for Python")
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == -9 and done.stdout.strip().isdigit(), done.stderr
    until(lambda: not engine.api("GET", "/containers/json?all=1")[1])
