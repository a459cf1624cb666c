#!/usr/bin/env bash
# The rollout server of nodes.sh and slurm_64gpu.sh: 8 replicas on one node behind one address. It
# answers without a key and can be told to load weights, so its port must stay inside the cluster.
#   scripts/launch/serve.sh [MODEL]
set -euo pipefail
export VLLM_SERVER_DEV_MODE=1
exec python -m vllm.entrypoints.openai.api_server --model "${1:-Qwen/Qwen2.5-VL-7B-Instruct}" \
  --host 0.0.0.0 --port 8000 --data-parallel-size 8 --enable-scale-out \
  --logprobs-mode processed_logprobs --generation-config vllm --dtype bfloat16 \
  --max-model-len 8192 --limit-mm-per-prompt '{"image":4,"video":0}'
