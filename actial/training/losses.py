"""Losses on token log-probabilities: plain functions of tensors, one code path for every variant.

Every loss is a weighted sum over supervised tokens. The weights come from
denominators of the whole optimizer step, which are known before its first
micro-batch, so the sum over micro-batches gives the same loss and gradient
however the step is split. Metrics add up in the same way. Axes: N supervised
tokens, B continuations (completions), P prefix groups (prompts).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from actial.config import (
    GRPOConfig,
    ImportanceSampling,
    KLConfig,
    KLEstimator,
    KLGradient,
    KLPlace,
    LossType,
)

Metrics = dict[str, torch.Tensor]
# e^20 lies beyond every cap; exp of more overflows, and 0 * inf is NaN in the backward pass.
MAX_LOG_RATIO = 20.0
# Of positive and negative advantages (https://arxiv.org/abs/2511.20347).
SAPO_TEMPERATURE = (1.0, 1.05)


@dataclass(slots=True, kw_only=True)
class Denominators:
    """Counts over the whole optimizer step: all micro-batches of all ranks.

    Continuations without a supervised token do not count.
    """

    tokens: float
    sequences: float
    groups: float

    @classmethod
    def count(
        cls, sequence_index: torch.Tensor, group_of_sequence: torch.Tensor
    ) -> Denominators:
        """Count from sequence_index (N,) and group_of_sequence (B,)."""
        lengths_B = sequence_index.bincount(minlength=len(group_of_sequence))
        groups = group_of_sequence[lengths_B > 0].unique()
        return cls(
            tokens=float(lengths_B.sum()),
            sequences=float((lengths_B > 0).sum()),
            groups=float(len(groups)),
        )

    def __add__(self, other: Denominators) -> Denominators:
        return Denominators(
            tokens=self.tokens + other.tokens,
            sequences=self.sequences + other.sequences,
            groups=self.groups + other.groups,
        )


@dataclass(slots=True, kw_only=True)
class Scores:
    """What one micro-batch gives to the policy gradient.

    All log-probabilities are under the sampling temperature.
    """

    logprobs: torch.Tensor  # (N,) with gradient
    sequence_index: torch.Tensor  # (N,) continuation of each token
    group_of_sequence: torch.Tensor  # (B,) prefix group of each continuation
    advantages: torch.Tensor  # (B,)
    # (N,) the trainer's, before the first update on these rollouts; None = on-policy
    old_logprobs: torch.Tensor | None = None
    sampler_logprobs: torch.Tensor | None = None  # (N,) the engine's own
    reference_logprobs: torch.Tensor | None = None  # (N,)
    # (N,) full-vocabulary KL to the reference, with gradient
    exact_kl: torch.Tensor | None = None


def masked_nll(logprobs: torch.Tensor, tokens: float) -> torch.Tensor:
    """Return the mean negative log-likelihood over the step's `tokens` supervised tokens.

    logprobs: (N,) of one micro-batch; the results of micro-batches add up.
    """
    return -logprobs.sum() / tokens


def policy_gradient(
    scores: Scores, config: GRPOConfig, denominators: Denominators
) -> tuple[torch.Tensor, Metrics]:
    """Return the clipped surrogate plus KL penalty as a scalar loss, and additive metrics."""
    # (N,) each: share of a token in the loss, log of the policy ratio, advantage of its completion.
    weights = token_weights(
        scores.sequence_index, scores.group_of_sequence, denominators, config
    )
    old = scores.logprobs.detach() if scores.old_logprobs is None else scores.old_logprobs
    log_ratio = (scores.logprobs - old).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    advantage = scores.advantages[scores.sequence_index]
    values, clipped = _surrogate(scores, log_ratio, advantage, config)

    per_token = 1.0 / denominators.tokens
    metrics = {
        "clip_ratio/region_mean": clipped.float().sum() * per_token,
        "importance_ratio/mean": log_ratio.detach().exp().sum() * per_token,
    }
    # Trainer and sampler compute the probabilities of the same tokens differently (bf16, kernels).
    # `old` is the trainer's view of the weights that were sampled from.
    if scores.sampler_logprobs is not None:
        difference = old - scores.sampler_logprobs
        metrics["sampling/sampling_logp_difference/mean"] = difference.abs().sum() * per_token
        if config.importance is not ImportanceSampling.off:
            correction = importance_weights(difference, scores.sequence_index, config)
            values = values * correction
            mean_correction = correction.sum() * per_token
            metrics["sampling/importance_sampling_ratio/mean"] = mean_correction
    has_reference = scores.reference_logprobs is not None or scores.exact_kl is not None
    if has_reference and config.kl.estimator is not KLEstimator.none:
        kl = kl_penalty(scores, config.kl, log_ratio.detach().exp())
        metrics["kl"] = kl.detach().sum() * per_token
        if config.kl.place is KLPlace.loss:
            values = values + config.kl.beta * kl
    loss = (weights * values).sum()
    return loss, metrics | {"loss": loss.detach()}


def token_weights(
    sequence_index: torch.Tensor,
    group_of_sequence: torch.Tensor,
    denominators: Denominators,
    config: GRPOConfig,
) -> torch.Tensor:
    """Return (N,) the share of each token in the loss.

    grpo, gspo, sapo: mean over completions of their token mean
    dapo, cispo: token mean of the whole step
    bnpo: mean over groups of their token mean; the group is the one "local batch" that no split
        into micro-batches can change
    dr_grpo: a constant, completions times the length limit, so that long answers are not favored
        (https://arxiv.org/abs/2503.20783)
    """
    ones = torch.ones_like(sequence_index, dtype=torch.float32)
    if config.loss in (LossType.dapo, LossType.cispo):
        return ones / denominators.tokens
    if config.loss is LossType.dr_grpo:
        return ones / (denominators.sequences * config.max_tokens)
    lengths_B = sequence_index.bincount(minlength=len(group_of_sequence))
    if config.loss is LossType.bnpo:
        # Tokens of each group: (B,) lengths added up by (B,) group numbers, then spread to (N,).
        num_groups = int(group_of_sequence.max()) + 1
        tokens_P = torch.zeros(num_groups, device=lengths_B.device, dtype=torch.long)
        tokens_P.index_add_(0, group_of_sequence, lengths_B)
        return ones / (tokens_P[group_of_sequence][sequence_index] * denominators.groups)
    return ones / (lengths_B[sequence_index] * denominators.sequences)


def _surrogate(
    scores: Scores, log_ratio: torch.Tensor, advantage: torch.Tensor, config: GRPOConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (N,) the negated surrogate objective, and (N,) bool which tokens the clip holds back.

    log_ratio, advantage: (N,).
    """
    if config.loss is LossType.gspo:
        # One ratio per completion, the geometric mean of its tokens' ratios
        # (https://arxiv.org/abs/2507.18071): (N,) -> (B,) means -> (N,).
        num_sequences = len(scores.group_of_sequence)
        mean_B = sequence_mean(log_ratio, scores.sequence_index, num_sequences)
        log_ratio = mean_B[scores.sequence_index]
    ratio = log_ratio.exp()
    low, high = 1.0 - config.clip_low, 1.0 + config.clip_high
    outside = ((ratio > high) & (advantage > 0)) | ((ratio < low) & (advantage < 0))
    if config.loss is LossType.cispo:
        # The weight is clipped and detached, and every token keeps the gradient of its
        # log-probability (https://arxiv.org/abs/2506.13585).
        weight = ratio.detach().clamp(max=high)
        return -weight * advantage * scores.logprobs, (ratio > high).detach()
    if config.loss is LossType.sapo:
        # A smooth gate in place of the clip; 4 / tau makes its slope 1 at ratio 1.
        positive, negative = SAPO_TEMPERATURE
        tau = torch.where(advantage > 0, positive, negative)
        gate = torch.sigmoid(tau * (ratio - 1.0)) * (4.0 / tau)
        return -gate * advantage, outside.detach()
    values = torch.maximum(-ratio * advantage, -ratio.clamp(low, high) * advantage)
    if config.dual_clip is not None:
        # Bounds the push away from a bad token that has become likely (verl's dual clip): with a
        # negative advantage the loss of a token is at most dual_clip * |advantage|.
        bound = -config.dual_clip * advantage
        outside = outside | ((advantage < 0) & (values > bound))
        values = torch.where(advantage < 0, torch.minimum(values, bound), values)
    return values, outside.detach()


def kl_penalty(scores: Scores, config: KLConfig, ratio: torch.Tensor) -> torch.Tensor:
    """Return (N,) estimates of KL(policy || reference) on sampled tokens.

    `ratio` (N,) corrects off-policy samples. The values are those of
    http://joschu.net/blog/kl-approx.html. Their plain gradient is that of the KL only for k2 and
    full: k1's is zero in expectation, and k3's is that of KL(reference || policy). `unbiased` keeps
    the value and takes the gradient from k2, weighted by the ratio
    (https://github.com/huggingface/trl/issues/4967). A token that the policy has made very
    improbable would have a k3 of thousands, and the gradient of the whole step: `config.cap`
    bounds it.
    """
    estimator = config.estimator
    if estimator is KLEstimator.full:
        if scores.exact_kl is None:
            raise ValueError("the full-vocabulary KL needs Scores.exact_kl")
        return scores.exact_kl
    if scores.reference_logprobs is None:
        raise ValueError(f"the {estimator.value} estimator needs Scores.reference_logprobs")
    difference = (scores.reference_logprobs - scores.logprobs).clamp(
        -MAX_LOG_RATIO, MAX_LOG_RATIO
    )
    half_square = 0.5 * difference.square()
    value = {
        KLEstimator.k1: -difference,
        KLEstimator.abs: difference.abs(),
        KLEstimator.k2: half_square,
        KLEstimator.k3: (difference.exp() - difference - 1.0).clamp(max=config.cap),
    }[estimator]
    if config.gradient is KLGradient.plain:
        return value
    return value.detach() + ratio * (half_square - half_square.detach())


def importance_weights(
    difference: torch.Tensor, sequence_index: torch.Tensor, config: GRPOConfig
) -> torch.Tensor:
    """Return (N,) trainer over sampler probability, cut at `config.importance_cap`.

    difference: (N,) trainer's minus sampler's log-probabilities. truncate: at most the cap. mask: 0
    outside [1 / cap, cap]. sequence: the geometric mean over the completion, so that long answers
    are not discarded for their length (https://github.com/huggingface/trl/issues/4772).
    """
    kind = config.importance
    if kind in (ImportanceSampling.sequence_truncate, ImportanceSampling.sequence_mask):
        num_sequences = int(sequence_index.max()) + 1 if len(sequence_index) else 0
        mean_B = sequence_mean(difference, sequence_index, num_sequences)
        difference = mean_B[sequence_index]
    weight = difference.detach().clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    cap = config.importance_cap
    if kind in (ImportanceSampling.token_truncate, ImportanceSampling.sequence_truncate):
        return weight.clamp(max=cap)
    return torch.where((weight >= 1.0 / cap) & (weight <= cap), weight, 0.0)


def sequence_mean(
    values: torch.Tensor, sequence_index: torch.Tensor, num_sequences: int
) -> torch.Tensor:
    """Return (B,) the mean of each continuation's tokens; 0 for a continuation without any.

    values, sequence_index: (N,).
    """
    sums = values.new_zeros(num_sequences).index_add(0, sequence_index, values)
    return sums / sequence_index.bincount(minlength=num_sequences).clamp(min=1)
