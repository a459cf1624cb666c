"""Hand-worked losses, exact KL gradients, and independence from the split into micro-batches."""

from __future__ import annotations

import math

import pytest
import torch

from actial.config import (
    AdvantageScale,
    GRPOConfig,
    ImportanceSampling,
    KLConfig,
    KLEstimator,
    KLGradient,
    KLPlace,
    LossType,
)
from actial.rl.advantages import compute_advantages, informative_groups
from actial.training.losses import (
    Denominators,
    Scores,
    importance_weights,
    kl_penalty,
    masked_nll,
    policy_gradient,
)

NO_KL = KLConfig(estimator=KLEstimator.none)


def grpo_config(**values) -> GRPOConfig:
    return GRPOConfig(
        **{
            "steps": 1,
            "batch_size": 1,
            "kl": NO_KL,
            "dual_clip": None,
            "max_tokens": 10,
            **values,
        }
    )


def scores_of(
    ratios: list[list[float]], advantages: list[float], groups: list[int], **extra
) -> Scores:
    """Completions given by their tokens' probability ratios; old log-probabilities are zero."""
    flat = (
        torch.tensor([r for continuation in ratios for r in continuation])
        .log()
        .requires_grad_()
    )
    index = torch.tensor([b for b, continuation in enumerate(ratios) for _ in continuation])
    return Scores(
        logprobs=flat,
        old_logprobs=torch.zeros(len(flat)),
        sequence_index=index,
        group_of_sequence=torch.tensor(groups),
        advantages=torch.tensor(advantages),
        **extra,
    )


def loss_of(scores: Scores, config: GRPOConfig) -> float:
    denominators = Denominators.count(scores.sequence_index, scores.group_of_sequence)
    return float(policy_gradient(scores, config, denominators)[0].detach())


def test_nll_is_the_token_mean_of_the_step():
    logprobs = torch.tensor([-1.0, -3.0, -2.0])
    assert float(masked_nll(logprobs, 3.0)) == 2.0
    assert float(masked_nll(logprobs[:1], 3.0) + masked_nll(logprobs[1:], 3.0)) == 2.0


# Three completions in two groups, all ratios 1: token values are -A = (-1, -1, -1, -1), (2,), (-4,
# -4).
LENGTHS, ADVANTAGES, GROUPS = (4, 1, 2), [1.0, -2.0, 4.0], [0, 0, 1]


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        (LossType.dapo, (-4 + 2 - 8) / 7),
        (LossType.grpo, (-1 + 2 - 4) / 3),
        (LossType.gspo, (-1 + 2 - 4) / 3),
        (LossType.bnpo, ((-4 + 2) / 5 + -8 / 2) / 2),
        (LossType.dr_grpo, (-4 + 2 - 8) / (3 * 10)),
        (LossType.sapo, (-1 * 2 + 2 * 2 / 1.05 - 4 * 2) / 3),
    ],
)
def test_aggregation_of_each_variant_on_policy(variant, expected):
    scores = scores_of([[1.0] * n for n in LENGTHS], ADVANTAGES, GROUPS)
    assert loss_of(scores, grpo_config(loss=variant)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("ratio", "advantage", "dual_clip", "value"),
    [
        (1.5, 1.0, None, -1.3),  # gain capped at 1 + clip_high
        (0.5, 1.0, None, -0.5),
        (0.5, -1.0, None, 0.8),  # loss floored at 1 - clip_low
        (1.5, -1.0, None, 1.5),
        (5.0, -1.0, 3.0, 3.0),  # dual clip
        (5.0, -1.0, None, 5.0),
        (5.0, 1.0, 3.0, -1.3),  # dual clip leaves good tokens alone
    ],
)
def test_asymmetric_and_dual_clip(ratio, advantage, dual_clip, value):
    config = grpo_config(loss=LossType.dapo, clip_low=0.2, clip_high=0.3, dual_clip=dual_clip)
    assert loss_of(scores_of([[ratio]], [advantage], [0]), config) == pytest.approx(
        value, rel=1e-6
    )


def test_clip_fraction_counts_held_tokens():
    scores = scores_of([[1.5, 1.0, 0.5], [0.5]], [1.0, -1.0], [0, 0])
    config = grpo_config(loss=LossType.dapo)
    _, metrics = policy_gradient(scores, config, Denominators(tokens=4, sequences=2, groups=1))
    assert (
        float(metrics["clip_ratio/region_mean"]) == 0.5
    )  # 1.5 with a good advantage, 0.5 with a bad one


def test_cispo_keeps_the_gradient_of_clipped_tokens():
    for variant, slope in ((LossType.cispo, -1.2), (LossType.dapo, 0.0)):
        scores = scores_of([[1.5]], [1.0], [0])
        policy_gradient(
            scores, grpo_config(loss=variant), Denominators(tokens=1, sequences=1, groups=1)
        )[0].backward()
        assert float(scores.logprobs.grad) == pytest.approx(slope)


def test_gspo_clips_the_geometric_mean():
    """Ratios 4 and 1/4 cancel: token clipping would act, sequence clipping does not."""
    scores = scores_of([[4.0, 0.25]], [1.0], [0])
    assert loss_of(scores, grpo_config(loss=LossType.gspo)) == pytest.approx(-1.0)
    assert loss_of(scores, grpo_config(loss=LossType.dapo)) == pytest.approx(-(1.2 + 0.25) / 2)


def test_sapo_gate_and_its_slope():
    scores = scores_of([[2.0]], [1.0], [0])
    loss, _ = policy_gradient(
        scores, grpo_config(loss=LossType.sapo), Denominators(tokens=1, sequences=1, groups=1)
    )
    gate = 1 / (1 + math.exp(-1.0))
    assert float(loss) == pytest.approx(-4 * gate)
    loss.backward()
    assert float(scores.logprobs.grad) == pytest.approx(
        -4 * gate * (1 - gate) * 2.0
    )  # d ratio / d logprob = ratio


def test_extreme_ratios_stay_finite():
    scores = scores_of([[1.0, 1.0]], [1.0], [0])
    scores.logprobs = torch.tensor([200.0, -200.0], requires_grad=True)
    for variant in LossType:
        loss, _ = policy_gradient(
            scores, grpo_config(loss=variant), Denominators(tokens=2, sequences=1, groups=1)
        )
        (gradient,) = torch.autograd.grad(loss, scores.logprobs)
        assert loss.isfinite()
        assert gradient.isfinite().all()


# ---------------------------------------------------------------- KL


LOGITS = torch.tensor([0.3, -1.0, 0.8, 0.0, -0.4], dtype=torch.float64)
REFERENCE = torch.tensor([-0.5, 0.2, 0.4, 1.0, -1.2], dtype=torch.float64).log_softmax(-1)


def expected_gradient(
    estimator: KLEstimator, gradient: KLGradient, behaviour: torch.Tensor
) -> torch.Tensor:
    """Gradient in the logits of the mean over `behaviour` samples, by enumeration of the 5-token
    vocabulary.
    """
    logits = LOGITS.clone().requires_grad_()
    log_p = logits.log_softmax(-1)
    scores = Scores(
        logprobs=log_p,
        sequence_index=torch.zeros(5, dtype=torch.long),
        group_of_sequence=torch.zeros(1, dtype=torch.long),
        advantages=torch.zeros(1),
        reference_logprobs=REFERENCE,
    )
    ratio = (log_p.detach() - behaviour).exp()
    config = KLConfig(estimator=estimator, gradient=gradient)
    (behaviour.exp() * kl_penalty(scores, config, ratio)).sum().backward()
    return logits.grad


def exact_gradient(function) -> torch.Tensor:
    logits = LOGITS.clone().requires_grad_()
    function(logits.log_softmax(-1)).backward()
    return logits.grad


def exact_kl(log_p):
    return (log_p.exp() * (log_p - REFERENCE)).sum()


@pytest.mark.parametrize(
    "estimator", [KLEstimator.k1, KLEstimator.abs, KLEstimator.k2, KLEstimator.k3]
)
@pytest.mark.parametrize("off_policy", [False, True])
def test_unbiased_form_has_the_gradient_of_the_exact_kl(estimator, off_policy):
    behaviour = (
        torch.tensor([0.1, 0.4, 0.2, 0.1, 0.2], dtype=torch.float64).log()
        if off_policy
        else LOGITS.log_softmax(-1)
    )
    actual = expected_gradient(estimator, KLGradient.unbiased, behaviour)
    torch.testing.assert_close(actual, exact_gradient(exact_kl))


@pytest.mark.parametrize(
    ("estimator", "function"),
    [
        (KLEstimator.k1, lambda log_p: (log_p * 0).sum()),  # the score has mean zero
        (
            KLEstimator.abs,
            lambda log_p: (log_p.exp() - REFERENCE.exp()).abs().sum(),
        ),  # L1 distance
        (KLEstimator.k2, exact_kl),
        (
            KLEstimator.k3,
            lambda log_p: (REFERENCE.exp() * (REFERENCE - log_p)).sum(),
        ),  # KL(reference || policy)
    ],
)
def test_plain_form_has_this_other_gradient(estimator, function):
    actual = expected_gradient(estimator, KLGradient.plain, LOGITS.log_softmax(-1))
    torch.testing.assert_close(actual, exact_gradient(function))


@pytest.mark.parametrize("estimator", [KLEstimator.k1, KLEstimator.k3])
def test_k1_and_k3_have_the_exact_kl_as_mean(estimator):
    log_p = LOGITS.log_softmax(-1)
    scores = scores_of([[1.0] * 5], [0.0], [0], reference_logprobs=REFERENCE)
    scores.logprobs = log_p
    values = kl_penalty(scores, KLConfig(estimator=estimator), torch.ones(5))
    torch.testing.assert_close((log_p.exp() * values).sum(), exact_kl(log_p))


def test_a_token_made_improbable_does_not_take_the_whole_step():
    """k3 of log-ratios 1, 3 and 12 is 0.72, 16.1 and 162,742: what is beyond the cap counts as the
    cap, and pulls no more.
    """
    scores = scores_of(
        [[1.0, 1.0, 1.0]], [0.0], [0], reference_logprobs=torch.tensor([1.0, 3.0, 12.0])
    )
    scores.logprobs = torch.zeros(3, requires_grad=True)
    values = kl_penalty(scores, KLConfig(cap=10.0), torch.ones(3))
    assert values.tolist() == pytest.approx([math.e - 2, 10.0, 10.0])
    values.sum().backward()
    assert scores.logprobs.grad.tolist() == pytest.approx([1 - math.e, 0.0, 0.0])


def test_full_kl_passes_the_exact_values_through():
    scores = scores_of([[1.0, 1.0]], [0.0], [0], exact_kl=torch.tensor([0.5, 1.5]))
    config = grpo_config(kl=KLConfig(beta=0.1, estimator=KLEstimator.full))
    loss, metrics = policy_gradient(
        scores, config, Denominators(tokens=2, sequences=1, groups=1)
    )
    assert float(loss) == pytest.approx(0.1)
    assert float(metrics["kl"]) == 1.0


def test_kl_in_the_reward_leaves_the_loss_alone():
    scores = scores_of([[1.0]], [1.0], [0], reference_logprobs=torch.tensor([-1.0]))
    config = grpo_config(kl=KLConfig(beta=0.5, estimator=KLEstimator.k1, place=KLPlace.reward))
    loss, metrics = policy_gradient(
        scores, config, Denominators(tokens=1, sequences=1, groups=1)
    )
    assert float(loss) == -1.0
    assert float(metrics["kl"]) == 1.0


# ---------------------------------------------------------------- sampler mismatch


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (ImportanceSampling.token_truncate, [2.0, 0.25, 1.0]),
        (ImportanceSampling.token_mask, [0.0, 0.0, 1.0]),
        (
            ImportanceSampling.sequence_truncate,
            [1.0, 1.0, 1.0],
        ),  # 4 and 1/4 cancel in the geometric mean
        (ImportanceSampling.sequence_mask, [1.0, 1.0, 1.0]),
    ],
)
def test_importance_weights(kind, expected):
    gap = torch.tensor([4.0, 0.25, 1.0]).log()
    actual = importance_weights(
        gap, torch.tensor([0, 0, 1]), grpo_config(importance=kind, importance_cap=2.0)
    )
    torch.testing.assert_close(actual, torch.tensor(expected))


def test_importance_correction_weighs_the_surrogate():
    scores = scores_of([[1.0]], [1.0], [0], sampler_logprobs=torch.tensor([2.0]).log())
    config = grpo_config(importance=ImportanceSampling.token_truncate)
    loss, metrics = policy_gradient(
        scores, config, Denominators(tokens=1, sequences=1, groups=1)
    )
    assert float(loss) == pytest.approx(
        -0.5
    )  # sampled twice as likely as the trainer holds it
    assert float(metrics["sampling/sampling_logp_difference/mean"]) == pytest.approx(
        math.log(2.0)
    )


# ---------------------------------------------------------------- independence of the split


def micro_batches(scores: Scores, parts: list[list[int]]):
    """Scores of the given groups, branches renumbered, sharing the leaf tensor of
    log-probabilities.
    """
    for groups in parts:
        continuations = torch.tensor([int(g) in groups for g in scores.group_of_sequence])
        tokens = continuations[scores.sequence_index]
        renumber = continuations.cumsum(0) - 1
        _, local_groups = scores.group_of_sequence[continuations].unique(return_inverse=True)

        def pick(tensor, tokens=tokens):
            return None if tensor is None else tensor[tokens]

        yield Scores(
            logprobs=scores.logprobs[tokens],
            old_logprobs=pick(scores.old_logprobs),
            sampler_logprobs=pick(scores.sampler_logprobs),
            reference_logprobs=pick(scores.reference_logprobs),
            sequence_index=renumber[scores.sequence_index[tokens]],
            group_of_sequence=local_groups,
            advantages=scores.advantages[continuations],
        )


@pytest.mark.parametrize("variant", list(LossType))
@pytest.mark.parametrize(
    "importance", [ImportanceSampling.off, ImportanceSampling.sequence_truncate]
)
def test_gradients_do_not_depend_on_the_split(variant, importance):
    generator = torch.Generator().manual_seed(3)
    lengths = [3, 0, 5, 1, 2, 4, 1, 7]
    groups = torch.tensor([0, 0, 1, 1, 1, 2, 3, 3])
    index = torch.repeat_interleave(torch.arange(8), torch.tensor(lengths))
    count = len(index)

    def draw():
        return torch.randn(count, generator=generator, dtype=torch.float64)

    scores = Scores(
        logprobs=draw().requires_grad_(),
        old_logprobs=draw(),
        sampler_logprobs=draw(),
        reference_logprobs=draw(),
        sequence_index=index,
        group_of_sequence=groups,
        advantages=torch.randn(8, generator=generator, dtype=torch.float64),
    )
    config = grpo_config(
        loss=variant, importance=importance, dual_clip=3.0, kl=KLConfig(beta=0.1)
    )
    actual = []
    for parts in ([[0, 1, 2, 3]], [[0], [1], [2], [3]], [[3, 0], [2, 1]]):
        total = sum(
            (
                Denominators.count(s.sequence_index, s.group_of_sequence)
                for s in micro_batches(scores, parts)
            ),
            start=Denominators(tokens=0, sequences=0, groups=0),
        )
        assert (total.tokens, total.sequences, total.groups) == (23, 7, 4)
        results = [policy_gradient(s, config, total) for s in micro_batches(scores, parts)]
        loss = sum(result[0] for result in results)
        metrics = {name: sum(float(m[name]) for _, m in results) for name in results[0][1]}
        actual.append((loss, torch.autograd.grad(loss, scores.logprobs)[0], metrics))
    for loss, gradient, metrics in actual[1:]:
        torch.testing.assert_close(loss, actual[0][0])
        torch.testing.assert_close(gradient, actual[0][1])
        assert metrics == pytest.approx(actual[0][2])


# ---------------------------------------------------------------- advantages


REWARDS = torch.tensor([[1.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0], [0.5, 0.0, 1.0, 0.5]])


@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        (AdvantageScale.none, [[0.5, -0.5, -0.5, 0.5], [0.0] * 4, [0.0, -0.5, 0.5, 0.0]]),
        (
            AdvantageScale.leave_one_out,
            [[2 / 3, -2 / 3, -2 / 3, 2 / 3], [0.0] * 4, [0.0, -2 / 3, 2 / 3, 0.0]],
        ),
        (
            AdvantageScale.group,
            [
                [3**0.5 / 2, -(3**0.5) / 2, -(3**0.5) / 2, 3**0.5 / 2],
                [0.0] * 4,
                [0.0, -(1.5**0.5), 1.5**0.5, 0.0],
            ],
        ),
    ],
)
def test_advantages(scale, expected):
    torch.testing.assert_close(
        compute_advantages(REWARDS, scale), torch.tensor(expected), rtol=1e-5, atol=1e-5
    )


def test_batch_scale_divides_by_the_deviation_of_all_rewards():
    actual = compute_advantages(REWARDS, AdvantageScale.batch)
    centered = REWARDS - REWARDS.mean(1, keepdim=True)
    torch.testing.assert_close(
        actual, centered / REWARDS.flatten().std(), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("scale", list(AdvantageScale))
def test_ungradable_completions_do_not_move_their_group(scale):
    """A NaN reward gets advantage 0, and the rest of the group is as if it had not been sampled."""
    with_gap = compute_advantages(torch.tensor([[1.0, float("nan"), 0.0, 0.0]]), scale)
    without = compute_advantages(torch.tensor([[1.0, 0.0, 0.0]]), scale)
    torch.testing.assert_close(with_gap[:, [0, 2, 3]], without)
    assert float(with_gap[0, 1]) == 0.0
    assert not compute_advantages(torch.full((1, 3), float("nan")), scale).any()


def test_informative_groups_have_unequal_rewards():
    rewards = torch.cat(
        [REWARDS, torch.tensor([[float("nan")] * 4, [float("nan"), 1.0, 0.0, 1.0]])]
    )
    assert informative_groups(rewards).tolist() == [True, False, True, False, True]
