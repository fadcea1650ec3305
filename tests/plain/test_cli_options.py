"""The command line is taken apart as docker's is."""

from __future__ import annotations

import subprocess
import sys

import pytest

from capsa.cli.create_request import build
from capsa.cli.main import GROUPS, VERBS, command, status
from capsa.cli.options import UsageError
from capsa.cli.run import COMMANDS

RUN = COMMANDS["run"]


def parsed(*argv):
    options = RUN.parse(argv)
    assert options is not None
    return options


def body(*argv):
    return build(parsed(*argv))


def test_letters_run_together_and_values_stick_to_them():
    options = parsed("-it", "-p80:80", "-eFOO=1", "-e", "BAR=2", "--name=x", "-w=/tmp", "image")
    assert options.switch("interactive")
    assert options.switch("tty")
    assert options.all("publish") == ["80:80"]
    assert options.all("env") == ["FOO=1", "BAR=2"]
    assert options.text("name") == "x"
    assert options.text("workdir") == "/tmp"
    assert options.arguments == ["image"]


def test_a_letter_with_a_value_may_end_a_row():
    options = parsed("-ditu", "nobody", "image")
    assert options.switch("detach")
    assert options.text("user") == "nobody"


def test_options_after_the_image_are_the_programs():
    options = parsed("image", "ls", "-l", "--rm", "--", "--help")
    assert options.arguments == ["image", "ls", "-l", "--rm", "--", "--help"]
    assert not options.switch("rm")


def test_two_dashes_end_the_options():
    assert parsed("--", "image", "-x").arguments == ["image", "-x"]


def test_switches_take_a_value_only_with_an_equals_sign():
    assert not parsed("--sig-proxy=false", "image").switch("sig-proxy")
    assert parsed("image").switch("sig-proxy")
    assert parsed("--rm", "false").arguments == ["false"]
    assert not parsed("-t=false", "image").switch("tty")


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["--foo"], "unknown flag: --foo"),
        (["-Z"], "unknown shorthand flag: 'Z' in -Z"),
        (["-tZ"], "unknown shorthand flag: 'Z' in -tZ"),
        (["--name"], "flag needs an argument: --name"),
        (["-it", "-e"], "flag needs an argument: 'e' in -e"),
        (["--rm=maybe", "image"], 'invalid argument "maybe" for "--rm" flag'),
    ],
)
def test_what_cannot_be_understood_is_said_with_dockers_words_and_125(argv, text, capsys):
    with pytest.raises(UsageError) as raised:
        RUN.parse(argv)
    assert str(raised.value).startswith(text)
    assert raised.value.code == 125
    assert status(["run", *argv]) == 125
    assert capsys.readouterr().err.startswith(f"capsa: {text}")


def test_too_few_and_too_many_arguments():
    with pytest.raises(UsageError, match='"capsa run" requires at least 1 argument'):
        RUN.parse([])
    assert status(["rm"]) == 1
    assert status(["tag", "one"]) == 1
    assert status(["logs", "a", "b"]) == 1
    assert status(["ps", "surplus"]) == 1


def test_an_unknown_verb(capsys):
    assert status(["dance"]) == 1
    assert "unknown command: capsa dance" in capsys.readouterr().err


def test_every_verb_has_help_and_no_option_twice(capsys):
    words = [[verb] for verb in VERBS] + [[group, verb] for group, verbs in GROUPS.items() for verb in verbs]
    for path in words:
        found, used = command(path)
        assert found is not None, path
        assert used == len(path)
        longs = [option.long for option in found.options()]
        shorts = [option.short for option in found.options() if option.short]
        assert len(set(longs)) == len(longs), path
        assert len(set(shorts)) == len(shorts), path
        assert status([*path, "--help"]) == 0
        assert capsys.readouterr().out.startswith("Usage:  capsa ")


def test_every_declared_option_of_run_is_read_by_someone():
    """An option that is accepted has to do something: each shows in the request, or is used by name in the verb."""
    import inspect

    from capsa.cli import create_request, endpoints, resources, run

    source = "".join(inspect.getsource(module) for module in (create_request, endpoints, resources, run))
    for option in RUN.options():
        assert f'"{option.long}"' in source, f"--{option.long} is accepted and ignored"


def test_the_request_of_a_run():
    request = body(
        *(
            "--rm",
            "-i",
            "-h",
            "box",
            "-u",
            "1:2",
            "-w",
            "/w",
            "--entrypoint",
            "/e",
            "-l",
            "a=b",
            "-l",
            "c",
            "-m",
            "64m",
        ),
        *("--cpus", "1.5", "--restart", "on-failure:3", "--ulimit", "nofile=10:20", "--device", "/dev/null:/dev/x:r"),
        *("--pids-limit", "5", "--stop-timeout", "0", "--stop-signal", "INT", "--init", "--network", "none"),
        *("--log-opt", "max-size=1m", "--shm-size", "1g", "--memory-swap", "-1", "--sysctl", "net.a=1", "--read-only"),
        *("image", "sh", "-c", "true"),
    )
    assert request["Image"] == "image"
    assert request["Cmd"] == ["sh", "-c", "true"]
    assert (request["Hostname"], request["User"], request["WorkingDir"]) == ("box", "1:2", "/w")
    assert request["Entrypoint"] == ["/e"]
    assert request["Labels"] == {"a": "b", "c": ""}
    assert (request["StopTimeout"], request["StopSignal"]) == (0, "INT")
    assert request["AttachStdin"] and request["AttachStdout"] and request["AttachStderr"] and request["StdinOnce"]
    host = request["HostConfig"]
    assert host["AutoRemove"] and host["Init"] and host["ReadonlyRootfs"]
    assert (host["Memory"], host["MemorySwap"], host["NanoCpus"], host["ShmSize"]) == (
        64 << 20,
        -1,
        1_500_000_000,
        1 << 30,
    )
    assert host["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 3}
    assert host["Ulimits"] == [{"Name": "nofile", "Soft": 10, "Hard": 20}]
    assert host["Devices"] == [{"PathOnHost": "/dev/null", "PathInContainer": "/dev/x", "CgroupPermissions": "r"}]
    assert host["LogConfig"] == {"Type": "json-file", "Config": {"max-size": "1m"}}
    assert (host["PidsLimit"], host["NetworkMode"], host["Sysctls"]) == (5, "none", {"net.a": "1"})


def test_detached_attaches_nothing():
    request = body("-d", "-i", "image")
    assert not (request["AttachStdin"] or request["AttachStdout"] or request["AttachStderr"] or request["StdinOnce"])
    assert request["OpenStdin"]


def test_environment_comes_from_options_files_and_ones_own(monkeypatch, tmp_path):
    monkeypatch.setenv("MINE", "from here")
    monkeypatch.delenv("ABSENT", raising=False)
    file = tmp_path / "env"
    file.write_text("# a comment\n\nA=1\nMINE\nABSENT\nB=x=y z\n")
    assert body("--env-file", str(file), "-e", "MINE", "-e", "ABSENT", "-e", "C=", "image")["Env"] == [
        "A=1",
        "MINE=from here",
        "B=x=y z",
        "MINE=from here",
        "ABSENT",  # takes the image's away
        "C=",
    ]


@pytest.mark.parametrize(
    "argv",
    [
        ["-e", "=x", "image"],
        ["--env-file", "/nowhere/at/all", "image"],
        ["-m", "lots", "image"],
        ["--cpus", "many", "image"],
        ["--restart", "sometimes", "image"],
        ["--restart", "always:3", "image"],
        ["--ulimit", "nofile", "image"],
        ["--ulimit", "nofile=x", "image"],
        ["--pids-limit", "x", "image"],
        ["--device", "a:b:c:d", "image"],
        ["-a", "stdfoo", "image"],
        ["-d", "-a", "stdout", "image"],
        ["--security-opt", "seccomp=/nowhere/at/all", "image"],
        ["--health-interval", "soon", "image"],
        ["--device-read-bps", "/dev/sda", "image"],
        ["--device-read-iops", "/dev/sda:fast", "image"],
    ],
)
def test_values_that_make_no_sense_are_refused_with_125(argv, capsys):
    assert status(["run", *argv]) == 125
    said = capsys.readouterr().err
    assert said.startswith("capsa: ")
    assert "Traceback" not in said


def test_a_verb_loads_little():
    """What `capsa run` imports before it speaks with the engine decides how long it takes."""
    code = (
        "import sys; from capsa.cli.main import command; command(['run']);"
        "import capsa.cli.client, capsa.cli.streams, capsa.cli.terminal, capsa.cli.create_request;"
        "heavy = {'asyncio', 'aiohttp', 'msgspec', 'rich', 'ssl', 'http.client', 'subprocess', 'argparse',"
        "'dataclasses', 'typing', 'urllib.parse', 'pathlib', 'inspect', 'csv',"
        "'capsa.engine', 'capsa.image.reference', 'capsa.sys'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path[:0] = {sys.path!r}; {code}"],
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
