"""Sampling from one model by three systems: the trainer's own sampler, transformers' generate and
the CPU build of vLLM.

A step of the quickstart: 24 prompts of two images each, 8 completions of at most 112 tokens, by the
weights of the tiny base. Each system is timed three times, in turn, after a call that is not
counted; greedy tokens are compared with those of the trainer's sampler.
"""

from __future__ import annotations

import importlib.resources
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForImageTextToText

from actial.config import ModelConfig, PromptConfig, SamplerConfig, SamplerKind
from actial.core.records import AnswerMode, Example, Prompt, Question, SamplingParams
from actial.inference.open_sampler import open_engine_sampler
from actial.inference.samplers import HFSampler
from actial.modeling.image_patches import patchify
from actial.modeling.policy import Policy
from actial.modeling.prompt_renderer import PromptRenderer

PROMPTS, GROUP, LENGTH, PIXELS = 24, 8, 112, 48
REPEATS = 3
TITLES = {
    "actial": "ours, `sampler.kind=hf`",
    "generate": "transformers' `generate`",
    "vllm": "vLLM, CPU build",
}
ENGINE = {"max_model_len": 512, "block_size": 32, "max_num_seqs": 256}

Tokens = list[list[list[int]]]  # by prompt and completion
Sample = Callable[[int, SamplingParams], Tokens]


def measure(quick: bool) -> dict[str, Any]:
    """Tokens, wall and CPU seconds of each system's calls, and how many greedy ones are ours."""
    with importlib.resources.as_file(
        importlib.resources.files("actial") / "assets" / "tiny_base"
    ) as folder:
        model = ModelConfig(path=str(folder), min_pixels=256, max_pixels=16_384)
        renderer = PromptRenderer.load(model, PromptConfig())
        policy = Policy.load(model)
        systems = open_systems(policy, renderer)
        length = 8 if quick else LENGTH
        greedy = SamplingParams(temperature=0.0, max_tokens=length)
        answers = {name: sample(1, greedy) for name, sample in systems.items()}
        calls: dict[str, list[dict[str, float]]] = {name: [] for name in systems}
        for repeat in range(1 if quick else 1 + REPEATS):
            params = SamplingParams(temperature=1.0, max_tokens=length, seed=repeat)
            for name, sample in systems.items():
                calls[name].append(timed_call(sample, params))
    return {
        name: {
            "calls": rows if quick else rows[1:],
            "equal": sum(
                a == b for a, b in zip(answers[name], answers["actial"], strict=True)
            ),
        }
        for name, rows in calls.items()
    }


def timed_call(sample: Sample, params: SamplingParams) -> dict[str, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    groups = sample(GROUP, params)
    return {
        "wall": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
        "tokens": sum(len(ids) for group in groups for ids in group),
    }


def open_systems(policy: Policy, renderer: PromptRenderer) -> dict[str, Sample]:
    """The three systems with the same weights and prompts."""
    prompts = list(make_prompts(renderer))
    own = HFSampler(policy, stop_ids=renderer.stop_ids, banned_ids=renderer.banned_ids)
    engine = SamplerConfig(kind=SamplerKind.vllm, engine=dict(ENGINE))
    vllm = open_engine_sampler(engine, policy, renderer)
    plain = AutoModelForImageTextToText.from_pretrained(
        policy.config.path, attn_implementation="sdpa", dtype=torch.float32
    ).eval()

    def ours(n: int, params: SamplingParams) -> Tokens:
        return [[c.token_ids for c in group] for group in own.generate(prompts, n, params)]

    def engines(n: int, params: SamplingParams) -> Tokens:
        with vllm_threads():
            groups = vllm.generate(prompts, n, params)
        return [[c.token_ids for c in group] for group in groups]

    def generated(n: int, params: SamplingParams) -> Tokens:
        return generate(plain, policy, renderer, prompts, n, params)

    return {"actial": ours, "generate": generated, "vllm": engines}


@contextmanager
def vllm_threads() -> Iterator[None]:
    """The engine sets the number of threads for itself: put it back behind a call."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def make_prompts(renderer: PromptRenderer) -> Iterator[Prompt]:
    noise = np.random.default_rng(0)
    for number in range(PROMPTS):
        images = [
            noise.integers(0, 256, (PIXELS, PIXELS, 3), dtype=np.uint8) for _ in range(2)
        ]
        question = Question(
            uid=f"question{number}",
            type="ego_translation",
            text="Which way did the camera move between the two photos?",
            options=("left", "right"),
            answer_index=0,
            mode=AnswerMode.THINK,
        )
        example = Example(
            uid=question.uid, images=images, questions=[question], task="viewpoint"
        )
        yield renderer.prompt(example, question)


@torch.no_grad()
def generate(
    model: Any,
    policy: Policy,
    renderer: PromptRenderer,
    prompts: list[Prompt],
    n: int,
    params: SamplingParams,
) -> Tokens:
    """transformers' generate on one batch, padded on the left."""
    longest = max(len(prompt.input_ids) for prompt in prompts)
    padding = [longest - len(prompt.input_ids) for prompt in prompts]
    pad = renderer.stop_ids[0]
    ids = torch.tensor(
        [[pad] * k + p.input_ids for k, p in zip(padding, prompts, strict=True)]
    )
    visible = torch.tensor([[0] * k + [1] * (longest - k) for k in padding])
    pixels, grids = patchify([image for p in prompts for image in p.images], policy.spec)
    model.model.rope_deltas = None
    sampled = params.temperature > 0
    chosen: dict[str, Any] = {"do_sample": sampled}
    if sampled:
        torch.manual_seed(params.seed or 0)
        chosen |= {"temperature": params.temperature, "top_k": 0, "top_p": 1.0}
    out = model.generate(
        input_ids=ids,
        attention_mask=visible,
        mm_token_type_ids=(ids == policy.spec.image_token_id).int(),
        pixel_values=pixels,
        image_grid_thw=grids,
        max_new_tokens=params.max_tokens,
        num_return_sequences=n,
        eos_token_id=list(renderer.stop_ids),
        pad_token_id=pad,
        suppress_tokens=list(renderer.banned_ids),
        **chosen,
    )[:, longest:].tolist()
    ends = set(renderer.stop_ids)
    cut = [until_stop(row, ends) for row in out]
    return [cut[i : i + n] for i in range(0, len(cut), n)]


def until_stop(ids: list[int], ends: set[int]) -> list[int]:
    for index, token in enumerate(ids):
        if token in ends:
            return ids[: index + 1]
    return ids


def lines(measured: dict[str, Any]) -> list[str]:
    """The table."""
    rates = {
        name: float(
            np.median([call["tokens"] / call["wall"] for call in measurement["calls"]])
        )
        for name, measurement in measured.items()
    }
    rows = [
        "| sampler | tokens / s | CPU ms a token | ours, times faster | greedy completions equal |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, measurement in measured.items():
        spent = np.median(
            [1000 * call["cpu"] / call["tokens"] for call in measurement["calls"]]
        )
        times = f"{rates['actial'] / rates[name]:.1f}"
        equal = f"{measurement['equal']} of {PROMPTS}"
        rows.append(
            f"| {TITLES[name]} | {rates[name]:.0f} | {spent:.2f} | {times} | {equal} |"
        )
    return [
        f"Sampling: {PROMPTS} prompts of two {PIXELS}-px images, {GROUP} completions of at most "
        f"{LENGTH} tokens, the tiny base's weights, the same in all three.",
        "",
        *rows,
    ]
