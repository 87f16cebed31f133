# Two commands do everything: `make demo` and `make test`. Both make the environment first.
#   PYTHON=/path/to/python   the interpreter to build the environment from
#   PYTEST_ARGS="-k name"    passed on to pytest
#   SPECTUNE_DATA=DIR        where the data sets of the examples and of some tests lie

SHELL := /bin/sh
PYTHON ?=
PYTEST_ARGS ?=
PY := .venv/bin/python

.PHONY: help setup demo test check format docs torture

help:
	@echo "make demo    the main job on the bundled model and data, offline, into runs/demo"
	@echo "make test    the whole test suite"
	@echo "make check   format, lint and strict types"
	@echo "make format  rewrite the sources in the project's format"
	@echo "make docs    the documentation as a site, into build/site"
	@echo "make torture the long form of kills, faults, signals and resumes; takes an hour on two cores"
	@echo "make setup   only the environment (.venv); every target above makes it when needed"

setup:
	@PYTHON="$(PYTHON)" sh scripts/setup.sh

demo: setup
	HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 $(PY) -m spectune train examples/demo.yaml --overwrite

test: setup
	$(PY) -m pytest -n 2 --dist worksteal $(PYTEST_ARGS)

check: setup
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy

docs: setup
	$(PY) -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	$(PY) -m scripts.docs_reference
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --quiet

torture: setup
	$(PY) -W ignore -m tests.torture

format: setup
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .
