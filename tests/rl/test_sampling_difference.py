"""Figures of the gap between the trainer's and the sampler's log-probabilities."""

from __future__ import annotations

import pytest
import torch

from actial.rl.grpo_module import mean_of_updates
from actial.rl.sampling_difference import (
    difference_by_length,
    difference_moments,
    summarize_difference,
)
from actial.training.losses import Scores


def scores(trainer: list[float], sampler: list[float], continuation: list[int]) -> Scores:
    count = max(continuation) + 1
    return Scores(
        logprobs=torch.tensor(trainer),
        sampler_logprobs=torch.tensor(sampler),
        sequence_index=torch.tensor(continuation),
        group_of_sequence=torch.zeros(count, dtype=torch.long),
        advantages=torch.zeros(count),
    )


def summary(*parts: Scores) -> dict[str, float]:
    sums: dict[str, float] = {}
    for part in parts:
        for name, value in {**difference_moments(part), **difference_by_length(part)}.items():
            sums[name] = (
                max(sums.get(name, 0.0), float(value))
                if name.startswith("max/")
                else sums.get(name, 0.0) + float(value)
            )
    return summarize_difference(sums)


def testdifference_by_length_does_not_depend_on_the_split_into_micro_batches() -> None:
    short = scores([-1.0, -2.0], [-1.1, -2.3], [0, 0])  # gaps 0.1, 0.3
    long = scores([-1.0] * 65, [-1.0] * 64 + [-7.5], [0] * 65)  # 65 tokens, one gap of 6.5
    both = scores(
        [-1.0, -2.0] + [-1.0] * 65, [-1.1, -2.3] + [-1.0] * 64 + [-7.5], [0, 0] + [1] * 65
    )
    expected = {
        "sampling/sampling_logp_difference/length<=64": 0.2,
        "sampling/sampling_logp_difference/length<=256": 0.1,
        "sampling/sampling_logp_difference/max": 6.5,
    }
    for found in (summary(short, long), summary(both)):
        assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-5)
        assert "sampling/sampling_logp_difference/length<=1024" not in found


def test_a_figure_that_one_update_lacks_is_averaged_over_the_others() -> None:
    assert mean_of_updates([{"a": 1.0, "b": 4.0}, {"a": 2.0}]) == {"a": 1.5, "b": 4.0}
    assert mean_of_updates([]) == {}
