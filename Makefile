# Everything runs in .venv, which is made on the first call and brought up to date when a requirement changes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help demo docs static-page test test-fast test-upstream fuzz quality style bench dist-check clean

help:
	@echo "make demo       reconstruct real images and generate every class with the bundled model, into demo/"
	@echo "make test       all tests"
	@echo "make test-fast  the tests that are not marked slow"
	@echo "make test-upstream  the test suites of transformers and diffusers over our classes, see docs/upstream_tests.md"
	@echo "make fuzz       many damaged files of each kind, FUZZ_CASES of them from FUZZ_SEED on, and many kills; make test has a few"
	@echo "make docs       build the documentation site into build/site (Python 3.11 or newer)"
	@echo "make static-page  build the web page without a server into build/static_page (Python 3.11 or newer)"
	@echo "make quality    check style, types and who may import whom"
	@echo "make style      fix and format"
	@echo "make bench      measure speed and memory beside the original's way, into docs/speed; BENCH=options of benchmarks/speed.py"
	@echo "make dist-check build wheel and source archive, check them, install the wheel in a clean environment and use it"
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
	@echo "Reconstructions of real images are in demo/reconstruct, new images of every class in demo/generate."

# Two processes, each with whole files of tests, whose fixtures are dear. In the order of the folders: pytest-xdist would
# keep the files of few and long tests for the end, when one process waits for the other.
PYTEST := $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0

# The tests run offline, and those of the page without a server skip if ONNX Runtime Web cannot be downloaded.
test: $(VENV)/installed-test
	$(BIN)/python space/static/onnxruntime_web.py || true
	$(PYTEST)

test-fast: $(VENV)/installed-test
	$(PYTEST) -m "not slow"

# The suites come from the source archives of the installed versions, or from checkouts that TRANSFORMERS_SOURCE and
# DIFFUSERS_SOURCE name.
test-upstream: $(VENV)/installed-test
	$(BIN)/python -m pip install --quiet --constraint constraints.txt parameterized requests
	$(BIN)/python tests/upstream_sources.py build/upstream
	RUN_SLOW=1 UPSTREAM_SOURCES=build/upstream $(BIN)/python -m pytest tests/upstream

FUZZ_CASES ?= 300
FUZZ_KILLS ?= 10
fuzz: $(VENV)/installed-test
	FUZZ_CASES=$(FUZZ_CASES) FUZZ_KILLS=$(FUZZ_KILLS) $(BIN)/python -m pytest tests/fuzz

docs: $(VENV)/installed-docs
	$(BIN)/python docs/build_site.py

static-page: $(VENV)/installed-onnx
	$(BIN)/python space/static/build.py

quality: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

style: $(VENV)/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Under 20 minutes on two cores. In pieces: make bench BENCH="images generate", then BENCH=report.
BENCH ?= all
bench: $(VENV)/installed-test
	$(BIN)/python benchmarks/speed.py $(BENCH)

# Builds with the setuptools of .venv, so that only the clean environment needs a package index.
dist-check: $(VENV)/installed-test
	$(BIN)/python -m pip install --quiet --constraint constraints.txt build setuptools twine
	rm -rf dist build/lib build/bdist.* build/dist-check
	$(BIN)/python -m build --no-isolation
	$(BIN)/twine check --strict dist/*
	$(PYTHON) -m venv build/dist-check
	build/dist-check/bin/python -m pip install --quiet --constraint constraints.txt dist/*.whl
	cd build/dist-check && bin/python -I ../../tests/use_installed_package.py

clean:
	rm -rf $(VENV) demo build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis src/*.egg-info
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
