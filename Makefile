# `make demo` and `make test` do all the setup.
PYTHON ?= python3
BIN := .venv/bin
# The constraints pin torch, so that no dependency can install another build of it.
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test pytest slow docs lint studies clean

demo: .venv/demo
	rm -rf runs/demo
	$(BIN)/zeromean demo --out runs/demo

# Lint takes one core for a minute, so it runs next to the tests.
test: .venv/test
	$(MAKE) --jobs 2 lint pytest

pytest: .venv/test
	$(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder \
		--supported=build/tested.md

# Sanitizers, fuzzers, large networks: half an hour or more.
slow: .venv/docs
	$(BIN)/pytest -m slow

# Writes build/docs/index.html. Broken links and missing references fail.
docs: .venv/docs
	$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet docs build/docs

lint: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell $$(git ls-files)
	$(BIN)/mypy
	$(BIN)/lint-imports

# Days of training; the same command continues. DATA is the folder of the data sets, JOBS the number
# of training processes, of one thread each.
DATA ?= .
JOBS ?= 1
studies: .venv/demo
	$(BIN)/python studies/run.py --data '$(DATA)' --jobs '$(JOBS)'

clean:
	rm -rf .venv build dist runs/demo src/zeromean/kernels/*.so

.venv/torch: constraints.txt
	$(PYTHON) -m venv .venv
	$(INSTALL) torch
	touch $@

# A changed kernel is built again.
SOURCES := pyproject.toml setup.py $(wildcard src/zeromean/kernels/*.[ch])

.venv/demo: .venv/torch $(SOURCES)
	$(INSTALL) --editable '.[study]'
	touch $@

VISION := tests/vision/requirements.txt

.venv/test: .venv/torch $(SOURCES) $(VISION)
	$(INSTALL) --editable '.[dev]'
	$(INSTALL) --no-deps --upgrade --target .venv/vision --requirement $(VISION)
	touch $@

.venv/docs: .venv/test
	$(INSTALL) --editable '.[dev,docs]'
	touch $@
