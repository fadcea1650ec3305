"""Seccomp policies: compiled, cached, installed, and refused where they cannot be meant."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from capsa.errors import CapsaError, InvalidArgument
from capsa.oci.runtime import Seccomp, SeccompArg, State, SyscallRule
from capsa.platform.linux import seccomp

libc = ctypes.CDLL(None, use_errno=True)


def in_child(work: Callable[[], int]) -> int:
    """The exit code (negative for a signal) of ``work`` in a process without the right to gain privileges."""
    pid = os.fork()
    if pid == 0:
        code = 127
        try:
            libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
            code = work()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def under(policy: Seccomp, work: Callable[[], int]) -> int:
    compiled = seccomp.program(policy, None)

    def filtered() -> int:
        seccomp.install(compiled)
        return work()

    return in_child(filtered)


def policy(*rules: SyscallRule, default: str = "SCMP_ACT_ALLOW", **more: object) -> Seccomp:
    return msgspec.convert({"defaultAction": default, **more}, Seccomp) if not rules else _with(rules, default, more)


def _with(rules: tuple[SyscallRule, ...], default: str, more: dict[str, object]) -> Seccomp:
    made = msgspec.convert({"defaultAction": default, **more}, Seccomp)
    made.syscalls = list(rules)
    return made


def rule(name: str, action: str, *args: SeccompArg, errno_ret: int | None = None) -> SyscallRule:
    return SyscallRule(names=[name], action=action, args=list(args), errno_ret=errno_ret)


def attempt(work: Callable[[], object]) -> int:
    try:
        work()
    except OSError as error:
        return error.errno or 126
    return 0


def uname() -> int:
    return attempt(os.uname)


# ---- actions ----


@pytest.mark.parametrize(
    ("action", "number", "result"),
    [
        ("SCMP_ACT_ERRNO", None, errno.EPERM),
        ("SCMP_ACT_ERRNO", errno.EXDEV, errno.EXDEV),
        ("SCMP_ACT_ERRNO", 0, 0),
        ("SCMP_ACT_TRACE", 5, errno.ENOSYS),  # nobody traces
        ("SCMP_ACT_KILL", None, -signal.SIGSYS),
        ("SCMP_ACT_KILL_THREAD", None, -signal.SIGSYS),
        ("SCMP_ACT_KILL_PROCESS", None, -signal.SIGSYS),
        ("SCMP_ACT_TRAP", None, -signal.SIGSYS),
        ("SCMP_ACT_LOG", None, 0),
    ],
)
def test_actions(action: str, number: int | None, result: int) -> None:
    assert under(policy(rule("uname", action, errno_ret=number)), uname) == result


def test_the_default_action_is_for_all_others() -> None:
    listed = ["uname", "exit_group", "write", "rt_sigprocmask", "brk", "mmap", "munmap"]
    allowing = SyscallRule(names=listed, action="SCMP_ACT_ALLOW")

    def work() -> int:
        return 50 if uname() else attempt(os.getcwd)

    assert under(policy(allowing, default="SCMP_ACT_ERRNO", defaultErrnoRet=errno.ENOTTY), work) == errno.ENOTTY


SIGNED = -1 & 0xFFFFFFFFFFFFFFFF


@pytest.mark.parametrize(
    ("op", "value", "two", "hit", "miss"),
    [
        ("SCMP_CMP_EQ", 7, 0, 7, 8),
        ("SCMP_CMP_NE", 7, 0, 8, 7),
        ("SCMP_CMP_LT", 7, 0, 6, 7),
        ("SCMP_CMP_LE", 7, 0, 7, 8),
        ("SCMP_CMP_GT", 7, 0, 8, 7),
        ("SCMP_CMP_GE", 7, 0, 7, 6),
        ("SCMP_CMP_GT", 1 << 32, 0, (1 << 32) + 1, 1 << 32),
        ("SCMP_CMP_EQ", SIGNED, 0, -1, 0xFFFFFFFF),
        ("SCMP_CMP_MASKED_EQ", 0xF0, 0x50, 0x5A, 0x6A),
        ("SCMP_CMP_MASKED_EQ", 0xF << 40, 0x5 << 40, (0x5 << 40) + 3, 0x5),
    ],
)
def test_arguments_are_compared(op: str, value: int, two: int, hit: int, miss: int) -> None:
    """By the offset of lseek on a descriptor that is not open: EBADF from the kernel, EXDEV from the filter."""
    compared = SeccompArg(index=1, op=op, value=value, value_two=two)
    made = policy(rule("lseek", "SCMP_ACT_ERRNO", compared, errno_ret=errno.EXDEV))

    def seek(offset: int) -> Callable[[], int]:
        def work() -> int:
            libc.lseek(ctypes.c_int(-1), ctypes.c_long(offset), ctypes.c_int(0))
            return ctypes.get_errno()

        return work

    assert under(made, seek(hit)) == errno.EXDEV
    assert under(made, seek(miss)) == errno.EBADF


def test_arguments_of_one_rule_must_all_match_but_comparisons_of_one_argument_are_alternatives() -> None:
    both = rule(
        "lseek",
        "SCMP_ACT_ERRNO",
        SeccompArg(index=1, op="SCMP_CMP_EQ", value=5),
        SeccompArg(index=2, op="SCMP_CMP_EQ", value=1),
        errno_ret=errno.EXDEV,
    )
    either = rule(
        "lseek",
        "SCMP_ACT_ERRNO",
        SeccompArg(index=1, op="SCMP_CMP_EQ", value=5),
        SeccompArg(index=1, op="SCMP_CMP_EQ", value=6),
        errno_ret=errno.EXDEV,
    )

    def seek(offset: int, whence: int) -> Callable[[], int]:
        return lambda: (libc.lseek(-1, ctypes.c_long(offset), whence), ctypes.get_errno())[1]

    assert [under(policy(both), seek(*pair)) for pair in ((5, 1), (5, 0), (4, 1))] == [
        errno.EXDEV,
        errno.EBADF,
        errno.EBADF,
    ]
    assert [under(policy(either), seek(offset, 0)) for offset in (5, 6, 7)] == [errno.EXDEV, errno.EXDEV, errno.EBADF]


def test_names_that_libseccomp_does_not_know_are_skipped() -> None:
    made = policy(SyscallRule(names=["no_such_call", "uname"], action="SCMP_ACT_ERRNO"))
    assert under(made, uname) == errno.EPERM


def test_a_rule_that_says_what_the_default_says_is_fine() -> None:
    assert under(policy(rule("uname", "SCMP_ACT_ALLOW")), uname) == 0


def test_flags_reach_the_kernel() -> None:
    flags = ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_TSYNC"]
    made = policy(rule("uname", "SCMP_ACT_ERRNO"), flags=flags)
    assert seccomp.program(made, None).flags == 2 | 4 | 1
    assert under(made, uname) == errno.EPERM


# ---- notification ----


def test_a_listener_is_handed_to_the_agent_with_the_state_of_the_container(tmp_path: Path) -> None:
    path = str(tmp_path / "agent")
    made = policy(
        rule("uname", "SCMP_ACT_NOTIFY"), listenerPath=path, listenerMetadata="x=1", flags=["SECCOMP_FILTER_FLAG_TSYNC"]
    )
    compiled = seccomp.program(made, None)
    assert compiled.notify
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        try:
            libc.prctl(38, 1, 0, 0, 0)
            listener = seccomp.install(compiled)
            assert listener is not None
            socket.send_fds(theirs, [b"x"], [listener])
            os.close(listener)
            theirs.recv(1)
            os._exit(uname())
        finally:
            os._exit(120)
    try:
        _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
        with socket.socket(socket.AF_UNIX) as agent:
            agent.bind(path)
            agent.listen()
            state = State(id="c", status="creating", pid=pid, bundle="/b")
            seccomp.send_listener(made, descriptors[0], pid, state)
            connection, _ = agent.accept()
            with connection:
                data, received, _, _ = socket.recv_fds(connection, 65536, 2)
        message = json.loads(data)
        assert message["fds"] == ["seccompFd"]
        assert (message["pid"], message["metadata"], message["state"]["id"]) == (pid, "x=1", "c")
        assert len(received) == 1
        os.close(descriptors[0])
        # Nobody answers any more: the call fails as if it did not exist.
        os.close(received[0])
        ours.send(b"x")
    finally:
        _, status = os.waitpid(pid, 0)
        ours.close()
        theirs.close()
    assert os.waitstatus_to_exitcode(status) == errno.ENOSYS


def test_an_agent_that_is_not_there_is_named(tmp_path: Path) -> None:
    made = policy(listenerPath=str(tmp_path / "none"))
    with pytest.raises(CapsaError, match=r"cannot reach the seccomp agent at .*none: no such file"):
        seccomp.send_listener(made, 0, 1, State(id="c", status="creating", bundle="/b"))


# ---- bad input ----


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (policy(default="SCMP_ACT_NONSENSE"), "unknown action 'SCMP_ACT_NONSENSE'"),
        (policy(default="SCMP_ACT_NOTIFY"), "cannot be the defaultAction"),
        (policy(default="SCMP_ACT_ALLOW", defaultErrnoRet=1), "takes no errnoRet"),
        (policy(rule("uname", "SCMP_ACT_KILL", errno_ret=1)), "takes no errnoRet"),
        (policy(rule("uname", "SCMP_ACT_ERRNO", errno_ret=5000)), "errnoRet 5000"),
        (policy(rule("uname", "SCMP_ACT_NOTIFY")), "needs a listenerPath"),
        (policy(rule("write", "SCMP_ACT_NOTIFY"), listenerPath="/x"), "cannot be used for write"),
        (policy(listenerMetadata="x"), "listenerMetadata needs"),
        (policy(architectures=["SCMP_ARCH_VAX"]), "unknown architecture 'SCMP_ARCH_VAX'"),
        (policy(flags=["SECCOMP_FILTER_FLAG_X"]), "unknown flag 'SECCOMP_FILTER_FLAG_X'"),
        (policy(SyscallRule(names=[], action="SCMP_ACT_LOG")), "no names"),
        (policy(rule("uname", "SCMP_ACT_LOG", SeccompArg(index=6, value=0, op="SCMP_CMP_EQ"))), "index 6"),
        (policy(rule("uname", "SCMP_ACT_LOG", SeccompArg(index=0, value=0, op="SCMP_CMP_X"))), "operator 'SCMP_CMP_X'"),
        (policy(rule("uname", "SCMP_ACT_LOG", SeccompArg(index=0, value=-1, op="SCMP_CMP_EQ"))), "-1 is not"),
    ],
)
def test_a_policy_that_cannot_be_meant_is_refused(made: Seccomp, words: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        seccomp.program(made, None)
    assert words in str(caught.value)
    assert str(caught.value).startswith("seccomp: ")


def test_without_the_right_the_refusal_says_what_it_needs() -> None:
    compiled = seccomp.program(policy(rule("uname", "SCMP_ACT_LOG")), None)
    broken = seccomp.Filter(compiled.code[:8], compiled.flags)  # it does not end in a return

    def work() -> int:
        try:
            seccomp.install(broken)
        except CapsaError as error:
            return 0 if "no_new_privs" in str(error) else 2
        return 1

    assert in_child(work) == 0


# ---- cache ----


MADE = policy(rule("uname", "SCMP_ACT_ERRNO"))


def test_a_policy_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = seccomp.program(MADE, tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 1
    monkeypatch.setitem(sys.modules, "capsa.platform.linux.seccomp_compile", None)  # importing it fails now
    assert seccomp.program(MADE, tmp_path / "cache") == first
    with pytest.raises(ImportError):
        seccomp.program(policy(rule("uname", "SCMP_ACT_KILL")), tmp_path / "cache")


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:20],
        lambda data: data[:-8],
        lambda data: data + data[-8:],
        lambda data: data[:60] + bytes([data[60] ^ 1]) + data[61:],
        lambda data: b"X" + data[1:],
        lambda data: os.urandom(len(data)),
    ],
)
def test_a_damaged_cache_file_is_made_anew(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    first = seccomp.program(MADE, tmp_path)
    (path,) = tmp_path.iterdir()
    good = path.read_bytes()
    path.write_bytes(damage(good))
    assert seccomp.program(MADE, tmp_path) == first
    assert path.read_bytes() == good
    assert list(tmp_path.iterdir()) == [path]


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert seccomp.program(MADE, tmp_path / "file" / "cache").code


def test_what_changes_the_filter_changes_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seccomp.program(MADE, tmp_path)
    seccomp.program(policy(rule("uname", "SCMP_ACT_ERRNO", errno_ret=2)), tmp_path)
    seccomp.program(msgspec.structs.replace(MADE, flags=["SECCOMP_FILTER_FLAG_LOG"]), tmp_path)
    monkeypatch.setattr(seccomp, "_version", "libseccomp.so.9")
    seccomp.program(MADE, tmp_path)
    assert len(list(tmp_path.iterdir())) == 4


def test_a_cached_policy_loads_no_library(tmp_path: Path) -> None:
    seccomp.program(seccomp.default_policy([]), tmp_path)
    code = (
        "import sys; from pathlib import Path; from capsa.platform.linux import seccomp;"
        f"seccomp.program(seccomp.default_policy([]), Path({str(tmp_path)!r}));"
        "sys.exit('pyseccomp' in sys.modules or 'libseccomp' in Path('/proc/self/maps').read_text())"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": ":".join(sys.path)}).returncode
        == 0
    )


def test_more_than_the_kernel_takes_is_refused_in_a_sentence() -> None:
    args = [SeccompArg(index=0, value=number, op="SCMP_CMP_EQ") for number in range(1000, 6000)]
    with pytest.raises(InvalidArgument, match="at most 4096"):
        seccomp.program(policy(*(rule("read", "SCMP_ACT_LOG", arg) for arg in args)), None)
