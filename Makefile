# Needs python3 (3.11 or newer) with pip and venv, and make; every target sets up what it uses.
#
#   PYTHON       the interpreter that .venv is made with
#   TORCH_INDEX  an index that has a CPU build of torch, for example
#                https://download.pytorch.org/whl/cpu; without it pip takes what it finds

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
TORCH_INDEX ?=
ARGS ?=
EXAMPLES ?= 5000
JOBS ?= 2
FLEET ?= 2
DATA ?= ./data
PORT ?= 50051

VENV := .venv
PY := $(VENV)/bin/python
BIN := $(VENV)/bin
# The name holds this folder's path: an environment that was copied or moved here points elsewhere.
STAMP := $(VENV)/.stamp-$(shell printf '%s' '$(CURDIR)' | cksum | cut -d ' ' -f 1)
PIP := $(PY) -m pip install -qq --disable-pip-version-check --constraint constraints.txt
RELEASED := proto/released/v0.1.0.binpb

export PYTHONUNBUFFERED := 1

.PHONY: help setup demo test lint proto docs release-descriptor fmt chaos fleet bench bench-readme bench-setup k8s-check clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-20s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Install everything into .venv (once; PYTHON=, TORCH_INDEX=)

# The stamp is removed before an install and written after it. So no stamp means that there is no
# environment, or that its install was cut short: it is made anew.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and \
	  "Headrace needs Python 3.11 or newer, and $(PYTHON) is %d.%d: make PYTHON=/path/to/python3.11" % v[:2])'
	@echo "Setting up $(VENV) (the first time takes a minute or two)"
	@[ -e $@ ] || $(PYTHON) -m venv --clear $(VENV)
	@rm -f $@
	@[ -z "$(TORCH_INDEX)" ] || $(PIP) --index-url "$(TORCH_INDEX)" torch
	@$(PIP) --editable '.[dev]'
	@touch $@

demo: $(STAMP) ## Train on MovieLens-100K through two local servers; writes demo/report.png
	@$(PY) examples/train_movielens.py --prepare --data demo/data --report demo/report.png --seeds 3

test: $(STAMP) ## Run the tests (or some: ARGS="-k cursor"; in JOBS=2 processes where they can)
ifeq ($(ARGS),)
	@$(PY) -m pytest --numprocesses $(JOBS) --dist worksteal -m "not alone"
	@$(PY) -m pytest -m alone
else
	@$(PY) -m pytest $(ARGS)
endif

lint: $(STAMP) ## Check style, types, layers, the contract and the manifests
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/buf lint proto
	@$(BIN)/buf format --diff --exit-code proto
	@$(BIN)/buf breaking proto --against $(RELEASED)
	@$(MAKE) --no-print-directory k8s-check

fmt: $(STAMP) ## Format the code and the contract, fix what can be fixed
	@$(BIN)/ruff check --fix --exit-zero --silent
	@$(BIN)/ruff format
	@$(BIN)/buf format --write proto

proto: $(STAMP) ## Generate the Python form of the contract
	@$(PY) proto/generate.py
	@$(PY) proto/json_schema.py

docs: $(STAMP) ## Write the tables of operations and derived columns in docs/ops.md from the code
	@$(PY) docs/generate.py

release-descriptor: $(STAMP) ## Freeze the contract that buf breaking compares with (at a release)
	@mkdir -p $(dir $(RELEASED))
	@$(BIN)/buf build proto --exclude-source-info --output $(RELEASED)

chaos: $(STAMP) ## Long model checks, then faults of every kind for minutes (ARGS="--faults 200 --epochs 20")
	@HEADRACE_MODEL_EXAMPLES=$(EXAMPLES) $(PY) -m pytest -q tests/unit/client/test_*_model.py
	@$(PY) -m tests.chaos $(ARGS)

fleet: $(STAMP) ## Run local servers until Ctrl-C (FLEET=2 DATA=./data PORT=50051)
	@pids=; \
	finish() { trap - INT TERM EXIT; kill $$pids 2>/dev/null || true; wait; }; \
	trap 'finish; exit 0' INT TERM; trap finish EXIT; \
	for i in $$(seq 0 $$(($(FLEET) - 1))); do \
	  $(PY) -m preprocessor_server serve --listen "127.0.0.1:$$(($(PORT) + i))" \
	    --data-root "$(DATA)" & pids="$$pids $$!"; \
	done; \
	wait -n

bench: $(STAMP) ## Run the benchmarks in their quick form, draw benchmarks/results/*.png
	@$(PY) benchmarks/run_all.py

bench-readme: bench-setup ## Measure what the README shows (about an hour), write it there
	@$(PY) benchmarks/bench_end_to_end.py --json benchmarks/results/end_to_end.json
	@$(PY) benchmarks/readme.py

bench-setup: $(STAMP) ## Install what is compared with, each in a venv of its own (several GB)
	@$(PY) benchmarks/peers/setup.py

k8s-check: $(STAMP) ## Build and validate the Kubernetes manifests, lint the Dockerfiles
	@$(PY) -m k8s.check

clean: ## Remove .venv, caches, and what the demo wrote
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis demo dist
