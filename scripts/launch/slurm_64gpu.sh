#!/usr/bin/env bash
# 8 nodes of 8 GPUs under Slurm: the last node serves, the others train.
#   sbatch scripts/launch/slurm_64gpu.sh run_dir=/shared/runs/actial_7b [key=value ...]
#SBATCH --job-name=actial
#SBATCH --nodes=8
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=96
#SBATCH --mem=0
#SBATCH --time=48:00:00
#SBATCH --signal=TERM@300
set -euo pipefail
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
HEAD="${nodes[0]}"
SERVER="${nodes[7]}"
export ACTIAL_SERVER="http://${SERVER}:8000"
export ACTIAL_WEIGHTS="${ACTIAL_WEIGHTS:-/shared/actial_weights}"
srun --nodes=1 --ntasks=1 --nodelist="$SERVER" scripts/launch/serve.sh &
server=$!
trap 'kill "$server"' EXIT
until curl --silent --fail "${ACTIAL_SERVER}/health" > /dev/null; do
  kill -0 "$server"  # a server that died ends the job
  sleep 5
done
trainers=$(IFS=,; echo "${nodes[*]:0:7}")
srun --nodes=7 --ntasks=7 --nodelist="$trainers" --kill-on-bad-exit=1 \
  torchrun --nnodes 7 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint "${HEAD}:29500" \
  --rdzv-id "$SLURM_JOB_ID" --max-restarts 0 -m actial.train \
  +experiment=actial_7b sampler=vllm_server_64gpu trainer.devices=8 trainer.nodes=7 "$@"
