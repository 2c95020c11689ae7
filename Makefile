# Two commands: `make demo` runs the main job, `make test` passes the checks. Both make the same environment first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test thorough lint types clean

demo: $(VENV)/.installed
	$(BIN)/sagetune train experiment=demo

test: $(VENV)/.installed lint types
	$(BIN)/python -m pytest -n 3 --dist worksteal

thorough: $(VENV)/.installed
	$(BIN)/python -m pytest -n 3 --dist worksteal -m thorough

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell

types: $(VENV)/.installed
	$(BIN)/mypy

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) outputs dist
