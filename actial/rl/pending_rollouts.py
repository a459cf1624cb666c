"""Completions that are being sampled for a step, and their form in a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass

import torch

from actial.core.records import Completion, FinishReason
from actial.inference.samplers import Groups, finished
from actial.rl.prompt_requests import PromptRequest


@dataclass(slots=True, kw_only=True)
class PendingRollouts:
    """This rank's prompts of a step with their completions, which may still be being sampled."""

    step: int
    positions: range  # of this rank's examples in the stream
    requests: list[PromptRequest]
    completions: Future[Groups]


def to_tensors(groups: list[tuple[int, list[Completion]]]) -> dict[str, torch.Tensor]:
    """Return (position, completions) pairs as tensors.

    positions: (P,) of the prompts; lengths, stopped: (C,) of the completions; token_ids, logprobs:
    (N,) of all tokens, completion after completion.
    """
    completions = [completion for _, group in groups for completion in group]
    token_ids = [token for completion in completions for token in completion.token_ids]
    logprobs = [value for completion in completions for value in completion.logprobs]
    return {
        "positions": torch.tensor([position for position, _ in groups]),
        "lengths": torch.tensor([len(completion.token_ids) for completion in completions]),
        "stopped": torch.tensor([c.finish is FinishReason.STOP for c in completions]),
        "token_ids": torch.tensor(token_ids),
        "logprobs": torch.tensor(logprobs, dtype=torch.float64),
    }


def from_tensors(
    tensors: Mapping[str, torch.Tensor], positions: range, completions_per_prompt: int
) -> Future[Groups]:
    """Return the completions of the prompts at `positions`; the inverse of `to_tensors`."""
    lengths = tensors["lengths"].tolist()
    token_ids = tensors["token_ids"].split(lengths)
    logprobs = tensors["logprobs"].split(lengths)
    stopped = tensors["stopped"].tolist()
    completions = [
        Completion(
            token_ids=ids.tolist(),
            logprobs=values.tolist(),
            finish=FinishReason.STOP if stop else FinishReason.LENGTH,
        )
        for ids, values, stop in zip(token_ids, logprobs, stopped, strict=True)
    ]
    groups = []
    for i, position in enumerate(tensors["positions"].tolist()):
        if position in positions:
            first = completions_per_prompt * i
            groups.append(completions[first : first + completions_per_prompt])
    return finished(groups)
