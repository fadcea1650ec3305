"""The json-file log: every byte of output arrives, in entries that any reader of Docker's format understands."""

from __future__ import annotations

import errno
import json
import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capsa.platform.log import LONGEST, LogWriter, timestamp
from capsa.platform.protocol import Log


def entries(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_line_is_an_entry_with_stream_and_time(tmp_path):
    log = LogWriter(Log(str(tmp_path / "log")))
    log.write("stdout", b"one\ntwo\n")
    log.write("stderr", b"three\n")
    log.close()
    found = entries(tmp_path / "log")
    assert [(entry["log"], entry["stream"]) for entry in found] == [
        ("one\n", "stdout"),
        ("two\n", "stdout"),
        ("three\n", "stderr"),
    ]
    for entry in found:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", entry["time"])


def test_an_unfinished_line_waits_for_its_rest_and_streams_do_not_mix(tmp_path):
    log = LogWriter(Log(str(tmp_path / "log")))
    log.write("stdout", b"hel")
    log.write("stderr", b"oops\n")
    assert [entry["log"] for entry in entries(tmp_path / "log")] == ["oops\n"]
    log.write("stdout", b"lo\nwor")
    log.flush()
    assert [entry["log"] for entry in entries(tmp_path / "log")] == ["oops\n", "hello\n", "wor"]


def test_a_carriage_return_does_not_end_a_line(tmp_path):
    log = LogWriter(Log(str(tmp_path / "log")))
    log.write("stdout", b"10%\r20%\x0b\r\n")
    assert [entry["log"] for entry in entries(tmp_path / "log")] == ["10%\r20%\x0b\r\n"]


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=50), max_size=20), st.integers(1, 30))
def test_text_comes_out_as_it_went_in_however_it_is_cut(tmp_path_factory, parts, piece):
    path = tmp_path_factory.mktemp("log") / "log"
    log = LogWriter(Log(str(path)))
    text = "\n".join(parts)
    data = text.encode()
    for start in range(0, len(data), piece):
        log.write("stdout", data[start : start + piece])
    log.flush()
    log.close()
    raw = path.read_text().split("\n")[:-1]
    assert "".join(json.loads(line)["log"] for line in raw) == text


def test_a_line_without_end_is_cut_between_characters_and_memory_stays_bounded(tmp_path):
    log = LogWriter(Log(str(tmp_path / "log")))
    text = "ä€😀" * 40_000
    data = text.encode()
    for start in range(0, len(data), 65_536):
        log.write("stdout", data[start : start + 65_536])
        assert len(log.rest.get("stdout", b"")) < LONGEST + 4
    log.flush()
    found = entries(tmp_path / "log")
    assert "".join(entry["log"] for entry in found) == text
    assert len(found) > 1
    assert all(len(entry["log"].encode()) <= LONGEST for entry in found)


def test_invalid_utf8_is_replaced_not_lost(tmp_path):
    log = LogWriter(Log(str(tmp_path / "log")))
    log.write("stdout", b"a\xff\xfeb\n")
    assert entries(tmp_path / "log")[0]["log"] == "a��b\n"


def test_rotation_keeps_the_newest_files_each_below_the_size(tmp_path):
    log = LogWriter(Log(str(tmp_path / "log"), 1000, 3))
    for number in range(100):
        log.write("stdout", b"line %d\n" % number)
    assert sorted(os.listdir(tmp_path)) == ["log", "log.1", "log.2"]
    kept = [entry["log"] for name in ("log.2", "log.1", "log") for entry in entries(tmp_path / name)]
    assert kept == [f"line {number}\n" for number in range(100 - len(kept), 100)]
    assert all((tmp_path / name).stat().st_size <= 1000 for name in ("log", "log.1", "log.2"))


def test_rotation_to_a_single_file_starts_over(tmp_path):
    log = LogWriter(Log(str(tmp_path / "log"), 500, 1))
    for number in range(50):
        log.write("stdout", b"line %d\n" % number)
    assert os.listdir(tmp_path) == ["log"]
    assert entries(tmp_path / "log")[-1]["log"] == "line 49\n"
    assert (tmp_path / "log").stat().st_size <= 500


def test_a_log_is_continued_not_overwritten(tmp_path):
    for text in (b"first\n", b"second\n"):
        log = LogWriter(Log(str(tmp_path / "log")))
        log.write("stdout", text)
        log.close()
    assert [entry["log"] for entry in entries(tmp_path / "log")] == ["first\n", "second\n"]


def test_a_link_in_place_of_the_log_is_refused(tmp_path):
    (tmp_path / "log").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError) as caught:
        LogWriter(Log(str(tmp_path / "log")))
    assert caught.value.errno == errno.ELOOP
    assert not (tmp_path / "elsewhere").exists()


def test_a_full_disk_leaves_only_whole_entries(tmp_path, monkeypatch):
    log = LogWriter(Log(str(tmp_path / "log")))
    log.write("stdout", b"good\n")
    write = os.write
    calls = []

    def full(fd, data):
        calls.append(len(data))
        if len(calls) == 1:
            return write(fd, data[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OSError):
            log.write("stdout", b"lost\n")
    log.write("stdout", b"again\n")
    assert [entry["log"] for entry in entries(tmp_path / "log")] == ["good\n", "again\n"]


def test_timestamps_have_nine_decimals_and_are_utc():
    assert timestamp(1_700_000_000_000_000_001) == "2023-11-14T22:13:20.000000001Z"
