"""Prompts spread over the ranks by tokens, after sampling and before the updates.

A rank samples every R-th prompt of the stream. Completions differ in length,
and each update waits for the rank with most tokens; so some prompts change
ranks. Which prompts an update has, their rewards and advantages stay the same,
and so do loss and gradient, which are sums over the ranks.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from actial.modeling.prefix_packing import Continuation
from actial.rl.rollout_metrics import CompletionRecord
from actial.training.distributed import gathered, num_ranks

TOLERANCE = 0.02  # of the mean, by which the fullest rank may exceed it

# What is moved together: the prompts about the same images in one mini-batch, as (mini-batch,
# position in the stream).
Unit = tuple[int, int]


@dataclass(slots=True, kw_only=True)
class SampledPrompt:
    """A prompt of a step with all that the updates need of its completions, but for its images.

    Another rank renders the prompt anew from its position in the stream. Lists have one entry per
    completion.
    """

    position: int
    uid: str
    mini_batch: int
    num_tokens: int  # of the prompt and its completions
    continuations: list[Continuation]
    advantages: list[float]
    sampler_logprobs: list[list[float]]
    samples: list[CompletionRecord]

    @property
    def unit(self) -> Unit:
        """What it is moved with."""
        return self.mini_batch, self.position


def spread_over_ranks(prompts: list[SampledPrompt], rank: int) -> list[SampledPrompt]:
    """Return the prompts that this rank trains on, in order of their mini-batch. A collective.

    Own prompts come first in each mini-batch, in their order; a single rank keeps all as they are.
    """
    if num_ranks() == 1:
        return prompts
    tokens: dict[Unit, int] = defaultdict(int)
    for prompt in prompts:
        tokens[prompt.unit] += prompt.num_tokens
    new_rank = _new_ranks(gathered(dict(tokens)))
    leaving = [prompt for prompt in prompts if new_rank[prompt.unit] != rank]
    staying = [prompt for prompt in prompts if new_rank[prompt.unit] == rank]
    moved = [prompt for of_rank in gathered(leaving) for prompt in of_rank]
    arriving = [prompt for prompt in moved if new_rank[prompt.unit] == rank]
    return sorted([*staying, *arriving], key=lambda prompt: prompt.mini_batch)


def _new_ranks(tokens_of_ranks: list[dict[Unit, int]]) -> dict[Unit, int]:
    """Return the rank that trains on each unit; every mini-batch is balanced by itself."""
    new_rank: dict[Unit, int] = {}
    mini_batches = {mini_batch for units in tokens_of_ranks for mini_batch, _ in units}
    for mini_batch in sorted(mini_batches):
        units = [[u for u in of_rank if u[0] == mini_batch] for of_rank in tokens_of_ranks]
        sizes = [
            [tokens[unit] for unit in of_rank]
            for tokens, of_rank in zip(tokens_of_ranks, units, strict=True)
        ]
        for of_rank, ranks in zip(units, balance(sizes), strict=True):
            new_rank |= dict(zip(of_rank, ranks, strict=True))
    return new_rank


def balance(sizes: list[list[int]]) -> list[list[int]]:
    """Return a new owner for each item, so that the owners' sums of sizes are nearly equal.

    `sizes[r]` are those of the items that owner r has now; the result has the same
    shape. Again and again the fullest owner hands an item to the emptiest, in exchange
    for a smaller one or for none, whichever brings the two closest together. It ends
    where the fullest is within TOLERANCE of the mean, or no exchange helps: few items
    move. A function of `sizes` alone.
    """
    items = [(r, i) for r, of_owner in enumerate(sizes) for i in range(len(of_owner))]
    owned = [[item for item in items if item[0] == r] for r in range(len(sizes))]
    loads = np.array([sum(of_owner) for of_owner in sizes])
    while loads.max() > (1 + TOLERANCE) * loads.mean():
        fullest, emptiest = int(loads.argmax()), int(loads.argmin())
        given = np.array([sizes[r][i] for r, i in owned[fullest]])
        taken = np.array([0, *(sizes[r][i] for r, i in owned[emptiest])])  # 0: nothing
        gap = loads[fullest] - loads[emptiest]
        gap_after = np.abs(gap - 2 * (given[:, None] - taken[None, :]))
        best = int(gap_after.argmin())
        give, take = divmod(best, len(taken))
        if gap_after[give, take] >= gap:
            break
        change = given[give] - taken[take]
        loads[fullest] -= change
        loads[emptiest] += change
        item = owned[fullest].pop(give)
        if take:
            owned[fullest].append(owned[emptiest].pop(take - 1))
        owned[emptiest].append(item)
    owner_of = {item: r for r, of_owner in enumerate(owned) for item in of_owner}
    return [[owner_of[r, i] for i in range(len(of_owner))] for r, of_owner in enumerate(sizes)]
