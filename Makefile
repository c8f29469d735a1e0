# The two commands of the README do all the set-up: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
# torch first, by the constraints, so that nothing can pull another build of it.
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test slow supported lint clean

demo: .venv/demo
	rm -rf runs/demo
	$(BIN)/zeromean compare --out runs/demo

test: .venv/test lint
	$(BIN)/pytest --numprocesses 2 --dist loadfile --supported check

# What takes minutes: training steps of the recipes' large networks.
slow: .venv/test
	$(BIN)/pytest -m slow

# Writes docs/supported.md from what the tests show.
supported: .venv/test
	$(BIN)/pytest --numprocesses 2 --dist loadfile --supported write

lint: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf .venv build dist runs

.venv/torch: constraints.txt
	$(PYTHON) -m venv .venv
	$(INSTALL) torch
	touch $@

# What an installation is made from: a changed kernel is built again.
SOURCES := pyproject.toml setup.py $(wildcard src/zeromean/kernels/*.[ch])

.venv/demo: .venv/torch $(SOURCES)
	$(INSTALL) --editable '.[study]'
	touch $@

.venv/test: .venv/torch $(SOURCES)
	$(INSTALL) --editable '.[dev]'
	touch $@
