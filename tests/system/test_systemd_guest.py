"""``--systemd-cgroup`` and ``checkpoint`` in a guest with this machine's systemd; each test there is one here."""

from __future__ import annotations

import os
import shutil

import pytest
from fixtures import guest

FILES = ("tests/guest/cases_systemd.py", "tests/guest/cases_criu.py")
GUEST = (FILES, "--systemd")
NEEDED = {"systemd": "/lib/systemd/systemd", "dbus": "/usr/bin/dbus-daemon"}


@pytest.fixture(scope="module")
def results() -> guest.Results:
    missing = [package for package, path in NEEDED.items() if not os.access(path, os.X_OK)]
    if missing or shutil.which("busctl") is None:
        pytest.skip(f"needs Debian's {' and '.join(missing or ['systemd'])}")
    return guest.run(*GUEST)


@pytest.mark.parametrize("test", guest.names(FILES))
def test_with_systemd(test: str, results: guest.Results) -> None:
    guest.check(test, results)
