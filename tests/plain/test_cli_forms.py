"""Ports, mounts, sizes, durations, tables and templates have docker's forms."""

from __future__ import annotations

import contextlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capsa.cli import units
from capsa.cli.mounts import mount, volumes
from capsa.cli.ports import exposed, published, shown
from capsa.cli.table import align, listing
from capsa.cli.template import Template
from capsa.errors import CapsaError, InvalidArgument


@pytest.mark.parametrize(
    ("text", "bindings"),
    [
        ("80", {"80/tcp": [("", "")]}),
        ("8080:80", {"80/tcp": [("", "8080")]}),
        ("8080:80/udp", {"80/udp": [("", "8080")]}),
        ("127.0.0.1:8080:80", {"80/tcp": [("127.0.0.1", "8080")]}),
        ("127.0.0.1::80", {"80/tcp": [("127.0.0.1", "")]}),
        ("[::1]:8080:80", {"80/tcp": [("::1", "8080")]}),
        ("8000-8001:80-81", {"80/tcp": [("", "8000")], "81/tcp": [("", "8001")]}),
        ("8000-8010:80", {"80/tcp": [("", "8000-8010")]}),
    ],
)
def test_published_ports(text, bindings):
    expected = {port: [{"HostIp": ip, "HostPort": host} for ip, host in pairs] for port, pairs in bindings.items()}
    assert published([text]) == expected


@pytest.mark.parametrize("text", ["", "x", "80:y", "1-2:1-3", "70000", "80/xyz", "9-8", "a:b:c:d", "-1"])
def test_ports_that_cannot_be_meant(text):
    with pytest.raises(InvalidArgument):
        published([text])


def test_exposed_ranges():
    assert exposed(["80", "90-91/udp"]) == ["80/tcp", "90/udp", "91/udp"]


def test_ports_are_shown_with_neighbours_together():
    ports = [{"IP": "0.0.0.0", "PrivatePort": 80 + n, "PublicPort": 8000 + n, "Type": "tcp"} for n in range(3)]
    ports += [{"IP": "::", "PrivatePort": 80, "PublicPort": 8000, "Type": "tcp"}, {"PrivatePort": 443, "Type": "tcp"}]
    assert shown(ports) == "0.0.0.0:8000-8002->80-82/tcp, [::]:8000->80/tcp, 443/tcp"


def test_mounts():
    assert mount("type=bind,src=/a,dst=/b,ro,bind-propagation=rslave") == {
        "Type": "bind",
        "Source": "/a",
        "Target": "/b",
        "ReadOnly": True,
        "BindOptions": {"Propagation": "rslave"},
    }
    assert mount("source=v,target=/v,volume-subpath=x") == {
        "Type": "volume",
        "Source": "v",
        "Target": "/v",
        "VolumeOptions": {"Subpath": "x"},
    }
    assert mount("type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=1777")["TmpfsOptions"] == {
        "SizeBytes": 1 << 20,
        "Mode": 0o1777,
    }
    assert mount('type=bind,"src=/with,comma",dst=/b')["Source"] == "/with,comma"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "type=bind,src=/a",
        "type=what,target=/a",
        "target",
        "target=/a,colour=red",
        "type=tmpfs,src=/a,target=/b",
        "type=tmpfs,target=/b,tmpfs-mode=9",
        "type=bind,src=/a,target=/b,volume-nocopy",
        "type=bind,src=/a,target=/b,readonly=maybe",
        'type=bind,"src=/a',
    ],
)
def test_mounts_that_cannot_be_meant(text):
    with pytest.raises(InvalidArgument):
        mount(text)


def test_volumes(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert volumes(["/a:/b:ro", "./here:/c", "/anonymous"]) == (
        ["/a:/b:ro", f"{tmp_path}/here:/c"],
        {"/anonymous": {}},
    )
    for text in (":/b", "/a:"):
        with pytest.raises(InvalidArgument):
            volumes([text])


@pytest.mark.parametrize(
    ("text", "count"),
    [("512", 512), ("512b", 512), ("1k", 1024), ("1.5m", 1572864), ("2GiB", 2 << 30), ("1MB", 1 << 20)],
)
def test_sizes_are_read(text, count):
    assert units.parse_size(text) == count


@pytest.mark.parametrize("text", ["", "x", "-1", "1x", "m", "1..5m"])
def test_sizes_that_are_none(text):
    with pytest.raises(InvalidArgument):
        units.parse_size(text)


@given(st.integers(0, 10**6), st.integers(0, 59), st.integers(0, 999))
def test_durations_add_up(hours, minutes, milliseconds):
    assert units.parse_duration(f"{hours}h{minutes}m{milliseconds}ms") == pytest.approx(
        hours * 3600 + minutes * 60 + milliseconds / 1000
    )


@pytest.mark.parametrize("text", ["", "1", "s", "1x", "1s x", "--1s"])
def test_durations_that_are_none(text):
    with pytest.raises(InvalidArgument):
        units.parse_duration(text)


def test_moments():
    assert units.moment("1700000000.5") == "1700000000.5"
    assert float(units.moment("10m")) == pytest.approx(time.time() - 600, abs=60)
    assert units.moment("2024-01-31T12:00:00Z") == "1706702400.000000000"
    assert units.moment("2024-01-31T12:00:00.123456789Z") == "1706702400.123456789"
    with pytest.raises(InvalidArgument):
        units.moment("yesterday")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (61, "About a minute"),
        (600, "10 minutes"),
        (3600, "About an hour"),
        (86400, "24 hours"),
        (86400 * 3, "3 days"),
        (86400 * 21, "3 weeks"),
        (86400 * 365 * 3, "3 years"),
    ],
)
def test_ages_in_dockers_words(seconds, words):
    assert units.ago(seconds) == words


def test_sizes_in_dockers_words():
    assert units.size(0) == "0B"
    assert units.size(1_980_000, 3) == "1.98MB"
    assert units.binary_size(1 << 30) == "1GiB"


def test_tables_are_aligned_as_dockers():
    assert align([["ID", "NAME"], ["1234567890123", "x"]]) == "ID              NAME\n1234567890123   x"
    assert align([["A", "B"], ["1", "2"]]) == "A         B\n1         2"


def rendered(template, data):
    return Template(template).render(data)


DATA = {
    "Name": "x",
    "Count": 3,
    "Flag": True,
    "None": None,
    "List": ["a", "b"],
    "Labels": {"one": "1", "two.dots": "2"},
    "Deep": {"Er": {"Name": "inside"}},
    "Ports": {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}], "81/tcp": None},
}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{.Name}}", "x"),
        ("{{ .Name }}-{{.Count}}", "x-3"),
        ("{{.Deep.Er.Name}}", "inside"),
        ("{{json .Labels}}", '{"one":"1","two.dots":"2"}'),
        ("{{.Labels}}", "map[one:1 two.dots:2]"),
        ("{{.List}} {{.Flag}} {{.None}} {{json .None}}", "[a b] true [] null"),
        ('{{index .Labels "two.dots"}}', "2"),
        ("{{.Labels.three}}", "<no value>"),
        ("{{index .List 1}}", "b"),
        ('{{(index (index .Ports "80/tcp") 0).HostPort}}', "8080"),
        ("{{range .List}}<{{.}}>{{end}}", "<a><b>"),
        ("{{range $i, $v := .List}}{{if $i}},{{end}}{{$i}}={{$v}}{{end}}", "0=a,1=b"),
        (
            "{{range $p, $conf := .Ports}}{{$p}} -> {{with $conf}}{{(index . 0).HostPort}}{{else}}none{{end}};{{end}}",
            "80/tcp -> 8080;81/tcp -> none;",
        ),
        ("{{range .None}}x{{else}}empty{{end}}", "empty"),
        ("{{range .List}}{{$.Name}}{{.}} {{end}}", "xa xb "),
        ('{{range .List}}{{if eq . "a"}}{{continue}}{{end}}{{.}}{{end}}', "b"),
        ("{{range .List}}{{.}}{{break}}{{end}}", "a"),
        ("{{if and .Flag (gt .Count 2)}}yes{{else}}no{{end}}", "yes"),
        ("{{if not .Flag}}a{{else if eq .Count 3}}b{{else}}c{{end}}", "b"),
        ('{{.Name | upper | printf "%s!"}}', "X!"),
        ('{{join .List ", "}} {{len .List}}', "a, b 2"),
        ('{{printf "%-5s|%03d|%q|%v" .Name .Count .Name .Flag}}', 'x    |003|"x"|true'),
        ("{{ $x := .Count }}{{ $x }}{{ $x = 4 }}{{ $x }}", "34"),
        ("a  {{- .Name -}}  b", "axb"),
        ("{{/* a comment */}}{{.Name}}", "x"),
        ('{{`raw`}} {{"quo\\"ted"}}', 'raw quo"ted'),
        ('{{slice .Name 0 1}}{{title "word"}}{{truncate "longer" 3}}', "xWordlon"),
        ("no actions", "no actions"),
    ],
)
def test_templates(template, text):
    assert rendered(template, DATA) == text


@pytest.mark.parametrize(
    "template",
    [
        "{{.Nam}}",
        "{{.Name.Inner}}",
        "{{nosuch .Name}}",
        "{{.Name",
        "{{if .Name}}",
        "{{end}}",
        "{{range .Count.x}}{{end}}",
        "{{}}",
        "{{.Name)}}",
        "{{(.Name}}",
        "{{index .List 5}}",
        "{{$nothing}}",
        '{{template "x"}}',
        "{{break}}",
        "{{.Name |}}",
        "{{len .Count}}",
        "{{gt .Name .Count}}",
        "{{.Name 1}}",
        '{{printf "%d" .Name}}',
        "{{else}}",
        "{{range .Name}}{{end}}",
        "{{split .Name 1}}",
        "{{and}}",
        "{{eq}}",
    ],
)
def test_templates_that_cannot_be_meant_are_refused_in_a_sentence(template):
    with pytest.raises(InvalidArgument, match=r"^--format: "):
        rendered(template, DATA)


@given(st.text(alphabet='{}.$|()" \t-/*:=abifrangeendwithNameLst01', max_size=40))
def test_no_template_does_anything_but_render_or_refuse(source):
    with contextlib.suppress(CapsaError):
        rendered(source, DATA)


def test_listings_with_a_table_template_and_a_call(capsys):
    items = [{"ID": "1", "Names": "a", "_labels": {"x": "y"}}]
    listing(
        items,
        headers={"ID": "CONTAINER ID", "Names": "NAMES"},
        default="ID Names",
        format='table {{.ID}}\\t{{.Label "x"}}',
    )
    assert capsys.readouterr().out == "CONTAINER ID   x\n1              y\n"
    listing(items, headers={"ID": "CONTAINER ID"}, default="ID", format="json")
    assert capsys.readouterr().out == '{"ID":"1"}\n'
