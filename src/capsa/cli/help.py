"""The texts of ``--help`` above the single verb."""

from __future__ import annotations

from capsa.cli.main import GLOBAL_OPTIONS, GROUP_SUMMARIES, GROUPS, VERBS, command


def _listing(pairs: list[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in pairs)
    return "\n".join(f"  {name:{width}}  {text}" for name, text in pairs)


def _summary(*words: str) -> str:
    found, _ = command(words)
    return found.summary if found else ""


def overview() -> str:
    """All verbs with what they do."""
    verbs = [(name, _summary(name)) for name in sorted(VERBS) if name not in GROUPS]
    groups = [(name, GROUP_SUMMARIES[name]) for name in sorted(GROUPS)]
    return (
        "Usage:  capsa [OPTIONS] COMMAND\n\nOCI containers as sub-inits\n\n"
        f"Commands:\n{_listing(verbs)}\n\nManagement commands:\n{_listing(groups)}\n\n"
        f"Global options:\n{GLOBAL_OPTIONS.strip(chr(10))}\n\n"
        "Run 'capsa COMMAND --help' for more information on a command."
    )


def group(name: str) -> str:
    """The verbs of a group."""
    verbs = [(verb, _summary(name, verb)) for verb in sorted(GROUPS[name])]
    return (
        f"Usage:  capsa {name} COMMAND\n\n{GROUP_SUMMARIES[name]}\n\nCommands:\n{_listing(verbs)}\n\n"
        f"Run 'capsa {name} COMMAND --help' for more information on a command."
    )
