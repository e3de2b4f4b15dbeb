# Two commands do everything on a fresh machine: `make demo` and `make test`.

# The first of these that really runs and is new enough (version managers leave shims that fail).
PYTHON := $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	"$$p" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { command -v "$$p"; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
# The environment is as old as the files that decide what is in it.
READY := $(VENV)/.ready

.PHONY: demo test test-slow lint bench docs clean help

help:
	@echo "make demo       install, find the objects in real pictures, say where the results are"
	@echo "make test       install, run the tests"
	@echo "make test-slow  the tests that take minutes"
	@echo "make lint       ruff and mypy"
	@echo "make bench      the benchmarks that the documents quote"
	@echo "make docs       check that the documents' links and figures are whole"

$(READY): pyproject.toml
	@test -n "$(PYTHON)" || { echo "eachmask needs Python 3.11 or newer with venv: install it, then run make again." >&2; exit 1; }
	@echo "Installing into $(VENV) (once; torch is large, this takes a few minutes) ..."
	@test -x $(BIN)/python && $(BIN)/python -c '' 2>/dev/null || "$(PYTHON)" -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[offline-backbones]" --group dev
	@touch $(READY)

demo: $(READY)
	@$(BIN)/python examples/demo.py --out demo-results

test: $(READY)
	@$(BIN)/python -m pytest

test-slow: $(READY)
	@$(BIN)/python -m pytest -m slow

lint: $(READY)
	@$(BIN)/ruff check src tests benchmarks examples
	@$(BIN)/mypy src/eachmask/structures src/eachmask/ops src/eachmask/data

bench: $(READY)
	$(BIN)/python benchmarks/paste.py
	$(BIN)/python benchmarks/predict_cpu.py

docs: $(READY)
	@$(BIN)/python -m pytest -q tests/test_docs.py

clean:
	rm -rf $(VENV) demo-results .pytest_cache .mypy_cache .ruff_cache
