# Everything HetSpec needs from a bare clone: Python 3.11+ and make. `make` alone prints the targets.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

# Extra words for the programs behind the targets: make demo ARGS=--json, make test ARGS="-k tree", make bench ARGS=capture
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help install demo run test check format lint types layers startup bench clean

help: ## Print the targets
	@echo "HetSpec. make TARGET [ARGS=\"...\"] [PYTHON=python3.12]"
	@echo
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{ printf "%-16s%s\n", $$1, $$2 }'

install: ## Make .venv with everything but SGLang (fast when nothing changed)
	@command -v "$(PYTHON)" >/dev/null || { echo "install: no program '$(PYTHON)' here; name a Python 3.11 or newer: make PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	|| { echo "install: Python 3.11 or newer is needed, but '$(PYTHON)' is $$("$(PYTHON)" -V 2>&1); name a newer one: make PYTHON=python3.12" >&2; exit 1; }
	@"$(PYTHON)" scripts/install.py

demo: install ## From a dataset to a measured speed-up on a small real model, in minutes
	@$(BIN)/hetspec-core demo $(ARGS)

run: install ## Open the dashboard
	@$(BIN)/hetspec $(ARGS)

test: install ## Run all tests (quicker: ARGS="-m 'not slow'")
	@$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadgroup $(ARGS)

check: install ## Style, types, import layers and start-up, all of them even if one fails
	@$(MAKE) --no-print-directory --keep-going lint format types layers startup && echo "check: all good"

lint: install
	@echo "check: ruff check"
	@$(BIN)/ruff check --quiet --output-format concise .

format: install
	@echo "check: ruff format"
	@$(BIN)/ruff format --check --quiet --output-format concise .

types: install
	@echo "check: basedpyright"
	@$(BIN)/basedpyright --level error

layers: install
	@echo "check: import layers"
	@out=$$($(BIN)/lint-imports --no-cache --no-logo 2>&1) || { echo "$$out"; exit 1; }

startup: install
	@echo "check: start-up imports"
	@$(BIN)/python -m pytest -q -p no:cacheprovider tests/unit/test_import_time.py

bench: install ## Run the benchmarks and print them with the machine's facts (one: ARGS=NAME)
	@$(BIN)/python -m benchmarks $(ARGS)

clean: ## Remove .venv and everything that can be made again
	@rm -rf $(VENV) .venv.lock .cache build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
