"""In which order a stage consumes its data.

The order is a function of (seed, epoch, position): the number of consumed positions is all the
state that a resumed run needs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, lru_cache

import numpy as np

from actial.core.seeding import hash_int, splitmix64

BLOCK = 1 << 16


@lru_cache(maxsize=32)
def epoch_order(seed: str, epoch: int, size: int) -> np.ndarray:
    """Return the permutation (size,) of a set's records in one epoch."""
    return np.argsort(
        splitmix64(np.arange(size), hash_int("order", seed, epoch)), kind="stable"
    )


def mixture_draw(weights: Sequence[float], seed: int) -> Callable[[int], tuple[int, int]]:
    """Return a function from a position to (source, earlier positions that drew that source).

    The source is drawn by hash with the given weights. Counts are stored per
    block of positions, so any position is reached without replaying all earlier
    ones.
    """
    edges = np.cumsum(np.asarray(weights, dtype=np.float64) / np.sum(weights))
    key = hash_int("mixture", seed)

    @lru_cache(maxsize=64)
    def block(index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        unit = (
            splitmix64(np.arange(index * BLOCK, (index + 1) * BLOCK), key).astype(np.float64)
            / 2.0**64
        )
        sources = np.minimum(np.searchsorted(edges, unit, side="right"), len(edges) - 1)
        hits = sources[:, None] == np.arange(len(edges))
        within = np.take_along_axis(np.cumsum(hits, axis=0) - 1, sources[:, None], axis=1)[
            :, 0
        ]
        return sources, within, hits.sum(axis=0)

    @cache
    def before(index: int) -> np.ndarray:
        return (
            np.zeros(len(edges), dtype=np.int64)
            if index == 0
            else before(index - 1) + block(index - 1)[2]
        )

    def draw(position: int) -> tuple[int, int]:
        index, offset = divmod(position, BLOCK)
        sources, within, _ = block(index)
        source = int(sources[offset])
        return source, int(before(index)[source] + within[offset])

    return draw
