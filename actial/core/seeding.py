"""Random draws that never change: every choice in the data is a hash of what it is for.

A hash has no state like a generator: it survives a numpy upgrade, another worker
count and another order of work (object-disjoint splits, option order, mixture
draws).
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import TypeVar

import numpy as np

Item = TypeVar("Item")


def hash_int(*parts: object) -> int:
    """Return a 64-bit integer from the text of `parts`, the same in every process."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def hash_unit(*parts: object) -> float:
    """Return a number that is uniform in [0, 1) over different `parts`."""
    return hash_int(*parts) / 2.0**64


def hash_choice(items: Sequence[Item], *parts: object) -> Item:
    """Return one of the items."""
    return items[hash_int(*parts) % len(items)]


def hash_shuffle(items: Sequence[Item], *parts: object) -> list[Item]:
    """Return a permutation of `items`: sorted by the hash of each position."""
    order = sorted(range(len(items)), key=lambda i: hash_int(*parts, i))
    return [items[i] for i in order]


def splitmix64(values: np.ndarray, seed: int) -> np.ndarray:
    """Return the uint64 hash of each value under a seed (Steele, Lea, Flood 2014)."""
    with np.errstate(over="ignore"):
        z = (
            values.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
            + np.uint64(seed & 0xFFFFFFFFFFFFFFFF)
            + np.uint64(0x9E3779B97F4A7C15)
        )
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


# Constants of splitmix64: the counter's step, and the (shift, factor) of each mixing round.
_STEP, _MASK = 0x9E3779B97F4A7C15, 2**64 - 1
_MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))


class Draw:
    """A stream of draws that depends on its key alone.

    It is splitmix64 over a counter that starts at the key's hash.
    """

    def __init__(self, *key: object) -> None:
        self.state = hash_int(*key)

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """Return the next draw, uniform in [low, high)."""
        return low + (high - low) * ((self._next() >> 11) / 2.0**53)

    def uniforms(self, low: float, high: float, *shape: int) -> np.ndarray:
        """Return the numbers of that many calls of `uniform`, as an array of `shape`."""
        count = int(np.prod(shape))
        x = np.uint64(self.state) + np.uint64(_STEP) * np.arange(1, count + 1, dtype=np.uint64)
        self.state = (self.state + _STEP * count) & _MASK
        for shift, factor in _MIX:
            x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
        x = (x ^ (x >> np.uint64(31))) >> np.uint64(11)
        return low + (high - low) * x.reshape(shape) / 2.0**53

    def pick(self, items: Sequence[Item]) -> Item:
        """Return one of the items."""
        return items[self._next() % len(items)]

    def _next(self) -> int:
        self.state = x = (self.state + _STEP) & _MASK
        for shift, factor in _MIX:
            x = (x ^ (x >> shift)) * factor & _MASK
        return x ^ (x >> 31)
