# Everything runs in .venv, which is made on the first call and brought up to date when a requirement changes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help demo test test-fast quality style clean

help:
	@echo "make demo       reconstruct real pictures and generate every class with the bundled model, into demo/"
	@echo "make test       all tests"
	@echo "make test-fast  the tests that are not marked slow"
	@echo "make quality    check style, types and who may import whom"
	@echo "make style      fix and format"
	@echo "make clean      remove .venv, demo/ and caches"

# One stamp for each extra that a target needs.
$(VENV)/installed-%: setup.cfg pyproject.toml constraints.txt
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[$*]'
	touch $@

demo: $(VENV)/installed-demo
	$(BIN)/titok-hf reconstruct src/titok_hf/bundled/examples/*.png -o demo/reconstruct
	$(BIN)/titok-hf generate all -n 8 --seed 0 -o demo/generate
	@echo
	@echo "Reconstructions of real pictures are in demo/reconstruct, new pictures of every class in demo/generate."

test: $(VENV)/installed-test
	$(BIN)/python -m pytest

test-fast: $(VENV)/installed-test
	$(BIN)/python -m pytest -m "not slow"

quality: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

style: $(VENV)/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) demo build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis src/*.egg-info
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
