"""The step of few operations gives what the library's layers give, and knows where it may not."""

from __future__ import annotations

import random
from functools import partial

import pytest
import torch
from support.random_batches import FAMILIES
from support.tiny_models import make_group, random_image, tiny_policy

from actial.config import LoraConfig, Precision
from actial.modeling import joined_decoding
from actial.modeling.group_decoding import decode_step, prefill
from actial.modeling.joined_decoding import JoinedDecoder, can_be_joined, open_decoder
from actial.modeling.prefix_packing import pack

GROUP, STEPS = 3, 6


def decoded(policy, open_step) -> torch.Tensor:
    """(STEPS, .., H) hidden states of given tokens, while rows branch, leave and are moved."""
    rng = random.Random(0)
    images = [random_image(rng, policy, 2, 3), random_image(rng, policy, 1, 2)]
    prefixes = [([0, 1], [5, 6, 7]), ([], [9]), ([1], [3, 4, 8, 2, 1])]
    groups = [make_group("g", policy, images, used, text, []) for used, text in prefixes]
    batch = pack(groups, images, policy.spec, 64)
    generator = torch.Generator().manual_seed(1)
    states = []
    with torch.no_grad():
        cache, _ = prefill(policy.core, batch, GROUP, STEPS)
        step = open_step(policy.core, cache)
        rows = torch.arange(len(groups)).repeat_interleave(GROUP)
        for number in range(STEPS):
            tokens = torch.randint(0, 3, (len(rows),), generator=generator)
            rows, drawn = cache.branch(rows, tokens)
            states.append(step(drawn)[rows].flatten())
            if number > 1:
                rows = rows[:-1]
    return torch.cat(states)


@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_states_equal_those_of_the_librarys_layers(family):
    policy = tiny_policy(family)
    for name, parameter in policy.core.named_parameters():
        if "norm" in name:  # all ones in a new model
            parameter.data += 0.3 * torch.randn(parameter.shape)
    library = decoded(policy, lambda *given: partial(decode_step, *given))
    if not can_be_joined(policy.core):
        assert family == "qwen3_5"
        return
    joined = decoded(policy, JoinedDecoder)
    torch.testing.assert_close(joined, library, rtol=1e-5, atol=1e-5)


def test_other_models_keep_the_librarys_layers(monkeypatch):
    policy = tiny_policy()
    assert can_be_joined(policy.core)
    adapters = tiny_policy(lora=LoraConfig(enabled=True, rank=2))
    assert not can_be_joined(adapters.core)
    half = tiny_policy(precision=Precision.bf16)
    with half.autocast():
        assert not can_be_joined(half.core)
    monkeypatch.setattr(joined_decoding, "MOST_PARAMETERS", 1000)
    assert not can_be_joined(policy.core)
    assert isinstance(open_decoder(policy.core, None), partial)
