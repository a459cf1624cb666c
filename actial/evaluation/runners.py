"""Who answers: a policy in this process, or a server; both see the same pixels and text."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from actial.config import Accelerator, EvaluateConfig, LoraConfig, SamplerKind
from actial.core.errors import UserError
from actial.core.records import Example, SamplingParams
from actial.evaluation.diagnostics import Score
from actial.grading.metrics import Prediction
from actial.grading.predictions import PredictionLog
from actial.modeling.adapter_folder import FOLDER
from actial.modeling.hf_checkpoint import fingerprint
from actial.modeling.prompt_renderer import ImageLimits, PromptRenderer, template_opening
from actial.modeling.saved_settings import with_saved_settings
from actial.modeling.system_prompts import system_prompt_text

# handed over at once: an engine queues by itself, and waits for its slowest answer at the end of
# each call
ENGINE_BATCHES = 4


class Runner(Protocol):
    name: str  # of the model, for tables
    settings: dict[str, Any]  # what its answers depend on
    limits: ImageLimits
    score: Score | None  # log-probabilities of given answers, where the model's are to be had

    def ask(
        self, examples: Sequence[Example], label: str, log: PredictionLog
    ) -> list[Prediction]: ...


@dataclass(slots=True)
class LocalRunner:
    name: str
    settings: dict[str, Any]
    limits: ImageLimits
    score: Score | None
    sampler: Any
    renderer: PromptRenderer
    params: SamplingParams
    batch_size: int

    def ask(
        self, examples: Sequence[Example], label: str, log: PredictionLog
    ) -> list[Prediction]:
        from actial.evaluation.loop import evaluate_examples

        return evaluate_examples(
            self.sampler,
            self.renderer,
            examples,
            self.params,
            log=log,
            batch_size=self.batch_size,
            label=label,
        )


@dataclass(slots=True)
class ServerRunner:
    name: str
    settings: dict[str, Any]
    limits: ImageLimits
    score: Score | None
    server: Any
    params: SamplingParams

    def ask(
        self, examples: Sequence[Example], label: str, log: PredictionLog
    ) -> list[Prediction]:
        from actial.evaluation.server_client import evaluate_on_server

        return evaluate_on_server(self.server, examples, self.params, log=log, label=label)


def open_runner(config: EvaluateConfig) -> Runner:
    """The model or the server of the config. Raises UserError when the model cannot be loaded."""
    config = with_saved_settings(config)
    params = SamplingParams(
        temperature=config.temperature,
        max_tokens=config.benchmark.max_tokens,
        seed=config.seed,
    )
    sampling = {
        "temperature": params.temperature,
        "max_tokens": params.max_tokens,
        "seed": params.seed,
    }
    return (
        _server_runner(config, params, sampling)
        if config.server.url
        else _local_runner(config, params, sampling)
    )


def _server_runner(
    config: EvaluateConfig, params: SamplingParams, sampling: dict[str, Any]
) -> ServerRunner:
    from actial.evaluation.server_client import Server

    given = config.server
    prompt = system_prompt_text(config.prompt)
    opened = template_opening(config.model, config.prompt)
    limits = ImageLimits(given.multiple, config.model.min_pixels, config.model.max_pixels)
    server = Server(
        url=given.url or "",
        model=given.model,
        key=os.environ.get(given.key_env) or "EMPTY",
        system_prompt=prompt,
        opened=opened,
        concurrency=given.concurrency,
        timeout_s=given.timeout_s,
        retries=given.retries,
    )
    pixels = f"{limits.multiple}:{limits.min_pixels}:{limits.max_pixels}"
    settings = {
        "model": given.model,
        "system_prompt": prompt,
        "pixel_limits": pixels,
        **sampling,
        **({"opened": opened} if opened else {}),
    }
    return ServerRunner(given.model, settings, limits, None, server, params)


def _local_runner(
    config: EvaluateConfig, params: SamplingParams, sampling: dict[str, Any]
) -> LocalRunner:
    from actial.inference.open_sampler import open_folder_sampler, open_sampler
    from actial.inference.samplers import Sampler
    from actial.modeling.answer_logprobs import answer_logprobs
    from actial.modeling.policy import Policy

    model = replace(
        config.model, lora=LoraConfig()
    )  # a stage's model folder has its adapters merged
    renderer = PromptRenderer.load(model, config.prompt)
    device = _device(config.accelerator)

    @cache
    def policy() -> Policy:
        return Policy.load(model).to(device)

    sampler: Sampler
    if config.sampler.kind is SamplerKind.hf:
        sampler = open_sampler(config.sampler, policy(), renderer)
    else:
        # The engine reads the folder itself: a float32 policy beside it would not fit a GPU.
        sampler = open_folder_sampler(config.sampler, model, renderer)
    settings = {
        "model": fingerprint(model),
        "precision": model.precision.value,
        "prompts": renderer.fingerprint,
        **sampling,
    }

    def score(examples: list[Example]) -> list[float]:
        return answer_logprobs(policy(), renderer, examples)

    name = (
        Path(model.path).parent.name
        if Path(model.path).name in ("model", FOLDER)
        else Path(model.path).name
    )
    batch = config.benchmark.batch_size * (
        1 if config.sampler.kind is SamplerKind.hf else ENGINE_BATCHES
    )
    return LocalRunner(
        name, settings, renderer.limits, score, sampler, renderer, params, batch
    )


def _device(accelerator: Accelerator) -> str:
    import torch

    if accelerator is Accelerator.cuda and not torch.cuda.is_available():
        raise UserError(
            "accelerator=cuda, but torch sees no CUDA device: set accelerator=cpu, or auto."
        )
    return "cpu" if accelerator is Accelerator.cpu or not torch.cuda.is_available() else "cuda"
