# isocline: `make demo` trains an ODE-Net, `make test` runs the tests, `make help` lists the rest.
#
# Everything runs in $(VENV), which the first target that needs it makes. Stamp files in it remember what
# has been installed; it is installed again only when pyproject.toml or constraints.txt change.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV ?= .venv
RUN ?= runs/demo
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
SAY := @printf '==> %s\n'

# Two test processes with one thread each: more threads than cores make every one of them slower.
WORKERS ?= 2
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
# Threads that wait by spinning come almost to a stop where another program holds one of the cores.
NO_SPIN := OMP_WAIT_POLICY=PASSIVE

.PHONY: help
help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# --- environment -----------------------------------------------------------------------------------

$(VENV)/.stamp-python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "isocline needs Python 3.11 or later, and '$(PYTHON)' is not one;" \
	       "try: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	$(SAY) "making $(VENV) with $$($(PYTHON) --version)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@touch $@

# torch first and alone: it is the one large download, and pinned before anything else can choose it.
$(VENV)/.stamp-torch: $(VENV)/.stamp-python constraints.txt
	$(SAY) "installing torch at the version in constraints.txt (the one large package)"
	@$(PIP) install -c constraints.txt torch
	@touch $@

define install
$(SAY) "installing isocline[$(1)]"
@$(PIP) install -c constraints.txt -e '.[$(1)]'
@touch $@
endef

$(VENV)/.stamp-train: $(VENV)/.stamp-torch pyproject.toml constraints.txt
	$(call install,train)
$(VENV)/.stamp-dev: $(VENV)/.stamp-torch pyproject.toml constraints.txt
	$(call install,train$(comma)dev)
	@touch $(VENV)/.stamp-train
$(VENV)/.stamp-docs: $(VENV)/.stamp-torch pyproject.toml constraints.txt
	$(call install,docs)
# torchode's own dependency for annotations cannot stand beside tyro: see benchmarks/torchode_peer.py.
$(VENV)/.stamp-bench: $(VENV)/.stamp-torch pyproject.toml constraints.txt
	$(call install,bench)
	@$(PIP) install --no-deps torchode==1.0.1
comma := ,

.PHONY: dev
dev: $(VENV)/.stamp-dev $(VENV)/.stamp-docs  ## make the environment to develop in
	$(SAY) "ready: $(BIN)/python"

# --- what it is for --------------------------------------------------------------------------------

.PHONY: demo
demo: $(VENV)/.stamp-train  ## train an ODE-Net on the 8x8 digits; prints test error, parameters, NFE, plots
	$(SAY) "training an ODE-Net on the handwritten digits of scikit-learn"
	@$(NO_SPIN) $(BIN)/isocline train odenet --data digits --out $(RUN)

.PHONY: bench
bench: $(VENV)/.stamp-bench  ## time isocline, compiled, beside torchdiffeq, torchode and diffrax (15 minutes)
	$(SAY) "timing compiled solves and training steps beside the peers"
	@$(ONE_THREAD) $(BIN)/python benchmarks/compiled_speed.py --out docs/results/speed.md $(ARGS)

.PHONY: bench-eager
bench-eager: $(VENV)/.stamp-bench  ## time isocline's eager steps beside torchdiffeq
	$(SAY) "timing isocline and torchdiffeq"
	@$(BIN)/python benchmarks/eager_speed.py $(ARGS)
	@$(BIN)/python benchmarks/eager_overhead.py

.PHONY: bench-work
bench-work: $(VENV)/.stamp-bench  ## work and precision beside torchdiffeq, SciPy and diffrax (10 minutes)
	$(SAY) "solving DETEST with every adaptive method and its peers"
	@$(ONE_THREAD) $(BIN)/python benchmarks/work_precision.py $(ARGS)

.PHONY: bench-gradients
bench-gradients: $(VENV)/.stamp-bench  ## memory and time of gradients beside torchdiffeq and diffrax (an hour)
	$(SAY) "measuring the memory and the time of every adjoint"
	@$(ONE_THREAD) $(BIN)/python benchmarks/gradient_memory.py
	@$(ONE_THREAD) $(BIN)/python benchmarks/gradient_time.py $(ARGS)

.PHONY: bench-per-sample
bench-per-sample: $(VENV)/.stamp-bench  ## time per-sample stepping beside joint stepping, torchode and diffrax (10 minutes)
	$(SAY) "stepping samples at their own pace"
	@$(ONE_THREAD) $(BIN)/python benchmarks/per_sample.py $(ARGS)

# --- checks ----------------------------------------------------------------------------------------

# Bytecode is kept, whatever the environment says: without it every process of every run compiles the
# package and rewrites the assertions of all tests again, half of what it takes to begin.
PYTEST := PYTHONDONTWRITEBYTECODE= $(ONE_THREAD) $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

.PHONY: test
test: $(VENV)/.stamp-dev  ## run the tests, save the slow ones
	$(SAY) "running the tests"
	@$(PYTEST) $(ARGS)

.PHONY: test-slow
test-slow: $(VENV)/.stamp-dev  ## run the slow tests
	$(SAY) "running the slow tests"
	@$(PYTEST) -m slow $(ARGS)

.PHONY: core
core:  ## run the README's example where only the core dependencies are installed
	@$(MAKE) --no-print-directory VENV=.venv-core .venv-core/.stamp-core
	$(SAY) "running the README's example with torch alone"
	@.venv-core/bin/python .ci/readme.py
$(VENV)/.stamp-core: $(VENV)/.stamp-torch pyproject.toml constraints.txt
	$(SAY) "installing isocline without extras"
	@$(PIP) install -c constraints.txt -e .
	@touch $@

.PHONY: lint
lint: $(VENV)/.stamp-dev  ## ruff: rules and format
	$(SAY) "ruff"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

.PHONY: format
format: $(VENV)/.stamp-dev  ## ruff: put right what it can put right
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

.PHONY: types
types: $(VENV)/.stamp-dev  ## mypy, strict
	$(SAY) "mypy"
	@$(BIN)/mypy

.PHONY: walls
walls: $(VENV)/.stamp-dev  ## the import contracts between the packages
	$(SAY) "import-linter"
	@$(BIN)/lint-imports --no-logo

.PHONY: docs
docs: $(VENV)/.stamp-docs  ## build the docs into site/, running the code in them
	$(SAY) "building the docs"
	@$(ONE_THREAD) NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

.PHONY: check
check:  ## everything above: tests, lint, types, walls, docs
	@$(MAKE) --no-print-directory test
	@$(MAKE) --no-print-directory lint types walls docs

.PHONY: clean
clean:  ## remove caches and builds; `make distclean` removes the environment too
	@rm -rf site dist build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -not -path './.venv*' -prune -exec rm -rf {} +

.PHONY: distclean
distclean: clean
	@rm -rf .venv .venv-core
