# Each target makes its own virtual environment when there is none. `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := $(shell find agent -type f -not -name '*.pyc') pyproject.toml
PIP := $(BIN)/pip --disable-pip-version-check --quiet

.PHONY: help demo test lint bench requirements clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "%-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/installed ## watch the daemon do its job against a local endpoint
	@$(BIN)/ssm-status-reporter demo

test: $(VENV)/installed ## every test, against the installed package
	$(BIN)/pytest

lint: $(VENV)/installed ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/installed ## speed and memory, as ratios against a floor and a peer in the same run
	$(BIN)/python tests/benchmarks/bench.py

requirements: ## pin anew what the project depends on, with hashes
	$(BIN)/uv pip compile --quiet --universal --upgrade --python-version 3.11 --generate-hashes --no-header \
		--no-emit-index-url --no-emit-find-links pyproject.toml -o requirements/runtime.txt
	$(BIN)/uv pip compile --quiet --universal --upgrade --python-version 3.11 --generate-hashes --no-header \
		--no-emit-index-url --no-emit-find-links pyproject.toml requirements/dev.in -o requirements/dev.txt

clean: ## remove what the other targets made
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

$(VENV)/dependencies: requirements/dev.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the pinned dependencies into $(VENV) (once; takes about half a minute)"
	@$(PIP) install --require-hashes -r requirements/dev.txt
	@touch $@

# Installed, not linked: tests meet what a user gets.
$(VENV)/installed: $(VENV)/dependencies $(SOURCES)
	@$(PIP) install --no-deps --no-build-isolation --force-reinstall .
	@touch $@
