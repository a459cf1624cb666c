#!/usr/bin/env bash
# One node of 8 GPUs under Slurm: sbatch scripts/launch/slurm_8gpu.sh [key=value ...]
# The job gets SIGTERM 5 minutes before its end and saves its state; the same sbatch goes on.
#SBATCH --job-name=actial
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=96
#SBATCH --mem=0
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@300
set -euo pipefail
srun torchrun --standalone --nproc-per-node 8 -m actial.train \
  +experiment=actial_7b trainer.devices=8 "$@"
