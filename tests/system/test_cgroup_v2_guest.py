"""Control groups v2, for real, in a guest that has nothing else (tests/guest/run.py); each test there is one here."""

from __future__ import annotations

import pytest
from fixtures import guest

FILES = ("tests/guest/cases_v2.py", "tests/system/test_cgroup.py")
GUEST = (FILES,)


@pytest.fixture(scope="module")
def results() -> guest.Results:
    return guest.run(*GUEST)


@pytest.mark.parametrize("test", guest.names(FILES))
def test_on_cgroup_v2(test: str, results: guest.Results) -> None:
    guest.check(test, results)
