#!/usr/bin/env bash
# 7 nodes train, one node serves. Run it on each of the 7 training nodes with the same HEAD (name or
# address of the first of them); RUN and ACTIAL_WEIGHTS lie on a file system that all nodes share.
#   HEAD=node1 SERVER=node8 scripts/launch/nodes.sh run_dir=/shared/runs/actial_7b
# On the serving node: scripts/launch/serve.sh
set -euo pipefail
: "${HEAD:?name the first training node}" "${SERVER:?name the serving node}"
export ACTIAL_SERVER="http://${SERVER}:8000"
export ACTIAL_WEIGHTS="${ACTIAL_WEIGHTS:-/shared/actial_weights}"
exec torchrun --nnodes 7 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint "${HEAD}:29500" \
  --rdzv-id actial --max-restarts 0 -m actial.train \
  +experiment=actial_7b sampler=vllm_server_64gpu trainer.devices=8 trainer.nodes=7 "$@"
