#!/usr/bin/env bash
# One node with 8 GPUs: colocated engines, FSDP2. Words behind the script are further settings:
#   scripts/launch/one_node.sh fidelity=paper run_dir=runs/paper
set -euo pipefail
exec torchrun --standalone --nproc-per-node 8 -m actial.train \
  +experiment=actial_7b trainer.devices=8 "$@"
