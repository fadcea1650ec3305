"""What a verb of ``capsa-runtime`` is, and what all of them are told."""

from __future__ import annotations

import os

from capsa.cli.options import Option, Options, UsageError, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

PROGRAM = "capsa-runtime"
DEFAULT_ROOT = "/run/capsa-runtime"


class Settings:
    """The global options.

    ``root`` is the directory of the states, ``systemd``: cgroups are systemd's to make, ``criu``: the program. ``warn``
    is told what goes wrong and does not make the call fail (runtime.md, Warnings).
    """

    def __init__(self, root: str, warn: Callable[[str], None], *, systemd: bool = False, criu: str = "criu") -> None:
        self.root = os.path.abspath(root)
        self.warn = warn
        self.systemd = systemd
        self.criu = criu


class Verb:
    """How a verb is called, and the function that does it, which returns the exit code."""

    def __init__(
        self,
        name: str,
        arguments: str,
        summary: str,
        table: str,
        action: Callable[[Settings, Options], int],
        *,
        least: int = 1,
        most: int | None = 1,
        interspersed: bool = True,
        failure: int = 1,
        refused: Mapping[str, str] | None = None,
    ) -> None:
        """``least`` and ``most`` arguments; ``interspersed``: options may follow them; ``failure``: the exit code."""
        self.name = name
        self.arguments = arguments
        self.summary = summary
        self.table = table.strip("\n")
        self.action = action
        self.least = least
        self.most = most
        self.interspersed = interspersed
        self.failure = failure
        self.refused = refused

    def help(self) -> str:
        """What ``--help`` prints."""
        words = (PROGRAM, self.name, "[OPTIONS]" if self.table else "", self.arguments)
        text = f"Usage:  {' '.join(filter(None, words))}\n\n{self.summary}\n"
        return text + (f"\nOptions:\n{self.table}\n" if self.table else "")

    def parse(self, argv: Sequence[str]) -> Options | None:
        """Take ``argv`` apart; None means that help was asked for. Raises `UsageError`."""
        declared = [Option(line) for line in self.table.splitlines() if line.lstrip().startswith("-")]
        result = parse(
            declared,
            argv,
            interspersed=self.interspersed,
            command=self.name,
            refused=self.refused,
            program=PROGRAM,
        )
        if result is None:
            return None
        count = len(result.arguments)
        if count < self.least or (self.most is not None and count > self.most):
            wanted = self.arguments or "no arguments"
            raise UsageError(f"{self.name} takes {wanted}, {count} given (see '{PROGRAM} {self.name} --help')")
        return result
