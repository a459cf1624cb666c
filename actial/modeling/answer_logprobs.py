"""Log-probabilities a policy gives to fixed answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from actial.core.records import Example
from actial.modeling.policy import Policy
from actial.modeling.prefix_packing import PrefixGroup, pack, split_micro
from actial.modeling.prompt_renderer import PromptRenderer


@torch.no_grad()
def answer_logprobs(
    policy: Policy, renderer: PromptRenderer, examples: Sequence[Example]
) -> list[float]:
    """Mean log-probability per token (end of turn included) of each question's `target`, in nats, in order."""
    images: list[np.ndarray] = []
    prefix_groups: list[PrefixGroup] = []
    for example in examples:
        prefix_groups.append(renderer.supervised_group(example, first_image=len(images)))
        images += example.images
    values: list[float] = []
    training = policy.training
    policy.eval()
    try:
        for part in split_micro(
            prefix_groups, max(policy.config.micro_batch_tokens, policy.config.sequence_tokens)
        ):
            batch = pack(
                [prefix_groups[i] for i in part], images, policy.spec, policy.config.sequence_tokens
            ).to(policy.device)
            found = policy.token_logprobs(batch)
            sums = torch.zeros(found.num_sequences, device=found.logprobs.device).index_add_(
                0, found.sequence_index, found.logprobs
            )
            counts = torch.bincount(found.sequence_index, minlength=found.num_sequences)
            values += (sums / counts).tolist()
    finally:
        policy.train(training)
    return values
