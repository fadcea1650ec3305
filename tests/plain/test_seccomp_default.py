"""The default seccomp policy, tried on a real process: what it allows, what it refuses, and what a capability adds."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import struct
from collections.abc import Callable

import pytest

from capsa.oci.runtime import Seccomp
from capsa.platform.linux import seccomp

MACHINE = os.uname().machine
# Numbers of system calls on x86-64 and arm64.
NUMBERS = {
    "x86_64": {
        "getpid": 39, "socket": 41, "clone": 56, "getcwd": 79, "ptrace": 101, "personality": 135, "chroot": 161,
        "acct": 163, "settimeofday": 164, "mount": 165, "umount2": 166, "swapon": 167, "reboot": 169,
        "init_module": 175, "add_key": 248, "request_key": 249, "keyctl": 250, "mbind": 237, "kexec_load": 246,
        "unshare": 272, "name_to_handle_at": 303, "open_by_handle_at": 304, "setns": 308, "bpf": 321,
        "userfaultfd": 323, "io_uring_setup": 425, "open_tree": 428, "fsopen": 430, "clone3": 435,
        "pidfd_getfd": 438, "perf_event_open": 298, "syslog": 103, "quotactl": 179, "kcmp": 312, "iopl": 172,
        "clock_settime": 227, "vhangup": 153, "landlock_create_ruleset": 444, "fanotify_init": 300,
        "process_vm_readv": 310, "statx": 332, "membarrier": 324, "arch_prctl": 158,
    },
    "aarch64": {
        "getpid": 172, "socket": 198, "clone": 220, "getcwd": 17, "ptrace": 117, "personality": 92, "chroot": 51,
        "acct": 89, "settimeofday": 170, "mount": 40, "umount2": 39, "swapon": 224, "reboot": 142,
        "init_module": 105, "add_key": 217, "request_key": 218, "keyctl": 219, "mbind": 235, "kexec_load": 104,
        "unshare": 97, "name_to_handle_at": 264, "open_by_handle_at": 265, "setns": 268, "bpf": 280,
        "userfaultfd": 282, "io_uring_setup": 425, "open_tree": 428, "fsopen": 430, "clone3": 435,
        "pidfd_getfd": 438, "perf_event_open": 241, "syslog": 116, "quotactl": 60, "kcmp": 272,
        "clock_settime": 112, "vhangup": 58, "landlock_create_ruleset": 444, "fanotify_init": 262,
        "process_vm_readv": 270, "statx": 291, "membarrier": 283,
    },
}.get(MACHINE, {})  # fmt: skip
pytestmark = pytest.mark.skipif(not NUMBERS, reason=f"the numbers of system calls on {MACHINE} are not known here")

libc = ctypes.CDLL(None, use_errno=True)
BAD = 0xDEAD  # an address that is not mapped, or a descriptor that is not open


def call(name: str | int, *arguments: int) -> int:
    """0, or the errno."""
    number = NUMBERS[name] if isinstance(name, str) else name
    result = libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments))
    return ctypes.get_errno() if result == -1 else 0


def under(policy: Seccomp, work: Callable[[], int]) -> int:
    """What ``work`` (at most 127) returns in a process under the policy; negative for a signal."""
    compiled = seccomp.program(policy, None)
    pid = os.fork()
    if pid == 0:
        code = 127
        try:
            libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
            seccomp.install(compiled)
            code = work()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def by_default(work: Callable[[], int], *capabilities: str) -> int:
    return under(seccomp.default_policy(capabilities), work)


REFUSED = [
    ("mount", (BAD, BAD, BAD, 0, 0)),
    ("umount2", (BAD, 0)),
    ("open_tree", (BAD, BAD, 0)),
    ("fsopen", (BAD, 0)),
    ("unshare", (0x10000000,)),
    ("unshare", (0,)),
    ("setns", (BAD, 0)),
    ("keyctl", (0, 0, 0, 0, 0)),
    ("add_key", (BAD, BAD, BAD, 0, 0)),
    ("request_key", (BAD, BAD, BAD, 0)),
    ("bpf", (0, BAD, 0)),
    ("userfaultfd", (0,)),
    ("io_uring_setup", (1, BAD)),
    ("perf_event_open", (BAD, 0, 0, 0, 0)),
    ("kexec_load", (0, 0, 0, 0)),
    ("init_module", (BAD, 0, BAD)),
    ("swapon", (BAD, 0)),
    ("reboot", (0, 0, 0, 0)),
    ("acct", (BAD,)),
    ("settimeofday", (BAD, BAD)),
    ("clock_settime", (BAD, BAD)),
    ("open_by_handle_at", (BAD, BAD, 0)),
    ("quotactl", (BAD, BAD, BAD, BAD)),
    ("chroot", (BAD,)),
    ("syslog", (99, BAD, 0)),
    ("kcmp", (0, 0, 99, 0, 0)),
    ("pidfd_getfd", (BAD, 0, 0)),
    ("mbind", (BAD, 0, 99, 0, 0, 0)),
    ("fanotify_init", (BAD, 0)),
    ("vhangup", ()),
    ("personality", (0x0040000,)),  # ADDR_NO_RANDOMIZE
    ("socket", (40, 1, 0)),  # AF_VSOCK
    ("socket", (38, 5, 0)),  # AF_ALG
    ("clone", (0x10000000 | 17, 0, 0, 0, 0)),  # a new user namespace
    ("clone", (0x20000000 | 17, 0, 0, 0, 0)),  # a new process namespace
]
ALLOWED = [
    ("getpid", (), 0),
    ("getcwd", (BAD, 0), errno.ERANGE),
    ("name_to_handle_at", (BAD, BAD, BAD, BAD, 0), errno.EFAULT),
    ("ptrace", (99, 0, 0, 0), errno.ESRCH),
    ("process_vm_readv", (0, 0, 0, 0, 0, 1), errno.EINVAL),
    ("personality", (0xFFFFFFFF,), 0),
    ("personality", (0,), 0),
    ("socket", (1, 1, 0), 0),  # AF_UNIX
    ("socket", (39, 1, 0), errno.EAFNOSUPPORT),  # AF_NFC
    ("socket", (41, 1, 0), errno.EAFNOSUPPORT),
    ("landlock_create_ruleset", (0, 1, 99), errno.EINVAL),
    ("statx", (BAD, BAD, 0, 0, BAD), errno.EFAULT),
    ("membarrier", (99, 0), errno.EINVAL),
]


@pytest.mark.parametrize(("name", "arguments"), REFUSED)
def test_refused_with_eperm(name: str, arguments: tuple[int, ...]) -> None:
    assert by_default(lambda: call(name, *arguments)) == errno.EPERM


@pytest.mark.parametrize(("name", "arguments", "answer"), ALLOWED)
def test_allowed_to_reach_the_kernel(name: str, arguments: tuple[int, ...], answer: int) -> None:
    unfiltered = os.fork()
    if unfiltered == 0:
        os._exit(call(name, *arguments))
    natural = os.waitstatus_to_exitcode(os.waitpid(unfiltered, 0)[1])
    assert by_default(lambda: call(name, *arguments)) == natural
    assert natural in (answer, errno.ENOSYS, errno.EINVAL, errno.EAFNOSUPPORT, errno.ESRCH)


@pytest.mark.parametrize(
    ("capability", "name", "arguments"),
    [
        ("CAP_SYS_ADMIN", "mount", (BAD, BAD, BAD, 0, 0)),
        ("CAP_SYS_ADMIN", "setns", (BAD, 0)),
        ("CAP_SYS_ADMIN", "unshare", (0,)),
        ("CAP_SYS_ADMIN", "clone3", (BAD, 0)),
        ("CAP_SYS_CHROOT", "chroot", (BAD,)),
        ("CAP_SYS_PTRACE", "kcmp", (0, 0, 99, 0, 0)),
        ("CAP_SYS_PTRACE", "pidfd_getfd", (BAD, 0, 0)),
        ("CAP_DAC_READ_SEARCH", "open_by_handle_at", (BAD, BAD, 0)),
        ("CAP_SYS_NICE", "mbind", (BAD, 0, 99, 0, 0, 0)),
        ("CAP_SYSLOG", "syslog", (99, BAD, 0)),
    ],
)
def test_a_capability_opens_what_belongs_to_it(capability: str, name: str, arguments: tuple[int, ...]) -> None:
    without = by_default(lambda: call(name, *arguments))
    assert without == (errno.ENOSYS if name == "clone3" else errno.EPERM)
    # The kernel itself answers now, with whatever it says of nonsense.
    compiled = seccomp.default_policy([capability])
    granted = {name for rule in compiled.syscalls if rule.action == "SCMP_ACT_ALLOW" for name in rule.names}
    assert name in granted
    pid = os.fork()
    if pid == 0:
        os._exit(call(name, *arguments))
    natural = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert by_default(lambda: call(name, *arguments), capability) == natural


def test_clone3_does_not_exist_so_that_libraries_fall_back_to_clone() -> None:
    assert by_default(lambda: call("clone3", BAD, 0)) == errno.ENOSYS


def test_forking_and_threads_and_programs_work() -> None:
    def work() -> int:
        import threading

        thread = threading.Thread(target=lambda: None)
        thread.start()
        thread.join()
        pid = os.fork()
        if pid == 0:
            os.execv("/bin/true", ["true"])
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    assert by_default(work) == 0


def test_a_system_call_of_the_future_does_not_exist() -> None:
    assert by_default(lambda: call(9999)) == errno.ENOSYS


@pytest.mark.skipif(MACHINE != "x86_64", reason="x32 is of x86-64 only")
def test_the_other_instruction_sets_of_the_machine_are_under_the_policy_too() -> None:
    x32 = 0x40000000
    assert by_default(lambda: call(x32 + NUMBERS["mount"], BAD, BAD, BAD, 0, 0)) == errno.EPERM
    assert by_default(lambda: call(x32 + 9999)) == errno.ENOSYS


@pytest.mark.skipif(MACHINE != "x86_64", reason="int 0x80 is of x86 only")
def test_32_bit_calls_are_under_the_policy_too() -> None:
    """Through ``int 0x80`` in a few bytes of machine code: mount (21) and getpid (20) of i386."""

    def through_int80(number: int) -> int:
        import mmap

        code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        # push rbx; mov eax, number; xor ebx, ebx; xor ecx, ecx; xor edx, edx; int 0x80; pop rbx; ret
        code.write(b"\x53\xb8" + struct.pack("<I", number) + b"\x31\xdb\x31\xc9\x31\xd2\xcd\x80\x5b\xc3")
        address = ctypes.addressof(ctypes.c_char.from_buffer(code))
        result = ctypes.CFUNCTYPE(ctypes.c_int)(address)()
        return -result if result < 0 else 0

    if under(Seccomp(default_action="SCMP_ACT_ALLOW"), lambda: through_int80(20)) == -signal.SIGSEGV:
        pytest.skip("needs a kernel that runs 32-bit calls (IA32_EMULATION)")
    assert by_default(lambda: through_int80(20)) == 0
    assert by_default(lambda: through_int80(21)) == errno.EPERM


def test_it_is_of_a_machine() -> None:
    assert seccomp.default_policy([], "x86_64").architectures == ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]
    assert seccomp.default_policy([], "aarch64").architectures == ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]
    assert "arch_prctl" in seccomp.default_policy([], "x86_64").syscalls[0].names
    assert "arch_prctl" not in seccomp.default_policy([], "aarch64").syscalls[0].names
    clone = [rule for rule in seccomp.default_policy([], "s390x").syscalls if rule.names == ["clone"]]
    assert clone[0].args[0].index == 1
