"""Hidden states -> log-probabilities of given tokens, without ever holding full logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint


@dataclass(slots=True, frozen=True)
class SamplingDistribution:
    """The next-token distribution that tokens are drawn from, and must be scored under: temperature and excluded ids."""

    temperature: float = 1.0
    banned_ids: tuple[int, ...] = ()

    def process_logits(self, raw: torch.Tensor) -> torch.Tensor:
        """(.., V) float32 logits of the law from those of the head."""
        scaled = (
            raw.float() if self.temperature == 1.0 else raw.float() / self.temperature
        )  # one (.., V) copy less
        if not self.banned_ids:
            return scaled
        return scaled.index_fill(-1, torch.tensor(self.banned_ids, device=raw.device), -torch.inf)


FULL_DISTRIBUTION = SamplingDistribution()

Scored = tuple[
    torch.Tensor, torch.Tensor | None, torch.Tensor | None
]  # (N,) log-probability, entropy, KL to the reference


def score_tokens(
    head: Any,
    hidden: torch.Tensor,
    target: torch.Tensor,
    distribution: SamplingDistribution,
    *,
    chunk: int,
    entropy: bool = False,
    reference: tuple[Any, torch.Tensor] | None = None,
) -> Scored:
    """Project (N, H) hidden states chunk by chunk; the backward pass computes each chunk's logits again.

    `reference` = (its head, its hidden states (N, H)) asks for the KL of the two laws over the whole vocabulary.
    """
    reference_head, reference_hidden = reference or (None, None)
    references: Sequence[torch.Tensor | None] = (
        [None] * len(hidden.split(chunk))
        if reference_hidden is None
        else reference_hidden.split(chunk)
    )
    # a lone chunk gains nothing from recomputation: its logits are the peak either way
    recompute = torch.is_grad_enabled() and len(hidden) > chunk
    parts = []
    for piece in zip(hidden.split(chunk), target.split(chunk), references, strict=True):
        arguments = (*piece, head, reference_head, distribution, entropy)
        parts.append(
            checkpoint(_score_chunk, *arguments, use_reentrant=False)
            if recompute
            else _score_chunk(*arguments)
        )
    logprobs, entropies, kls = zip(*parts, strict=True)
    return (
        torch.cat(logprobs),
        torch.cat(entropies) if entropy else None,
        torch.cat(kls) if reference else None,
    )


def _score_chunk(
    hidden: torch.Tensor,
    target: torch.Tensor,
    reference_hidden: torch.Tensor | None,
    head: Any,
    reference_head: Any,
    distribution: SamplingDistribution,
    entropy: bool,
) -> Scored:
    """The only place of the update where logits exist."""
    logits = distribution.process_logits(head(hidden))
    if reference_hidden is None and not entropy:
        return logits.gather(-1, target[:, None])[:, 0] - logits.logsumexp(-1), None, None
    log_p = logits.log_softmax(-1)
    p = log_p.exp()
    nats = torch.special.entr(p.detach()).sum(-1) if entropy else None
    kl = None
    if reference_hidden is not None:
        log_q = distribution.process_logits(reference_head(reference_hidden)).log_softmax(-1)
        kl = (p * (log_p - log_q).masked_fill(log_p.isneginf(), 0.0)).sum(-1)
    return log_p.gather(-1, target[:, None])[:, 0], nats, kl
