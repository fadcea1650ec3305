"""The integration tests that docker-py brings along, against capsa: ``python tests/suites/docker_py.py CHECKOUT``.

CHECKOUT is a clone of docker-py's repository; nothing of it is part of capsa. The engine, its images and a stand-in for
Docker's registry are made on this machine, so no registry is needed; docker-py and what its tests import come from PyPI
into ``.cache/docker-py``. Further arguments are pytest's (``-k network``). Needs root, Debian's busybox-static,
docker-registry, openssl. docs/conformance.md has the result.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve()
sys.path[:0] = [str(HERE.parent.parent)]

from fixtures import images  # noqa: E402
from fixtures.engine import EngineUnderTest  # noqa: E402
from fixtures.registry import free_port, registry  # noqa: E402
from suites.hub import hub, world  # noqa: E402

CACHE = HERE.parents[2] / ".cache" / "docker-py"
#: Whole files about what is an issue of its own, or about the client alone.
ASIDE = [
    "api_build",
    "api_config",
    "api_plugin",
    "api_secret",
    "api_service",
    "api_swarm",
    "context_api",
    "models_nodes",
    "models_services",
    "models_swarm",
]
#: Single tests that build, or that turn swarm mode on.
ALSO_ASIDE = "not test_build and not network_attachable and not network_ingress and not network_with_scope"
OVER_TCP = "test_run_container_reading_socket_ws"


def python(checkout: Path) -> Path:
    """An interpreter that has what the suite imports."""
    if not (CACHE / "installed").exists():
        shutil.rmtree(CACHE, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", CACHE], check=True)
        environment = {**os.environ, "SETUPTOOLS_SCM_PRETEND_VERSION": "7"}
        wanted = [f"{checkout}[ssh,websockets]", "pytest<8", "pytest-timeout"]
        subprocess.run([CACHE / "bin/pip", "install", "-q", *wanted], env=environment, check=True)
        (CACHE / "installed").touch()
    return CACHE / "bin/python"


def fill(engine: EngineUnderTest) -> None:
    """Make the images that the suite names, and give the registry those that it pulls."""
    busybox = shutil.which("busybox", path="/bin:/usr/bin")
    if busybox is None:
        sys.exit("needs Debian's busybox-static")
    base = images.busybox_layer(busybox)
    accounts = b"root:x:0:0:root:/root:/bin/sh\npostgres:x:70:70::/:/bin/sh\n"
    alpine = images.layer({"etc/passwd": accounts, "etc/group": b"root:x:0:\npostgres:x:70:\n", "var/opt/.keep": b""})
    for layers, tags, config in (
        ([base], ["busybox:latest"], {}),
        ([base, alpine], ["alpine:3.10", "alpine:latest"], {}),
        ([base, images.layer({"hello": b""})], ["hello-world:latest"], {"Cmd": ["echo", "Hello from Docker!"]}),
    ):
        engine.load(images.docker_archive(layers, tags, config))
        for tag in tags:
            status, answer = engine.api("POST", f"/images/{tag}/push")
            assert status == 200 and b"error" not in answer, answer


def main() -> int:
    """Run it; pytest's exit code."""
    parser = argparse.ArgumentParser(description="docker-py's integration tests against capsa")
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--api", default="1.45", help="the version of the API to speak")
    chosen, rest = parser.parse_known_args()
    interpreter = python(chosen.checkout)
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="capsa-suite-") as name, registry(Path(name) / "registry") as behind:
        base = Path(name)
        with hub(base / "hub", behind) as authority:
            engine = EngineUnderTest(base / "engine", ("--host", f"tcp://127.0.0.1:{port}", "--tls=false"))
            engine.base.mkdir()
            engine.prefix = world(base)
            os.environ["SSL_CERT_FILE"] = str(authority)
            engine.up()
            try:
                fill(engine)
                environment = {**engine.environment(), "DOCKER_TEST_API_VERSION": chosen.api}
                aside = [f"--ignore=tests/integration/{each}_test.py" for each in ASIDE]
                aside.append("--ignore=tests/integration/credentials")
                command = [interpreter, "-m", "pytest", "-q", "--timeout=120", "tests/integration", *aside]
                expression = f"{ALSO_ASIDE} and not {OVER_TCP}"
                first = subprocess.run([*command, "-k", expression, *rest], cwd=chosen.checkout, env=environment)
                environment["DOCKER_HOST"] = f"tcp://127.0.0.1:{port}"
                second = subprocess.run([*command, "-k", OVER_TCP], cwd=chosen.checkout, env=environment)
                return first.returncode or second.returncode
            finally:
                engine.close()


if __name__ == "__main__":
    sys.exit(main())
