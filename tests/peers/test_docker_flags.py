"""Every verb and every option of the real docker client is there in capsa, or is refused for a reason."""

from __future__ import annotations

import re
import subprocess

import pytest

from capsa.cli.absent import sentence
from capsa.cli.main import GLOBAL_OPTIONS, GROUPS, REFUSED, status
from capsa.cli.main import command as find
from capsa.cli.options import Option

#: Options of docker that capsa does not have, nor refuses by name: each is another way to say what there is a way for.
LEFT_OUT = {
    "run --help": "help is asked for with --help of every verb",
    "create --help": "help is asked for with --help of every verb",
    "version --kubeconfig": "docker's own clients know it no more",
}
_GROUPS = ("container", "image", "network", "system", "volume")
_OPTION = re.compile(r"^ {2}(?:-(\w), |    )--([\w-]+)")
_COMMAND = re.compile(r"^ {2}([a-z-]+)\*? {2,}\S")


def said(*words):
    done = subprocess.run(["docker", *words, "--help"], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout


def verbs(text):
    """Commands that a help text lists."""
    found, listed = [], False
    for line in text.splitlines():
        if line and not line.startswith(" "):
            listed = line.strip().endswith("Commands:")
        elif listed and (match := _COMMAND.match(line)):
            found.append(match[1])
    return found


def flags(text):
    """Options that a help text lists: the short form (or nothing) by the long one."""
    found, listed = {}, False
    for line in text.splitlines():
        if line and not line.startswith(" "):
            listed = line.strip().endswith("ptions:")
        elif listed and (match := _OPTION.match(line)):
            found[match[2]] = match[1] or ""
    return found


@pytest.fixture(scope="module")
def commands(docker_client):
    """All commands of docker that are no groups, in one word or two."""
    top = [name for name in verbs(said()) if name not in GROUPS]
    assert {"run", "ps", "stats", "update"} <= set(top)
    groups = {name: verbs(said(name)) for name in _GROUPS}
    assert "prune" in groups["system"]
    return [[name] for name in top] + [[group, name] for group, names in groups.items() for name in names]


def test_each_verb_is_there_or_says_why_not(commands):
    unknown = [
        " ".join(words) for words in commands if not exists(words) and sentence(*words).startswith("unknown command")
    ]
    assert unknown == []


def exists(words):
    return (len(words) == 1 or words[1] in GROUPS[words[0]]) and find(words)[0] is not None


def test_each_option_is_there_under_the_same_names_or_says_why_not(commands):
    missing = []
    for words in commands:
        if not exists(words):
            continue
        name = " ".join(words)
        ours, _ = find(words)
        declared = {option.long: option.short for option in ours.options()}
        for long, short in flags(said(*words)).items():
            if long in ours.refused or f"{words[-1]} --{long}" in LEFT_OUT:
                assert long not in declared, f"{name} --{long} is both there and refused"
            elif long not in declared:
                missing.append(f"{name} --{long}")
            elif short and short not in declared.values():
                missing.append(f"{name} -{short}, --{long}")
    assert missing == []


def test_the_options_before_the_verb(docker_client):
    declared = [Option(line) for line in GLOBAL_OPTIONS.strip("\n").splitlines()]
    assert set(flags(said())) - {option.long for option in declared} == set(REFUSED)


@pytest.mark.parametrize(
    "argv",
    [
        ["build", "."],
        ["buildx", "ls"],
        ["builder", "prune"],
        ["compose", "up"],
        ["context", "ls"],
        ["image", "build", "."],
        ["swarm", "init"],
        ["service", "ls"],
        ["plugin", "ls"],
        ["volume", "update", "x"],
        ["run", "--cpu-count=1", "busybox"],
        ["volume", "create", "--availability=active"],
        ["images", "--tree"],
        ["start", "--checkpoint=x", "box"],
        ["--debug", "ps"],
        ["nosuch"],
        ["container", "nosuch"],
    ],
)
def test_what_is_not_there_is_one_sentence(argv, capsys):
    assert status(argv) in (1, 125)
    text = capsys.readouterr().err
    assert text.startswith("capsa: ")
    assert len(text.splitlines()) <= 2
    assert "Traceback" not in text
