"""Control groups v2, for real, in a guest that has nothing else (tests/guest/run.py); each test there is one here.

Among them what containerd sees of them with capsa-runtime: of all callers the guest, which is slow, starts it soonest.
"""

from __future__ import annotations

import pytest
from fixtures import guest

_WATCHED = ("test_pause", "test_metrics", "test_lack_of_memory_is_noticed")
FILES = (
    "tests/guest/cases_v2.py",
    "tests/system/test_cgroup.py",
    *(f"tests/peers/test_runtime_containerd.py::{test}[capsa-runtime]" for test in _WATCHED),
)
GUEST = (FILES,)


@pytest.fixture(scope="module")
def results() -> guest.Results:
    return guest.run(*GUEST)


@pytest.mark.parametrize("test", guest.names(FILES))
def test_on_cgroup_v2(test: str, results: guest.Results) -> None:
    guest.check(test, results)
