# make demo     the environment, the main job on real images, and where its report lies
# make test     the environment, the static checks and all tests
# make coverage the tests, and the lines they run
# make check    the static checks alone: ruff, pyright, import-linter
# make audit    the locked packages against known advisories
# make unit     the quick tests alone: no Ray, no Prefect server
# make long     the longest tests, which `make test` leaves out
# make bench    the measurements under tests/bench
# make format   sort imports and lay out the code
# make lock     lock again: names, versions and hashes
# make clean    remove the environment and all caches, but no store

SHELL := /bin/bash
MAKEFLAGS += --no-print-directory

# The first of these that is new enough; or `make PYTHON=/path/to/python3.12 demo`.
CANDIDATES := python3 python3.13 python3.12 python3.11 python3.14
ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(or $(shell for name in $(CANDIDATES); do \
	"$$name" -c '$(ENOUGH)' 2>/dev/null && { echo "$$name"; break; }; done),python3)

BIN := .venv/bin
READY := .venv/.ready
PACKAGES := flows curation pretrain indexes infra
DEMO_INPUTS := $(PACKAGES) pyproject.toml requirements.lock
TEST_INPUTS := $(DEMO_INPUTS) tests .ci Makefile prefect.yaml README.md

# Nothing here phones home.
export DO_NOT_TRACK := 1
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1
export RAY_USAGE_STATS_ENABLED := 0

.PHONY: help demo test check audit pytest long coverage unit bench format lock clean

help:
	@sed -n 's/^# make/make/p' Makefile

$(READY): requirements.lock pyproject.toml .ci/environment.py
	@$(PYTHON) .ci/environment.py
	@touch $@

demo: $(READY)
	@$(BIN)/python .ci/once.py demo $(DEMO_INPUTS) -- $(BIN)/prefect run curate-and-pretrain

test: $(READY)
	@$(BIN)/python .ci/once.py test $(TEST_INPUTS) -- $(MAKE) -j2 check pytest

check: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet . || { echo 'way out: make format' >&2; exit 1; }
	@$(BIN)/pyright
	@$(BIN)/lint-imports

audit: $(READY)
	@$(BIN)/python .ci/audit.py

pytest: $(READY)
	@$(BIN)/pytest -n auto --dist loadgroup -m 'not long'

long: $(READY)
	@$(BIN)/pytest -m long

coverage: $(READY)
	@$(BIN)/pytest -n auto --dist loadgroup --cov --cov-report=term:skip-covered

unit: $(READY)
	@$(BIN)/pytest -n auto --dist loadgroup -m 'not ray and not prefect and not slow and not long'

bench: $(READY)
	@for script in $$(ls tests/bench/*.py | grep -vE 'tables|record') tests/bench/tables.py; do echo "== $$script"; $(BIN)/python "$$script" || exit 1; done

format: $(READY)
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

lock: $(READY)
	@$(BIN)/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 \
		--group dev --no-emit-index-url --no-annotate --no-header \
		pyproject.toml --output-file requirements.lock
	@! grep -nE '://|--(extra-)?index-url|--find-links' requirements.lock || \
		{ echo 'error: the lock names an address' >&2; exit 1; }

clean:
	@rm -rf .venv .coverage .pytest_cache .ruff_cache .import_linter_cache .hypothesis *.egg-info
	@find $(PACKAGES) tests -name __pycache__ -prune -exec rm -rf {} +
