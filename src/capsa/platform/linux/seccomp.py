"""Seccomp: an OCI policy as a BPF program, kept in a cache, and installed (config-linux.md, Seccomp).

`program` compiles a policy through libseccomp the first time only, then takes it from a file; `install` is one raw
system call. So a container start loads no library for it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import time
from _blake2 import blake2b  # what hashlib gives; importing that would load OpenSSL
from struct import Struct as Layout

import msgspec

from capsa.errors import CapsaError, Unsupported, reason
from capsa.oci.runtime import ContainerProcessState, Seccomp, State, dumps
from capsa.platform.linux import seccomp_policy
from capsa.sys.call import MACHINE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_NUMBERS = {"x86_64": 317, "aarch64": 277, "riscv64": 277, "ppc64le": 358, "s390x": 348}
_SET_MODE_FILTER = 1
NEW_LISTENER = 8  # SECCOMP_FILTER_FLAG_NEW_LISTENER
_MAGIC = b"capsa seccomp 1\n"
_HEAD = Layout("<II")  # flags of seccomp(2), length of the program in bytes
_DIGEST = 32
MOST_INSTRUCTIONS = 4096  # BPF_MAXINSNS
# Where the library lies, whose file name has its version; looked at instead of loading it.
_LIBRARIES = ("/usr/lib/{machine}-linux-gnu", "/usr/lib64", "/usr/lib", "/lib/{machine}-linux-gnu", "/lib64", "/lib")

_libc = ctypes.CDLL(None, use_errno=True)


class Filter(msgspec.Struct, frozen=True):
    """A compiled policy: ``code`` is an array of ``struct sock_filter``, ``flags`` are those of seccomp(2)."""

    code: bytes
    flags: int = 0

    @property
    def notify(self) -> bool:
        """Whether it asks another process about some calls: then `install` returns a file descriptor for that one."""
        return bool(self.flags & NEW_LISTENER)


class _Program(ctypes.Structure):
    """``struct sock_fprog``."""

    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def default_policy(capabilities: Iterable[str], arch: str | None = None) -> Seccomp:
    """Docker's default policy for a process with these bounding capabilities (``CAP_…``).

    ``arch`` is a machine name as uname(2) gives it; the running one if left out.
    """
    return seccomp_policy.policy(frozenset(capabilities), arch or os.uname().machine)


def program(policy: Seccomp, cache: str | os.PathLike[str] | None) -> Filter:
    """The filter of a policy, from a file in the directory ``cache``, else compiled and kept there.

    A file that is cut off or damaged is made anew; one that cannot be written is no error. Raises `InvalidArgument`
    for a policy that cannot be meant, `Unsupported` where libseccomp is missing or too old.
    """
    path = os.path.join(cache, _key(policy)) if cache is not None else None
    if path is not None:
        found = _load(path)
        if found is not None:
            return found
    from capsa.platform.linux.seccomp_compile import compile_policy  # libseccomp is loaded only here

    compiled = compile_policy(policy)
    if path is not None:
        _store(path, compiled)
    return compiled


def install(program: Filter) -> int | None:
    """Put the calling thread under a filter, for good; returns the listener's descriptor if it has one.

    That is so with `Filter.notify`. It needs no_new_privs or CAP_SYS_ADMIN. Raises `CapsaError`.
    """
    machine = MACHINE
    number = _NUMBERS.get(machine)
    if number is None:
        raise Unsupported(f"cannot install a seccomp filter: its system call is not known on {machine}")
    code = ctypes.create_string_buffer(program.code, len(program.code))
    argument = _Program(len(program.code) // 8, ctypes.addressof(code))
    result = _libc.syscall(
        ctypes.c_long(number), ctypes.c_uint(_SET_MODE_FILTER), ctypes.c_uint(program.flags), ctypes.byref(argument)
    )
    if result < 0:
        error = OSError(ctypes.get_errno(), "seccomp")
        raise CapsaError(
            f"cannot install the seccomp filter: {reason(error)} (it needs no_new_privs or CAP_SYS_ADMIN, and a"
            " kernel that has the actions and flags it uses)"
        ) from error
    return int(result) if program.notify else None


def send_listener(policy: Seccomp, descriptor: int, pid: int, state: State) -> None:
    """Hand the listener of process ``pid`` to the agent at ``policy.listener_path``.

    Called by the parent, as the process under the filter may not be able to. Raises `CapsaError`.
    """
    message = ContainerProcessState(
        oci_version=state.oci_version, fds=["seccompFd"], pid=pid, metadata=policy.listener_metadata, state=state
    )
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as agent:
            agent.connect(policy.listener_path)
            data = dumps(message)
            sent = socket.send_fds(agent, [data], [descriptor])
            agent.sendall(data[sent:])
    except OSError as error:
        raise CapsaError(f"cannot reach the seccomp agent at {policy.listener_path}: {reason(error)}") from error


# ---- cache ----

_version: str | None = None


def libseccomp_version() -> str:
    """Something that changes with the library: its file's full name."""
    global _version
    if _version is None:
        _version = "unknown"
        for directory in _LIBRARIES:
            path = directory.format(machine=os.uname().machine) + "/libseccomp.so.2"
            with contextlib.suppress(OSError):
                _version = os.path.basename(os.path.realpath(path, strict=True))
                break
    return _version


def _digest(data: bytes) -> bytes:
    """A checksum that is Python's own: OpenSSL's would be loaded, or copied page by page, at each container start."""
    return blake2b(data, digest_size=_DIGEST).digest()


def _key(policy: Seccomp) -> str:
    content = msgspec.json.encode(
        [
            policy.default_action,
            policy.default_errno_ret,
            policy.architectures,
            policy.flags,
            policy.syscalls,
            os.uname().machine,
            libseccomp_version(),
        ]
    )
    return _digest(_MAGIC + content).hex()


def _load(path: str) -> Filter | None:
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError:
        return None
    start = len(_MAGIC) + _DIGEST
    body = data[start:]
    if data[: len(_MAGIC)] != _MAGIC or _digest(body) != data[len(_MAGIC) : start]:
        return None
    if len(body) < _HEAD.size:
        return None
    flags, length = _HEAD.unpack_from(body)
    code = body[_HEAD.size :]
    whole = length == len(code) and length % 8 == 0 and 0 < length <= MOST_INSTRUCTIONS * 8
    return Filter(code, flags) if whole else None


def _store(path: str, compiled: Filter) -> None:
    body = _HEAD.pack(compiled.flags, len(compiled.code)) + compiled.code
    with contextlib.suppress(OSError):
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        temporary = f"{path}.{time.monotonic_ns()}"  # not our pid: it is 1 in every container
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(_MAGIC + _digest(body) + body)
            os.rename(temporary, path)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
