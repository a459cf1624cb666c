"""Log-probabilities a policy gives to fixed answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from actial.core.records import Example
from actial.modeling.policy import Policy
from actial.modeling.prefix_packing import Trunk, pack, split_micro
from actial.modeling.prompt_renderer import PromptRenderer


@torch.no_grad()
def answer_logprobs(
    policy: Policy, renderer: PromptRenderer, examples: Sequence[Example]
) -> list[float]:
    """Mean log-probability per token (end of turn included) of each question's `target`, in nats, in order."""
    images: list[np.ndarray] = []
    trunks: list[Trunk] = []
    for example in examples:
        trunks.append(renderer.supervised_trunk(example, first_image=len(images)))
        images += example.images
    values: list[float] = []
    training = policy.training
    policy.eval()
    try:
        for part in split_micro(trunks, max(policy.config.micro_tokens, policy.config.row_tokens)):
            batch = pack(
                [trunks[i] for i in part], images, policy.spec, policy.config.row_tokens
            ).to(policy.device)
            found = policy.token_logprobs(batch)
            sums = torch.zeros(found.num_branches, device=found.logprobs.device).index_add_(
                0, found.branch_index, found.logprobs
            )
            counts = torch.bincount(found.branch_index, minlength=found.num_branches)
            values += (sums / counts).tolist()
    finally:
        policy.train(training)
    return values
