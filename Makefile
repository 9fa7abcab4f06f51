# Each target makes its own virtual environment when there is none. `make help` lists the targets.
PYTHON ?= python3
SOURCES := $(shell find agent -type f -not -name '*.pyc') pyproject.toml README.md LICENSE

# Two environments: what a user gets, and what a developer needs beside it.
USER_ENV := .venv
DEVELOPER_ENV := .venv-dev
BIN := $(DEVELOPER_ENV)/bin

.PHONY: help demo test lint bench requirements model clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "%-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(USER_ENV)/installed ## watch the daemon do its job against a local endpoint
	@$(USER_ENV)/bin/ssm-status-reporter demo

test: $(DEVELOPER_ENV)/installed ## every test, against the installed package; in two processes, for most of them wait
	$(BIN)/pytest --numprocesses 2 --dist loadfile

lint: $(DEVELOPER_ENV)/installed ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(USER_ENV)/installed $(DEVELOPER_ENV)/installed ## speed and memory, as ratios against a floor and a peer in one run
	$(BIN)/python tests/benchmarks/bench.py $(USER_ENV)/bin/ssm-status-reporter

requirements: $(DEVELOPER_ENV)/dependencies ## pin anew what the project depends on, with hashes
	$(BIN)/uv pip compile --quiet --universal --upgrade --python-version 3.11 --generate-hashes --no-header \
		--no-emit-index-url --no-emit-find-links pyproject.toml requirements/build.in -o requirements/runtime.txt
	$(BIN)/uv pip compile --quiet --universal --upgrade --python-version 3.11 --generate-hashes --no-header \
		--no-emit-index-url --no-emit-find-links pyproject.toml requirements/build.in requirements/dev.in -o requirements/dev.txt

model: $(DEVELOPER_ENV)/installed ## cut the SDK's service model anew, after its version changed
	$(BIN)/python tests/ssm_model_cut.py

clean: ## remove what the other targets made
	rm -rf $(USER_ENV) $(DEVELOPER_ENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

$(USER_ENV)/dependencies: requirements/runtime.txt
$(DEVELOPER_ENV)/dependencies: requirements/dev.txt
%/dependencies:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.12 …")'
	@test -x $*/bin/python || $(PYTHON) -m venv $*
	@echo "installing the pinned dependencies into $* (once)"
	@$*/bin/pip --disable-pip-version-check --quiet install --require-hashes -r $<
	@touch $@

# Installed, not linked: tests meet what a user gets.
%/installed: %/dependencies $(SOURCES)
	@echo "installing ssm-status-reporter into $*"
	@$*/bin/pip --disable-pip-version-check --quiet install --no-deps --no-build-isolation --force-reinstall .
	@touch $@

.PRECIOUS: %/dependencies %/installed

include packaging/install.mk
