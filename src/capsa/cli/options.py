"""Command-line options as docker parses them (the rules of Go's pflag), out of a table that is the help text.

A line of the table declares one option, and is what ``--help`` prints::

      -e, --env list          Set an environment variable
          --rm                Remove the container when it exits

The word after the name is the kind of value (`KINDS`), none means a switch; ``(default true)`` at the end of a switch's
description makes it one that is on. Own code, because importing argparse or click costs more than a container start.
"""

from __future__ import annotations

from capsa.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from capsa.cli.context import Context

KINDS = frozenset(("string", "list", "int", "bytes", "duration", "decimal", "strings"))
_TRUE = frozenset(("1", "t", "T", "true", "TRUE", "True"))
_FALSE = frozenset(("0", "f", "F", "false", "FALSE", "False"))


class UsageError(InvalidArgument):
    """The command line cannot be understood; ``code`` is the exit code (docker: 125 for options, 1 for arguments)."""

    def __init__(self, message: str, code: int = 125) -> None:
        super().__init__(message)
        self.code = code


class Option:
    """One line of an option table."""

    __slots__ = ("default", "kind", "long", "short")

    def __init__(self, line: str) -> None:
        name, _, text = line.strip().partition("  ")
        words = name.replace(",", " ").split()
        self.short = words.pop(0)[1:] if not words[0].startswith("--") else ""
        self.long = words.pop(0)[2:]
        self.kind = words[0] if words else ""
        self.default = text.rstrip().endswith("(default true)")
        if self.kind and self.kind not in KINDS:
            raise ValueError(f"no kind of option value: {line!r}")


class Options:
    """The options and arguments of one call."""

    def __init__(self) -> None:
        self.values: dict[str, list[str]] = {}
        self.switches: dict[str, bool] = {}
        self.switched: set[str] = set()
        """The switches that were given, on or off."""
        self.arguments: list[str] = []

    def switch(self, name: str) -> bool:
        """Whether a switch is on."""
        return self.switches[name]

    def text(self, name: str) -> str | None:
        """The last value given, or None."""
        values = self.values[name]
        return values[-1] if values else None

    def all(self, name: str) -> list[str]:
        """All values given, in order."""
        return self.values[name]

    def strings(self, name: str) -> list[str]:
        """All values given, each of which may be a list separated by commas."""
        return [part for value in self.values[name] for part in value.split(",")]

    def number(self, name: str) -> int | None:
        """A whole number, or None; raises `UsageError`."""
        text = self.text(name)
        if text is None:
            return None
        try:
            return int(text)
        except ValueError:
            raise UsageError(f'invalid argument "{text}" for "--{name}" flag: not a whole number') from None

    def given(self, name: str) -> bool:
        """Whether the option was there at all."""
        return bool(self.values.get(name)) or name in self.switched


class Command:
    """A verb: how it is called, what it does, its options, and the function that does it."""

    def __init__(
        self,
        name: str,
        arguments: str,
        summary: str,
        table: str,
        action: Callable[[Context, Options], int],
        *,
        least: int = 0,
        most: int | None = None,
        interspersed: bool = True,
        completes: str = "",
        failure: int = 1,
        refused: Mapping[str, str] | None = None,
    ) -> None:
        """``least`` and ``most`` arguments; ``interspersed``: options may follow arguments.

        ``completes`` names what a shell offers for the arguments: ``containers``, ``running``, ``images``, ``volumes``,
        ``networks`` or a list of words. ``failure`` is the exit code when the action raises `CapsaError`: 125 for what
        passes on a program's own exit code. ``refused`` are options of docker's that are not honoured, with the reason.
        """
        self.name = name
        self.arguments = arguments
        self.summary = summary
        self.table = table.strip("\n")
        self.action = action
        self.least = least
        self.most = most
        self.interspersed = interspersed
        self.completes = completes
        self.failure = failure
        self.refused = refused or {}

    def options(self) -> list[Option]:
        """The declared options."""
        return [Option(line) for line in self.table.splitlines() if line.lstrip().startswith("-")]

    def help(self) -> str:
        """What ``--help`` prints."""
        usage = " ".join(filter(None, (self.name, "[OPTIONS]" if self.table else "", self.arguments)))
        text = f"Usage:  capsa {usage}\n\n{self.summary}\n"
        return text + (f"\nOptions:\n{self.table}\n" if self.table else "")

    def parse(self, argv: Sequence[str]) -> Options | None:
        """Take ``argv`` apart; None means that help was asked for. Raises `UsageError`."""
        result = parse(self.options(), argv, interspersed=self.interspersed, command=self.name, refused=self.refused)
        if result is None:
            return None
        count = len(result.arguments)
        if count < self.least or (self.most is not None and count > self.most):
            raise UsageError(f"\"capsa {self.name}\" {self._wanted()}.\nSee 'capsa {self.name} --help'.", 1)
        return result

    def _wanted(self) -> str:
        if self.most == 0:
            return "accepts no arguments"
        wanted = self.least if self.most is None or self.least == self.most else None
        if wanted is None:
            return f"requires {self.least} to {self.most} arguments"
        quality = "at least" if self.most is None else "exactly"
        return f"requires {quality} {wanted} argument{'' if wanted == 1 else 's'}"


def parse(
    declared: Sequence[Option],
    argv: Sequence[str],
    *,
    interspersed: bool,
    command: str,
    refused: Mapping[str, str] | None = None,
    program: str = "capsa",
) -> Options | None:
    """Parse ``argv`` with the ``declared`` options; None where ``--help`` is met. Raises `UsageError`.

    ``program`` and ``command`` are what it says to see.
    """
    result = Options()
    longs: dict[str, Option] = {}
    shorts: dict[str, Option] = {}
    for option in declared:
        longs[option.long] = option
        if option.short:
            shorts[option.short] = option
        if option.kind:
            result.values[option.long] = []
        else:
            result.switches[option.long] = option.default
    see = f"\nSee '{program} {command} --help'." if command else f"\nSee '{program} --help'."
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if word == "--":
            result.arguments += rest
            break
        if len(word) < 2 or word[0] != "-":
            result.arguments.append(word)
            if not interspersed:
                result.arguments += rest
                break
            continue
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            found = longs.get(name)
            if found is None:
                if name == "help":
                    return None
                if refused and name in refused:
                    raise UsageError(f"--{name} is not supported by {program}: {refused[name]}")
                raise UsageError(f"unknown flag: --{name}{see}")
            if not found.kind:
                result.switches[name] = _boolean(value, f"--{name}") if equals else True
                result.switched.add(name)
            elif equals:
                result.values[name].append(value)
            elif rest:
                result.values[name].append(rest.pop(0))
            else:
                raise UsageError(f"flag needs an argument: --{name}{see}")
        elif _shorthands(word, shorts, rest, result, see):
            return None
    return result


def _shorthands(word: str, shorts: dict[str, Option], rest: list[str], result: Options, see: str) -> bool:
    """Options of one letter run together (``-it``, ``-eA=1``, ``-p=80``); true where help was asked for."""
    letters = word[1:]
    while letters:
        letter, letters = letters[0], letters[1:]
        found = shorts.get(letter)
        if found is None:
            if letter == "h":
                return True
            raise UsageError(f"unknown shorthand flag: '{letter}' in {word}{see}")
        if not found.kind:
            result.switched.add(found.long)
            if letters.startswith("="):
                result.switches[found.long] = _boolean(letters[1:], f"-{letter}, --{found.long}")
                return False
            result.switches[found.long] = True
        elif letters:
            result.values[found.long].append(letters[1:] if letters[0] == "=" else letters)
            return False
        elif rest:
            result.values[found.long].append(rest.pop(0))
        else:
            raise UsageError(f"flag needs an argument: '{letter}' in {word}{see}")
    return False


def _boolean(text: str, name: str) -> bool:
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise UsageError(f'invalid argument "{text}" for "{name}" flag: neither true nor false')
