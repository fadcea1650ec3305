"""nftables rulesets, where possible through libnftables in this process; each call is one transaction.

The library is loaded at the first use. Commands are those of nft(8); what is in one call happens as a whole or not at
all. Two things make it leave the work to the program ``nft``, which takes 4 ms instead of 0.2, and may crash alone:

- The library reads what others have made, too, and what a newer one has made ends some of them (1.0.6 by a set of
  interfaces of 1.1.3's). So it works in this process only where all tables are of this process's making.
- It waits with select(2), and glibc ends a process that asks that about a descriptor above 1023.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from functools import cache

from capsa.errors import CapsaError, Unsupported
from capsa.sys.netlink_socket import NetlinkSocket, attributes, parts, text_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LIBRARY = "libnftables.so.1"
PROGRAM = "/usr/sbin/nft"
CROWDED = 900  # the lowest free descriptor from which on the library is left alone; other threads open some, too
NETLINK_NETFILTER = 12
NFT_MSG_GETTABLE = (10 << 8) | 1
NFPROTO_UNSPEC, NFPROTO_INET = 0, 1
NFTA_TABLE_NAME, NFTA_TABLE_HANDLE = 1, 4

Table = tuple[int, str, bytes]
"""Address family, name, and the handle, which no other table in the network namespace ever has."""

_made: set[Table] = set()


@cache
def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise Unsupported(f"cannot load {LIBRARY}, which networks need: install the package libnftables1") from error
    library.nft_ctx_new.argtypes = [ctypes.c_uint32]
    library.nft_ctx_new.restype = ctypes.c_void_p
    library.nft_ctx_free.argtypes = [ctypes.c_void_p]
    library.nft_ctx_free.restype = None
    for name in ("nft_ctx_buffer_output", "nft_ctx_buffer_error"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
    for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
        getattr(library, name).restype = ctypes.c_char_p
    library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    return library


def run(commands: str) -> str:
    """Run nft ``commands`` (lines) in the caller's network namespace, all or none, and return what they print.

    Raises `CapsaError` with nft's own explanation, `Unsupported` where the library is missing.
    """
    before = _tables()
    here = before <= _made and _lowest_free() < CROWDED
    said = _run_here(commands) if here else _run_apart(commands, before - _made)
    if "table" in commands:
        _made.intersection_update(before)
        _made.update(each for each in _tables() - before if each[1] in commands)  # others may make some meanwhile
    return said


def _tables() -> set[Table]:
    """All that are there."""
    connection = NetlinkSocket(NETLINK_NETFILTER)
    try:
        found = connection.dump("list tables", NFT_MSG_GETTABLE, bytes((NFPROTO_UNSPEC, 0, 0, 0)))
    except OSError:
        return set()  # no nf_tables in this kernel: the library will say so
    finally:
        connection.close()
    result = set()
    for each in found:
        values = dict(parts(each, 4))
        result.add((each[0], text_of(values.get(NFTA_TABLE_NAME, b"")), values.get(NFTA_TABLE_HANDLE, b"")))
    return result


def _run_here(commands: str) -> str:
    library = _library()
    # A context of its own for each call: it caches the ruleset and is tied to the namespace it was made in.
    context: Any = library.nft_ctx_new(0)
    if not context:
        raise CapsaError("nftables: no memory for a context")
    try:
        library.nft_ctx_buffer_output(context)
        library.nft_ctx_buffer_error(context)
        failed = library.nft_run_cmd_from_buffer(context, commands.encode())
        if failed:
            raise CapsaError(f"nftables refused a change: {_sentence(library.nft_ctx_get_error_buffer(context))}")
        return (library.nft_ctx_get_output_buffer(context) or b"").decode(errors="replace")
    finally:
        library.nft_ctx_free(context)


def _lowest_free() -> int:
    """The number that the next open file gets."""
    fd = os.open("/", os.O_PATH | os.O_CLOEXEC)
    os.close(fd)
    return fd


def _run_apart(commands: str, others: set[Table]) -> str:
    try:
        result = subprocess.run([PROGRAM, "-f", "-"], input=commands.encode(), capture_output=True, check=False)
    except OSError as error:
        raise Unsupported(f"cannot run {PROGRAM}, which networks need: install the package nftables") from error
    if result.returncode < 0:
        names = ", ".join(sorted(name for _, name, _ in others)[:5])
        raise CapsaError(
            f"{PROGRAM} was ended by {signal.Signals(-result.returncode).name}: another program may have made a"
            f" table with a newer nftables than this one can read (there are {names}): upgrade the package nftables"
        )
    if result.returncode:
        raise CapsaError(f"nftables refused a change: {_sentence(result.stderr)}")
    return result.stdout.decode(errors="replace")


def has_table(name: str) -> bool:
    """Whether there is a table ``inet NAME``: one question to the kernel, a hundredth of what `run` costs."""
    connection = NetlinkSocket(NETLINK_NETFILTER)
    try:
        body = bytes((NFPROTO_INET, 0, 0, 0)) + attributes((NFTA_TABLE_NAME, name.encode() + b"\0"))
        connection.exchange("look for table", name, [(NFT_MSG_GETTABLE, 0, body)])
    except OSError:
        return False
    finally:
        connection.close()
    return True


def _sentence(text: bytes | None) -> str:
    """The first error of nft's output, without the source line and the marks below it."""
    for line in (text or b"").decode(errors="replace").splitlines():
        if "Error:" in line:
            return line.partition("Error:")[2].strip()
    return "no reason given (does the kernel have nf_tables, and is this root?)"
