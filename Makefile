# Every target does its own set-up: a virtual environment in .venv with the versions that
# constraints.txt pins. Variables, to be given on the command line or in the environment:
#   PYTHON       the Python (3.11 or newer) that makes .venv
#   TORCH_INDEX  a further package index for PyTorch. On Linux its default build is the one for
#                CUDA, a download of gigabytes; without a GPU, take
#                make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu
#   ARGS         further arguments of the demo or of pytest: make test ARGS="-k bandit"

PYTHON ?= python3
TORCH_INDEX ?=
ARGS ?=

BIN := .venv/bin
STAMP := .venv/.installed
PIP_INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: help demo test test-slow test-seeds lint format type check build
.DEFAULT_GOAL := help

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

demo: $(STAMP)  ## meta-train, then evaluate fast adaptation on held-out tasks
	$(BIN)/python -m benchmarks.demo $(ARGS)

test: $(STAMP)  ## run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto $(ARGS)

test-slow: $(STAMP)  ## run the longer proofs, which `make test` leaves out
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto -m slow $(ARGS)

test-seeds: $(STAMP)  ## run tests of learning over seeds and processors, and write their margins
	$(BIN)/python -m tests.seeds $(ARGS)

lint: $(STAMP)  ## check style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP)  ## format, and fix what can be fixed
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

type: $(STAMP)  ## check types, on a snapshot of the installed package
	rm -rf .typing build
	$(PIP_INSTALL) --no-deps --no-build-isolation --target .typing .
	rm -rf build
	$(BIN)/mypy

check: lint type test  ## lint, type and test

build: $(STAMP)  ## build the source distribution and the wheel into dist
	rm -rf build dist
	$(BIN)/python -m build

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "meta_rl needs Python 3.11 or newer; '$(PYTHON)' is not." \
			"Name one: make $(or $(MAKECMDGOALS),test) PYTHON=python3.12" >&2; exit 1; }
	@echo "Setting up .venv; this takes a few minutes."
	$(PYTHON) -m venv .venv
	$(PIP_INSTALL) -c constraints.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) \
		"torch==2.13.0" -e ".[dev]"
	@touch $@
