"""Sampling agrees with the policy's own scores and with transformers' generate, and never draws a
banned id.
"""

from __future__ import annotations

import random

import pytest
import torch
from support.random_batches import FAMILIES, QWEN_VL
from support.tiny_models import (
    EOS,
    IMAGE,
    VIDEO,
    VISION_END,
    VISION_START,
    make_group,
    random_image,
    tiny_policy,
)

from actial.config import LoraConfig, Precision
from actial.core.errors import UserError
from actial.core.records import FinishReason, Prompt, SamplingParams
from actial.inference import samplers
from actial.inference.samplers import HFSampler
from actial.modeling.image_patches import patchify
from actial.modeling.joined_decoding import open_decoder
from actial.modeling.prefix_packing import (
    Continuation,
    PrefixGroup,
    as_prefix_groups,
    pack,
)
from actial.modeling.token_scoring import SamplingDistribution

BANNED = (IMAGE, VIDEO, VISION_START, VISION_END)


def make_prompts(policy, counts=(2, 0, 1, 3), *, seed=0) -> list[Prompt]:
    """Prompts of different length with the given numbers of images; the first image is shared by
    all that have one.
    """
    rng = random.Random(seed)
    images = [random_image(rng, policy, *size) for size in ((2, 3), (3, 2), (1, 1))]
    prompts = []
    for number, count in enumerate(counts):
        indices = list(range(count))
        group = make_group(
            "", policy, images, indices, [rng.randrange(200) for _ in range(number + 1)], []
        )
        prompts.append(
            Prompt(
                uid=f"p{number}",
                engine_ids=[],
                input_ids=group.input_ids,
                images=[images[i] for i in indices],
            )
        )
    return prompts


def pack_completions(policy, prompts, completions, sequence_tokens):
    """The prompts with their completions as one batch, every sampled token supervised."""
    groups, images = as_prefix_groups(prompts)
    for group, sampled in zip(groups, completions, strict=True):
        group.continuations = [
            Continuation(c.token_ids, [True] * len(c.token_ids)) for c in sampled
        ]
    return pack(groups, images, policy.spec, sequence_tokens)


def make_sampler(policy, **settings) -> HFSampler:
    return HFSampler(policy, stop_ids=[EOS], banned_ids=BANNED, **settings)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_equal_the_policys_scores(family, temperature):
    policy = tiny_policy(family, sequence_tokens=64)
    prompts = make_prompts(policy)
    groups = make_sampler(policy).generate(
        prompts, 5, SamplingParams(temperature=temperature, max_tokens=12)
    )
    scored = policy.token_logprobs(
        pack_completions(policy, prompts, groups, 256),
        SamplingDistribution(temperature, BANNED),
    )
    sampled = torch.tensor([value for group in groups for c in group for value in c.logprobs])
    assert (sampled - scored.logprobs).abs().max() < 1e-5
    assert len({tuple(c.token_ids) for c in groups[0]}) == 5


@pytest.mark.parametrize("family", QWEN_VL)
def test_greedy_equals_generate(family):
    policy = tiny_policy(family)
    prompts = make_prompts(policy)
    sampled = make_sampler(policy).generate(
        prompts, 1, SamplingParams(temperature=0.0, max_tokens=10)
    )
    for prompt, (completion,) in zip(prompts, sampled, strict=True):
        ids = torch.tensor([prompt.input_ids])
        inputs = {"input_ids": ids, "mm_token_type_ids": (ids == IMAGE).int()}
        if prompt.images:
            inputs["pixel_values"], inputs["image_grid_thw"] = patchify(
                prompt.images, policy.spec
            )
        policy.core.model.rope_deltas = None
        out = policy.core.generate(
            **inputs,
            max_new_tokens=10,
            do_sample=False,
            eos_token_id=EOS,
            pad_token_id=0,
            suppress_tokens=list(BANNED),
        )
        assert completion.token_ids == out[0, ids.shape[1] :].tolist()


def test_a_sample_does_not_depend_on_its_neighbors():
    policy = tiny_policy()
    prompts = make_prompts(policy)
    params = SamplingParams(max_tokens=8, seed=3)
    together = make_sampler(policy).generate(prompts, 4, params)
    assert [
        c.token_ids
        for c in make_sampler(policy, batch_size=4).generate(prompts[2:], 4, params)[0]
    ] == [c.token_ids for c in together[2]]
    other = make_sampler(policy).generate(prompts, 4, SamplingParams(max_tokens=8, seed=4))
    assert [c.token_ids for c in other[0]] != [c.token_ids for c in together[0]]


def test_finished_samples_leave_the_batch_and_keep_their_tokens():
    policy = tiny_policy()
    with torch.no_grad():
        policy.core.lm_head.weight[EOS] += 0.25 * policy.core.lm_head.weight.std()
    prompts = make_prompts(policy, (1, 0, 2, 0, 0, 1))
    params = SamplingParams(temperature=1.5, max_tokens=60)
    groups = make_sampler(policy).generate(prompts, 6, params)
    lengths = [len(c.token_ids) for group in groups for c in group]
    assert len(set(lengths)) > 5
    for group in groups:
        for completion in group:
            ended = completion.token_ids[-1] == EOS
            assert completion.finish is (FinishReason.STOP if ended else FinishReason.LENGTH)
            assert EOS not in completion.token_ids[:-1]
            assert ended or len(completion.token_ids) == 60
            assert len(completion.logprobs) == len(completion.token_ids)
    scored = policy.token_logprobs(
        pack_completions(policy, prompts, groups, 512), SamplingDistribution(1.5, BANNED)
    ).logprobs
    sampled = torch.tensor([value for group in groups for c in group for value in c.logprobs])
    assert (sampled - scored).abs().max() < 1e-5


@pytest.mark.parametrize("precision", [Precision.fp32, Precision.bf16])
def test_equal_beginnings_are_decoded_once_and_change_no_draw(precision, monkeypatch):
    """At a low temperature most samples of a prompt agree for many tokens."""
    policy = tiny_policy(precision=precision)
    prompts = make_prompts(policy)
    params = SamplingParams(temperature=0.1, max_tokens=12, seed=1)
    num_decoded = []

    def open_counted(model, cache):
        decode = open_decoder(model, cache)

        def counted(tokens):
            num_decoded.append(len(tokens))
            return decode(tokens)

        return counted

    monkeypatch.setattr(samplers, "open_decoder", open_counted)
    groups = make_sampler(policy).generate(prompts, 8, params)
    num_rows = sum(num_decoded)
    assert num_decoded[0] < 8 * len(prompts)
    assert num_rows < 0.9 * sum(len(c.token_ids) - 1 for group in groups for c in group)
    assert any(len({tuple(c.token_ids) for c in group}) > 1 for group in groups)
    scored = policy.token_logprobs(
        pack_completions(policy, prompts, groups, 256), SamplingDistribution(0.1, BANNED)
    ).logprobs
    sampled = torch.tensor([value for group in groups for c in group for value in c.logprobs])
    assert (sampled - scored).abs().max() < (2e-5 if precision is Precision.fp32 else 1.0)
    if precision is Precision.fp32:
        # The noise of sample 0 does not depend on the size of its group.
        alone = make_sampler(policy).generate(prompts, 1, params)
        assert [g[0].token_ids for g in alone] == [g[0].token_ids for g in groups]


def test_draws_follow_the_sampling_distribution():
    """4,000 first tokens of one prompt against its exact distribution; no banned id appears."""
    policy = tiny_policy()
    prompt = Prompt(uid="p", engine_ids=[], input_ids=[1, 2, 3], images=[])
    groups = make_sampler(policy, batch_size=4000).generate(
        [prompt], 4000, SamplingParams(max_tokens=1)
    )
    counts = torch.bincount(torch.tensor([c.token_ids[0] for c in groups[0]]), minlength=300)
    batch = pack(
        [PrefixGroup("p", [1, 2, 3], [], [Continuation([t], [True]) for t in range(300)])],
        [],
        policy.spec,
        400,
    )
    distribution = (
        policy.token_logprobs(batch, SamplingDistribution(1.0, BANNED)).logprobs.exp().detach()
    )
    assert counts[list(BANNED)].sum() == 0
    expected = 4000 * distribution
    chi_square = ((counts - expected) ** 2 / expected.clamp(min=1e-9))[expected > 0].sum()
    # five standard deviations above the mean of 295 degrees of freedom
    assert chi_square < 295 + 5 * (2 * 295) ** 0.5


def test_adapters_dropout_is_off_while_sampling_and_the_mode_returns():
    policy = tiny_policy(lora=LoraConfig(enabled=True, rank=4, dropout=0.5))
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.1)
    policy.train()
    sampler, prompts = make_sampler(policy), make_prompts(policy)
    first, second = (
        sampler.generate(prompts, 2, SamplingParams(max_tokens=6)) for _ in range(2)
    )
    assert first == second
    assert policy.training


@pytest.mark.parametrize("truncation", [{"top_p": 0.9}, {"top_k": 20}])
def test_top_p_and_top_k_are_refused(truncation):
    policy = tiny_policy()
    with pytest.raises(UserError, match="whole distribution"):
        make_sampler(policy).generate(make_prompts(policy), 1, SamplingParams(**truncation))
