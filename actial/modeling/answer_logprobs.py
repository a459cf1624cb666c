"""Log-probabilities that a policy gives to fixed answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from actial.core.records import Example
from actial.modeling.policy import Policy, TokenLogprobs
from actial.modeling.prefix_packing import PrefixGroup, pack, split_micro_batches
from actial.modeling.prompt_renderer import PromptRenderer


@torch.no_grad()
def answer_logprobs(
    policy: Policy, renderer: PromptRenderer, examples: Sequence[Example]
) -> list[float]:
    """Mean log-probability (nats) per token of each question's `target`, end of turn included."""
    images: list[np.ndarray] = []
    groups: list[PrefixGroup] = []
    for example in examples:
        groups.append(renderer.supervised_group(example, first_image=len(images)))
        images += example.images
    config = policy.config
    means: list[float] = []
    training = policy.training
    policy.eval()
    try:
        for members in split_micro_batches(
            groups, max(config.micro_batch_tokens, config.sequence_tokens)
        ):
            batch = pack(
                [groups[i] for i in members], images, policy.spec, config.sequence_tokens
            )
            means += _sequence_means(policy.token_logprobs(batch.to(policy.device)))
    finally:
        policy.train(training)
    return means


def _sequence_means(scored: TokenLogprobs) -> list[float]:
    sums = scored.logprobs.new_zeros(scored.num_sequences)
    sums = sums.index_add_(0, scored.sequence_index, scored.logprobs)
    counts = torch.bincount(scored.sequence_index, minlength=scored.num_sequences)
    means: list[float] = (sums / counts).tolist()
    return means
