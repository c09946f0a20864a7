# make demo: install and run the main recipe. make test: install and test. make test-gpu: the tests for an accelerator, on the one
# that torch finds. make matrix: the fast tests on every Python that is here. make docs: the documentation, in site/.
# All need Python >= 3.10 and pip, nothing else. Files are compiled as they are first imported (most of them never are) and kept
# so in .venv, also where the environment says otherwise: every process would compile torch and what it needs anew.
unexport PYTHONDONTWRITEBYTECODE
PYTHON ?= python3
BIN := .venv/bin
# a process per core, each on one thread: tensors in tests are small
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile

.PHONY: demo test test-all test-gpu matrix lint docs clean

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 10) else "Python >= 3.10 is needed")'
	$(PYTHON) -m venv .venv

.venv/for-the-demo: .venv/bin/python setup.py pyproject.toml
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --editable '.[text]'
	touch $@

.venv/installed: .venv/bin/python setup.py pyproject.toml
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --editable '.[all]'
	touch .venv/for-the-demo $@

demo: .venv/for-the-demo
	$(BIN)/metaimpute run recipes/imdb_uda.yaml

test: .venv/installed
	$(PYTEST) -m 'not slow'

test-all: .venv/installed
	$(PYTEST)

test-gpu: .venv/installed
	$(PYTEST) --dist worksteal -rs tests/gpu

matrix: .venv/installed
	$(BIN)/nox

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf .venv build site *.egg-info .pytest_cache .mypy_cache .ruff_cache
