"""Testcontainers for Python: containers of one test each, waited for, spoken to, gone afterwards."""

from __future__ import annotations

from pathlib import Path
from urllib.request import urlopen

import pytest
from fixtures.compose import find
from fixtures.debs import NoPackage

CACHE = Path(__file__).parent.parent.parent / ".cache"


@pytest.fixture(autouse=True)
def nothing_left(engine, busybox, testcontainers):
    yield
    assert engine.api("GET", "/containers/json?all=1")[1] == []
    assert len(engine.api("GET", "/networks")[1]) == 3


def test_a_server_is_waited_for_and_reached(tmp_path):
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.wait_strategies import HttpWaitStrategy, LogMessageWaitStrategy

    (tmp_path / "index.html").write_text("from the host")
    server = DockerContainer("busybox", command=["sh", "-c", "echo ready; exec httpd -f -p 80 -h /www"])
    server.with_exposed_ports(80).with_volume_mapping(tmp_path, "/www", "ro").with_env("A", "1").with_kwargs(init=True)
    with server.waiting_for(HttpWaitStrategy(80)):
        url = f"http://{server.get_container_host_ip()}:{server.get_exposed_port(80)}/"
        assert urlopen(url, timeout=30).read() == b"from the host"
        LogMessageWaitStrategy("ready").wait_until_ready(server)
        assert server.get_logs() == (b"ready\n", b"")
        assert server.exec("sh -c 'echo $A; exit 3'") == (3, b"1\n")
        assert server.status == "running"


def test_files_go_in_and_out(tmp_path):
    from testcontainers.core.container import DockerContainer

    (tmp_path / "given").write_bytes(b"of a file")
    box = DockerContainer("busybox", command="cat /etc/bytes /etc/given")
    box.with_copy_into_container(b"of bytes ", "/etc/bytes").with_copy_into_container(tmp_path / "given", "/etc/given")
    with box:
        assert box.wait() == 0
        assert box.get_logs()[0] == b"of bytes of a file"
        box.copy_from_container("/etc/given", tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == b"of a file"


def test_containers_of_a_network_find_each_other():
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.network import Network

    with Network() as network:
        server = DockerContainer("busybox", command="httpd -f -p 80 -h /etc").with_kwargs(init=True)
        asking = "until wget -q -O - http://server/hostname; do sleep 0.1; done"
        client = DockerContainer("busybox", command=["sh", "-c", asking]).with_network(network)
        with server.with_network(network).with_network_aliases("server"), client:
            assert client.wait() == 0
            assert client.get_logs()[0].decode().strip() == server.get_container_id()[:12]


def test_health_is_waited_for():
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.wait_strategies import HealthcheckWaitStrategy

    check = {"test": ["CMD", "test", "-e", "/ready"], "interval": 200_000_000, "retries": 60}
    box = DockerContainer("busybox", command="sh -c 'sleep 0.5; touch /ready; exec sleep 1000'")
    with box.with_kwargs(init=True, healthcheck=check).waiting_for(HealthcheckWaitStrategy()):
        assert box.get_wrapped_container().health == "healthy"


def test_a_compose_project_by_the_docker_clients_plugin(engine, docker_client, tmp_path, monkeypatch):
    from testcontainers.compose import DockerCompose

    try:
        plugin = find(2, CACHE)
    except NoPackage as error:
        pytest.skip(str(error))
    configuration = tmp_path / "config"
    (configuration / "cli-plugins").mkdir(parents=True)
    (configuration / "cli-plugins/docker-compose").symlink_to(plugin)
    monkeypatch.setenv("DOCKER_CONFIG", str(configuration))
    project = tmp_path / "project"
    project.mkdir()
    (project / "compose.yaml").write_text(
        """
        services:
          web: {image: busybox, command: httpd -f -p 80 -h /etc, init: true, ports: [80], hostname: web}
        """
    )
    with DockerCompose(project) as compose:
        address, port = compose.get_service_host_and_port("web", 80)
        assert compose.exec_in_container(["cat", "/etc/hostname"], "web")[0] == "web\n"
        address = "127.0.0.1" if address == "0.0.0.0" else address
        assert urlopen(f"http://{address}:{port}/hostname", timeout=30).read() == b"web\n"
