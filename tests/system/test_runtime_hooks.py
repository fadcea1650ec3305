"""capsa-runtime and hooks (config.md, POSIX-platform Hooks; runtime.md, Lifecycle)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from fixtures.bundle import NEEDS, spec, with_process
from fixtures.runtime import RuntimeUnderTest, runtime

from capsa.oci.runtime import Hook, Hooks

pytestmark = NEEDS
KINDS = {
    "prestart": "prestart",
    "createRuntime": "create_runtime",
    "createContainer": "create_container",
    "startContainer": "start_container",
    "poststart": "poststart",
    "poststop": "poststop",
}


@pytest.fixture
def oci(tmp_path: Path) -> Iterator[RuntimeUnderTest]:
    with runtime(tmp_path) as made:
        yield made


def hook(script: str, env: list[str] | None = None) -> Hook:
    return Hook(path="/bin/sh", args=["sh", "-c", f'PATH="${{PATH-/usr/bin}}:/usr/bin:/bin"; {script}'], env=env)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "poststop"])
def test_a_hook_that_fails_takes_the_container_down(oci: RuntimeUnderTest, kind: str) -> None:
    after = hook(f"cat >{oci.base}/after")
    wanted = Hooks(
        **{KINDS[kind]: [hook("echo no luck >&2; exit 3"), hook(f"touch {oci.base}/second")]}, poststop=[after]
    )
    oci.write(msgspec.structs.replace(spec("sleep 1000"), hooks=wanted))
    if kind in ("startContainer", "poststart"):
        oci.create()
        done = oci("start", "box", check=False)
    else:
        done = oci("create", "box", check=False)
    assert done.returncode == 1 and f"{kind} hook 0 (/bin/sh) failed: exit status 3: no luck" in done.stderr
    assert oci.status() == "gone" and not oci.traces()
    assert '"status":"stopped"' in (oci.base / "after").read_text()
    assert not (oci.base / "second").exists()
    oci.write(msgspec.structs.replace(spec("sleep 1000"), hooks=wanted))
    assert oci("run", "box", check=False).returncode == 1
    assert oci.status() == "gone" and not oci.traces()


def test_a_poststop_hook_that_fails_is_warned_of_and_the_next_one_runs(oci: RuntimeUnderTest) -> None:
    wanted = Hooks(poststop=[hook("exit 3"), hook(f"touch {oci.base}/second")])
    oci.write(msgspec.structs.replace(spec(), hooks=wanted))
    log = oci.base / "log"
    assert oci("--log", str(log), "run", "box").stderr == ""  # that is the container's
    assert "level=warning" in log.read_text() and "poststop hook 0" in log.read_text()
    assert (oci.base / "second").exists()


def test_where_hooks_run_and_with_what_environment(oci: RuntimeUnderTest) -> None:
    (oci.root / "hooks").mkdir()
    hooks: dict[str, list[Hook]] = {}
    for kind, field in KINDS.items():
        place = "/hooks" if kind == "startContainer" else str(oci.base)
        hooks[field] = [
            hook(f'echo "$(pwd) $MARK" >{place}/{kind}'),
            hook(f'echo "$MARK $OWN" >>{place}/{kind}', env=["OWN=own"]),
        ]
    base = with_process(spec(), env=["PATH=/bin", "MARK=container"])
    oci.write(msgspec.structs.replace(base, hooks=Hooks(**hooks)))
    oci("run", "box", cwd=oci.bundle, env={"PATH": "/usr/bin:/bin", "MARK": "runtime"})
    for kind in KINDS:
        inside = kind == "startContainer"
        found = ((oci.root / "hooks" if inside else oci.base) / kind).read_text()
        mark = "container" if kind in ("createContainer", "startContainer") else "runtime"
        assert found == f"{'/' if inside else oci.bundle} {mark}\n own\n", kind


def test_before_the_pivot_a_hook_finds_the_containers_mounts_where_its_root_is(oci: RuntimeUnderTest) -> None:
    look = hook(f"test -e {oci.root}/proc/self/status && test ! -e rootfs/proc/self/fd/77 && mount >{oci.base}/mounts")
    change = hook("echo made it >rootfs/dev/shm/by-a-hook")
    wanted = Hooks(create_container=[look, change])
    oci.write(msgspec.structs.replace(spec("cat /dev/shm/by-a-hook"), hooks=wanted))
    assert oci("run", "box").stdout == "made it\n"
    assert f"proc on {oci.root}/proc " in (oci.base / "mounts").read_text()


def test_what_is_no_hook_is_refused(oci: RuntimeUnderTest) -> None:
    for wrong, said in ((Hook(path="true"), "has to be absolute"), (Hook(path="/bin/true", timeout=0), "more than 0")):
        oci.write(msgspec.structs.replace(spec(), hooks=Hooks(poststop=[wrong])))
        done = oci("create", "box", check=False)
        assert done.returncode == 1 and said in done.stderr
        assert not oci.traces()
