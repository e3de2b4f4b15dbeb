# Two commands do everything on a fresh machine: `make demo` and `make test`.

# The first of these that really runs, is new enough and can make environments: version managers leave shims that
# fail, and some systems split venv from Python.
PYTHON := $(shell for p in python3 python3.13 python3.12 python3.11 python3.14 python; do \
	"$$p" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && \
	{ command -v "$$p"; break; }; done)
VERSION := $(if $(PYTHON),$(shell "$(PYTHON)" -c 'import sys; print(sys.version.split()[0])'))

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
# What is installed depends on these alone; where nothing of it changed, nothing is installed again.
KEY := $(shell { cat pyproject.toml; echo "$(VERSION) $(CURDIR)"; } | cksum | cut -d ' ' -f 1)
USER_READY := $(VENV)/.user-$(KEY)
DEVELOPER_READY := $(VENV)/.developer-$(KEY)

.PHONY: help demo studio test test-slow chaos test-processors test-lowest lint bench docs docs-version screenshots web clean

help:
	@echo "make demo       install, find the objects in real images, say where the results are"
	@echo "make studio     install, open the studio on sample images in the browser"
	@echo "make test       install, run the tests"
	@echo "make test-slow  the tests that take minutes"
	@echo "make chaos      every command killed at random, and fed with damaged files of every kind"
	@echo "make test-processors  the tests that compute, under the instructions of older and newer CPUs"
	@echo "make test-lowest      the same with the lowest allowed versions of what eachmask depends on"
	@echo "make lint       ruff, and mypy in strict mode"
	@echo "make bench      the benchmarks that the documents quote"
	@echo "make docs       write the generated pages, check every link, build the site into site/"
	@echo "make docs-version     the site of this version beside those of earlier ones, on the branch gh-pages"
	@echo "make screenshots  the studio's pictures in the docs, taken by its browser tests"
	@echo "make web        build the studio's page from web/ (needs Node 20 or newer; users need none)"
	@echo "make clean      remove the environment and what the commands above wrote"

$(USER_READY):
	@test -n "$(PYTHON)" || { echo "eachmask needs Python 3.11 or newer together with its venv module, and found none: \
	install both (on Debian and Ubuntu: python3 and python3-venv), then run make again." >&2; exit 1; }
	@test "$$($(BIN)/python -c 'import sys; print(sys.version.split()[0])' 2>/dev/null)" = "$(VERSION)" || \
		"$(PYTHON)" -m venv --clear $(VENV)
	@free=$$(df -Pk . | awk 'NR == 2 {print int($$4 / 1048576)}'); test "$${free:-99}" -ge 10 || \
		echo "Only $$free GB are free on this disk; torch with CUDA needs 10 while it is installed. Should that fail: make room, then run make again."
	@echo "Installing eachmask for Python $(VERSION) into $(VENV): once, some minutes, torch is large ..."
	@$(PIP) install --upgrade "pip>=25.1"
	@$(PIP) install --editable .
	@rm -f $(VENV)/.user-* $(VENV)/.developer-* && touch $@

$(DEVELOPER_READY): $(USER_READY)
	@echo "Installing the developers' tools ..."
	@$(PIP) install --editable ".[train,serve,onnx,studio,video,offline-backbones]" --group dev
	@touch $@

demo: $(USER_READY)
	@$(BIN)/eachmask demo $(if $(FETCH),--fetch)

studio: $(USER_READY)
	@$(PIP) install --editable ".[studio]"
	@$(BIN)/eachmask studio --sample

# As many processes as cores, each with one thread: small tensors gain nothing from more.
test: $(DEVELOPER_READY)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal

test-slow: $(DEVELOPER_READY)
	@$(BIN)/python -m pytest -m slow

# Prints one line of counts at its end.
chaos: $(DEVELOPER_READY)
	@OMP_NUM_THREADS=1 $(BIN)/python tests/chaos/all.py

test-processors: $(DEVELOPER_READY)
	@$(BIN)/python tests/under_processors.py

# An environment of its own: its torch is another one, with a CUDA of its own (6 GB).
LOWEST := .venv-lowest
COMPUTING := $(addprefix tests/,accel backbones data evaluation inference metrics models ops structures tasks training)
$(LOWEST)/.ready: pyproject.toml
	@"$(PYTHON)" -m venv --clear $(LOWEST)
	@"$(PYTHON)" -c 'import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
	print("\n".join(project["dependencies"] + project["optional-dependencies"]["train"]).replace(">=", "=="))' > $(LOWEST)/lowest.txt
	@$(LOWEST)/bin/python -m pip install --quiet --constraint $(LOWEST)/lowest.txt --editable ".[train]" pytest pycocotools psutil
	@touch $@

test-lowest: $(LOWEST)/.ready
	@OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -q $(COMPUTING)

lint: $(DEVELOPER_READY)
	@$(BIN)/ruff check .
	@$(BIN)/mypy

bench: $(DEVELOPER_READY)
	$(BIN)/python benchmarks/paste.py
	$(BIN)/python benchmarks/predict_cpu.py

docs: $(DEVELOPER_READY)
	@$(BIN)/python docs/generate.py
	@$(BIN)/python -m pytest -q tests/test_docs.py
	@$(PIP) install --editable ".[docs]"
	@$(BIN)/mkdocs build --strict --quiet

# Nothing is pushed.
docs-version: docs
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/mike deploy --update-aliases \
		"$$($(BIN)/python -c 'import eachmask; print(eachmask.__version__)')" latest

# Made by the tests that follow the studio's guide, and an object of a video, in a browser.
screenshots: $(DEVELOPER_READY)
	@EACHMASK_SCREENSHOTS=$(CURDIR)/docs/images $(BIN)/python -m pytest -q -m "slow or not slow" \
		tests/studio/test_guide.py tests/studio/test_timeline.py

# What is built is committed: it travels in the wheel.
web:
	@cd web && npm ci --no-audit --no-fund && npm run build

clean:
	rm -rf $(VENV) $(LOWEST) site results/demo images/coins.png images/hubble_deep_field.jpg .pytest_cache .mypy_cache .ruff_cache
