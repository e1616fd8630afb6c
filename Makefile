# The two commands of the README; each does all that a fresh machine needs.
PYTHON ?= python3
BIN := .venv/bin
WORKERS ?= 2
export OMP_NUM_THREADS ?= $(shell nproc 2>/dev/null || echo 2)

.PHONY: quickstart test test-all check docs bench clean

quickstart: .venv/installed
	$(BIN)/gifthorse quickstart

test: .venv/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n $(WORKERS) --dist loadgroup

test-all: .venv/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n $(WORKERS) --dist loadgroup -m "slow or not slow"

check: .venv/installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: .venv/installed-dev
	$(BIN)/python docs/api.py build/api
	@echo "open build/api/index.html"

bench: .venv/installed-dev
	$(BIN)/python -m benchmarks

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[plots]'
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

clean:
	rm -rf .venv build gifthorse-runs gifthorse-report.html
