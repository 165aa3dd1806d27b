# Every target sets itself up: an environment in .venv with the versions of constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Set in many containers: each process that a test starts would compile the sources again.
export PYTHONDONTWRITEBYTECODE :=
INSTALLED := $(VENV)/.installed

# What the demo begins with, fetched once: after that it needs no network.
FETCHED := runs/demo-sources/.fetched

.PHONY: demo demo-full test test-slow test-all check docs package format clean

demo: $(INSTALLED) $(FETCHED)
	$(BIN)/python demo/run.py

# Trains the controls too, in place of the figures in benchmarks/results: half an hour on two cores.
demo-full: $(INSTALLED) $(FETCHED)
	$(BIN)/python demo/run.py --full

# The fast tests, in two processes (of one thread each, see tests/conftest.py).
test: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow and not gpu"

# Those marked slow, without the wide ones (all combinations, damaged inputs by the thousand); after
# FUNNELFORMER_TESTS_UNTIL (seconds of the epoch) none is begun.
test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 -m "slow and not wide and not gpu"

test-all: $(INSTALLED)
	$(BIN)/python -m pytest -n 2

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

# The documentation as a site, at http://127.0.0.1:8000 and up to date while you write; make check builds it too.
docs: $(INSTALLED)
	$(BIN)/mkdocs serve

# The wheel and the sdist, checked, and the wheel tried in a clean environment, away from the sources.
package: $(INSTALLED)
	rm -rf dist
	$(BIN)/python -m build --outdir dist .
	$(BIN)/twine check --strict dist/*
	$(BIN)/python .ci/smoke.py --versions tested --wheel dist/*.whl

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev,demo,docs]"
	touch $@

$(FETCHED): demo/fetch.py $(INSTALLED)
	$(BIN)/python demo/fetch.py --out $(@D)
	touch $@

clean:
	rm -rf $(VENV) build dist src/*.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
