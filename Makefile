# Two commands do all the set-up: `make demo` and `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
GKLBENCH := $(BIN)/gklbench

# The demonstration. `make demo SHORT=1` is the same in a minute or two, for CI.
# The nets are so small that a second thread only waits: one is faster.
demo: export OMP_NUM_THREADS ?= 1

ifdef SHORT
DEMO_SHORT := --set train.epochs=8 --set eval.n=64
endif

.PHONY: demo test lint types check format clean

demo: $(VENV)/installed
	@$(GKLBENCH) suite results/examples/digits/suite.toml --overwrite --retry $(DEMO_SHORT) --csv results/leaderboard.csv

test: lint types check

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed-dev
	$(BIN)/mypy

check: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -W error -n auto --cov --cov-report=term

format: $(VENV)/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/pip install --quiet --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
