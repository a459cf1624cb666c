"""How far the trainer's log-probabilities of sampled tokens are from the sampler's.

Both are computed under the weights that were sampled from, so a difference
beyond rounding means stale weights, stale caches, or other images in the
sampler. All figures are additive over micro-batches until
`summarize_difference`. Axis: N supervised tokens.
"""

from __future__ import annotations

import math

import torch

from actial.training.distributed import Sums
from actial.training.losses import Metrics, Scores

NAME = "sampling/sampling_logp_difference"
# Upper bounds, in tokens, of the completion lengths for which the difference is logged apart.
LENGTH_BOUNDS = (64, 256, 1024, math.inf)
MOMENTS = ("n", "x", "y", "xx", "yy", "xy")


class MismatchError(RuntimeError):
    """Sampler and trainer disagree on the same tokens by more than the run allows."""


def trainer_logprobs(scores: Scores) -> torch.Tensor:
    """Return (N,) the trainer's log-probabilities under the weights that were sampled from.

    After the first update on a batch these are the old ones, not those of the present weights.
    """
    return scores.logprobs.detach() if scores.old_logprobs is None else scores.old_logprobs


def difference_moments(scores: Scores) -> Metrics:
    """Return moments of the trainer's (x) and sampler's (y) logprobs, and the maximum |x - y|."""
    assert scores.sampler_logprobs is not None
    x, y = trainer_logprobs(scores).double(), scores.sampler_logprobs.double()
    values = {"n": torch.ones_like(x), "x": x, "y": y, "xx": x * x, "yy": y * y, "xy": x * y}
    largest = (x - y).abs().max() if len(x) else x.new_zeros(())
    moments = {f"moment/{name}": values[name].sum() for name in MOMENTS}
    return moments | {f"max/{NAME}": largest}


def difference_by_length(scores: Scores) -> Metrics:
    """Return the summed |difference| and token count of completions in each range of lengths."""
    assert scores.sampler_logprobs is not None
    difference = (trainer_logprobs(scores) - scores.sampler_logprobs).abs().double()
    # Length of the completion that each token belongs to; bincount of an empty index has no length.
    length = scores.sequence_index
    if len(length):
        length = length.bincount()[length]
    sums: Metrics = {}
    for low, high in zip((0, *LENGTH_BOUNDS), LENGTH_BOUNDS, strict=False):
        inside = (length > low) & (length <= high)
        sums[f"length/{high}/difference"] = difference[inside].sum()
        sums[f"length/{high}/tokens"] = inside.sum()
    return sums


def summarize_difference(metrics: Sums) -> Sums:
    """Remove the additive figures from `metrics` and return what they amount to.

    The correlation is absent where the log-probabilities are constant.
    """
    n, x, y, xx, yy, xy = (metrics.pop(f"moment/{name}") for name in MOMENTS)
    summary = {f"{NAME}/max": metrics.pop(f"max/{NAME}")}
    for bound in LENGTH_BOUNDS:
        difference = metrics.pop(f"length/{bound}/difference")
        tokens = metrics.pop(f"length/{bound}/tokens")
        if tokens:
            summary[f"{NAME}/length<={bound:g}"] = difference / tokens
    variance_product = (xx - x * x / n) * (yy - y * y / n)
    if variance_product > 0:
        covariance = xy - x * y / n
        summary["sampling/logp_correlation"] = covariance / math.sqrt(variance_product)
    return summary


def check_difference(metrics: Sums, limit: float, step: int) -> None:
    """Raise MismatchError where the mean difference exceeds `limit`; 0 = no limit."""
    difference = metrics[f"{NAME}/mean"]
    if 0 < limit < difference:
        raise MismatchError(
            f"step {step}: sampler and trainer differ by {difference:.2e} per token on average, "
            f"above grpo.max_sampling_logp_difference={limit}: the sampler's weights or caches are "
            "stale, or its images differ."
        )
