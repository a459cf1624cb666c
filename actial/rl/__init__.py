"""GRPO: rollouts, rewards, advantages and the Lightning module."""
