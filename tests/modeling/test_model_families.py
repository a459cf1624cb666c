"""Packed scoring equals the padded forward for every family, whichever module groups train."""

from __future__ import annotations

from functools import cache
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.oracle import assert_same_gradients, gradients, padded_logprobs
from support.random_batches import FAMILIES, GRADIENT_TOLERANCE, random_batch
from support.tiny_models import tiny_model, tiny_policy

from actial.config import ModuleGroupConfig
from actial.modeling.prefix_packing import pack
from actial.modeling.trainable_modules import MODULE_GROUPS, module_group_of

TRAINED_GROUPS = [groups for size in (1, 2, 3) for groups in combinations(MODULE_GROUPS, size)]


@cache
def plain(family: str):
    return tiny_model(family)


@cache
def policy_of(family: str, trained: tuple[str, ...]):
    return tiny_policy(
        family, **{part: ModuleGroupConfig(train=part in trained) for part in MODULE_GROUPS}
    )


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=7, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**20),
    trained=st.sampled_from(TRAINED_GROUPS),
    counts=st.lists(st.sampled_from((0, 1, 2, 3)), min_size=1, max_size=3),
)
def test_random_ragged_batches_equal_the_padded_forward_whatever_trains(
    family, seed, trained, counts
):
    policy, model = policy_of(family, trained), plain(family)
    # at least one image, so that every module group takes part
    groups, images = random_batch(seed, policy, counts=(*counts, 1))
    result = policy.token_logprobs(pack(groups, images, policy.spec, 96)).logprobs
    expected = padded_logprobs(model, groups, images, policy.spec)
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)
    weights = torch.randn(len(result), generator=torch.Generator().manual_seed(seed))
    wanted = {
        n: g if module_group_of(n) in trained else 0 * g
        for n, g in gradients(model, expected, weights).items()
    }
    actual = gradients(policy.core, result, weights)
    assert_same_gradients(actual, wanted, GRADIENT_TOLERANCE[family])
