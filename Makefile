# Two commands for a new machine with Python 3.11 or newer:
#   make search   sets everything up and runs `raycae demo`, on photographs that ship with scikit-image
#   make test     sets everything up and runs lint, type checks and tests
# `make docs` builds the documentation into build/docs.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
STUDY ?= demo-$(shell date +%Y%m%d-%H%M%S)

.PHONY: search test lint docs clean

search: $(VENV)/raycae
	$(BIN)/raycae demo --study $(STUDY)

# Three tests run in parallel, because many of them wait for processes.
test: lint
	$(BIN)/python -m pytest -n 3 --dist worksteal

lint: $(VENV)/raycae-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/raycae-dev
	$(BIN)/python -m sphinx -W --keep-going -b html -d build/doctrees docs build/docs

# torch and torchvision are resolved together. constraints.txt has the versions that the tests last
# passed with.
$(VENV)/raycae: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt -e .
	touch $@

$(VENV)/raycae-dev: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	touch $@ $(VENV)/raycae

clean:
	rm -rf $(VENV) build .mypy_cache .pytest_cache .ruff_cache .hypothesis
