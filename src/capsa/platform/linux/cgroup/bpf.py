"""bpf(2), as far as device programs of cgroup v2 need it."""

from __future__ import annotations

import contextlib
import ctypes
import os
from struct import pack, unpack_from

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_NUMBERS = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361, "s390x": 351}
_PROG_LOAD, _PROG_ATTACH, _PROG_DETACH, _PROG_GET_FD_BY_ID, _OBJ_GET_INFO_BY_FD, _PROG_QUERY = 5, 8, 9, 13, 15, 16
_PROG_TYPE_CGROUP_DEVICE = 15
_CGROUP_DEVICE = 6
_ALLOW_MULTI, _REPLACE = 2, 4
_MOST_ATTACHED = 64  # BPF_CGROUP_MAX_PROGS
NAME = b"capsa_devices"

_libc = ctypes.CDLL(None, use_errno=True)


def _bpf(command: int, what: str, attributes: bytes) -> tuple[int, bytes]:
    machine = os.uname().machine
    number = _NUMBERS.get(machine)
    if number is None:
        raise OSError(38, f"bpf is not known on {machine}")
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    result = _libc.syscall(ctypes.c_long(number), ctypes.c_int(command), buffer, ctypes.c_uint(len(attributes)))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), f"bpf({what})")
    return int(result), buffer.raw


def load(code: bytes) -> int:
    """Load a device program; returns its file descriptor (close-on-exec)."""
    instructions = ctypes.create_string_buffer(code, len(code))
    licence = ctypes.create_string_buffer(b"Apache-2.0")
    attributes = pack(
        "<IIQQIIQII16s",
        _PROG_TYPE_CGROUP_DEVICE,
        len(code) // 8,
        ctypes.addressof(instructions),
        ctypes.addressof(licence),
        0,  # log_level
        0,  # log_size
        0,  # log_buf
        0,  # kern_version
        0,  # prog_flags
        NAME,
    )
    return _bpf(_PROG_LOAD, "PROG_LOAD", attributes)[0]


_kept: dict[bytes, int] = {}


def keep(code: bytes) -> None:
    """Load a program that this process and those it forks will attach often: loading verifies and compiles it."""
    if code not in _kept:
        _kept[code] = load(code)


@contextlib.contextmanager
def _loaded(code: bytes) -> Iterator[int]:
    if code in _kept:
        yield _kept[code]
        return
    program = load(code)
    try:
        yield program
    finally:
        os.close(program)


def attach(cgroup: int, code: bytes) -> None:
    """Make ``code`` the device program of the cgroup directory open as ``cgroup``, in one step in place of our last.

    Programs of others stay: all have to allow an access. Raises `OSError`.
    """
    ours = [program for program in attached(cgroup) if _name(program) == NAME]
    try:
        with _loaded(code) as new:
            flags = _ALLOW_MULTI | (_REPLACE if ours else 0)
            replaced = ours[0] if ours else 0
            _bpf(_PROG_ATTACH, "PROG_ATTACH", pack("<IIIII", cgroup, new, _CGROUP_DEVICE, flags, replaced))
        for extra in ours[1:]:
            _bpf(_PROG_DETACH, "PROG_DETACH", pack("<III", cgroup, extra, _CGROUP_DEVICE))
    finally:
        for program in ours:
            os.close(program)


def first(cgroup: int, code: bytes) -> None:
    """`attach` for a cgroup just made, which has none: nothing is looked for."""
    with _loaded(code) as new:
        _bpf(_PROG_ATTACH, "PROG_ATTACH", pack("<IIIII", cgroup, new, _CGROUP_DEVICE, _ALLOW_MULTI, 0))


def detach(cgroup: int) -> None:
    """Take our programs off: all devices are allowed that the parent allows."""
    for program in attached(cgroup):
        try:
            if _name(program) == NAME:
                _bpf(_PROG_DETACH, "PROG_DETACH", pack("<III", cgroup, program, _CGROUP_DEVICE))
        finally:
            os.close(program)


def attached(cgroup: int) -> list[int]:
    """File descriptors of the device programs attached to a cgroup itself; the caller closes them."""
    ids = ctypes.create_string_buffer(4 * _MOST_ATTACHED)
    query = pack("<IIIIQI4x", cgroup, _CGROUP_DEVICE, 0, 0, ctypes.addressof(ids), _MOST_ATTACHED)
    _, answer = _bpf(_PROG_QUERY, "PROG_QUERY", query)
    count = unpack_from("<I", answer, 24)[0]
    programs: list[int] = []
    try:
        for identity in unpack_from(f"<{count}I", ids.raw):
            programs.append(_bpf(_PROG_GET_FD_BY_ID, "PROG_GET_FD_BY_ID", pack("<III", identity, 0, 0))[0])
    except OSError:
        for program in programs:
            os.close(program)
        raise
    return programs


def _name(program: int) -> bytes:
    """The name a program was loaded with (``struct bpf_prog_info``)."""
    info = ctypes.create_string_buffer(128)
    _bpf(_OBJ_GET_INFO_BY_FD, "OBJ_GET_INFO_BY_FD", pack("<IIQ", program, len(info), ctypes.addressof(info)))
    return bytes(info.raw[64:80]).rstrip(b"\0")
