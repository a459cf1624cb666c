"""Group-relative advantages. Axes: P prompt, G group member; NaN marks a completion that cannot be graded."""

from __future__ import annotations

import torch

from actial.config import AdvantageScale

EPSILON = 1e-6  # keeps a uniform group's 0 / 0 at 0


def compute_advantages(
    rewards_PG: torch.Tensor, scale: AdvantageScale, deviation: float | None = None
) -> torch.Tensor:
    """(P, G) advantages; ungradable completions get 0 and do not enter their group's mean.

    group: divide by the group's standard deviation (https://arxiv.org/abs/2402.03300, eq. 3; sample deviation, as the release).
    batch: centre per group, divide by the deviation over all prompts, `deviation` where some are on other ranks. none: centre only (https://arxiv.org/abs/2503.20783).
    leave_one_out: minus the mean of the others (https://arxiv.org/abs/2402.14740).
    """
    graded = ~rewards_PG.isnan()
    count = graded.sum(1, keepdim=True)
    centered = torch.where(graded, rewards_PG - rewards_PG.nanmean(1, keepdim=True), 0.0)
    if scale is AdvantageScale.none:
        return centered
    if scale is AdvantageScale.leave_one_out:
        return centered * count / (count - 1).clamp(min=1)
    if scale is AdvantageScale.group:
        return centered / (
            (centered.square().sum(1, keepdim=True) / (count - 1).clamp(min=1)).sqrt() + EPSILON
        )
    if deviation is None:
        known = rewards_PG[graded]
        deviation = float(known.std()) if len(known) > 1 else 0.0
    return centered / (deviation + EPSILON)


def informative_groups(rewards_PG: torch.Tensor) -> torch.Tensor:
    """(P,) bool: the group's gradable rewards are not all equal, so that it carries a gradient."""
    graded = ~rewards_PG.isnan()
    low = torch.where(graded, rewards_PG, torch.inf).amin(1)
    high = torch.where(graded, rewards_PG, -torch.inf).amax(1)
    return high > low
