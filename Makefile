# Everything here needs Python >= 3.11, make and bash; the first target run makes .venv from the pinned lock.
# PYTHON=python3.12 make demo  chooses an interpreter; CORES=4 make demo  limits the cores.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules --no-print-directory

CORES ?= $(shell nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
BIN := .venv/bin
PIP := $(BIN)/python -m pip --quiet --quiet --disable-pip-version-check
CANDIDATES := $(or $(PYTHON),python3 python3.11 python3.12 python3.13 python3.14 python)
# Whole files to two processes: what a file sets up is set up once.
PARALLEL := --numprocesses 2 --dist loadfile
# Those that need nothing but this checkout; what stands beside them are parts, or needs data.
BENCHMARKS := ingest deidentify learning evidence weights
GREEN := \033[32m%s\033[0m\n

.PHONY: help
help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' Makefile

.PHONY: demo
demo: .venv/running  ## install, run the built-in study, say where the report is
	@$(BIN)/snakemake --cores $(CORES)
	@printf '\n$(GREEN)' 'The report: $(CURDIR)/reports/phantom/report.html (and report.pdf beside it)'

.PHONY: test test-fast
test: .venv/developing  ## all tests, two at a time
	@$(BIN)/python -m pytest $(PARALLEL)
test-fast: .venv/developing  ## the tests that take seconds
	@$(BIN)/python -m pytest $(PARALLEL) -m 'not slow'

.PHONY: check
check: lint format-check types floors docs-check  ## everything that reads the code without running it
	@printf '$(GREEN)' 'check: all well'

.PHONY: lint format format-check types floors docs docs-check
lint: .venv/developing  ## style of code and workflow
	@$(BIN)/ruff check --quiet .
	@$(BIN)/snakemake --lint 2>&1 | grep --quiet 'Congratulations' || { $(BIN)/snakemake --lint; exit 1; }
format: .venv/developing  ## format code and workflow
	@$(BIN)/ruff format .
	@$(BIN)/snakefmt Snakefile workflow
format-check: .venv/developing
	@$(BIN)/ruff format --quiet --check .
	@$(BIN)/snakefmt --check Snakefile workflow
types: .venv/developing  ## strict types
	@$(BIN)/mypy --no-error-summary
floors: .venv/developing  ## who imports whom, sizes, names, dependencies
	@$(BIN)/python -m pytest --quiet --no-header tests/test_architecture.py tests/test_dependencies.py
docs: .venv/developing  ## write environment.yml, the schema and the reference pages
	@$(BIN)/python docs/generate.py
docs-check: .venv/developing
	@$(BIN)/python docs/generate.py --check

.PHONY: bench
bench: .venv/developing  ## measure against the targets
	@for name in $(BENCHMARKS); do echo "benchmarks/$$name.py"; $(BIN)/python "benchmarks/$$name.py"; done

.PHONY: lock
lock:  ## pin the newest versions that pyproject.toml allows (needs the package index)
	@rm -rf build/lock && $(call find-python) && "$$python" -m venv build/lock
	@build/lock/bin/python docs/lock.py

.PHONY: clean
clean:  ## remove the built-in study and caches; studies of yours and .venv stay
	@rm -rf data/phantom results/phantom reports/phantom logs/phantom build dist
	@rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find pipeline tests docs benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# Sets the shell variable `python` to an interpreter that is new enough and can make environments.
define find-python
for name in $(CANDIDATES); do \
  if "$$name" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
    python=$$(command -v "$$name"); break; \
  fi; \
done; \
if [ -z "$${python:-}" ]; then \
  echo 'No Python >= 3.11 with its venv module was found (tried: $(CANDIDATES)).' >&2; \
  echo 'Install one (Debian and Ubuntu: python3 and python3-venv), or name it: PYTHON=/path/to/python3.12 make demo' >&2; \
  exit 1; \
fi
endef

.venv/bin/python:
	@$(call find-python); echo "making .venv with $$("$$python" --version)"; "$$python" -m venv .venv

.venv/running: requirements.lock pyproject.toml | .venv/bin/python
	@echo 'installing what a study needs (one to three minutes)'
	@$(PIP) install --requirement requirements.lock
	@$(PIP) install --no-deps --editable .
	@touch $@

.venv/developing: requirements-dev.lock | .venv/running
	@echo 'installing what tests and development need'
	@$(PIP) install --requirement requirements-dev.lock
	@touch $@
