# Two commands do all the set-up: `make demo` and `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ZOO := .venv-zoo
GKLBENCH := $(BIN)/gklbench

# The demonstration. `make demo SHORT=1` is the same in a minute or two, for CI.
# The nets are so small that a second thread only waits: one is faster.
demo: export OMP_NUM_THREADS ?= 1

ifdef SHORT
DEMO_SHORT := --set train.epochs=8 --set eval.n=64
endif

.PHONY: demo test lint types check zoo check-zoo format clean

demo: $(VENV)/installed
	@$(GKLBENCH) suite digits --overwrite --retry $(DEMO_SHORT) --csv results/leaderboard.csv

test: lint types check zoo

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed-dev
	$(BIN)/mypy

check: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -W error -n auto --cov --cov-report=term

# RobustBench, timm and the hub cannot live beside torchattacks: they have an environment of their own, which takes
# torch and all else that it lacks from the first. Without a registry to install them from, their tests are left out.
zoo: $(VENV)/installed-dev
	@if $(MAKE) --silent --question $(ZOO)/installed || $(BIN)/pip install $(REACH) 'robustbench==1.1.1' >/dev/null 2>&1; \
	then $(MAKE) --no-print-directory check-zoo; \
	else echo "zoo: skipped, no package registry can be reached to install robustbench, timm and huggingface_hub"; fi

REACH := --dry-run --quiet --no-deps --ignore-installed --retries 0 --timeout 20

check-zoo: $(ZOO)/installed
	OMP_NUM_THREADS=1 $(ZOO)/bin/python -m pytest -W error -n auto tests/zoo tests/models

$(ZOO)/installed: pyproject.toml
	$(BIN)/python -m venv $(ZOO)
	$(BIN)/python -c $(SITE) > "$$($(ZOO)/bin/python -c $(SITE))/zz-shared.pth"
	@$(ZOO)/bin/pip install --quiet --editable '.[robustbench,timm,hub]' > $(ZOO)/pip.log 2>&1 || { cat $(ZOO)/pip.log; exit 1; }
	@touch $@

SITE := "import site; print(site.getsitepackages()[0])"

format: $(VENV)/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[torchattacks]'
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/pip install --quiet --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) $(ZOO) build dist *.egg-info
