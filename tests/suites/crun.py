"""crun's own tests in Python, for capsa-runtime and other runtimes in the same run.

::

    python tests/suites/crun.py CHECKOUT --runtime .venv/bin/capsa-runtime --runtime runc --runtime crun

CHECKOUT is a clone of containers/crun; nothing of it is part of capsa, and nothing is written there: the program that
its containers run is compiled elsewhere (with gcc and a static libc). Needs root. docs/conformance.md has the result.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve()
sys.path[:0] = [str(HERE.parent.parent)]

from suites.side_by_side import Program, compare, options  # noqa: E402

#: What configure would find on a machine like this one.
CONFIG = "#define HAVE_ERROR_H 1\n#define HAVE_LINUX_IOPRIO_H 1\n"
STAND_INS = HERE.parent / "stand_ins"
#: Tests that wait for ever for what a runtime other than crun does not do, so that nothing is known of the others.
ASIDE = {
    "seccomp": ["seccomp-listener"],  # a message of a filter that asks nobody
}
_TESTS = re.compile(r'^ +"([^"]+)" *: *\w+,?$', re.MULTILINE)
#: What only crun has: a word for the cgroup driver, and a configuration that need not be the bundle's.
WORDS = """
for word; do
    shift
    case "$before $word" in
        *" --cgroup-manager" | *" --config") ;;
        "--cgroup-manager cgroupfs" | "--config config.json") ;;
        "--cgroup-manager systemd") set -- "$@" --systemd-cgroup ;;
        "--cgroup-manager "* | "--config "*) set -- "$@" "$before" "$word" ;;
        *) set -- "$@" "$word" ;;
    esac
    before=$word
done
"""


def init(checkout: Path, folder: Path) -> Path:
    """Compile the program that the containers run."""
    (folder / "config.h").write_text(CONFIG)
    words = ["gcc", "-static", "-O1", "-D_GNU_SOURCE", "-w", f"-I{folder}", "-o", folder / "init"]
    subprocess.run([*words, checkout / "tests" / "init.c"], check=True)
    return folder / "init"


def program(path: Path) -> Program:
    """The tests of one file."""
    name = path.stem.removeprefix("test_")
    command = [sys.executable, "-B", "-u", path]
    if name not in ASIDE:
        return Program(name, command)
    wanted = [each for each in _TESTS.findall(path.read_text()) if each not in ASIDE[name]]
    return Program(name, ["env", f"RUN_TESTS={' '.join(wanted)}", *command])


def main() -> int:
    """Run them; 1 if the first runtime fails in what another one passes."""
    chosen = options("crun's tests against OCI runtimes").parse_args()
    chosen.checkout = chosen.checkout.resolve()
    programs = [program(path) for path in sorted(chosen.checkout.glob("tests/test_*.py"))]
    if not programs:
        sys.exit(f"there are no tests/test_*.py in {chosen.checkout}")
    with tempfile.TemporaryDirectory(prefix="capsa-suite-init-") as folder:
        inner = init(chosen.checkout, Path(folder))
        return compare(
            chosen,
            programs,
            lambda runtime: {"OCI_RUNTIME": str(runtime.script), "INIT": str(inner), "PYTHONPATH": str(STAND_INS)},
            inside=True,
            cgroups=["test"],
            script={"crun": "", "": WORDS},
        )


if __name__ == "__main__":
    sys.exit(main())
