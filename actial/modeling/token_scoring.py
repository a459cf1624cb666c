"""Log-probabilities of given tokens, without ever holding the logits of all of them."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint


@dataclass(slots=True, frozen=True)
class SamplingDistribution:
    """The next-token distribution that tokens are sampled from and scored under."""

    temperature: float = 1.0
    banned_ids: tuple[int, ...] = ()

    def process_logits(self, logits: Tensor) -> Tensor:
        """(.., V) float32 logits after temperature and bans, from those of the head."""
        scaled = logits.float()
        if self.temperature != 1.0:
            scaled = scaled / self.temperature
        if not self.banned_ids:
            return scaled
        banned = torch.tensor(self.banned_ids, device=logits.device)
        return scaled.index_fill(-1, banned, -torch.inf)


FULL_DISTRIBUTION = SamplingDistribution()

# (N,) each: log-probability, entropy, KL to the reference
Scored = tuple[Tensor, Tensor | None, Tensor | None]


def score_tokens(
    head: Any,
    hidden: Tensor,
    target_ids: Tensor,
    distribution: SamplingDistribution,
    *,
    chunk: int,
    entropy: bool = False,
    reference: tuple[Any, Tensor] | None = None,
) -> Scored:
    """Log-probabilities of `target_ids` (N,) from hidden states (N, H), and what is asked for.

    `reference` = (its head, its hidden states (N, H)) asks for the KL of the two
    distributions over the whole vocabulary.
    """
    # `chunk` positions are projected at a time, (chunk, V) logits. The backward
    # pass computes them again, so that peak memory is that of one chunk; a lone
    # chunk would gain nothing from that.
    weight = _accumulating(head.weight)
    reference_weight, reference_hidden = None, None
    if reference is not None:
        reference_weight, reference_hidden = reference[0].weight, reference[1]
    recompute = torch.is_grad_enabled() and len(hidden) > chunk
    scored: list[Scored] = []
    with _no_autocast_cache(hidden.device.type):
        for start in range(0, max(len(hidden), 1), chunk):
            span = slice(start, start + chunk)
            compared = None if reference_hidden is None else reference_hidden[span]
            states = (hidden[span], target_ids[span], compared)
            arguments = (*states, weight, reference_weight, distribution, entropy)
            if recompute:
                scored.append(checkpoint(_score_chunk, *arguments, use_reentrant=False))
            else:
                scored.append(_score_chunk(*arguments))
    logprobs, entropies, kls = zip(*scored, strict=True)
    return (
        torch.cat(logprobs),
        torch.cat(entropies) if entropy else None,
        torch.cat(kls) if reference else None,
    )


def _accumulating(weight: Tensor) -> Tensor:
    """The head's weight (V, H) in float32, so that the chunks' gradients add up in float32.

    Under FSDP2 it is bf16: 256 gradients added in bf16 would be rounded 256 times.
    """
    return weight.float() if weight.requires_grad and torch.is_grad_enabled() else weight


def _no_autocast_cache(device: str) -> AbstractContextManager[Any]:
    """Autocast as it is, without its cache: the chunks share one cast of the weight otherwise.

    The gradient of a shared cast is added up in bf16.
    """
    return torch.autocast(
        device,
        dtype=torch.get_autocast_dtype(device),
        enabled=torch.is_autocast_enabled(device),
        cache_enabled=False,
    )


def _score_chunk(
    hidden: Tensor,
    target_ids: Tensor,
    reference_hidden: Tensor | None,
    weight: Tensor,
    reference_weight: Tensor | None,
    distribution: SamplingDistribution,
    entropy: bool,
) -> Scored:
    """`score_tokens` of one chunk: the only code of the update that holds logits."""
    logits = distribution.process_logits(linear(hidden, weight))
    if reference_hidden is None and not entropy:
        return logits.gather(-1, target_ids[:, None])[:, 0] - logits.logsumexp(-1), None, None
    log_p = logits.log_softmax(-1)
    p = log_p.exp()
    nats = torch.special.entr(p.detach()).sum(-1) if entropy else None
    kl = None
    if reference_hidden is not None and reference_weight is not None:
        reference_logits = distribution.process_logits(
            linear(reference_hidden, reference_weight)
        )
        difference = log_p - reference_logits.log_softmax(-1)
        # A banned id has probability 0 and -inf - -inf: it adds nothing.
        kl = (p * difference.masked_fill(log_p.isneginf(), 0.0)).sum(-1)
    return log_p.gather(-1, target_ids[:, None])[:, 0], nats, kl
