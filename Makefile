# Two commands do all the set-up: `make demo` and `make test`. `make docs` builds the documentation.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ZOO := .venv-zoo
DOCS := .venv-docs
GKLBENCH := $(BIN)/gklbench

# The demonstration. `make demo SHORT=1` is the same in a minute or two, for CI.
# The nets are so small that a second thread only waits: one is faster.
demo: export OMP_NUM_THREADS ?= 1

ifdef SHORT
DEMO_SHORT := --set train.epochs=8 --set eval.n=64
endif

.PHONY: demo test lint types check zoo check-zoo docs build-docs format clean

demo: $(VENV)/installed
	@$(GKLBENCH) suite digits --overwrite --retry $(DEMO_SHORT) --csv results/leaderboard.csv

test: lint types check zoo docs

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed-dev
	$(BIN)/mypy

check: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -W error -n auto --cov --cov-report=term

# RobustBench, timm and the hub cannot live beside torchattacks, nor can Sphinx: they have environments of their own, which
# take torch and all else that they lack from the first. Without a registry to install them from they are left out.
zoo: $(VENV)/installed-dev
	@if $(call can-install,$(ZOO),'robustbench==1.1.1'); then $(MAKE) --no-print-directory check-zoo; \
	else echo "zoo: skipped, no package registry can be reached to install robustbench, timm and huggingface_hub"; fi

check-zoo: $(ZOO)/installed
	OMP_NUM_THREADS=1 $(ZOO)/bin/python -m pytest -W error -n auto tests/zoo tests/models

docs: $(VENV)/installed-dev
	@if $(call can-install,$(DOCS),sphinx); then $(MAKE) --no-print-directory build-docs; \
	else echo "docs: skipped, no package registry can be reached to install sphinx and its extensions"; fi

build-docs: $(DOCS)/installed
	OMP_NUM_THREADS=1 $(DOCS)/bin/python -m sphinx -E -W --keep-going --quiet -b html docs docs/_build/html
	$(DOCS)/bin/python docs/check_links.py docs/_build/html
	@echo "docs: open docs/_build/html/index.html"

# $(call can-install,ENVIRONMENT,PACKAGE): it is there already, or a registry can be reached.
can-install = $(MAKE) --silent --question $(1)/installed || $(BIN)/pip install $(REACH) $(2) >/dev/null 2>&1
REACH := --dry-run --quiet --no-deps --ignore-installed --retries 0 --timeout 20

$(ZOO)/installed: EXTRAS := robustbench,timm,hub
$(DOCS)/installed: EXTRAS := docs
$(ZOO)/installed $(DOCS)/installed: pyproject.toml
	$(BIN)/python -m venv $(@D)
	$(BIN)/python -c $(SITE) > "$$($(@D)/bin/python -c $(SITE))/zz-shared.pth"
	@$(@D)/bin/pip install --quiet --editable '.[$(EXTRAS)]' > $(@D)/pip.log 2>&1 || { cat $(@D)/pip.log; exit 1; }
	@touch $@

SITE := "import site; print(site.getsitepackages()[0])"

format: $(VENV)/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[report,torchattacks]'
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/pip install --quiet --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) $(ZOO) $(DOCS) docs/_build docs/_generated build dist *.egg-info
