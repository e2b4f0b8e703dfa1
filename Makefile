# What a developer runs here. Every target makes its own virtual environment first, when it is missing or older
# than pyproject.toml; nothing else has to be installed by hand but Python >= 3.11 (and Chromium for the page's tests).
#
#   make demo     the example app with everything on, at an address it prints, until Ctrl-C
#   make test     style, types, the rules of the house, and all quick tests with coverage
#   make accept   real applications' own test suites, with and without us
#   make slow     soaks, kill tests, long random runs
#   make bench    what we cost and what we gain
#   make docs     write the reference pages from the code, then check every link
#   make lint     only the style, types and rules; `make format` mends the style

PYTHON ?= python3
PYTEST_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help demo test lint format accept slow bench docs clean

help:
	@sed -n 's/^#   //p' Makefile

# An old pip knows neither dependency groups nor editable installs without setup.py: renew it first.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Flask-DBOpt needs Python 3.11 or newer; say where it is: make PYTHON=python3.12 ...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "This Python cannot make virtual environments; on Debian: apt-get install python3-venv" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --editable ".[all]" --group test
	@touch $(READY)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --config setup.cfg

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: lint
	$(BIN)/python -m pytest -m "not slow and not accept" -n 2 --dist loadgroup --cov --cov-report=term $(PYTEST_ARGS)

accept: $(READY)
	$(BIN)/python -m pytest -m accept tests/accept $(PYTEST_ARGS)

slow: $(READY)
	$(BIN)/python -m pytest -m slow --timeout=1800 $(PYTEST_ARGS)

bench: $(READY)
	$(BIN)/python -m pip install --quiet --group bench
	$(BIN)/python -m benchmarks

demo: $(READY)
	@$(BIN)/python -m example_app.serve

docs: $(READY)
	$(BIN)/python -m docs.reference
	$(BIN)/python -m pytest -q tests/house

clean:
	rm -rf $(VENV) .accept .demo build dist site htmlcov .coverage .coverage.* .*_cache *.egg-info
