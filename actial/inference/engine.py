"""What a sampler asks of an inference engine: requests, outputs, weights."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch


@dataclass(slots=True, kw_only=True)
class Request:
    """One prompt for the engine; `sampling` has the names of vLLM's SamplingParams."""

    uid: str
    prompt_ids: list[int]  # one placeholder per image
    images: list[np.ndarray]  # uint8 (H, W, 3)
    sampling: dict[str, Any]


@dataclass(slots=True, kw_only=True)
class Output:
    token_ids: list[int]
    logprobs: list[float]  # of the sampled ids
    stopped: bool  # by a stop id, not by the limit


@dataclass(slots=True, kw_only=True)
class Reply:
    prompt_ids: list[int]  # placeholders expanded, as the engine saw the prompt
    outputs: list[Output]
    first: dict[int, float] = field(
        default_factory=dict
    )  # log-probabilities of the ids asked for, in first position


class Engine(Protocol):
    """What runs requests elsewhere: in this process (vllm_sampler.py) or in a server (server_sampler.py)."""

    max_model_len: int
    synced_to: (
        int | None
    )  # `weights_version` of the weights in place, once they are proven; None: unknown or given up
    background: (
        Executor | None
    )  # runs requests beside the trainer, one call at a time; None where both share a device
    under_way: Future[Any] | None  # the last of these calls
    shows_weights: bool  # whether `compare` can tell
    memory: dict[
        str, float
    ]  # GiB of the device in use at the last sleep and at each stage of waking, where it sleeps

    def run(self, requests: list[Request]) -> list[Reply]: ...

    def parameter_names(self) -> list[str]: ...

    def load(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Put new weights in place and forget what was computed from the old ones."""

    def reset_prefix_cache(self) -> None: ...

    def reset_encoder_cache(self) -> None: ...

    def sleep(self) -> None:
        """Give memory back until the next sync, where the engine can."""

    def compare(self, name: str, expected: torch.Tensor) -> str:
        """ "same", "transposed" or "different"; never asked of an engine that does not show its weights."""


class EngineFault(RuntimeError):
    """The engine does not compute what the trainer computes; the message names the cause."""
