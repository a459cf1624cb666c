"""The protocol between a sampler and an inference engine: requests, replies, weights."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor


@dataclass(slots=True, kw_only=True)
class Request:
    """One prompt for the engine; `sampling` has the names of vLLM's SamplingParams."""

    uid: str
    prompt_ids: list[int]  # one placeholder per image
    images: list[np.ndarray]  # uint8 (H, W, 3)
    sampling: dict[str, Any]


@dataclass(slots=True, kw_only=True)
class Output:
    """One sampled completion."""

    token_ids: list[int]
    logprobs: list[float]  # of the sampled ids
    stopped: bool  # by a stop id, not by the limit


@dataclass(slots=True, kw_only=True)
class Reply:
    """The completions of one request.

    `first_logprobs`: log-probabilities at the first position of the ids requested by
    `logprob_token_ids`.
    """

    prompt_ids: list[int]  # placeholders expanded, as the engine saw the prompt
    outputs: list[Output]
    # versions of the weights that sampled, as a server counts them; empty where it does not say
    weight_versions: list[str] = field(default_factory=list)
    first_logprobs: dict[int, float] = field(default_factory=dict)


class Engine(Protocol):
    """Runs requests in this process (`VLLMEngine`) or in a server (`ServerEngine`)."""

    max_model_len: int
    # version of the weights in place, once they are verified; None: unknown
    synced_to: Hashable | None
    weights_version: int  # transfers so far
    # runs requests beside the trainer, one call at a time; None where both share a device
    background: Executor | None
    pending: Future[Any] | None  # the last of these calls
    shows_weights: bool  # whether `compare` works
    # GiB of the device in use at the last sleep and at each stage of waking, where it sleeps
    memory: dict[str, float]

    def run(self, requests: list[Request]) -> list[Reply]:
        """Replies, in order."""

    def parameter_names(self) -> list[str]:
        """Names of the engine's own parameters."""

    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Put new weights in place and reset every cache computed from the old ones.

        Consumes all of `weights`, which may gather shards. Raises EngineFault when one is missing.
        """

    def use_adapter(self, folder: Path) -> None:
        """Answer with the adapter of a PEFT folder over the weights the engine was started from.

        It replaces the adapter in use. Raises UserError where the engine takes none.
        """

    def reset_prefix_cache(self) -> None:
        """Drop cached keys and values."""

    def reset_encoder_cache(self) -> None:
        """Drop cached image features."""

    def sleep(self) -> None:
        """Give memory back until the next `load`, where the engine can."""

    def close(self) -> None:
        """End the engine."""

    def compare(self, name: str, expected: Tensor) -> str:
        """ "same", "transposed" or "different"; only called where `shows_weights`."""


class EngineFault(RuntimeError):
    """The engine does not compute what the trainer computes; the message names the cause."""
