"""Which devices a cgroup may use: OCI device rules for cgroup v1 (control files) and v2 (an eBPF program).

config-linux.md, Allowed Device list: rules apply in the order given, the last one that matches wins. Before them
everything is denied; after them come the default devices, which are always there (config-linux.md, Default Devices).
"""

from __future__ import annotations

import errno
import os
from struct import pack

from capsa.errors import CapsaError, InvalidArgument, Unsupported, reason
from capsa.oci.runtime import DeviceRule
from capsa.platform.linux.cgroup import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

DENY_ALL = DeviceRule(allow=False, type="a", access="rwm")
DEFAULTS = (
    DeviceRule(allow=True, type="c", access="m"),  # nodes may be made, not opened
    DeviceRule(allow=True, type="b", access="m"),
    DeviceRule(allow=True, type="c", major=1, minor=3, access="rwm"),  # null
    DeviceRule(allow=True, type="c", major=1, minor=5, access="rwm"),  # zero
    DeviceRule(allow=True, type="c", major=1, minor=7, access="rwm"),  # full
    DeviceRule(allow=True, type="c", major=1, minor=8, access="rwm"),  # random
    DeviceRule(allow=True, type="c", major=1, minor=9, access="rwm"),  # urandom
    DeviceRule(allow=True, type="c", major=5, minor=0, access="rwm"),  # tty
    DeviceRule(allow=True, type="c", major=5, minor=2, access="rwm"),  # ptmx
    DeviceRule(allow=True, type="c", major=136, access="rwm"),  # pts
)

Key = tuple[str, int | None, int | None]


def effective(rules: Sequence[DeviceRule]) -> list[DeviceRule]:
    """The rules in force, in order, with what they stand on and what always follows; those without effect left out.

    Raises `InvalidArgument` for an access that is not of ``r``, ``w``, ``m``, or numbers that no device has.
    """
    complete = [DENY_ALL, *map(_checked, rules), *DEFAULTS]
    start = max(index for index, rule in enumerate(complete) if _everything(rule))
    rest = [rule for rule in complete[start + 1 :] if _accesses(rule) and rule.allow != complete[start].allow]
    denied_later = any(not rule.allow for rule in complete[start + 1 :])
    # Behind an "allow all" that nothing narrows, allowing more changes nothing; otherwise the order matters: keep all.
    if complete[start].allow and not denied_later:
        return [complete[start]]
    return [complete[start], *(complete[start + 1 :] if denied_later else rest)]


def unrestricted(rules: Sequence[DeviceRule]) -> bool:
    """Whether they allow everything."""
    return len(rules) == 1 and rules[0].allow


def _checked(rule: DeviceRule) -> DeviceRule:
    if not set(rule.access) <= set("rwm"):
        raise InvalidArgument(f"devices: access {rule.access!r} is not of r, w and m")
    for number in (rule.major, rule.minor):
        if number is not None and number >= 1 << 32:
            raise InvalidArgument(f"devices: no device has the number {number}")
    if (rule.major or 0) < 0 or (rule.minor or 0) < 0:  # -1 means all in specifications written for other runtimes
        major, minor = (None if number is None or number < 0 else number for number in (rule.major, rule.minor))
        return DeviceRule(allow=rule.allow, type=rule.type, major=major, minor=minor, access=rule.access)
    return rule


def _accesses(rule: DeviceRule) -> str:
    return rule.access or "rwm"


def _everything(rule: DeviceRule) -> bool:
    return (
        rule.type in ("a", "") and rule.major is None and rule.minor is None and set(_accesses(rule)) == {"r", "w", "m"}
    )


# ---- v1 ----


def lines(rules: Sequence[DeviceRule]) -> list[tuple[str, str]]:
    """Effective rules as (``devices.allow`` or ``devices.deny``, line), for a cgroup in which everything is allowed.

    v1 knows exceptions from one default only: raises `Unsupported` for an exception from an exception.
    """
    default = rules[0].allow
    exceptions: dict[Key, set[str]] = {}
    for rule in rules[1:]:
        for kind in "cb" if rule.type in ("a", "") else rule.type:
            key = (kind, rule.major, rule.minor)
            access = set(_accesses(rule))
            if rule.allow != default:
                exceptions.setdefault(key, set()).update(access)
                continue
            for other, had in exceptions.items():
                if _covers(key, other):
                    had -= access
                elif _meet(other, key) and had & access:
                    raise Unsupported(
                        f"devices: cgroup v1 cannot {'allow' if default else 'deny'} {_line(key, access)!r}, an"
                        f" exception from {_line(other, had)!r} (name the devices of the latter one by one)"
                    )
    allow, deny = "devices.allow", "devices.deny"
    plan = [] if default else [(deny, "a")]
    # Everything was allowed before, so that is not written: in v1 it would also need the parent's consent.
    return plan + [(deny if default else allow, _line(key, access)) for key, access in exceptions.items() if access]


def _covers(wide: Key, narrow: Key) -> bool:
    return wide[0] == narrow[0] and all(a is None or a == b for a, b in zip(wide[1:], narrow[1:], strict=True))


def _meet(one: Key, other: Key) -> bool:
    return one[0] == other[0] and all(None in (a, b) or a == b for a, b in zip(one[1:], other[1:], strict=True))


def _line(key: Key, access: set[str]) -> str:
    kind, major, minor = key
    return f"{kind} {_number(major)}:{_number(minor)} {''.join(char for char in 'rwm' if char in access)}"


def _number(value: int | None) -> str:
    return "*" if value is None else str(value)


def limit(directory: str, rules: Sequence[DeviceRule], fresh: bool) -> None:
    """Apply effective rules to a v1 devices cgroup; ``fresh``: it was just made, so it allows what its parent does."""
    if fresh and unrestricted(rules):
        return
    plan = lines(rules)
    if not fresh:
        plan = _transition(directory, plan)
    opened: dict[str, int] = {}
    try:
        for file, line in plan:
            if file not in opened:
                opened[file] = os.open(f"{directory}/{file}", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(opened[file], line.encode())
            except OSError as error:
                hint = " (its parent does not allow that)" if error.errno == errno.EPERM else ""
                raise InvalidArgument(f"cannot write {line!r} to {directory}/{file}: {reason(error)}{hint}") from error
    except FileNotFoundError as error:
        raise CapsaError(f"no such cgroup: {directory}") from error
    finally:
        for descriptor in opened.values():
            os.close(descriptor)


def _transition(directory: str, plan: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """From the present rules to others without denying in between what both allow."""
    present = (files.read(f"{directory}/devices.list") or "").splitlines()
    if "a *:* rwm" in present or not plan or plan[0] != ("devices.deny", "a"):
        return [("devices.allow", "a"), *plan]
    wanted = {line for _, line in plan[1:]}
    allow = [("devices.allow", line) for line in sorted(wanted) if line not in present]
    # What is denied is named with the accesses to take away: all of those that are not wanted any more.
    keep = {line.rpartition(" ")[0]: set(line.rpartition(" ")[2]) for line in wanted}
    deny = []
    for line in present:
        key, _, access = line.rpartition(" ")
        surplus = "".join(char for char in access if char not in keep.get(key, ""))
        if surplus:
            deny.append(("devices.deny", f"{key} {surplus}"))
    return allow + deny


# ---- v2 ----

# Instructions of linux/bpf.h: class, operation and source combined as they stand in the opcode.
_LOAD_WORD = 0x61  # BPF_LDX | BPF_MEM | BPF_W
_MOVE_REGISTER = 0xBF  # BPF_ALU64 | BPF_MOV | BPF_X
_MOVE = 0xB7  # BPF_ALU64 | BPF_MOV | BPF_K
_AND32 = 0x54  # BPF_ALU | BPF_AND | BPF_K
_SHIFT_RIGHT32 = 0x74  # BPF_ALU | BPF_RSH | BPF_K
_JUMP = 0x05  # BPF_JMP | BPF_JA
_JUMP_UNEQUAL = 0x55  # BPF_JMP | BPF_JNE | BPF_K
_JUMP_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_JUMP32_UNEQUAL = 0x56  # BPF_JMP32 | BPF_JNE | BPF_K
_EXIT = 0x95  # BPF_JMP | BPF_EXIT
_TYPE, _ACCESS, _MAJOR, _MINOR, _SCRATCH = 2, 3, 4, 5, 6  # registers; 0 is the result, 1 the context at entry
_BITS = {"m": 1, "r": 2, "w": 4}  # BPF_DEVCG_ACC_*
_TYPES = {"b": 1, "c": 2}  # BPF_DEVCG_DEV_*


def _instruction(opcode: int, target: int = 0, source: int = 0, offset: int = 0, value: int = 0) -> bytes:
    return pack("<BBhI", opcode, target | source << 4, offset, value & 0xFFFFFFFF)


def program(rules: Sequence[DeviceRule]) -> bytes:
    """Effective rules as a program of type ``BPF_PROG_TYPE_CGROUP_DEVICE`` (``struct bpf_cgroup_dev_ctx``).

    It goes through the rules backwards with the set of accesses still undecided: a denying rule that matches one of
    them denies the whole, an allowing one takes its own off the set, and when nothing is left the access is allowed.
    """
    code = [
        _instruction(_LOAD_WORD, _TYPE, 1, 0),  # access_type: access << 16 | type
        _instruction(_MOVE_REGISTER, _ACCESS, _TYPE),
        _instruction(_SHIFT_RIGHT32, _ACCESS, value=16),
        _instruction(_AND32, _TYPE, value=0xFFFF),
        _instruction(_LOAD_WORD, _MAJOR, 1, 4),
        _instruction(_LOAD_WORD, _MINOR, 1, 8),
    ]
    for rule in reversed(rules[1:]):
        code += _block(rule)
    code += [_instruction(_MOVE, 0, value=int(rules[0].allow)), _instruction(_EXIT)]
    return b"".join(code)


def _block(rule: DeviceRule) -> list[bytes]:
    bits = sum(_BITS[char] for char in set(_accesses(rule)))
    if rule.allow:
        verdict = [
            _instruction(_AND32, _ACCESS, value=~bits),
            _instruction(_JUMP_UNEQUAL, _ACCESS, offset=2),
            _instruction(_MOVE, 0, value=1),
            _instruction(_EXIT),
        ]
    else:
        verdict = [
            _instruction(_MOVE_REGISTER, _SCRATCH, _ACCESS),
            _instruction(_AND32, _SCRATCH, value=bits),
            _instruction(_JUMP_EQUAL, _SCRATCH, offset=2),
            _instruction(_MOVE, 0, value=0),
            _instruction(_EXIT),
        ]
    tests = []
    if rule.type in _TYPES:
        tests.append((_TYPE, _TYPES[rule.type]))
    if rule.major is not None:
        tests.append((_MAJOR, rule.major))
    if rule.minor is not None:
        tests.append((_MINOR, rule.minor))
    matches = [
        _instruction(_JUMP32_UNEQUAL, register, offset=len(tests) - 1 - index + len(verdict), value=value)
        for index, (register, value) in enumerate(tests)
    ]
    return [*matches, *verdict]
