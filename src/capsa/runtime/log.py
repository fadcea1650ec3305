"""The log file of ``--log``, which containerd, podman and others read to learn why a call failed."""

from __future__ import annotations

import os
import sys
import time

from capsa.errors import CapsaError
from capsa.runtime.verb import PROGRAM


class Log:
    """Where failures are said: on standard error, and in a file as logrus, which runc uses, would write it."""

    def __init__(self, path: str | None, form: str, *, debug: bool) -> None:
        """``form`` is ``text`` or ``json``."""
        self._path = path
        self._json = form == "json"
        self._debug = debug

    def check(self) -> None:
        """Say early that it cannot be written to: nobody would learn of what follows. Raises `CapsaError`."""
        if self._path is not None:
            directory = os.path.dirname(self._path) or "."
            if not os.access(self._path if os.path.exists(self._path) else directory, os.W_OK):
                raise CapsaError(f"cannot write to the log {self._path}: name a file in a directory that is there")

    def error(self, message: str) -> None:
        """The call has failed."""
        self._write("error", message)
        print(f"{PROGRAM}: {message}", file=sys.stderr)

    def warning(self, message: str) -> None:
        """Something is not as it should be, but the call goes on.

        Standard error is the container's as well, so it is said there only if there is no file for it.
        """
        self._write("warning", message)
        if self._path is None:
            print(f"{PROGRAM}: warning: {message}", file=sys.stderr)

    def debug(self, message: str) -> None:
        """Said only with ``--debug``."""
        if self._debug:
            self._write("debug", message)
            if self._path is None:
                print(f"{PROGRAM}: {message}", file=sys.stderr)

    def trace(self) -> None:
        """Where the failure that is being handled came from; said only with ``--debug``."""
        if self._debug:
            import traceback

            for line in traceback.format_exc().splitlines():
                self.debug(line)

    def _write(self, level: str, message: str) -> None:
        if self._path is None:
            return
        import json  # a millisecond that most calls do not need

        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        if self._json:
            line = json.dumps({"level": level, "msg": message, "time": now})
        else:
            line = f'time="{now}" level={level} msg={json.dumps(message)}'
        try:
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            with open(fd, "w") as file:
                file.write(line + "\n")
        except OSError as error:
            print(f"{PROGRAM}: cannot write to the log {self._path}: {error.strerror}", file=sys.stderr)
