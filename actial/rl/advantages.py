"""Group-relative advantages.

Axes: P group, G completion of the group; NaN marks a completion that cannot be graded.
"""

from __future__ import annotations

import torch

from actial.config import AdvantageScale
from actial.core.seeding import hash_shuffle

EPSILON = 1e-6  # keeps the 0 / 0 of a uniform group at 0


def compute_advantages(
    rewards_PG: torch.Tensor,
    scale: AdvantageScale,
    deviation: float | None = None,
    penalties_PG: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return (P, G) advantages; ungradable completions get 0 and do not enter their group's mean.

    KL penalties (grpo.kl.place=reward) come off after the scaling, centered per group:
    where all rewards of a group are equal, dividing by the deviation would blow up the
    noise of the KL to full size whatever beta is
    (https://github.com/volcengine/verl/issues/594).

    group: divided by the group's sample standard deviation, as the release does
        (https://arxiv.org/abs/2402.03300, eq. 3)
    batch: centered per group, divided by the deviation over all prompts; `deviation` gives it
        where some of them are on other ranks
    none: centered only (https://arxiv.org/abs/2503.20783)
    leave_one_out: minus the mean of the others (https://arxiv.org/abs/2402.14740)
    """
    advantages = _scaled(rewards_PG, scale, deviation)
    if penalties_PG is None:
        return advantages
    penalties_PG = torch.where(rewards_PG.isnan(), torch.nan, penalties_PG)
    centering = AdvantageScale.none
    if scale is AdvantageScale.leave_one_out:
        centering = scale
    return advantages - _scaled(penalties_PG, centering, None)


def _scaled(
    rewards_PG: torch.Tensor, scale: AdvantageScale, deviation: float | None
) -> torch.Tensor:
    """Return (P, G) the rewards centered per group and scaled."""
    graded = ~rewards_PG.isnan()
    count_P1 = graded.sum(1, keepdim=True)
    centered = torch.where(graded, rewards_PG - rewards_PG.nanmean(1, keepdim=True), 0.0)
    degrees_P1 = (count_P1 - 1).clamp(min=1)
    if scale is AdvantageScale.none:
        return centered
    if scale is AdvantageScale.leave_one_out:
        # r_i - mean of the others = (r_i - mean of all) * G / (G - 1)
        return centered * count_P1 / degrees_P1
    if scale is AdvantageScale.group:
        variance_P1 = centered.square().sum(1, keepdim=True) / degrees_P1
        return centered / (variance_P1.sqrt() + EPSILON)
    if deviation is None:
        gradable = rewards_PG[graded]
        deviation = float(gradable.std()) if len(gradable) > 1 else 0.0
    return centered / (deviation + EPSILON)


def informative_groups(rewards_PG: torch.Tensor) -> torch.Tensor:
    """Return (P,) bool: whether the group's gradable rewards differ, so that it has a gradient."""
    graded = ~rewards_PG.isnan()
    low = torch.where(graded, rewards_PG, torch.inf).amin(1)
    high = torch.where(graded, rewards_PG, -torch.inf).amax(1)
    return high > low


def shuffle_rewards(rewards_PG: torch.Tensor, position: int) -> torch.Tensor:
    """Return the (P, G) rewards dealt anew among the completions of the step that ends there."""
    order = hash_shuffle(range(rewards_PG.numel()), "rewards", position)
    return rewards_PG.flatten()[order].view_as(rewards_PG)
