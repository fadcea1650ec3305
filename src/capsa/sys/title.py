"""The name by which ``ps`` shows a process."""

from __future__ import annotations

import ctypes

from capsa.sys.process import name_thread


def _argument_area() -> tuple[int, int]:
    """Address and length of the command line in this process (proc(5), ``/proc/PID/stat`` fields 48 and 49)."""
    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    start, end = int(fields[45]), int(fields[46])
    return start, end - start


_area: memoryview | None = None


def prepare_title() -> None:
    """Look up where the command line is; it holds for all children, too."""
    global _area
    start, length = _argument_area()
    _area = memoryview((ctypes.c_char * length).from_address(start)).cast("B")


def set_title(title: str) -> None:
    """Show this process as ``title``, cut to the length of its original command line."""
    if _area is None:
        prepare_title()
    assert _area is not None
    name_thread(title)
    length = len(_area)
    _area[:] = title.encode()[: length - 1].ljust(length, b"\0")
