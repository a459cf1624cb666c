"""The sampler of a configuration."""

from __future__ import annotations

from actial.config import SamplerConfig, SamplerKind
from actial.inference.engine import Engine
from actial.inference.engine_sampler import EngineSampler
from actial.inference.samplers import HFSampler, RolloutSampler
from actial.inference.vllm_engine import VLLMEngine
from actial.modeling.policy import Policy
from actial.modeling.prompt_renderer import PromptRenderer

_ENGINES: dict[str, Engine] = {}


def open_engine_sampler(
    config: SamplerConfig, policy: Policy, renderer: PromptRenderer
) -> EngineSampler:
    """A sampler on an engine that starts with the first prompts; samplers of one architecture share it, whichever weights they hold."""
    key = repr(
        (
            config,
            policy.hf_config.to_json_string(),
            policy.config.min_pixels,
            policy.config.max_pixels,
            policy.config.precision,
        )
    )

    def shared() -> Engine:
        if key not in _ENGINES:
            _ENGINES[key] = _start(config, policy)
        return _ENGINES[key]

    return EngineSampler(shared, policy, stop_ids=renderer.stop_ids, banned_ids=renderer.banned_ids)


def _start(config: SamplerConfig, policy: Policy) -> Engine:
    if config.kind is SamplerKind.vllm_server:
        from actial.inference.vllm_server import ServerEngine

        return ServerEngine(config, policy.config)

    return VLLMEngine(config, policy.config)


def open_sampler(config: SamplerConfig, policy: Policy, renderer: PromptRenderer) -> RolloutSampler:
    """The sampler of `config.kind` for these weights."""
    if config.kind in (SamplerKind.vllm, SamplerKind.vllm_server):
        return open_engine_sampler(config, policy, renderer)
    return HFSampler(
        policy,
        stop_ids=renderer.stop_ids,
        banned_ids=renderer.banned_ids,
        batch_size=config.batch_size,
    )
