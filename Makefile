PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
TIER   ?= cpu
SEED   ?= 0
SOURCE ?= paper
export ARGS NOTEBOOK
RUN    := $(BIN)/vaebm-run --args "$$ARGS"

.DEFAULT_GOAL := help
.PHONY: help stale run fashion bench gpu-check course test test-slow lint lab explore docs slides exercises grade export clean paper-cifar10 paper-celeba64 paper-lsun64 paper-celebahq256

help: ## this list
	@sed -n 's/^\([a-z0-9 -]*\):.* ## \(.*\)/make \1: \2/p' $(MAKEFILE_LIST)
	@echo "Fields of an experiment: make run TIER=smoke SEED=1 ARGS='stage1={\"n_steps\": 5}'"

# Print the version of an interpreter; fail if it is too old.
MIN_PYTHON := $(shell sed -n 's/^min_python = //p' settings.ini)
VERSION    := import sys; v = sys.version_info[:2]; print(*v); sys.exit(v < tuple(map(int, "$(MIN_PYTHON)".split("."))))

# An environment is made anew if its interpreter is gone or too old, or another than the PYTHON that was asked for.
STALE := $(shell [ -e $(VENV)/pyvenv.cfg ] || exit; \
	found=$$($(BIN)/python -c '$(VERSION)' 2>&1) || { echo stale; exit; }; \
	[ $(firstword $(origin PYTHON)) = file ] || [ "$$found" = "$$($(PYTHON) -c '$(VERSION)' 2>&1)" ] || echo stale)

$(VENV)/.installed: settings.ini setup.py $(STALE)
	@$(PYTHON) -c '$(VERSION)' >/dev/null 2>&1 || { echo 'error: $(PYTHON) is no Python of version $(MIN_PYTHON) or newer; name one, for example: make PYTHON=python3.12' >&2; exit 2; }
	$(PYTHON) -m venv $(STALE:stale=--clear) $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

run: $(VENV)/.installed ## both stages on 25-Gaussians, exact test likelihood
	$(RUN) nbs/experiments/25_gaussians.ipynb tier=$(TIER) seed=$(SEED)

fashion: $(VENV)/.installed ## both stages on Fashion-MNIST
	$(RUN) nbs/experiments/fashion_mnist.ipynb tier=$(TIER) seed=$(SEED)

bench: $(VENV)/.installed ## what the fast path gains on this machine
	$(RUN) nbs/benchmarks/bench.ipynb tier=cpu

gpu-check: $(VENV)/.installed ## what one GPU does with this library, in ten minutes
	$(RUN) nbs/benchmarks/gpu_check.ipynb tier=gpu

course: $(VENV)/.installed ## how long all pages take
	$(RUN) nbs/benchmarks/course.ipynb tier=cpu

paper-cifar10: NOTEBOOK = cifar10
paper-celeba64: NOTEBOOK = celeba64
paper-lsun64: NOTEBOOK = lsun64
paper-celebahq256: NOTEBOOK = celebahq256
paper-cifar10 paper-celeba64 paper-lsun64 paper-celebahq256: $(VENV)/.installed ## the paper's runs, days on a GPU
	$(RUN) nbs/experiments/$(NOTEBOOK).ipynb tier=paper source=$(SOURCE) seed=$(SEED) run_dir=runs/$(@:paper-%=%)-paper-$(SOURCE)-$(SEED)

test: $(VENV)/.installed ## notebooks and tests, the longest excepted
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-slow: $(VENV)/.installed ## the longest notebooks and tests
	$(BIN)/python -m pytest -n 2 -m slow

lint: $(VENV)/.installed ## ruff on library, notebooks, tests and website, pyright on the library, spelling
	$(BIN)/ruff check vaebm nbs tests docs setup.py
	$(BIN)/basedpyright --pythonpath $(BIN)/python
	$(BIN)/codespell *.md *.cff nbs tests docs data/*/README.md

lab: $(VENV)/.installed ## JupyterLab at the start page
	$(BIN)/jupyter lab $(LAB) nbs/index.ipynb

docs: $(VENV)/.installed ## the website, in _site/html
	$(BIN)/python docs/build.py

slides: $(VENV)/.installed ## slides of a chapter: NOTEBOOK=01_energy
	$(BIN)/vaebm-teach slides "$$NOTEBOOK"

exercises: $(VENV)/.installed ## notebooks for students: all chapters without their solutions, as a zip
	$(BIN)/vaebm-teach exercises

grade: $(VENV)/.installed ## points for a student's exercises: NOTEBOOK=student.ipynb
	$(BIN)/vaebm-teach grade "$$NOTEBOOK"

explore: $(VENV)/.installed ## the explorers in the browser, without code
	$(BIN)/voila nbs/36_explore.ipynb --TagRemovePreprocessor.remove_cell_tags=lab-only

export: $(VENV)/.installed ## the library from the notebooks
	$(BIN)/nbdev_export && $(BIN)/nbdev_clean && $(BIN)/python docs/strip_views.py

clean: ## remove the environment and what was built
	rm -rf $(VENV) _site build dist *.egg-info .pytest_cache .ruff_cache
