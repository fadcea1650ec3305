"""Hooks (config.md, POSIX-platform Hooks): programs at six points of a container's life, with its state on stdin."""

from __future__ import annotations

import os
import select
import signal
from contextlib import contextmanager, suppress

import msgspec

from capsa.errors import HookFailed, InvalidArgument, reason
from capsa.oci.runtime import Hook, Hooks, Spec, State
from capsa.sys.process import pidfd_open

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Literal

_EXCERPT = 1000  # bytes of a failed hook's output that go into the error


def check(hooks: Hooks | None) -> None:
    """Refuse what the specification rules out; raises `InvalidArgument`."""
    for kind, wanted in ({} if hooks is None else msgspec.structs.asdict(hooks)).items():
        for number, hook in enumerate(wanted):
            if not hook.path.startswith("/"):
                raise InvalidArgument(f"the path of {kind} hook {number} has to be absolute: {hook.path!r}")
            if hook.timeout is not None and hook.timeout <= 0:
                raise InvalidArgument(
                    f"the timeout of {kind} hook {number} ({hook.path}) has to be more than 0 seconds"
                )


def state(
    spec: Spec, id: str, bundle: str, status: Literal["creating", "created", "running", "stopped"], pid: int
) -> State:
    """The state that a hook is told."""
    return State(
        oci_version=spec.oci_version, id=id, status=status, pid=pid, bundle=bundle, annotations=spec.annotations
    )


def run(
    kind: str, hooks: Sequence[Hook], told: State, *, where: str = "", environment: Sequence[str] | None = None
) -> None:
    """Run ``hooks`` in order, in the namespaces of the caller; the first that fails raises `HookFailed`.

    ``where``: their working directory (the caller's by default, and where it is gone or out of reach).
    ``environment``: of those that have none of their own (default: the caller's).
    """
    if not hooks:
        return
    with _in(where):
        for number, hook in enumerate(hooks):
            failure = _run(hook, msgspec.json.encode(told), environment)
            if failure:
                raise HookFailed(f"{kind} hook {number} ({hook.path}) failed: {failure}")


@contextmanager
def _in(where: str) -> Iterator[None]:
    """Another working directory for a while, as ``posix_spawn`` knows no other way to give one."""
    before = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if where:
            with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
                os.chdir(where)
        yield
    finally:
        os.fchdir(before)
        os.close(before)


def _run(hook: Hook, told: bytes, environment: Sequence[str] | None) -> str:
    """Run one; why it failed, or nothing."""
    stdin = os.memfd_create("state", os.MFD_CLOEXEC)
    output = os.memfd_create("output", os.MFD_CLOEXEC)
    try:
        os.write(stdin, told)
        os.lseek(stdin, 0, os.SEEK_SET)
        words = hook.env if hook.env is not None else environment
        variables = os.environ if words is None else dict(word.split("=", 1) for word in words if "=" in word)
        actions = [
            (os.POSIX_SPAWN_DUP2, stdin, 0),
            (os.POSIX_SPAWN_DUP2, output, 1),
            (os.POSIX_SPAWN_DUP2, output, 2),
        ]
        try:
            pid = os.posix_spawn(
                hook.path,
                hook.args or [hook.path],
                variables,
                file_actions=actions,
                setsigmask=(),
                setsigdef=(signal.SIGPIPE, signal.SIGXFSZ),
            )
        except OSError as error:
            return reason(error)
        code = _wait(pid, hook.timeout)
        if code is None:
            return f"it took longer than {hook.timeout} s"
        if code == 0:
            return ""
        how = f"exit status {code}" if code > 0 else f"signal {-code}"
        os.lseek(output, 0, os.SEEK_SET)
        said = os.read(output, _EXCERPT).decode(errors="replace").strip()
        return f"{how}: {said}" if said else how
    finally:
        os.close(stdin)
        os.close(output)


def _wait(pid: int, timeout: int | None) -> int | None:
    """Its exit code (negative: a signal), None if it had to be killed."""
    late = False
    if timeout is not None:
        fd = pidfd_open(pid)
        try:
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            late = not poll.poll(timeout * 1000)
            if late:
                os.kill(pid, signal.SIGKILL)
        finally:
            os.close(fd)
    _, status = os.waitpid(pid, 0)
    return None if late else os.waitstatus_to_exitcode(status)
