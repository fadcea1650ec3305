"""nftables rulesets, through libnftables in this process: no helper program, and each call is one transaction.

The library is loaded at the first use. Commands are those of nft(8); what is in one call happens as a whole or not at
all. Only a process with very many open files leaves the work to the program ``nft``: the library waits with select(2),
and glibc ends a process that asks it about a descriptor above 1023.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from functools import cache

from capsa.errors import CapsaError, Unsupported
from capsa.sys.netlink_socket import NetlinkSocket, attributes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LIBRARY = "libnftables.so.1"
PROGRAM = "/usr/sbin/nft"
CROWDED = 900  # the lowest free descriptor from which on the library is left alone; other threads open some, too
NETLINK_NETFILTER = 12
NFT_MSG_GETTABLE = (10 << 8) | 1
NFPROTO_INET, NFTA_TABLE_NAME = 1, 1


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
    if _lowest_free() >= CROWDED:
        return _run_apart(commands)
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


def _run_apart(commands: str) -> str:
    try:
        result = subprocess.run([PROGRAM, "-f", "-"], input=commands.encode(), capture_output=True, check=False)
    except OSError as error:
        raise Unsupported(f"cannot run {PROGRAM}, which networks need: install the package nftables") from error
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
