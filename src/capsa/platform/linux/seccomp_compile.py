"""From an OCI seccomp policy to BPF, through libseccomp. Imported when a policy is not in the cache."""

from __future__ import annotations

import contextlib
import errno
import os
from struct import pack

from capsa.errors import InvalidArgument, Unsupported, reason
from capsa.oci.runtime import Seccomp, SeccompArg, SyscallRule
from capsa.platform.linux.seccomp import MOST_INSTRUCTIONS, NEW_LISTENER, Filter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

try:
    import pyseccomp  # type: ignore[import-untyped]
except (ImportError, RuntimeError) as _error:
    raise Unsupported(f"cannot compile a seccomp policy: {_error} (install libseccomp2)") from _error

# Action: (value, whether it takes an errno).
_ACTIONS = {
    "SCMP_ACT_KILL": (pyseccomp.KILL_THREAD, False),
    "SCMP_ACT_KILL_THREAD": (pyseccomp.KILL_THREAD, False),
    "SCMP_ACT_KILL_PROCESS": (pyseccomp.KILL_PROCESS, False),
    "SCMP_ACT_TRAP": (pyseccomp.TRAP, False),
    "SCMP_ACT_ERRNO": (pyseccomp.ERRNO(0), True),
    "SCMP_ACT_TRACE": (pyseccomp.TRACE(0), True),
    "SCMP_ACT_ALLOW": (pyseccomp.ALLOW, False),
    "SCMP_ACT_LOG": (pyseccomp.LOG, False),
    "SCMP_ACT_NOTIFY": (pyseccomp.NOTIFY, False),
}
_NOTIFY = pyseccomp.NOTIFY
_PERMISSIVE = {pyseccomp.ALLOW, pyseccomp.LOG}
_OPERATORS = {
    "SCMP_CMP_NE": pyseccomp.NE,
    "SCMP_CMP_LT": pyseccomp.LT,
    "SCMP_CMP_LE": pyseccomp.LE,
    "SCMP_CMP_EQ": pyseccomp.EQ,
    "SCMP_CMP_GE": pyseccomp.GE,
    "SCMP_CMP_GT": pyseccomp.GT,
    "SCMP_CMP_MASKED_EQ": pyseccomp.MASKED_EQ,
}
_ARCHITECTURES = {
    "SCMP_ARCH_NATIVE": pyseccomp.Arch.NATIVE,
    "SCMP_ARCH_X86": pyseccomp.Arch.X86,
    "SCMP_ARCH_X86_64": pyseccomp.Arch.X86_64,
    "SCMP_ARCH_X32": pyseccomp.Arch.X32,
    "SCMP_ARCH_ARM": pyseccomp.Arch.ARM,
    "SCMP_ARCH_AARCH64": pyseccomp.Arch.AARCH64,
    "SCMP_ARCH_MIPS": pyseccomp.Arch.MIPS,
    "SCMP_ARCH_MIPS64": pyseccomp.Arch.MIPS64,
    "SCMP_ARCH_MIPS64N32": pyseccomp.Arch.MIPS64N32,
    "SCMP_ARCH_MIPSEL": pyseccomp.Arch.MIPSEL,
    "SCMP_ARCH_MIPSEL64": pyseccomp.Arch.MIPSEL64,
    "SCMP_ARCH_MIPSEL64N32": pyseccomp.Arch.MIPSEL64N32,
    "SCMP_ARCH_PPC": pyseccomp.Arch.PPC,
    "SCMP_ARCH_PPC64": pyseccomp.Arch.PPC64,
    "SCMP_ARCH_PPC64LE": pyseccomp.Arch.PPC64LE,
    "SCMP_ARCH_S390": pyseccomp.Arch.S390,
    "SCMP_ARCH_S390X": pyseccomp.Arch.S390X,
    "SCMP_ARCH_PARISC": pyseccomp.Arch.PARISC,
    "SCMP_ARCH_PARISC64": pyseccomp.Arch.PARISC64,
    "SCMP_ARCH_RISCV64": pyseccomp.Arch.RISCV64,
    "SCMP_ARCH_LOONGARCH64": 258 | 0x80000000 | 0x40000000,
    "SCMP_ARCH_M68K": 4,
    "SCMP_ARCH_SH": 42 | 0x40000000,
    "SCMP_ARCH_SHEB": 42,
}
_TSYNC, _TSYNC_ESRCH = 1, 16
_FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": _TSYNC,
    "SECCOMP_FILTER_FLAG_LOG": 2,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 4,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": 32,
}
_BINARY_TREE = 2  # value of the optimisation attribute
_X32_BIT = 0x40000000
_LARGEST_ERRNO = 4095


def known() -> dict[str, list[str]]:
    """The words of a policy (features-linux.md, Seccomp)."""
    return {
        "actions": list(_ACTIONS),
        "operators": list(_OPERATORS),
        "archs": list(_ARCHITECTURES),
        "knownFlags": list(_FLAGS),
        "supportedFlags": list(_FLAGS),
    }


def compile_policy(policy: Seccomp) -> Filter:
    """Raises `InvalidArgument` for a policy that cannot be meant, `Unsupported` for what this libseccomp does not know.

    Names of system calls unknown to libseccomp are skipped: policies list those of newer kernels. What such a kernel
    has beyond the policy's last call fails with ENOSYS where the default would be an error, so that C libraries fall
    back to older calls instead of reporting EPERM.
    """
    default = _action(policy.default_action, policy.default_errno_ret, "defaultAction")
    if default == _NOTIFY:
        raise InvalidArgument("seccomp: SCMP_ACT_NOTIFY cannot be the defaultAction (no process would ever start)")
    flags = _flags(policy)
    library = pyseccomp.SyscallFilter(default)
    architectures = _add_architectures(library, policy.architectures)
    library.set_attr(pyseccomp.Attr.ACT_BADARCH, pyseccomp.KILL_PROCESS)
    with contextlib.suppress(OSError):  # libseccomp before 2.5 searches in a line
        library.set_attr(pyseccomp.Attr.CTL_OPTIMIZE, _BINARY_TREE)
    names: set[str] = set()
    for rule in policy.syscalls:
        action = _action(rule.action, rule.errno_ret, f"syscalls {' '.join(rule.names[:3])}")
        names.update(rule.names)
        if action == default:
            continue  # libseccomp refuses what changes nothing
        if action == _NOTIFY:
            flags |= NEW_LISTENER
            if "write" in rule.names:
                raise InvalidArgument(
                    "seccomp: SCMP_ACT_NOTIFY cannot be used for write, which hands the listener over"
                )
        _add_rule(library, rule, action)
    if flags & NEW_LISTENER:
        if not policy.listener_path:
            raise InvalidArgument("seccomp: SCMP_ACT_NOTIFY needs a listenerPath")
        if flags & _TSYNC:
            flags |= _TSYNC_ESRCH
    elif policy.listener_metadata and not policy.listener_path:
        raise InvalidArgument("seccomp: listenerMetadata needs a listenerPath")
    code = _export(library)
    if (
        default not in _PERMISSIVE
        and default != pyseccomp.ERRNO(errno.ENOSYS)
        and policy.default_action == "SCMP_ACT_ERRNO"
    ):
        code = _prologue(architectures, names) + code
    if len(code) > MOST_INSTRUCTIONS * 8:
        raise InvalidArgument(
            f"seccomp: the policy becomes a program of {len(code) // 8} instructions, and the kernel takes at most"
            f" {MOST_INSTRUCTIONS}: use fewer rules or comparisons"
        )
    return Filter(code, flags)


def _action(name: str, errno_ret: int | None, where: str) -> int:
    if name not in _ACTIONS:
        raise InvalidArgument(f"seccomp: {where}: unknown action {name!r} (one of {', '.join(_ACTIONS)})")
    value, takes_errno = _ACTIONS[name]
    if not takes_errno:
        if errno_ret is not None:
            raise InvalidArgument(f"seccomp: {where}: {name} takes no errnoRet (leave it out)")
        return int(value)
    number = errno.EPERM if errno_ret is None else errno_ret
    if not 0 <= number <= (_LARGEST_ERRNO if name == "SCMP_ACT_ERRNO" else 0xFFFF):
        raise InvalidArgument(f"seccomp: {where}: errnoRet {number} is out of range")
    return int(value) | number


def _flags(policy: Seccomp) -> int:
    flags = 0
    for name in policy.flags:
        if name not in _FLAGS:
            raise InvalidArgument(f"seccomp: unknown flag {name!r} (one of {', '.join(_FLAGS)})")
        flags |= _FLAGS[name]
    return flags


def _add_architectures(library: Any, names: Iterable[str]) -> list[int]:
    """Add them to the native one, which is always there; returns all."""
    found = [pyseccomp.system_arch()]
    for name in names:
        if name not in _ARCHITECTURES:
            raise InvalidArgument(f"seccomp: unknown architecture {name!r} (one of {', '.join(_ARCHITECTURES)})")
        arch = _ARCHITECTURES[name] or found[0]
        if arch in found:
            continue
        try:
            library.add_arch(arch)
        except OSError as error:
            if error.errno == errno.EEXIST:
                continue
            raise Unsupported(f"seccomp: libseccomp cannot add the architecture {name}: {reason(error)}") from error
        found.append(arch)
    return found


def _add_rule(library: Any, rule: SyscallRule, action: int) -> None:
    if not rule.names:
        raise InvalidArgument("seccomp: a rule has no names of system calls")
    arguments = [_argument(arg) for arg in rule.args]
    indexes = {arg.index for arg in rule.args}
    # libseccomp compares an argument once in a rule; several comparisons of one are alternatives, as in other runtimes.
    alternatives = [arguments] if len(indexes) == len(arguments) else [[argument] for argument in arguments]
    for name in rule.names:
        number = pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name)
        if number == -1:  # __NR_SCMP_ERROR
            continue
        for alternative in alternatives:
            try:
                library.add_rule(action, number, *alternative)
            except OSError as error:
                raise InvalidArgument(
                    f"seccomp: libseccomp refuses the rule {rule.action} for {name}: {reason(error)}"
                ) from error


def _argument(arg: SeccompArg) -> Any:
    if arg.op not in _OPERATORS:
        raise InvalidArgument(f"seccomp: unknown operator {arg.op!r} (one of {', '.join(_OPERATORS)})")
    if not 0 <= arg.index <= 5:
        raise InvalidArgument(f"seccomp: a system call has no argument with index {arg.index} (0 to 5)")
    for value in (arg.value, arg.value_two):
        if not 0 <= value < 1 << 64:
            raise InvalidArgument(f"seccomp: {value} is not an unsigned number of 64 bits")
    return pyseccomp.Arg(arg.index, _OPERATORS[arg.op], arg.value, arg.value_two)


def _export(library: Any) -> bytes:
    """The program of a libseccomp filter."""
    with os.fdopen(os.memfd_create("seccomp", os.MFD_CLOEXEC), "rb") as file:
        try:
            library.export_bpf(file)
        except OSError as error:
            raise Unsupported(f"seccomp: libseccomp cannot compile the policy: {reason(error)}") from error
        file.seek(0)
        return file.read()


# ---- ENOSYS for system calls that the policy is too old to know ----

_LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_EQUAL, _GREATER, _AT_LEAST = 0x15, 0x25, 0x35  # BPF_JMP | BPF_JEQ, BPF_JGT, BPF_JGE | BPF_K
_GO, _RETURN = 0x05, 0x06  # BPF_JMP | BPF_JA, BPF_RET | BPF_K
_NUMBER_OFFSET, _ARCH_OFFSET = 0, 4  # in struct seccomp_data


def _instruction(code: int, value: int, true: int = 0, false: int = 0) -> bytes:
    return pack("=HBBI", code, true, false, value)


def _prologue(architectures: list[int], names: Iterable[str]) -> bytes:
    """Instructions before the filter: above the last call known to the policy, return ENOSYS; else go on."""
    last = {arch: _last(arch, names) for arch in architectures}
    blocks = []
    for arch in architectures:
        if arch == pyseccomp.Arch.X32:
            continue  # the kernel calls it x86-64, with a bit in the number
        if arch == pyseccomp.Arch.X86_64:
            # A number with the bit is one of x32 if that is allowed at all; the filter decides where it is not.
            x32 = last.get(pyseccomp.Arch.X32, 0xFFFFFFFF)
            blocks.append(
                [(_AT_LEAST, _X32_BIT, 0, 1), (_GREATER, x32, "nosys", "go"), (_GREATER, last[arch], "nosys", "go")]
            )
        else:
            blocks.append([(_GREATER, last[arch], "nosys", "go")])
    audit = [arch for arch in architectures if arch != pyseccomp.Arch.X32]
    total = 1 + sum(2 + len(block) for block in blocks) + 2
    code = [_instruction(_LOAD, _ARCH_OFFSET)]
    for arch, block in zip(audit, blocks, strict=True):
        code.append(_instruction(_EQUAL, arch, 0, 1 + len(block)))
        code.append(_instruction(_LOAD, _NUMBER_OFFSET))
        for operation, value, true, false in block:
            code.append(_instruction(operation, value, *(_target(to, len(code), total) for to in (true, false))))
    code.append(_instruction(_GO, 1))
    code.append(_instruction(_RETURN, pyseccomp.ERRNO(errno.ENOSYS)))
    return b"".join(code)


def _target(to: Any, here: int, total: int) -> int:
    """The distance of a jump: ENOSYS is the last instruction, the filter begins behind it."""
    if to == "nosys":
        return total - 1 - here - 1
    return total - here - 1 if to == "go" else int(to)


def _last(arch: int, names: Iterable[str]) -> int:
    """The largest number of a call of the policy on an architecture."""
    return max((pyseccomp.resolve_syscall(arch, name) for name in names), default=0)
