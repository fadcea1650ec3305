"""`capsa hid` works on files, needs no engine, and says what is wrong where."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

TEXT = "config\n+ start timer   | ram: 1M\n  + provides | + service Timer\nx start off | ram: 2M\n-\n"
FORMATTED = TEXT.replace("timer   |", "timer |")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "init.hid"
    path.write_text(TEXT)
    return path


def capsa(*words, text=None):
    return subprocess.run(
        [sys.executable, "-m", "capsa.cli.main", "-H", "unix:///nonexistent", *map(str, words)],
        input=text,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def said(*words, text=None):
    done = capsa(*words, text=text)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_format(file):
    assert said("hid", "format", file) == FORMATTED
    assert said("hid", "format", "-", text=TEXT) == FORMATTED
    done = capsa("hid", "format", "--check", file)
    assert (done.returncode, done.stdout) == (1, f"{file} would be formatted\n")
    os.chmod(file, 0o640)
    link = file.with_name("link")
    link.symlink_to(file)
    assert said("hid", "format", "-i", link) == ""
    assert (link.is_symlink(), file.read_text(), file.stat().st_mode & 0o777) == (True, FORMATTED, 0o640)
    assert said("hid", "format", "--check", file) == ""
    assert sorted(os.listdir(file.parent)) == ["init.hid", "link"]


def test_get_and_set(file):
    assert said("hid", "get", "config | + start | : ram", file) == "1M\n2M\n"
    assert said("hid", "get", "config | + start timer | + provides", file) == "provides\n+ service Timer\n-\n"
    assert capsa("hid", "get", "config | + start | : caps", file).returncode == 1
    changed = TEXT.replace("timer   | ram: 1M", "timer   | ram: 4M | caps: 100")
    assert said("hid", "set", "config | + start timer | : ram: 4M | caps: 100", file) == changed
    assert file.read_text() == TEXT
    assert said("hid", "set", "-i", "config | + start timer | : ram: 4M | caps: 100", file) == ""
    assert file.read_text() == changed
    assert said("hid", "enable", "config | + start off", file) == changed.replace("x start", "+ start")
    assert said("hid", "disable", "config | + start timer", file) == changed.replace("+ start", "x start")
    assert said("hid", "remove", "config | + start off", file) == changed.replace("x start off | ram: 2M\n", "")


def test_check(file, tmp_path):
    assert said("hid", "check", file) == ""
    schema = tmp_path / "init.hsd"
    schema.write_text("schema config\n+ type size | : \\d+M\n+ node start\n  + attr name | type: any\n"
                      "  + attr ram | type: size\n  + node provides | + anything\n-\n")  # fmt: skip
    assert said("hid", "check", "--schema", schema, file, schema.with_name("init.hid")) == ""
    assert said("hid", "check", schema) == ""
    file.write_text(TEXT.replace("1M", "1G"))
    done = capsa("hid", "check", "--schema", schema, file)
    assert (done.returncode, done.stderr) == (
        1,
        f"{file}: line 2: config | + start timer: 'ram' is '1G', expected size (\\d+M)\n",
    )
    file.write_text("config\n+ a | + b\n    | + c\n-\n")
    done = capsa("hid", "check", file)
    assert (done.returncode, done.stderr) == (
        1,
        f"{file}: line 3: config | + a | + c: is in 'config | + a | + b' at run time\n",
    )
    assert said("hid", "check", "--offline", file) == ""


def test_convert(file):
    xml = said("hid", "convert", file)
    assert xml == (
        '<config>\n\t<start name="timer" ram="1M">\n\t\t<provides>\n\t\t\t<service name="Timer"/>\n\t\t</provides>\n'
        '\t</start>\n\t<!-- <start name="off" ram="2M"/> -->\n</config>\n'
    )
    assert said("hid", "convert", "-", text=xml) == FORMATTED
    assert said("hid", "convert", "--to", "xml", "-", text=xml) == xml
    assert said("hid", "convert", "--to", "hid", file) == FORMATTED


@pytest.mark.parametrize(
    ("words", "text", "message"),
    [
        (
            ["format", "-"],
            "config\n+ a|b\n-\n",
            "capsa: standard input: line 2, column 4: '|' needs a space on both sides\n",
        ),
        (["format", "-"], "config\n+ a\n", "capsa: standard input: line 3, column 1: the end marker '-' is missing\n"),
        (["convert", "-"], "<a>\n", "capsa: standard input: line 2, column 1: no XML: no element found\n"),
        (["convert", "--to", "json", "-"], TEXT, 'capsa: invalid argument "json" for "--to" flag: hid or xml\n'),
        (["set", "-i", "config | : a: b", "-"], TEXT, "capsa: standard input cannot be changed in place\n"),
        (["set", "config | + x | : a: b", "-"], TEXT, "capsa: standard input: no node is found by the path\n"),
        (["get", "Config", "-"], TEXT, "capsa: 'Config': 'Config' is no type of a node\n"),
        (["check", "/nonexistent/file"], "", "capsa: /nonexistent/file: No such file or directory\n"),
        (["check", "/"], "", "capsa: /: Is a directory\n"),
        (
            ["check", "--schema", "/dev/null", "-"],
            "",
            "capsa: /dev/null: line 1, column 1: there is no top-level node\n",
        ),
    ],
)
def test_failures_are_one_sentence(words, text, message):
    done = capsa("hid", *words, text=text)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", message)


def test_an_unwritable_place_leaves_the_file_alone(tmp_path):
    done = capsa("hid", "format", "-i", "/proc/self/limits")
    assert done.returncode == 1
    assert done.stderr.startswith("capsa: /proc/")


def test_help_and_completion_know_it():
    assert "  hid        Work on Genode's configuration files (HID)\n" in said("--help")
    assert "  check    Check HID" in said("hid", "--help")
    assert "--schema string" in said("hid", "check", "--help")
    assert said("completion", "words", "hid", "").split() == [
        *("check", "convert", "disable", "enable", "format", "get", "remove", "set")
    ]
    assert said("completion", "words", "hid", "format", "--").split() == ["--check", "--help", "--in-place"]
