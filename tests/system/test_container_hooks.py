"""Hooks: order, state on stdin, failure, time-outs."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest
from fixtures import bundle as b
from fixtures.bundle import Bundle, spec

from capsa.errors import LaunchFailed
from capsa.oci.runtime import (
    Hook,
    Hooks,
    State,
)
from capsa.platform.linux import container

pytestmark = b.NEEDS


def hook(word: str, place: Path, script: str = "true") -> Hook:
    """One that notes that it ran, and keeps what it was told."""
    script = f"echo {word} >> {place}/order; cat > {place}/{word}; {script}"
    return Hook(path="/bin/sh", args=["sh", "-c", script], env=["PATH=/usr/bin:/bin"])


def told(place: Path, word: str) -> State:
    return msgspec.json.decode((place / word).read_bytes(), type=State)


def test_hooks_run_in_order_with_the_state_on_stdin(box: Bundle, tmp_path: Path) -> None:
    place, inner = tmp_path / "hooks", box.root / "hooks"
    place.mkdir()
    inner.mkdir()
    wanted = Hooks(
        prestart=[hook("prestart", place, f"readlink /proc/self/ns/mnt > {place}/outside")],
        create_runtime=[hook("createRuntime", place), hook("again", place)],
        create_container=[hook("createContainer", place, f"readlink /proc/self/ns/mnt > {place}/inside")],
        start_container=[hook("startContainer", Path("/hooks"))],
        poststart=[hook("poststart", place)],
        poststop=[hook("poststop", place)],
    )
    base = msgspec.structs.replace(spec("true"), hooks=wanted, annotations={"a": "b"})

    def order() -> list[str]:
        return (place / "order").read_text().split()

    before = ["prestart", "createRuntime", "again", "createContainer"]
    with box.created(base) as (birth, _, _):
        assert order() == before
        assert not (inner / "order").exists()
        birth.start()
        assert b.wait(birth.pid) == 0
        assert order() == [*before, "poststart"]
        assert (inner / "order").read_text() == "startContainer\n"
        pid = birth.pid
    assert container.ended(base, id="box", bundle=box.path) == []
    assert order() == [*before, "poststart", "poststop"]
    states = {word: told(place, word) for word in order()} | {"startContainer": told(inner, "startContainer")}
    assert {word: state.status for word, state in states.items()} == {
        **dict.fromkeys(before, "creating"),
        "startContainer": "created",
        "poststart": "running",
        "poststop": "stopped",
    }
    for word, state in states.items():
        assert (state.id, state.bundle, state.annotations) == ("box", str(box.path), {"a": "b"})
        inside = word in (
            "createContainer",
            "startContainer",
        )  # then it is as the container sees it (runtime.md, State)
        assert state.pid == (0 if word == "poststop" else 1 if inside else pid)
    own = os.readlink("/proc/self/ns/mnt")
    assert (place / "outside").read_text().strip() == own != (place / "inside").read_text().strip()


@pytest.mark.parametrize("kind", ["prestart", "create_runtime", "create_container", "start_container", "poststart"])
def test_a_failing_hook_ends_the_container(box: Bundle, kind: str) -> None:
    bad = Hook(path="/bin/sh", args=["sh", "-c", "echo no luck >&2; exit 3"], env=["PATH=/bin"])
    base = msgspec.structs.replace(spec("sleep 60"), hooks=Hooks(**{kind: [bad]}))
    with pytest.raises(LaunchFailed, match=r"hook 0 \(/bin/sh\) failed: exit status 3: no luck"):
        box.run(base)


def test_a_hook_that_takes_too_long_is_killed(box: Bundle) -> None:
    slow = Hook(path="/bin/sleep", args=["sleep", "60"], timeout=1)
    with pytest.raises(LaunchFailed, match="longer than 1 s"):
        box.run(msgspec.structs.replace(spec(), hooks=Hooks(create_runtime=[slow])))
    with pytest.raises(LaunchFailed, match="no such file"):
        box.run(msgspec.structs.replace(spec(), hooks=Hooks(create_runtime=[Hook(path="/no/such")])))


def test_trouble_after_the_end_is_told_and_the_other_hooks_run(box: Bundle, tmp_path: Path) -> None:
    wanted = Hooks(poststop=[Hook(path="/bin/false"), hook("ran", tmp_path)])
    trouble = container.ended(msgspec.structs.replace(spec(), hooks=wanted), id="box", bundle=box.path)
    assert len(trouble) == 1
    assert "/bin/false" in trouble[0]
    assert (tmp_path / "ran").exists()
