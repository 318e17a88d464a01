# make run: the main job (two-stage training on its embedded default).  make test: notebooks and tests, the longest excepted, which make test-slow runs.  make bench: what the fast path gains on this machine.  make course: how long all pages take.  make paper-NAME: the paper's runs, days on a GPU.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
TIER   ?= cpu
SEED   ?= 0
SOURCE ?= paper

.PHONY: run bench course test test-slow lab explore docs export clean paper-cifar10 paper-celeba64 paper-lsun64 paper-celebahq256

$(VENV)/.installed: settings.ini setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

run: $(VENV)/.installed
	$(BIN)/vaebm-run nbs/experiments/25_gaussians.ipynb tier=$(TIER) seed=$(SEED)

bench: $(VENV)/.installed
	$(BIN)/vaebm-run nbs/experiments/bench.ipynb tier=cpu

course: $(VENV)/.installed
	$(BIN)/vaebm-run nbs/experiments/course.ipynb tier=cpu

paper-cifar10: NOTEBOOK = cifar10_paper
paper-celeba64: NOTEBOOK = celeba64
paper-lsun64: NOTEBOOK = lsun64
paper-celebahq256: NOTEBOOK = celebahq256
paper-cifar10 paper-celeba64 paper-lsun64 paper-celebahq256: $(VENV)/.installed
	$(BIN)/vaebm-run nbs/experiments/$(NOTEBOOK).ipynb tier=paper source=$(SOURCE) seed=$(SEED) run_dir=$(CURDIR)/runs/$(@:paper-%=%)-paper-$(SOURCE)-$(SEED)

test: $(VENV)/.installed
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-slow: $(VENV)/.installed
	$(BIN)/python -m pytest -n 2 -m slow

lab: $(VENV)/.installed
	$(BIN)/jupyter lab nbs/index.ipynb

docs: $(VENV)/.installed
	$(BIN)/python docs/build.py

explore: $(VENV)/.installed
	$(BIN)/voila nbs/15_explore.ipynb --TagRemovePreprocessor.remove_cell_tags=lab-only

export: $(VENV)/.installed
	$(BIN)/nbdev_export && $(BIN)/nbdev_clean && $(BIN)/python docs/strip_views.py

clean:
	rm -rf $(VENV) _site build dist *.egg-info .pytest_cache .ruff_cache
