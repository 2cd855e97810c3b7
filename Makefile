# `make demo` runs the main job, `make test` the tests; each sets up .venv first if it is missing.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# What `livecc plan` compiles with, in the version that this jax goes with. Tests alone see it: jax would
# look for a TPU in everyday use if it were installed.
LIBTPU := $(CURDIR)/$(VENV)/libtpu
WANTED := import importlib.metadata as m; print(next(r.split(";")[0] for r in m.requires("jax") if r.startswith("libtpu")))

.PHONY: demo docs test test-slow test-beam test-gpu fuzz lint libtpu clean

$(VENV)/installed: setup.py
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	touch $@

demo: $(VENV)/installed
	$(BIN)/livecc demo --out demo_out

libtpu: $(LIBTPU)

$(LIBTPU): $(VENV)/installed
	rm -rf $@ $@.new
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $@.new "$$($(BIN)/python -c '$(WANTED)')"
	mv $@.new $@

test: $(VENV)/installed
	PYTHONPATH=$(LIBTPU)$${PYTHONPATH:+:$$PYTHONPATH} $(BIN)/python -m pytest -q -n 2 --durations=20

test-slow: $(VENV)/installed
	PYTHONPATH=$(LIBTPU)$${PYTHONPATH:+:$$PYTHONPATH} $(BIN)/python -m pytest -q -m slow

# The tests of kernels, compiled for this machine's GPU rather than interpreted. A Python that has the
# packages already (jax for CUDA, pytest with timeout) is named with GPU_PYTHON=python3.
GPU_PYTHON ?= $(BIN)/python
test-gpu: $(if $(filter $(BIN)/python,$(GPU_PYTHON)),$(VENV)/installed-cuda)
	JAX_PLATFORMS=cuda $(GPU_PYTHON) -m pytest -q tests/kernels --durations=5

$(VENV)/installed-cuda: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test,cuda]'
	touch $@

# The tests of `livecc produce` on Apache Beam, which holds protobuf and pyarrow below what .venv has: in
# an environment of their own, with what the tested part needs and nothing else.
BEAM := .venv-beam
$(BEAM)/installed: setup.py
	test -x $(BEAM)/bin/python || $(PYTHON) -m venv $(BEAM)
	$(BEAM)/bin/python -m pip install --quiet --disable-pip-version-check 'apache-beam>=2.77,<3' numpy \
		opencv-python-headless 'av>=18' pillow jinja2 fsspec 'rensa>=0.4' py3langid pytest pytest-timeout
	touch $@

test-beam: $(BEAM)/installed
	$(BEAM)/bin/python -m pytest -q --noconftest -p no:cacheprovider -m beam tests/produce/line/test_beam.py

# Damaged files for every reader (docs/reliability.md). SEED repeats a run; READERS names some of them.
INPUTS ?= 6500
SECONDS ?= 1800
FIRST ?= 0
fuzz: $(VENV)/installed
	$(BIN)/python -m tests.fuzz.run --inputs $(INPUTS) --seconds $(SECONDS) --first $(FIRST) $(if $(SEED),--seed $(SEED)) $(READERS)

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python .ci/check_imports.py

# The site, in build/site. Strict: a link that leads nowhere ends it.
docs: $(VENV)/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@echo "build/site/index.html"

$(VENV)/installed-docs: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test,docs]'
	touch $@

clean:
	rm -rf $(VENV) $(BEAM) .venv-newest demo_out build *.egg-info
