"""Find the sudden drop of a supervised loss (paper, appendix B: a plateau, then a sudden drop)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd


@dataclass(slots=True, frozen=True)
class Drop:
    """A step at which a loss falls from one level to a lower one."""

    step: int  # where the lower level begins
    before: float  # mean loss, nats per token, from the end of the first tenth to the drop
    after: float


def sudden_drop(frame: pd.DataFrame, column: str = "loss", least: float = 0.2) -> Drop | None:
    """Return the step that splits the curve best into two levels (least squares).

    The first tenth is left out: there the model learns the answers' form.

    Args:
        frame: one row per logged step, indexed by step.
        column: name of the loss.
        least: the lower level must lie at least this share below the upper one.

    Returns:
        None where the levels are too close, or where an exponential decay, which has as many
        parameters, is closer to the curve.
    """
    if column not in frame:
        return None
    curve = frame[column].dropna().iloc[len(frame) // 10 :]
    values = curve.to_numpy(dtype=float)
    if len(values) < 4:
        return None
    splits = range(2, len(values) - 1)
    costs = [values[:i].var() * i + values[i:].var() * (len(values) - i) for i in splits]
    best = splits[int(np.argmin(costs))]
    before, after = float(values[:best].mean()), float(values[best:].mean())
    if after >= (1 - least) * before:
        return None
    if _decay_cost(curve.index.to_numpy(dtype=float), values) <= min(costs):
        return None
    return Drop(int(curve.index[best]), before, after)


def _decay_cost(steps: np.ndarray, values: np.ndarray) -> float:
    """Return the squared error of the best a + b exp(-step / tau).

    tau reaches from half a logged step to four times the curve's length, which is nearly a line.
    """
    steps = steps - steps[0]
    costs = []
    for tau in np.geomspace(steps[1] / 2, 4 * steps[-1], 60):
        design = np.stack([np.ones_like(steps), np.exp(-steps / tau)], axis=1)
        coefficients = np.linalg.lstsq(design, values)[0]
        costs.append(float(((design @ coefficients - values) ** 2).sum()))
    return min(costs)
