"""Draws that never change: every choice in the data is a hash of what it is for, not the state of a generator.

A hash survives a numpy upgrade, another worker count and another order of work (spec: object-disjoint splits, option order, mixture draws).
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import TypeVar

Item = TypeVar("Item")


def hash_int(*parts: object) -> int:
    """64-bit integer from the text of `parts`; equal parts give equal integers in every process."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def hash_unit(*parts: object) -> float:
    """Uniform in [0, 1)."""
    return hash_int(*parts) / 2.0**64


def hash_choice(items: Sequence[Item], *parts: object) -> Item:
    return items[hash_int(*parts) % len(items)]


def hash_shuffle(items: Sequence[Item], *parts: object) -> list[Item]:
    """A permutation of `items`: sorted by the hash of each position."""
    order = sorted(range(len(items)), key=lambda i: hash_int(*parts, i))
    return [items[i] for i in order]
