"""``capsa completion SHELL``: what bash, zsh and fish need to complete verbs, options and names.

The scripts call the hidden form ``capsa completion words WORD...``, which prints the candidates for the last
word, one a line. Names come from the engine; where none answers, none is started.
"""

from __future__ import annotations

import os

from capsa.cli.client import Engine
from capsa.cli.context import DEFAULT_HOST, Context
from capsa.cli.main import GLOBAL_OPTIONS, GROUPS, VERBS, command
from capsa.cli.options import Command, Option, Options, UsageError
from capsa.errors import CapsaError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_SCRIPTS = {
    "bash": """\
# bash completion for capsa: source <(capsa completion bash)
_capsa() {
    local IFS=$'\\n' word
    COMPREPLY=()
    for word in $(capsa completion words "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null); do
        COMPREPLY+=("$word")
    done
    # bash takes NAME:TAG for two words: what is before the last colon is there already.
    local current=${COMP_WORDS[COMP_CWORD]}
    if declare -F __ltrim_colon_completions >/dev/null; then
        __ltrim_colon_completions "$current"
    fi
}
complete -o default -F _capsa capsa
""",
    "zsh": """\
#compdef capsa
# zsh completion for capsa: source <(capsa completion zsh)
_capsa() {
    local -a candidates
    candidates=("${(@f)$(capsa completion words "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    if (( ${#candidates} )) && [[ -n ${candidates[1]} ]]; then
        compadd -- "${candidates[@]}"
    else
        _files
    fi
}
if [ "$funcstack[1]" = "_capsa" ]; then
    _capsa "$@"
else
    compdef _capsa capsa
fi
""",
    "fish": """\
# fish completion for capsa: capsa completion fish | source
function __capsa_words
    set -l words (commandline -opc) (commandline -ct)
    capsa completion words $words[2..-1] 2>/dev/null
end
complete -c capsa -f -a '(__capsa_words)'
""",
}


def _completion(context: Context, options: Options) -> int:
    shell, *words = options.arguments
    if shell == "words":
        print(*candidates(context, words), sep="\n")
        return 0
    if shell not in _SCRIPTS or words:
        raise UsageError(f"no completion for {shell} (there is one for {', '.join(_SCRIPTS)})", 1)
    print(_SCRIPTS[shell], end="")
    return 0


def candidates(context: Context, words: Sequence[str]) -> list[str]:
    """What the last of ``words`` may become; the words before it are what was typed after ``capsa``."""
    *before, current = words or [""]
    before, host = _without_globals(before)
    if not before:
        if current.startswith("-"):
            return _beginning(_names(_globals()), current)
        return _beginning([*VERBS, *GROUPS], current)
    if len(before) == 1 and before[0] in GROUPS and (before[0] not in VERBS or not current.startswith("-")):
        return _beginning(GROUPS[before[0]], current)
    found, used = command(before)
    if found is None:
        return []
    declared = found.options()
    if current.startswith("-"):
        return _beginning([*_names(declared), "--help"], current)
    if _value_wanted(declared, before[used:]):
        return []
    if found.completes in _SOURCES and not _inner(found, declared, before[used:]):
        return _beginning(_ask(host or context.host, found.completes), current)
    return _beginning(found.completes.split(), current) if found.completes not in _SOURCES else []


def _globals() -> list[Option]:
    return [Option(line) for line in GLOBAL_OPTIONS.strip("\n").splitlines()]


def _without_globals(words: Sequence[str]) -> tuple[list[str], str | None]:
    """The words from the verb on, and the engine that the options before it name."""
    rest, host = list(words), None
    takes = {f"--{option.long}" for option in _globals() if option.kind} | {"-H"}
    while rest and rest[0].startswith("-"):
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if name in takes and not equals:
            value = rest.pop(0) if rest else ""
        if name in ("-H", "--host"):
            host = value
    return rest, host


def _names(declared: Iterable[Option]) -> list[str]:
    return [f"--{option.long}" for option in declared]


def _beginning(names: Iterable[str], with_: str) -> list[str]:
    return sorted({name for name in names if name.startswith(with_)})


def _value_wanted(declared: Sequence[Option], words: Sequence[str]) -> bool:
    """Whether the word to come is the value of the option before it."""
    if not words or not words[-1].startswith("-") or "=" in words[-1]:
        return False
    last = words[-1]
    for option in declared:
        if option.kind and (
            last == f"--{option.long}" or (option.short and last[1:2] != "-" and last.endswith(option.short))
        ):
            return True
    return False


def _inner(found: Command, declared: Sequence[Option], words: Sequence[str]) -> bool:
    """Whether the word to come belongs to the program in the container (run, exec)."""
    if found.interspersed:
        return False
    takes = {f"--{option.long}" for option in declared if option.kind}
    takes |= {f"-{option.short}" for option in declared if option.kind and option.short}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            return True
        if word in takes and rest:
            rest.pop(0)
    return False


_SOURCES = {
    "containers": "/containers/json?all=1",
    "running": "/containers/json",
    "images": "/images/json",
    "networks": "/networks",
    "volumes": "/volumes",
}


def _ask(host: str, what: str) -> list[str]:
    if host == DEFAULT_HOST and not os.path.exists(host.removeprefix("unix://")):
        return []
    try:
        answer = Engine(Context(host)).call("GET", _SOURCES[what])
    except CapsaError:
        return []
    if what == "volumes":
        return [str(volume["Name"]) for volume in answer["Volumes"] or []]
    if what == "networks":
        return [str(network["Name"]) for network in answer]
    if what == "images":
        return [str(tag) for image in answer for tag in image.get("RepoTags") or []]
    return [str(name).lstrip("/") for container in answer for name in container["Names"]]


COMMANDS = {
    "completion": Command(
        "completion",
        "bash|zsh|fish",
        "Print a script that completes this command in a shell",
        "",
        _completion,
        least=1,
        interspersed=False,
        completes="bash zsh fish",
    ),
}
