# Two commands for a fresh Debian 12 or 13 as root: `make run` and `make test`.
# Everything missing is installed, what is there is left alone; a second run takes a second.

VENV   := .venv
PYTHON := $(VENV)/bin/python
CAPSA  := $(VENV)/bin/capsa
PIP    := $(PYTHON) -m pip -qq --disable-pip-version-check

# Launchers are C, see .ci/launcher.
COMPILER      := $(if $(filter x86_64,$(shell uname -m)),tcc,gcc)
RUN_PACKAGES  := python3 python3-venv ca-certificates libseccomp2 nftables libnftables1 mmdebstrap $(COMPILER)
TEST_PACKAGES := busybox-static skopeo docker-registry docker-cli,docker.io docker.io containerd runc crun podman \
                 docker-compose iproute2 procps xz-utils zstd qemu-system-x86 virtiofsd,qemu-system-common cpio kmod \
                 zsh fish bash openssl time e2fsprogs mount systemd dbus iptables criu?
SOURCES := $(shell find src -name '*.py' 2>/dev/null)

.PHONY: setup run stop test bench clean packages test-packages

# Snapshots are made where there are none that fit.
setup: packages $(VENV)/.launcher $(VENV)/.compiled
	@$(PYTHON) -m capsa.runtime.snapshot $(VENV)
	@$(PYTHON) -m capsa.cli.snapshot $(VENV)

packages:
	@.ci/packages $(RUN_PACKAGES)

test-packages:
	@.ci/packages --know linux-image-cloud-amd64 $(TEST_PACKAGES)

# The venv is of Debian's own interpreter: a python3 further up the path may be a version manager's slow shim.
$(PYTHON): | packages
	@/usr/bin/python3 -m venv $(VENV)

# pyproject.toml says what is needed, the lock which versions are known to work together.
$(VENV)/.installed: pyproject.toml requirements-dev.lock | $(PYTHON)
	@echo "installing Python packages into $(VENV)"
	@$(PIP) install --constraint requirements-dev.lock --editable .
	@touch $@

$(VENV)/.tested: pyproject.toml requirements-dev.lock | $(VENV)/.installed
	@echo "installing Python packages for the tests into $(VENV)"
	@$(PIP) install --constraint requirements-dev.lock --editable '.[dev]'
	@.ci/launcher $(VENV)
	@touch $@

$(VENV)/.launcher: .ci/launcher .ci/compile src/capsa/start/launcher.c src/capsa/start/snapshot.py src/capsa/runtime/codec.py $(VENV)/.installed
	@.ci/launcher $(VENV)
	@touch $@

# Start-up time counts, and PYTHONDONTWRITEBYTECODE may be set: compile here.
$(VENV)/.compiled: $(SOURCES) | $(VENV)/.installed
	@$(PYTHON) -m compileall -q src
	@$(PYTHON) -X no_debug_ranges -m capsa.runtime.assembly
	@touch $@

run: setup
	@.ci/demo $(CAPSA)

stop:
	@$(CAPSA) engine stop

test: setup test-packages $(VENV)/.tested
	@$(PYTHON) -m ruff check src tests bench
	@$(PYTHON) -m mypy
	@$(PYTHON) -m pytest $(PYTEST)

bench: setup
	@$(PYTHON) -m bench

clean:
	rm -rf $(VENV) .cache build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find src tests bench -name __pycache__ -type d -exec rm -rf {} +
