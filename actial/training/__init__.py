"""The training step shared by SFT and GRPO: batches, losses, checkpoints, ranks."""
