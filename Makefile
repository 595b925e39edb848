# Everything runs inside $(VENV), which is made once and again only when the pins or the package change.
# On a machine whose package index offers only CUDA builds of torch:
#   make quickstart PIP_FLAGS="--extra-index-url https://download.pytorch.org/whl/cpu"
VENV ?= .venv
PYTHON ?= python3
PIP_FLAGS ?=
RUN = "$(VENV)/bin/python" -m
READY = $(VENV)/.ready

export NO_ALBUMENTATIONS_UPDATE = 1
# Threads that spin for long while they wait slow everything down when cores are shared.
export GOMP_SPINCOUNT ?= 10000

.PHONY: quickstart test suite test-slow test-gpu lint bench parity ranking clean help
.DEFAULT_GOAL := help

help: ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1|/' | column -t -s '|'

$(READY): constraints.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "reflectzoo needs Python 3.11 or newer: make PYTHON=python3.11")'
	test -x "$(VENV)/bin/python" || $(PYTHON) -m venv "$(VENV)"
	$(RUN) pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt torch
	$(RUN) pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt -e '.[dev]'
	touch "$(READY)"

quickstart: $(READY) ## train a small YTMT on real photographs for a few minutes and show the results
	$(RUN) reflectzoo.train experiment=quickstart

test: $(READY) ## lint and the whole test suite on the CPU
	@$(MAKE) --no-print-directory -j 2 lint suite

# Each of the two workers takes half of the files, so that what a file's tests share is mostly made once.
suite: $(READY)
	$(RUN) pytest -n 2 --dist worksteal -m "not gpu and not slow"

test-slow: $(READY) ## tests that take minutes each: full-size networks, several processes
	$(RUN) pytest -s -m slow

test-gpu: $(READY) ## tests that need a CUDA device
	$(RUN) pytest -m gpu

lint: $(READY) ## ruff and mypy
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy

bench: $(READY) ## speed and memory compared with the plain forms, measured on this machine
	$(RUN) reflectzoo.bench
	$(RUN) reflectzoo.bench.inference
	$(RUN) reflectzoo.bench.scores

parity: $(READY) ## compare with the recordings of the authors' programs in FOLDER=...
	$(RUN) reflectzoo.parity "$(FOLDER)"

ranking: $(READY) ## measure docs/ranking.md again on the data in DATA=...; CKPT="{name: FILE}" adds checkpoints
	"$(VENV)/bin/python" tools/ranking.py "$(DATA)" $(if $(CKPT),--ckpt "$(CKPT)")

clean: ## delete the environment and caches, but not the outputs
	rm -rf "$(VENV)" build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
