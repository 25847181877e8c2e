# Pallet's development targets. `make` alone lists them.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup setup-dev run test check unit root e2e vm-test conformance bench fmt lock protos clean

# Debian's own interpreter starts faster than a self-built one, so it is preferred when new enough.
PYTHON ?= $(shell for p in /usr/bin/python3 python3 python3.13 python3.12 python3.11; do \
	command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && \
	{ echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# Workers take whole files, in the order that tests/conftest.py gives them.
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.run ## virtual environment and what running Pallet needs from the host

setup-dev: $(VENV)/.dev ## the same plus what the tests need

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "Pallet needs Python 3.11 or later (Debian package python3)"; exit 1; }
	@$(PYTHON) tools/host.py run || { echo "then run make again"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: requirements.lock pyproject.toml | $(VENV)/bin/python
	@$(PYTHON) tools/host.py run
	$(PIP) install --require-hashes -r requirements.lock
	$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.run
	@$(PYTHON) tools/host.py test
	$(PIP) install --require-hashes -r requirements-dev.lock
	@$(PYTHON) tools/peers.py
	@touch $@

run: setup ## the main job: pull an image from a registry and run a container from it
	@$(BIN)/python tools/first_run.py

test: setup-dev check ## everything: check, then all the tests
	@$(PYTHON) tools/host.py test
	@$(PYTHON) tools/peers.py
	$(PYTEST) -q tests

check: $(VENV)/.dev ## ruff, mypy, import contracts
	$(BIN)/ruff check src tests bench tools
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

unit: $(VENV)/.dev ## tests that need no privilege
	$(PYTEST) -q tests/unit tests/contract tests/style tests/api

root: $(VENV)/.dev ## tests of kernel and runtime, as root
	$(PYTEST) -q tests/root

e2e: $(VENV)/.dev ## a daemon driven by the real docker command line, docker-py, testcontainers
	$(PYTEST) -q tests/e2e

vm-test: $(VENV)/.dev ## tests in a virtual machine with systemd and cgroups v2
	$(BIN)/python tools/vm_test.py

conformance: $(VENV)/.dev ## one test a clause of the specifications
	$(PYTEST) -q -m conformance tests

bench: $(VENV)/.dev ## compare with dockerd, podman and runc; writes docs/benchmarks.md
	@$(PYTHON) tools/host.py bench
	$(BIN)/python -m bench.run --write docs/benchmarks.md

fmt: $(VENV)/.dev ## sort imports, apply safe fixes
	$(BIN)/ruff check --fix src tests bench tools

lock: $(VENV)/bin/python ## pin the dependencies again
	$(PIP) install uv
	$(BIN)/python tools/lock.py

protos: $(VENV)/.dev ## compile the messages of BuildKit's wire again
	$(BIN)/python tools/protos.py

clean: ## remove what the targets made in this directory
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
