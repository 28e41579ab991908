# PYTHON is any interpreter with requirements/lock.txt installed; `make check PYTHON=python` uses the active one.
PYTHON ?= .venv/bin/python

.PHONY: check lint format test
check: lint  ## before every commit: lint, types, fast tests
	$(PYTHON) -m pytest -q -m "not slow and not real"

lint:  ## ruff and mypy
	$(PYTHON) -m ruff check .
	$(PYTHON) -m mypy

format:  ## mend what can be mended by machine
	$(PYTHON) -m ruff check --fix .

test:  ## everything that needs no real data
	$(PYTHON) -m pytest -q
