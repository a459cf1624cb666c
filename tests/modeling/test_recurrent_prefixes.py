"""Qwen3.5: continuations start from copies of their prefix's convolution and recurrent states."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from support.oracle import assert_same_gradients, gradients
from support.random_batches import GRADIENT_TOLERANCE
from support.tiny_models import make_group, random_continuation, random_image, tiny_policy

from actial.config import Attention, LoraConfig, Precision, Reference
from actial.core.records import Prompt, SamplingParams
from actial.inference.samplers import HFSampler
from actial.modeling.gated_delta import CHUNK, delta_layout
from actial.modeling.policy import Compare, TokenLogprobs
from actial.modeling.prefix_packing import Continuation, PrefixGroup, pack
from actial.modeling.token_scoring import SamplingDistribution

LENGTHS = (1, 2, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK - 1)


@pytest.fixture(scope="module")
def policy():
    return tiny_policy("qwen3_5", reference=Reference.frozen_copy)


def long_groups(policy):
    """Prefixes of 1 to 200 tokens, two of them with images, continuations around whole chunks."""
    rng = random.Random(0)
    images = [random_image(rng, policy, 3, 4), random_image(rng, policy, 2, 2)]
    groups = []
    for number, (tokens, indices) in enumerate(((1, []), (30, [0, 1]), (90, [1]), (200, []))):
        text = [rng.randrange(200) for _ in range(tokens)]
        continuations = [random_continuation(rng, length) for length in rng.sample(LENGTHS, 3)]
        continuations.append(Continuation([7, 8], [True, True]))
        groups.append(make_group(f"g{number}", policy, images, indices, text, continuations))
    return groups, images


def one_by_one(groups: list[PrefixGroup]) -> list[PrefixGroup]:
    """The same continuations, each behind a prefix of its own."""
    return [
        replace(group, continuations=[continuation])
        for group in groups
        for continuation in group.continuations
    ]


def score(policy, groups, images, **options) -> TokenLogprobs:
    batch = pack(groups, images, policy.spec, 1)
    return policy.token_logprobs(
        batch, SamplingDistribution(0.7, (3,)), entropy=True, **options
    )


@pytest.mark.parametrize("compare", [Compare.logprobs, Compare.full_kl])
def test_all_that_losses_are_made_of_equals_separate_sequences(policy, compare):
    groups, images = long_groups(policy)
    with torch.no_grad():
        for parameter in policy.core.parameters():
            parameter.add_(torch.full_like(parameter, 0.01))  # away from the reference
        shared = score(policy, groups, images, compare=compare)
        separate = score(policy, one_by_one(groups), images, compare=compare)
        for parameter in policy.core.parameters():
            parameter.sub_(torch.full_like(parameter, 0.01))
    for name in ("logprobs", "entropy", "reference_logprobs", "kl"):
        actual, expected = getattr(shared, name), getattr(separate, name)
        assert (actual is None) == (expected is None)
        if actual is not None:
            torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    assert float(shared.logprobs.min()) < -1


def test_gradients_add_up_in_the_shared_states(policy):
    groups, images = long_groups(policy)

    def gradient_of(given):
        scored = score(policy, given, images, compare=Compare.full_kl)
        weights = torch.randn(len(scored.logprobs), generator=torch.Generator().manual_seed(0))
        return gradients(policy.core, scored.logprobs + 0.3 * scored.kl, weights)

    assert_same_gradients(
        gradient_of(groups), gradient_of(one_by_one(groups)), GRADIENT_TOLERANCE["qwen3_5"]
    )


def test_a_prefix_is_computed_once_and_no_sibling_is_seen(policy):
    groups, images = long_groups(policy)
    batch = pack(groups, images, policy.spec, 1)
    layout = delta_layout(batch, batch.input_ids.numel())
    prefixes = sum(len(bucket.lengths) for bucket in layout.prefixes)
    computed = sum(int(bucket.lengths.sum()) for bucket in layout.prefixes)
    behind = sum(int(bucket.lengths.sum()) for bucket in layout.continuations)
    assert prefixes == len(groups)
    assert computed == sum(len(group.input_ids) for group in groups)
    assert computed + behind == batch.num_tokens
    before = score(policy, groups, images).logprobs
    changed = replace(groups[3], continuations=[*groups[3].continuations[:-1]])
    changed.continuations.append(Continuation([9, 10], [True, True]))
    after = score(policy, [*groups[:3], changed], images).logprobs
    torch.testing.assert_close(after[:-2], before[:-2], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"gradient_checkpointing": True},
        {"attention": Attention.flex},
        {"lora": LoraConfig(enabled=True, rank=2)},
        {"gradient_checkpointing": True, "precision": Precision.bf16},
    ],
    ids=["checkpointing", "flex", "adapters", "bf16"],
)
def test_the_settings_of_large_models_train_recurrent_layers(policy, settings):
    other = tiny_policy("qwen3_5", **settings).train()
    groups, images = long_groups(other)
    logprobs = score(other, groups, images).logprobs
    expected = score(policy, groups, images).logprobs
    half = settings.get("precision") is Precision.bf16
    torch.testing.assert_close(logprobs, expected, rtol=1e-5, atol=0.6 if half else 1e-5)
    logprobs.sum().backward()
    trained = [(n, p) for n, p in other.core.named_parameters() if p.requires_grad]
    missing = [n for n, p in trained if p.grad is None and "visual" not in n]
    assert not missing
    recurrent = [p for n, p in trained if "linear_attn" in n and "lora_B" not in n]
    assert recurrent


def test_decoding_goes_on_from_copied_states_as_samples_leave(policy):
    """Greedy tokens and log-probabilities of long prompts, while stopped samples leave the batch."""
    groups, images = long_groups(policy)
    prompts = [
        Prompt(
            uid=group.uid,
            engine_ids=[],
            input_ids=group.input_ids,
            images=[images[index] for index in group.images],
        )
        for group in groups
    ]
    stops = list(range(0, 300, 9))
    sampler = HFSampler(policy, stop_ids=stops, banned_ids=[3])
    sampled = sampler.generate(prompts, 4, SamplingParams(temperature=0.7, max_tokens=24))
    lengths = {len(c.token_ids) for completions in sampled for c in completions}
    assert len(lengths) > 3
    for group, completions in zip(groups, sampled, strict=True):
        group.continuations = [
            Continuation(c.token_ids, [True] * len(c.token_ids)) for c in completions
        ]
    with torch.no_grad():
        scored = score(policy, groups, images).logprobs
    reported = [value for completions in sampled for c in completions for value in c.logprobs]
    torch.testing.assert_close(torch.tensor(reported), scored, rtol=1e-5, atol=2e-5)
