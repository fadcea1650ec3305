"""The benchmark's own parts: what it prints, writes and draws, and that its client reads what engines send."""

from __future__ import annotations

import json
import os
import socket
import tarfile
import threading
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from bench import chart, images, memory, report
from bench.api import Api
from bench.result import Results, Value
from bench.spawn import BenchError


@pytest.fixture
def results() -> Results:
    made = Results()
    for subject, samples in (("docker", [200.0, 250.0, 300.0]), ("capsa", [10.0, 12.5, 20.0]), ("kernel", [3.0])):
        made.add("api-none", "API", "create, start & <wait>", "ms", subject, samples)
    made.add("idle-pss", "idle", "engine processes", "MB", "docker", [5.5])
    made.add("idle-pss", "idle", "engine processes", "MB", "capsa", [0.5])
    made.fail("idle-pss", "idle", "engine processes", "MB", "podman", "no such thing")
    return made


def test_a_row_gives_median_quartiles_and_ratio(results: Results) -> None:
    row = results.rows["api-none"]
    assert row.values["docker"] == Value(250.0, 225.0, 275.0, 3)
    assert row.ratio("docker") == pytest.approx(0.05)
    assert row.ratio("podman") is None


def test_the_table_shows_values_failures_and_their_reasons(results: Results) -> None:
    text = report.table(results)
    assert "250 (225–275)" in text and "12.5 (11.2–16.2)" in text
    assert "failed" in text and "podman failed: no such thing" in text
    assert "0.05" in text


def test_the_markdown_table_is_rectangular(results: Results) -> None:
    facts = {"system": "S", "kernel": "K", "cgroup": "v1", "processors": 2, "memory_mb": 1, "date": "D"}
    lines = report.markdown(results, facts, {"docker": "Docker 1"}).splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert len({line.count("|") for line in rows}) == 1


def test_the_json_file_comes_back(results: Results, tmp_path: Path) -> None:
    path = tmp_path / "sub" / "latest.json"
    report.write_json(path, results, report.machine(), {}, {"samples": 3})
    assert report.read_json(path).rows == results.rows
    assert json.loads(path.read_text())["machine"]["processors"] == os.cpu_count()


def test_the_chart_is_svg_whose_bars_are_to_scale(results: Results) -> None:
    root = ElementTree.fromstring(chart.chart(results))
    name = "{http://www.w3.org/2000/svg}"
    widths = [float(each.get("width", "0")) for each in root.iter(f"{name}rect")]
    assert len(widths) == 4
    assert widths[1] == pytest.approx(widths[0] * 0.05, abs=0.1)
    assert "prefers-color-scheme: dark" in chart.chart(results)
    width = float(root.get("width", "0"))
    assert all(float(each.get("x", "0")) < width for each in root.iter(f"{name}text"))


def test_a_chart_of_nothing_is_still_svg() -> None:
    ElementTree.fromstring(chart.chart(Results()))


def test_an_archive_names_its_image_and_layer(tmp_path: Path) -> None:
    layer = tmp_path / "layer.tar"
    with tarfile.open(layer, "w"):
        pass
    variant = images.variant(layer, 3, tmp_path / "variant.tar")
    with tarfile.open(variant) as tar:
        assert tar.getnames() == ["./etc/variant"]
    with tarfile.open(images.archive(variant, "a:1", tmp_path / "image.tar", ["true"])) as tar:
        file = tar.extractfile("manifest.json")
        assert file is not None
        manifest = json.load(file)[0]
        assert manifest["RepoTags"] == ["a:1"]
        assert set(tar.getnames()) == {manifest["Config"], manifest["Layers"][0], "manifest.json"}


def test_the_memory_of_a_process_adds_up() -> None:
    usage = memory.usage([os.getpid()])
    assert usage.processes == 1
    assert 0 < usage.code < usage.pss <= usage.rss
    assert memory.pss([os.getpid(), 2**22 + 1]) == pytest.approx(usage.pss, rel=0.2)


def test_disk_counts_hard_links_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(range(256)) * 4096)
    alone = memory.disk(tmp_path)
    os.link(tmp_path / "a", tmp_path / "b")
    assert memory.disk(tmp_path) == alone >= 256 * 4096


ANSWERS = [
    b'HTTP/1.1 201 Created\r\nContent-Length: 12\r\n\r\n{"Id": "abc"',
    b'}HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n{"StatusC\r\n',
    b'9;x=y\r\node": 7}\r\n\r\n0\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n',
    b'HTTP/1.1 404 Not Found\r\nContent-Length: 16\r\n\r\n{"message":"no"}',
]


def test_the_client_reads_lengths_chunks_and_errors_however_they_are_cut(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    data = b"".join(ANSWERS).replace(b"Content-Length: 12", b"Content-Length: 13")
    data = data.replace(b"8\r\n{", b"9\r\n{").replace(b'9;x=y\r\node": 7}\r\n', b'8;x=y\r\node": 7}')

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            for byte in data:
                connection.sendall(bytes((byte,)))
            while connection.recv(65536):
                pass

    server = threading.Thread(target=serve, daemon=True)
    server.start()
    api = Api(path)
    assert api.request("POST", "/containers/create", {})["Id"] == "abc"
    assert api.request("POST", "/containers/abc/wait")["StatusCode"] == 7
    assert api.request("DELETE", "/containers/abc") is None
    with pytest.raises(BenchError, match="404"):
        api.request("GET", "/nothing")
    api.close()
    listener.close()
    server.join(5)
