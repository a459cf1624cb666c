"""Data order: every row once an epoch, mixture counts without gaps, weights respected."""

import numpy as np

from actial.data.sampling_order import BLOCK, epoch_order, mixture_draw


def test_epoch_order_is_a_permutation_that_changes_with_epoch_and_seed():
    first, second, other = (
        epoch_order("7/a", 0, 103),
        epoch_order("7/a", 1, 103),
        epoch_order("8/a", 0, 103),
    )
    assert sorted(first) == sorted(second) == list(range(103))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, other)


def test_mixture_counts_each_source_without_gaps_across_blocks():
    draw = mixture_draw([0.9, 0.1], seed=3)
    seen = [0, 0]
    for position in range(BLOCK - 50, BLOCK + 50):
        source, count = draw(position)
        if position == BLOCK - 50:
            seen = [0, 0]
            for p in range(position):
                seen[draw(p)[0]] += 1
        assert count == seen[source]
        seen[source] += 1
    assert abs(seen[1] / sum(seen) - 0.1) < 0.005


def test_mixture_of_one_source_is_the_identity():
    draw = mixture_draw([2.0], seed=0)
    assert [draw(p) for p in (0, 5, BLOCK + 7)] == [(0, 0), (0, 5), (0, BLOCK + 7)]
