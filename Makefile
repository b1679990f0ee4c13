# Two commands do everything on a machine with Python 3.11 and make:
#   make quickstart    install the package and run the short example
#   make test          install what development needs, check and test all
# A third builds the site of the documentation, in build/site:
#   make docs          warnings and broken links are errors
# A fourth tests the core on the oldest versions, in an environment of its own:
#   make test-oldest
# And a fifth runs the notebooks, and stores what they show:
#   make notebooks
# Another interpreter: make test PYTHON=/path/to/python

# That of the system comes first: it is built to be fast, which takes a sixth
# off the tests, where others on the path, as of pyenv, often are not.
PYTHON ?= $(shell for p in /usr/bin/python3.11 python3.11 python3; do \
	$$p -c "import ensurepip, venv" 2>/dev/null && command -v $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
# A file of tests stays in one process; the processes share the cores, and take
# the files in the order of `tests/conftest.py`.
PYTEST := $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

export TF_CPP_MIN_LOG_LEVEL ?= 2
# Threads of NumPy in two processes would wait for each other.
export OPENBLAS_NUM_THREADS ?= 1
# Processes that tests start need not compile the package once more.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: quickstart test test-oldest lint docs notebooks clean

quickstart: $(VENV)/.installed
	$(BIN)/python examples/quickstart.py

test: lint
	KERAS_BACKEND=tensorflow $(PYTEST) --durations=10
	JAX_COMPILATION_CACHE_DIR=$(abspath $(VENV))/.jax \
		JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0 \
		JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES=-1 \
		KERAS_BACKEND=jax $(PYTEST) -m backends
	OMP_NUM_THREADS=1 KERAS_BACKEND=torch $(PYTEST) -m backends

lint: $(VENV)/.installed-dev
	$(BIN)/python -m ruff check .

# An interpreter that is on the path may be one that does not start.
OLDEST_PYTHON ?= $(shell for p in python3.10 python3.11 $(PYTHON); do \
	$$p -c "" 2>/dev/null && echo $$p && break; done)
OLDEST := $(VENV)-oldest

test-oldest: $(OLDEST)/.installed
	PYTHONPATH=$(CURDIR) KERAS_BACKEND=tensorflow $(OLDEST)/bin/python \
		-m pytest -q -rs -n 2 --dist loadfile @tests/oldest_part.txt

docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict

notebooks: $(VENV)/.installed-notebooks
	PYTHONPATH=$(CURDIR) $(BIN)/python notebooks/execute.py
	$(BIN)/python -m pytest -q tests/notebooks_test.py

clean:
	rm -rf $(VENV) $(OLDEST) build *.egg-info

# What is imported is compiled then; the rest need not be.
PIP := $(BIN)/python -m pip install --quiet --no-compile

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# The stamps keep an unchanged environment from being installed again.
$(VENV)/.installed: $(BIN)/python pyproject.toml
	$(PIP) --editable .
	touch $@

$(VENV)/.installed-dev: $(BIN)/python pyproject.toml
	$(PIP) --editable ".[dev]"
	touch $@ $(VENV)/.installed

$(OLDEST)/.installed: tests/oldest.txt
	$(OLDEST_PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --no-compile -r $<
	touch $@

$(VENV)/.installed-docs: $(BIN)/python pyproject.toml
	$(PIP) --editable ".[docs]"
	touch $@

$(VENV)/.installed-notebooks: $(VENV)/.installed-dev pyproject.toml
	$(PIP) --editable ".[notebooks]"
	touch $@
