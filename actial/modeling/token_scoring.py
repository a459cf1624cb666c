"""Log-probabilities of given tokens, without ever holding the logits of all of them."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from actial.modeling.onednn_linear import linear, matmul, weight_gradient


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

    def undo(self, gradient: Tensor) -> Tensor:
        """(.., V) gradient by the logits of the head, from that by the processed logits."""
        if self.temperature != 1.0:
            gradient = gradient / self.temperature
        if not self.banned_ids:
            return gradient
        banned = torch.tensor(self.banned_ids, device=gradient.device)
        return gradient.index_fill(-1, banned, 0.0)


FULL_DISTRIBUTION = SamplingDistribution()
LOWEST = torch.finfo(torch.float32).min  # for log(0), of which the entropy has 0 times as much

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
    with _no_autocast_cache(hidden.device.type):
        if reference is None:
            logprobs, nats = _ChunkedLogprobs.apply(
                hidden, weight, target_ids, distribution, chunk, entropy
            )
            return logprobs, nats if entropy else None, None
        return _score_against(
            reference, hidden, weight, target_ids, distribution, chunk, entropy
        )


class _ChunkedLogprobs(torch.autograd.Function):
    """Log-probabilities and entropies (N,) of targets; the gradient is that of the former."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        target_ids: Tensor,
        distribution: SamplingDistribution,
        chunk: int,
        entropy: bool,
    ) -> tuple[Tensor, Tensor]:
        logprobs = hidden.new_empty(len(hidden), dtype=torch.float32)
        nats = torch.empty_like(logprobs)
        p, lone = None, len(hidden) <= chunk
        for start in range(0, len(hidden), chunk):
            span = slice(start, start + chunk)
            log_p = distribution.process_logits(linear(hidden[span], weight)).log_softmax(-1)
            logprobs[span] = log_p.gather(-1, target_ids[span, None])[:, 0]
            if entropy or lone:
                p = log_p.exp()
            if entropy:
                nats[span] = -torch.linalg.vecdot(p, log_p.clamp_(min=LOWEST))
        ctx.save_for_backward(hidden, weight, target_ids, p if lone else None)
        ctx.distribution, ctx.chunk = distribution, chunk
        ctx.autocast = torch.is_autocast_enabled(hidden.device.type)
        ctx.mark_non_differentiable(nats)
        return logprobs, nats

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, target_ids, lone_p = ctx.saved_tensors
        distribution, device = ctx.distribution, hidden.device.type
        to_hidden, to_weight, *_ = ctx.needs_input_grad
        grad_hidden = torch.empty_like(hidden) if to_hidden else None
        grad_weight = torch.zeros_like(weight) if to_weight else None
        with torch.autocast(
            device, torch.get_autocast_dtype(device), enabled=ctx.autocast, cache_enabled=False
        ):
            for start in range(0, len(hidden), ctx.chunk):
                span = slice(start, start + ctx.chunk)
                states, share = hidden[span], grad[span, None]
                p = lone_p
                if p is None:
                    p = distribution.process_logits(linear(states, weight)).softmax(-1)
                # of a log-probability by the logits: 1 at the target, less p everywhere
                grad_logits = (p * -share).scatter_add_(-1, target_ids[span, None], share)
                grad_logits = distribution.undo(grad_logits)
                if grad_hidden is not None:
                    grad_hidden[span] = matmul(grad_logits, weight)
                if grad_weight is not None:
                    grad_weight += weight_gradient(grad_logits, states)
        return grad_hidden, grad_weight, None, None, None, None


def _score_against(
    reference: tuple[Any, Tensor],
    hidden: Tensor,
    weight: Tensor,
    target_ids: Tensor,
    distribution: SamplingDistribution,
    chunk: int,
    entropy: bool,
) -> Scored:
    """`score_tokens` with the KL to a reference."""
    reference_weight, reference_hidden = reference[0].weight, reference[1]
    recompute = torch.is_grad_enabled() and len(hidden) > chunk
    scored: list[tuple[Tensor, Tensor, Tensor]] = []
    for start in range(0, max(len(hidden), 1), chunk):
        span = slice(start, start + chunk)
        states = (hidden[span], target_ids[span], reference_hidden[span])
        arguments = (*states, weight, reference_weight, distribution)
        if recompute:
            scored.append(checkpoint(_score_chunk, *arguments, use_reentrant=False))
        else:
            scored.append(_score_chunk(*arguments))
    logprobs, entropies, kls = (torch.cat(part) for part in zip(*scored, strict=True))
    return logprobs, entropies if entropy else None, kls


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
    reference_hidden: Tensor,
    weight: Tensor,
    reference_weight: Tensor,
    distribution: SamplingDistribution,
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities, entropies and KL to the reference of one chunk."""
    logits = distribution.process_logits(linear(hidden, weight))
    log_p = logits.log_softmax(-1)
    p = log_p.exp()
    reference_logits = distribution.process_logits(linear(reference_hidden, reference_weight))
    difference = log_p - reference_logits.log_softmax(-1)
    # A banned id has probability 0 and -inf - -inf: it adds nothing.
    kl = (p * difference.masked_fill(log_p.isneginf(), 0.0)).sum(-1)
    finite = log_p.detach().clamp(min=LOWEST)
    entropy = -torch.linalg.vecdot(p.detach(), finite)
    return log_p.gather(-1, target_ids[:, None])[:, 0], entropy, kl
