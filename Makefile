# What .ci/run runs, a target each. Everything is installed into .venv; PYTHON is the interpreter it is made with.
PYTHON ?= python3
BIN = .venv/bin
export NO_MKDOCS_2_WARNING = 1

.PHONY: help setup check lint types test slow mpi network bench docs pages dist versions matrix clean

help:  ## List the targets.
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 10

setup: .venv/installed  ## Install the program, in place, with all that its checks need.

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable '.[dev,mpi,docs]'
	touch $@

check: lint types test  ## What has to pass before each commit.

lint: setup  ## Style and format.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup  ## Types.
	$(BIN)/mypy

test: setup  ## The tests, without the slow ones.
	$(BIN)/pytest

slow: setup  ## The slow tests: a browser, kills at every file operation, planted errors.
	$(BIN)/pytest -m slow -rs

mpi: setup  ## The tests that need MPI; skipped, visibly, where there is none.
	$(BIN)/pytest -rs -m 'slow or not slow' tests/commands/test_train_mpi.py tests/commands/test_train_together.py tests/commands/test_sweep.py

network: setup  ## The tests that need a package registry; skipped, visibly, where none can be reached.
	$(BIN)/pytest -m network -n 0 -rs

bench: setup  ## The benchmarks, a moment each: whether they run, not how fast.
	$(BIN)/python -m benchmarks.smoke

docs: setup  ## The documentation as a site, build/site; a dead link is an error.
	$(BIN)/mkdocs build --quiet --strict

pages: setup  ## Write the generated pages anew: docs/config.md and docs/cli.md.
	$(BIN)/mlpcli config reference > docs/config.md
	$(BIN)/python docs/cli.py > docs/cli.md

dist: setup  ## Build sdist and wheel, and test each as it is installed.
	rm -rf build/dist
	$(BIN)/python -m build --outdir build/dist
	tests/installed.sh build/dist/mlpcli-*.whl
	tests/installed.sh build/dist/mlpcli-*.tar.gz

versions:  ## The tests with the oldest Python and numpy and with the newest, of those installed.
	tests/matrix.sh --ends

matrix:  ## The tests in Python 3.10 to 3.13, as far as installed, with the oldest and the newest numpy.
	tests/matrix.sh

clean:  ## Remove what these targets made.
	rm -rf build .venv
