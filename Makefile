# `make demo` and `make test` are all a newcomer needs: Python 3.11+ and make, nothing else.
# Everything is installed into .venv, once, at the versions of requirements.lock.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
LIBTPU := .cache/libtpu/.installed
REFERENCE := .cache/reference
# An environment of the newest of everything that pip brings, on the newest Python of the matrix.
PYTHON_NEWEST ?= $(shell .ci/newest-python)
NEWEST := .cache/newest
# Where tests, benchmarks and `maas plan` find the TPU compiler.
export MAAS_LIBTPU := $(CURDIR)/.cache/libtpu
# What decides whether .venv is up to date: contents, since `git checkout` changes dates.
INPUTS := requirements.lock pyproject.toml
# Test processes: as many as there are cores, at most four.
PYTEST := $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile --durations 10
BENCHES := $(filter-out bench/harness.py bench/tables.py,$(shell grep -l '__main__' bench/*.py))

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-heavy test-reference test-newest test-newest-fast newest lean wheel coverage
.PHONY: lint format bench figures cli-docs api-docs lock setup clean

help:  ## show this
	@sed -n 's/^\([a-z-]*\):.*  ## /\1|/p' Makefile | while IFS='|' read -r name text; do \
		printf '  make %-14s %s\n' "$$name" "$$text"; done

demo: setup  ## run the main job on real data; leaves demo-out/report.html
	@$(BIN)/maas demo

test: setup $(LIBTPU)  ## run the default test suite
	@$(PYTEST) -m 'not slow and not heavy and not reference'

test-slow: setup $(LIBTPU)  ## the tests that take over ten seconds each; continuous integration runs both
	@$(PYTEST) -m 'slow and not heavy and not reference'

test-heavy: setup $(LIBTPU)  ## what takes minutes: twenty kills, a large model planned for a TPU slice
	@$(BIN)/python -m pytest -m heavy --durations 10

lean: setup  ## what has to stay light: imports, floors, faces, formats
	@$(PYTEST) -m 'not slow and not heavy and not reference' $(addprefix tests/test_,architecture.py faces.py \
		import_weight.py docstrings.py wire_frames.py bundle_manifest.py errors.py tensors.py)

wheel: setup  ## build the wheel, install it with each extra into an empty environment, run what each promises
	@$(PYTEST) -m slow tests/test_wheel.py

# The number in pyproject.toml was measured, and only rises. Child processes are not counted.
coverage: setup $(LIBTPU)  ## the default suite with its coverage, which must not fall
	@$(PYTEST) -m 'not slow and not heavy and not reference' --cov --cov-report=term:skip-covered

test-reference: setup  ## models against torch and transformers, in an environment of its own (5 GB)
	@cat requirements-reference.lock | cmp -s - $(REFERENCE)/.installed || { \
		echo "Installing torch and transformers into $(REFERENCE)."; \
		$(PYTHON) -m venv --clear $(REFERENCE) && $(REFERENCE)/bin/python -m pip install --quiet \
			--disable-pip-version-check --no-deps --require-hashes --requirement requirements-reference.lock && \
		cat requirements-reference.lock > $(REFERENCE)/.installed; }
	@PYTHONPATH=. $(REFERENCE)/bin/python -m pytest -m reference tests/reference

test-newest: newest  ## the default suite on Python 3.13, with the newest of everything
	@$(NEWEST_PYTEST) -m 'not slow and not heavy and not reference'

test-newest-fast: newest  ## what the newest versions broke before: runtime, serving, client, formats
	@$(NEWEST_PYTEST) -m 'not slow and not heavy and not reference' $(NEWEST_FAST)

# The commands that the tests start (`maas`) are this environment's.
# Without the TPU compiler: the locked one is that of the locked jax.
NEWEST_PYTEST := env -u MAAS_LIBTPU PATH="$(CURDIR)/$(NEWEST)/bin:$$PATH" $(NEWEST)/bin/python -m pytest \
	-n logical --maxprocesses 4 --dist loadfile --durations 10
NEWEST_FAST := $(addprefix tests/test_,import_weight.py tensors.py runtime_*.py serve_*.py client_*.py wire_*.py \
	bundle_*.py export_programs.py export_package.py compress_program_*.py models_*.py)

# Asks the index each time: the newest of today is the point. pip of Python 3.13.0 knows no groups.
newest:
	@test -n "$(PYTHON_NEWEST)" || { \
		echo "No Python 3.13 here. Name one: make test-newest PYTHON_NEWEST=/path/to/python3.13" >&2; exit 1; }
	@test -x $(NEWEST)/bin/python || "$(PYTHON_NEWEST)" -m venv $(NEWEST)
	@echo "Installing the newest of everything into $(NEWEST); the first time this takes two minutes."
	@$(NEWEST)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@$(NEWEST)/bin/python -m pip install -qq --disable-pip-version-check --upgrade --upgrade-strategy eager \
		--group dev --config-settings editable_mode=compat --editable '.[demo]'
	@$(NEWEST)/bin/python -m compileall -q maas_sdk functions
	@$(NEWEST)/bin/python -c 'import platform, jax, jaxlib, flax, numpy; print("Python", platform.python_version(), \
		"jax", jax.__version__, "jaxlib", jaxlib.__version__, "flax", flax.__version__, "numpy", numpy.__version__)'

# The TPU compiler lies in a folder of its own: jax loads it wherever it can import it. With it lies
# a plugin that drives this processor as it would an accelerator. There is either for Linux on
# x86-64 alone; elsewhere the tests that need them are skipped, and say so.
$(LIBTPU): requirements-tpu.lock | setup
	@rm -rf $(dir $@) && mkdir -p $(dir $@)
	@if [ "$$(uname -sm)" = "Linux x86_64" ]; then \
		echo "Installing the TPU compiler into $(dir $@), once (270 MB)."; \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
			--require-hashes --requirement requirements-tpu.lock --target $(dir $@); fi
	@touch $@

lint: setup  ## style, formatting and types
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

format: setup  ## write the code as `make lint` wants it
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format .

bench: setup $(LIBTPU)  ## measure every figure again, into bench/results/, and put them into README.md
	@set -e; for script in $(BENCHES); do echo "== $$script"; $(BIN)/python $$script --save; done
	@$(BIN)/python bench/tables.py

cli-docs: setup  ## write docs/cli.md from the help texts of maas
	@$(BIN)/python docs/generate/cli.py

api-docs: setup  ## write the API reference from the docstrings, into build/api
	@$(BIN)/python docs/generate/api.py

figures: setup  ## put the figures of bench/results/ into README.md and docs/
	@$(BIN)/python bench/tables.py

# Changes versions; add e.g. UV_FLAGS='--upgrade-package numpy' for newer ones.
lock: setup  ## write requirements.lock anew from pyproject.toml
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet uv
	@$(BIN)/uv pip compile pyproject.toml --extra demo --group dev --group bench \
		--universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--no-annotate --no-header --quiet $(UV_FLAGS) --output-file requirements.lock
	@{ echo '# Every version and hash of the development environment. Written by: make lock'; \
		grep -v '^# ' requirements.lock; } > requirements.lock.new
	@mv requirements.lock.new requirements.lock
	@printf 'libtpu==0.0.42.*\nxla-cpu-pjrt==0.0.1\n' | $(BIN)/uv pip compile - --python-version 3.11 --generate-hashes \
		--python-platform x86_64-manylinux_2_31 \
		--no-emit-index-url --no-annotate --no-header --quiet --output-file requirements-tpu.lock
	@printf 'torch\ntransformers\njax==0.10.2\njaxlib==0.10.2\nflax==0.12.8\npytest\npytest-timeout\n' | \
		$(BIN)/uv pip compile - --python-version 3.11 --generate-hashes --no-emit-index-url \
		--no-annotate --no-header --quiet --output-file requirements-reference.lock
	@# What is installed where a model is served, at the versions of requirements.lock, shipped in the package.
	@lock() { name=$$1; shift; printf '%s\n' "$$@" | $(BIN)/uv pip compile - --universal --python-version 3.11 \
		--generate-hashes --constraint requirements.lock --no-emit-index-url --no-annotate --no-header --quiet \
		--output-file maas_sdk/deploy/locks/$$name.lock; }; \
	lock serve functions-framework jaxlib ml_dtypes msgpack numpy scipy && lock cli rich typer uvicorn && \
	lock gcp google-cloud-storage && lock seal cryptography && lock zstd zstandard && lock data orjson pyarrow pillow && \
	lock cuda 'jax-cuda12-plugin[with-cuda]==0.10.2' && lock tpu 'libtpu==0.0.42.*'

clean:  ## remove .venv and everything that is made
	rm -rf $(VENV) .cache demo-out build dist *.egg-info .coverage* .hypothesis
	rm -rf .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

# Compiles our own bytecode each time (0.1 s when nothing changed): where PYTHONDONTWRITEBYTECODE
# is set nobody else does, and every process would compile the package again.
setup:
	@cat $(INPUTS) | cmp -s - $(INSTALLED) || $(MAKE) --no-print-directory $(INSTALLED)
	@$(BIN)/python -m compileall -q maas_sdk functions

.PHONY: $(INSTALLED)
$(INSTALLED):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or newer is needed, $(PYTHON) is not. Name one: make demo PYTHON=python3.12" >&2; \
		exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV) || { \
		echo "$(PYTHON) cannot make virtual environments. On Debian and Ubuntu:" \
			"sudo apt install python3-venv. Or name another: make demo PYTHON=python3.12" >&2; \
		exit 1; }
	@echo "Installing into $(VENV): $$(grep -c '==' requirements.lock) packages, once; this takes a minute or more."
	@# The lock is whole, so nothing is resolved: older pips choose the newest of a package that another
	@# asks for with an extra (coverage[toml]), and then refuse it for having no hash.
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
		--requirement requirements.lock
	@# compat: a line in a .pth file; the default is an import hook, 9 ms in every start of Python.
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
		--no-build-isolation --config-settings editable_mode=compat --editable .
	@# pip leaves no bytecode where the environment forbids it. Packages carry files that are
	@# not for this Python; those cannot be compiled, and nobody imports them.
	@$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true
	@cat $(INPUTS) > $(INSTALLED)
