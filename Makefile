# On a fresh machine `make train` and `make test` are enough: .venv is created and filled when they need it.
# ARGS goes to the command: make test ARGS='tests/cli -x', make train ARGS='--set train.seed=1 --out runs/mine'
VENV := .venv
BIN := $(VENV)/bin
ARGS :=
PYTHON :=
SECONDS := 60

.PHONY: train test lint types check bench fuzz
.DELETE_ON_ERROR:

train: $(VENV)/.installed
	$(BIN)/seqdomains genomics train --species great-apes $(ARGS)

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -q $(ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/.installed-dev
	$(BIN)/mypy

check: lint types test

bench: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks.block_cpu $(ARGS)

# SECONDS for each reader; ARGS names readers: make fuzz SECONDS=600 ARGS='fasta checkpoint'
fuzz: $(VENV)/.installed-dev
	$(BIN)/python tests/fuzz/run.py --seconds $(SECONDS) $(ARGS)

$(BIN)/python:
	@for python in $(or $(PYTHON),python3 python3.13 python3.12 python3.11); do \
		if "$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then \
			echo "creating $(VENV) with $$($$python --version)"; \
			exec "$$python" -m venv $(VENV); \
		fi; \
	done; \
	echo "seqdomains needs Python 3.11, 3.12 or 3.13 and found none. Install one, or name it: make test PYTHON=/path/to/python3.12" >&2; \
	exit 1

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --editable .
	touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --editable '.[dev]'
	touch $(VENV)/.installed $@
