"""Device rules: their v1 lines, and the eBPF program for v2, run here by a small interpreter."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from struct import iter_unpack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capsa.errors import InvalidArgument, Unsupported
from capsa.oci.runtime import DeviceRule
from capsa.platform.linux.cgroup.devices import DEFAULTS, effective, lines, program, unrestricted

ALL = DeviceRule(allow=True, access="rwm")
NONE = DeviceRule(allow=False, access="rwm")


def allowed(rules: Sequence[DeviceRule], kind: str, major: int, minor: int, access: str) -> bool:
    """What config-linux.md says: the last rule that matches decides, for each access by itself."""
    return all(
        next(
            (
                rule.allow
                for rule in reversed([NONE, *rules, *DEFAULTS])
                if rule.type in ("", "a", kind)
                and rule.major in (None, major)
                and rule.minor in (None, minor)
                and char in (rule.access or "rwm")
            ),
            False,
        )
        for char in access
    )


def execute(code: bytes, kind: str, major: int, minor: int, access: str) -> bool:
    """Interpret a device program; fails on anything the kernel's verifier would refuse as well."""
    bits = sum({"m": 1, "r": 2, "w": 4}[char] for char in access)
    context = {0: bits << 16 | {"b": 1, "c": 2}[kind], 4: major, 8: minor}
    registers: dict[int, int] = {}
    instructions = list(iter_unpack("<BBhI", code))
    at = 0
    while True:
        operation, both, offset, value = instructions[at]
        target, source = both & 15, both >> 4
        at += 1
        match operation:
            case 0x61:
                assert source == 1
                registers[target] = context[offset]
            case 0xBF:
                registers[target] = registers[source]
            case 0xB7:
                registers[target] = value
            case 0x54:
                registers[target] &= value
            case 0x74:
                registers[target] = (registers[target] & 0xFFFFFFFF) >> value
            case 0x55 | 0x15 | 0x56:
                assert operation == 0x56 or value < 1 << 31, "64-bit comparisons extend the sign"
                equal = (registers[target] & 0xFFFFFFFF) == value
                if equal == (operation == 0x15):
                    assert offset >= 0
                    at += offset
            case 0x95:
                return bool(registers[0])
            case _:
                pytest.fail(f"unknown instruction {operation:#x}")


RULES = st.lists(
    st.builds(
        DeviceRule,
        allow=st.booleans(),
        type=st.sampled_from(["a", "b", "c", ""]),
        major=st.sampled_from([None, 1, 8, 136, 0xFFFFFFFF]),
        minor=st.sampled_from([None, 0, 3, 0xFFFFFFFF]),
        access=st.sampled_from(["r", "w", "m", "rw", "rm", "rwm", ""]),
    ),
    max_size=6,
)
QUESTIONS = list(product("bc", (1, 5, 8, 136, 0xFFFFFFFF), (0, 2, 3, 0xFFFFFFFF), ("r", "w", "m", "rw", "wm")))


@given(RULES)
def test_the_program_decides_as_the_rules_say(rules: list[DeviceRule]) -> None:
    code = program(effective(rules))
    for question in QUESTIONS:
        assert execute(code, *question) == allowed(rules, *question), question


def v1_allows(plan: Sequence[tuple[str, str]], kind: str, major: int, minor: int, access: str) -> bool:
    """As the kernel applies lines to a cgroup that allows everything (security/device_cgroup.c)."""
    default = True
    exceptions: dict[str, set[str]] = {}
    for file, line in plan:
        if line == "a":
            default, exceptions = file == "devices.allow", {}
            continue
        key, _, letters = line.rpartition(" ")
        if (file == "devices.allow") == default:
            exceptions.get(key, set()).difference_update(letters)
        else:
            exceptions.setdefault(key, set()).update(letters)
    hits = [
        letters
        for key, letters in exceptions.items()
        if key.split(" ")[0] == kind
        and all(
            have in ("*", str(want)) for have, want in zip(key.split(" ")[1].split(":"), (major, minor), strict=True)
        )
    ]
    if default:
        return not any(letters & set(access) for letters in hits)
    return any(set(access) <= letters for letters in hits)


@given(RULES)
def test_v1_lines_decide_as_the_rules_say_for_each_access_or_are_refused(rules: list[DeviceRule]) -> None:
    try:
        plan = lines(effective(rules))
    except Unsupported:
        return
    for kind, major, minor, access in QUESTIONS:
        if len(access) == 1:  # v1 wants several accesses in one line
            assert v1_allows(plan, kind, major, minor, access) == allowed(rules, kind, major, minor, access)


def test_without_rules_there_are_the_default_devices() -> None:
    assert lines(effective([])) == [
        ("devices.deny", "a"),
        ("devices.allow", "c *:* m"),
        ("devices.allow", "b *:* m"),
        ("devices.allow", "c 1:3 rwm"),
        ("devices.allow", "c 1:5 rwm"),
        ("devices.allow", "c 1:7 rwm"),
        ("devices.allow", "c 1:8 rwm"),
        ("devices.allow", "c 1:9 rwm"),
        ("devices.allow", "c 5:0 rwm"),
        ("devices.allow", "c 5:2 rwm"),
        ("devices.allow", "c 136:* rwm"),
    ]


def test_everything_allowed_needs_no_line() -> None:
    assert unrestricted(effective([NONE, ALL]))
    assert unrestricted(effective([ALL, DeviceRule(allow=True, type="c", major=1, access="r")]))
    assert not unrestricted(effective([ALL, NONE]))
    assert not unrestricted(effective([ALL, DeviceRule(allow=False, type="c", major=1, access="r")]))
    assert not unrestricted(effective([DeviceRule(allow=True, type="c", access="rwm")]))
    assert not unrestricted(effective([DeviceRule(allow=True, access="rw")]))


def test_an_exception_from_an_exception_is_refused_on_v1() -> None:
    rules = [
        DeviceRule(allow=True, type="c", major=10, access="rwm"),
        DeviceRule(allow=False, type="c", major=10, minor=1),
    ]
    with pytest.raises(Unsupported, match=r"cannot deny 'c 10:1 rwm'.*'c 10:\* rwm'"):
        lines(effective(rules))


def test_minus_one_means_all() -> None:
    rule = DeviceRule(allow=True, type="c", major=-1, minor=-1, access="r")
    assert allowed([DeviceRule(allow=True, type="c", access="r")], "c", 77, 1, "r")
    assert execute(program(effective([rule])), "c", 77, 1, "r")


@pytest.mark.parametrize("rule", [DeviceRule(allow=True, access="x"), DeviceRule(allow=True, type="c", major=1 << 32)])
def test_rules_that_cannot_be_meant_are_refused(rule: DeviceRule) -> None:
    with pytest.raises(InvalidArgument, match="devices"):
        effective([rule])
