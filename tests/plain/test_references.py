"""Image references are read as Docker reads them."""

from __future__ import annotations

import pytest

from capsa.errors import InvalidArgument
from capsa.image.reference import parse, parse_whole

DIGEST = "sha256:" + "ab" * 32


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("busybox", "docker.io/library/busybox"),
        ("busybox:1.36", "docker.io/library/busybox:1.36"),
        ("user/app", "docker.io/user/app"),
        ("docker.io/busybox", "docker.io/library/busybox"),
        ("index.docker.io/library/busybox", "docker.io/library/busybox"),
        ("localhost/app", "localhost/app"),
        ("localhost:5000/app:x", "localhost:5000/app:x"),
        ("host.example/a/b/c:v1_2-3.4", "host.example/a/b/c:v1_2-3.4"),
        ("Host/app", "Host/app"),
        ("[::1]:5000/app", "[::1]:5000/app"),
        (f"busybox@{DIGEST}", f"docker.io/library/busybox@{DIGEST}"),
        (f"host:1/app:tag@{DIGEST}", f"host:1/app:tag@{DIGEST}"),
        ("a__b/c-_d".replace("-_", "--"), "docker.io/a__b/c--d"),
    ],
)
def test_a_name_is_completed_and_shortened_again(text: str, whole: str) -> None:
    reference = parse(text)
    assert str(reference) == whole
    assert parse_whole(str(reference)) == reference
    assert parse(reference.familiar) == reference


@pytest.mark.parametrize(
    ("whole", "familiar"),
    [
        ("docker.io/library/busybox:1", "busybox:1"),
        ("docker.io/user/app:1", "user/app:1"),
        ("docker.io/library/a/b:1", "library/a/b:1"),
        ("quay.example/library/busybox:1", "quay.example/library/busybox:1"),
    ],
)
def test_people_see_familiar_names(whole: str, familiar: str) -> None:
    assert parse(whole).familiar == familiar


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "a:",
        "a@",
        "-a",
        "a//b",
        "a/",
        "/a",
        "a b",
        "a:" + "t" * 129,
        "a@sha256:12",
        "a:b:c",
        "a..b",
        "a\n",
        "ä",
        "a@sha512:" + "0" * 128,
        "..",
        "../a",
        "a/../b",
        "a:.x",
        "example.com:port/a",
        f"a@{DIGEST}x",
        "a_.b",
        "https://h/a",
    ],
)
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid reference format"):
        parse(text)


def test_capital_letters_are_explained() -> None:
    with pytest.raises(InvalidArgument, match=r"repository name \(library/Busybox\) must be lowercase"):
        parse("Busybox")


def test_an_id_is_no_repository() -> None:
    with pytest.raises(InvalidArgument, match="cannot specify 64-byte hexadecimal strings"):
        parse("ab" * 32)


def test_a_name_has_at_most_255_characters() -> None:
    parse("h.example/" + "a" * 245)
    with pytest.raises(InvalidArgument, match="more than 255"):
        parse("h.example/" + "a" * 246)
