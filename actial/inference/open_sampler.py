"""The sampler of a configuration."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from actial.config import ModelConfig, SamplerConfig, SamplerKind
from actial.core.errors import UserError
from actial.inference.engine import Engine
from actial.inference.engine_requests import EngineRequests
from actial.inference.engine_sampler import (
    AdapterFolder,
    AdapterUpdates,
    EngineSampler,
    FolderWeights,
    PolicyWeights,
)
from actial.inference.samplers import HFSampler, RolloutSampler
from actial.inference.vllm_engine import VLLMEngine, adapter_arguments
from actial.inference.vllm_server import ServerEngine
from actial.inference.weight_probe import WeightProbe
from actial.modeling.adapter_folder import (
    adapter_settings,
    base_of,
    is_adapter,
)
from actial.modeling.base_model import check_weights, read_config
from actial.modeling.families import TILED
from actial.modeling.hf_checkpoint import fingerprint
from actial.modeling.policy import Policy
from actial.modeling.prompt_renderer import PromptRenderer

# of a model's configuration, what two folders of one architecture may differ in
NOT_ARCHITECTURE = (
    "_name_or_path",
    "dtype",
    "torch_dtype",
    "transformers_version",
)

_ENGINES: dict[str, Engine] = {}


def open_sampler(
    config: SamplerConfig, policy: Policy, renderer: PromptRenderer
) -> RolloutSampler:
    """The sampler of `config.kind` for the weights of a policy."""
    if config.kind is SamplerKind.hf:
        return HFSampler(
            policy,
            stop_ids=renderer.stop_ids,
            banned_ids=renderer.banned_ids,
            batch_size=config.batch_size,
        )
    return open_engine_sampler(config, policy, renderer)


def open_engine_sampler(
    config: SamplerConfig, policy: Policy, renderer: PromptRenderer
) -> EngineSampler:
    """A sampler on an engine that gets the weights of a policy."""
    requests = _requests(renderer)
    probe = WeightProbe(
        policy,
        requests,
        num_prompts=config.probe_prompts,
        tolerance=config.probe_tolerance,
    )
    if config.adapter_sync:
        rank = policy.config.lora.rank
        first = policy.config.path
        rank += adapter_settings(first)["r"] if is_adapter(first) else 0
        with_adapters = _with_adapters(config, rank)
        open_engine = _shared_engine(with_adapters, policy.config, policy.hf_config)
        return EngineSampler(open_engine, AdapterUpdates(policy, probe), requests)
    open_engine = _shared_engine(config, policy.config, policy.hf_config)
    return EngineSampler(open_engine, PolicyWeights(policy, probe), requests)


def open_folder_sampler(
    config: SamplerConfig, model: ModelConfig, renderer: PromptRenderer
) -> EngineSampler:
    """A sampler on an engine with the weights of the folder `model.path`, without a policy.

    An adapter is not merged: the engine holds its base and applies it.
    """
    base, revision = base_of(model.path, model.revision)
    if Path(base).is_dir():
        check_weights(base)
    hf_config = read_config(base, revision)
    if is_adapter(model.path):
        config = _with_adapters(config, adapter_settings(model.path)["r"])
        adapter = AdapterFolder(model.path, fingerprint(model))
        open_engine = _shared_engine(config, model, hf_config)
        return EngineSampler(open_engine, adapter, _requests(renderer))
    source = FolderWeights(model, fingerprint(model))
    open_engine = _shared_engine(config, model, hf_config)
    return EngineSampler(open_engine, source, _requests(renderer))


def close_engines() -> None:
    """End all engines, before the process group that some of them live in is destroyed."""
    while _ENGINES:
        _ENGINES.popitem()[1].close()


def _requests(renderer: PromptRenderer) -> EngineRequests:
    return EngineRequests(
        image_token_id=renderer.image_token_id,
        stop_ids=renderer.stop_ids,
        banned_ids=renderer.banned_ids,
    )


def _with_adapters(config: SamplerConfig, rank: int) -> SamplerConfig:
    return replace(config, engine={**config.engine, **adapter_arguments(rank)})


def _shared_engine(
    config: SamplerConfig, model: ModelConfig, hf_config: Any
) -> Callable[[], Engine]:
    """Opens one engine for all models of an architecture, started with the first use.

    One with adapters keeps the weights that it was started from, so it serves one base.
    Raises UserError for a family whose images an engine would cut otherwise than the
    trainer.
    """
    if hf_config.model_type in TILED:
        raise UserError(
            f"sampler.kind={config.kind.value} with model.path={model.path}, a "
            f"{hf_config.model_type}: vLLM resizes and tiles its images by itself. Use sampler=hf."
        )
    path, revision = base_of(model.path, model.revision)
    model = replace(model, path=path, revision=revision)
    architecture = json.dumps(_architecture(hf_config.to_dict()), sort_keys=True, default=str)
    limits = (model.min_pixels, model.max_pixels, model.precision)
    base = fingerprint(model) if config.engine.get("enable_lora") else ""
    key = repr((config, architecture, limits, base))

    def open_engine() -> Engine:
        if key not in _ENGINES:
            start = ServerEngine if config.kind is SamplerKind.vllm_server else VLLMEngine
            _ENGINES[key] = start(config, model)
        return _ENGINES[key]

    return open_engine


def _architecture(settings: Any) -> Any:
    if not isinstance(settings, dict):
        return settings
    inner = {name: _architecture(value) for name, value in settings.items()}
    return {name: value for name, value in inner.items() if name not in NOT_ARCHITECTURE}
