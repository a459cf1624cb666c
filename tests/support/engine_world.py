"""A model, prompts and figures that the tests of foreign engines share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from actial.config import ModelConfig, PromptConfig, SamplerConfig, SamplerKind
from actial.core.records import (
    AnswerMode,
    Completion,
    Example,
    FinishReason,
    Prompt,
    Question,
    SamplingParams,
)
from actial.inference.engine_sampler import EngineSampler
from actial.inference.open_sampler import open_engine_sampler
from actial.modeling.policy import Policy
from actial.modeling.prefix_packing import Continuation, as_prefix_groups, pack
from actial.modeling.prompt_renderer import PromptRenderer
from actial.modeling.token_scoring import SamplingDistribution

ENGINE = {"max_model_len": 512, "block_size": 32, "max_num_seqs": 64}


def shake(policy: Policy, seed: int, scale: float) -> None:
    """Move every parameter that trains, as an optimiser does: in place."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.core.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=scale)


def load_policy(folder: Path, **settings) -> Policy:
    return Policy.load(
        ModelConfig(path=str(folder), min_pixels=256, max_pixels=16384, **settings)
    )


def open_renderer(folder: Path) -> PromptRenderer:
    return PromptRenderer.load(
        ModelConfig(path=str(folder), min_pixels=256, max_pixels=16384), PromptConfig()
    )


def sampler_of(policy: Policy, renderer: PromptRenderer) -> EngineSampler:
    """All share one engine, which gets the weights of `policy` with the first samples."""
    sampler = open_engine_sampler(
        SamplerConfig(kind=SamplerKind.vllm, engine=dict(ENGINE)), policy, renderer
    )
    # An earlier test of this process may have left it with equal weights: nothing would be sent.
    sampler.engine.synced_to = None
    return sampler


def prompts_of(renderer: PromptRenderer, count: int, seed: int = 0) -> list[Prompt]:
    rng = np.random.RandomState(seed)
    prompts = []
    for i in range(count):
        sides = [(64, 64), (32, 64)] if i % 2 else [(48, 48), (64, 32)]
        images = [rng.randint(0, 256, (*side, 3), dtype=np.uint8) for side in sides]
        prompts.append(prompt_of(renderer, f"q{seed}.{i}", images))
    return prompts


def prompt_of(renderer: PromptRenderer, uid: str, images: list[np.ndarray]) -> Prompt:
    question = Question(
        uid=uid,
        type="x",
        text=f"Which way {uid}?",
        options=("left", "right"),
        answer_index=0,
        mode=AnswerMode.THINK,
    )
    return renderer.prompt(
        Example(uid=uid, images=images, questions=[question], task="test"), question
    )


@torch.no_grad()
def trainer_logprobs(
    policy: Policy,
    prompts: list[Prompt],
    groups: list[list[Completion]],
    distribution: SamplingDistribution,
) -> np.ndarray:
    prefixes, images = as_prefix_groups(prompts)
    for prefix, group in zip(prefixes, groups, strict=True):
        prefix.continuations = [
            Continuation(c.token_ids, [True] * len(c.token_ids)) for c in group
        ]
    return (
        policy.eval()
        .token_logprobs(pack(prefixes, images, policy.spec, 512), distribution)
        .logprobs.numpy()
    )


def gap(sampler: EngineSampler, prompts: list[Prompt], temperature: float = 1.0) -> float:
    """Largest difference between the engine's log-probabilities of its samples and the
    trainer's.
    """
    groups = sampler.generate(
        prompts, 2, SamplingParams(temperature=temperature, max_tokens=12, seed=1)
    )
    reported = np.array(
        [value for group in groups for completion in group for value in completion.logprobs]
    )
    ours = trainer_logprobs(
        sampler.source.policy,
        prompts,
        groups,
        SamplingDistribution(temperature, tuple(sampler.requests.banned_ids)),
    )
    assert len(reported) == len(ours) > 50
    return float(np.abs(ours - reported).max())


def first_token_logprobs(
    sampler: EngineSampler, prompt: Prompt, distribution: SamplingDistribution
) -> np.ndarray:
    """(V,) the trainer's, by one continuation for every id."""
    ids = range(sampler.source.policy.core.lm_head.out_features)
    every = [
        Completion(token_ids=[token], logprobs=[0.0], finish=FinishReason.LENGTH)
        for token in ids
    ]
    return trainer_logprobs(sampler.source.policy, [prompt], [every], distribution)
