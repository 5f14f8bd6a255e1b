# Every target does its own set-up: a virtual environment in .venv with the versions that
# constraints.txt pins; docs and notebooks add the extra `docs` to it. test-metaworld has one of its own, .venv-metaworld, because Meta-World pins
# another MuJoCo. Variables, to be given on the command line or in the environment:
#   PYTHON       the Python (3.11 or newer) that makes these environments
#   TORCH_INDEX  a further package index for PyTorch. On Linux its default build is the one for
#                CUDA, a download of gigabytes; without a GPU, take
#                make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu
#   ARGS         further arguments of the demo or of pytest: make test ARGS="-k bandit"

PYTHON ?= python3
TORCH_INDEX ?=
ARGS ?=

BIN := .venv/bin
STAMP := .venv/.installed
DOCS_STAMP := .venv/.installed-docs
SITE := docs/_build/html
EXTRAS := dev,rendering
METAWORLD_EXTRAS := $(EXTRAS),metaworld
METAWORLD_BIN := .venv-metaworld/bin
METAWORLD_STAMP := .venv-metaworld/.installed
PIP_INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check

# What depends on Meta-World or on the version of MuJoCo.
METAWORLD_TESTS := tests/envs tests/test_adapter.py tests/test_checks.py \
	tests/test_compatibility.py tests/test_contact_pairs.py tests/test_process_blocks.py \
	tests/test_runs.py::TestShippedSettings tests/test_task_env.py tests/test_window.py

.PHONY: help demo test test-slow test-seeds test-metaworld docs notebooks docs-tables test-wheel lint format type check build
.DEFAULT_GOAL := help

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 24

demo: $(STAMP)  ## meta-train, then evaluate fast adaptation on held-out tasks
	$(BIN)/python -m benchmarks.demo $(ARGS)

test: $(STAMP)  ## run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto $(ARGS)

test-metaworld: $(METAWORLD_STAMP)  ## run the tests of Meta-World and of robots with its MuJoCo
	OMP_NUM_THREADS=1 $(METAWORLD_BIN)/python -m pytest -n auto $(METAWORLD_TESTS) $(ARGS)

test-wheel: build  ## install the wheel outside the repository and try it; ARGS="--dependencies oldest"
	$(BIN)/python tests/wheel.py $(ARGS)

test-slow: $(STAMP)  ## run the longer proofs, which `make test` leaves out
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto -m slow $(ARGS)

test-seeds: $(STAMP)  ## run tests of learning over seeds and processors, and write their margins
	$(BIN)/python -m tests.seeds $(ARGS)

docs: $(DOCS_STAMP)  ## build the documentation's site into docs/_build/html; warnings are errors
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going -c docs . $(SITE)
	@echo "The site: $(SITE)/index.html"

notebooks: $(DOCS_STAMP)  ## run the tutorials, and write their outputs into them
	OMP_NUM_THREADS=1 $(BIN)/python docs/notebooks.py $(ARGS)

docs-tables: $(STAMP)  ## fill the result tables of README.md and docs from the results' JSON files
	$(BIN)/python benchmarks/docs_tables.py

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

# Makes a virtual environment. Arguments: its folder, the file of constraints, the extras.
define make_venv
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	echo "meta_rl needs Python 3.11 or newer; '$(PYTHON)' is not." \
		"Name one: make $(or $(MAKECMDGOALS),test) PYTHON=python3.12" >&2; exit 1; }
@echo "Setting up $(1); this takes a few minutes."
$(PYTHON) -m venv $(1)
$(1)/bin/python -m pip install --quiet --disable-pip-version-check -c $(2) \
	$(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) "torch==2.13.0" -e ".[$(3)]"
@touch $(1)/.installed
endef

$(STAMP): pyproject.toml constraints.txt
	$(call make_venv,.venv,constraints.txt,$(EXTRAS))

$(DOCS_STAMP): $(STAMP)
	$(PIP_INSTALL) -c constraints.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -e ".[docs]"
	@touch $@

# The extra metaworld pins MuJoCo itself.
$(METAWORLD_STAMP): pyproject.toml constraints.txt
	mkdir -p .venv-metaworld
	grep -v '^mujoco' constraints.txt > .venv-metaworld/constraints.txt
	$(call make_venv,.venv-metaworld,.venv-metaworld/constraints.txt,$(METAWORLD_EXTRAS))
