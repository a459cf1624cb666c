"""Chains of thought for the hybrid cold start: written from the geometry, or by a teacher and then verified."""

from actial.chains.grounded import (
    HOURS,
    clock_steps,
    clock_walk,
    describe_views,
    grounded_chain,
    hour,
    known_hours,
    object_phrase,
    think_target,
)
from actial.chains.verify import Claim, Contradiction, claims, contradictions

__all__ = [
    "HOURS",
    "Claim",
    "Contradiction",
    "claims",
    "clock_steps",
    "clock_walk",
    "contradictions",
    "describe_views",
    "grounded_chain",
    "hour",
    "known_hours",
    "object_phrase",
    "think_target",
]
