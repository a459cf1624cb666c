"""Prompts change ranks until all have about as many tokens; a step's prompts stay the same."""

from __future__ import annotations

import pickle
import random
from pathlib import Path

import pytest
import torch
from support.grpo_settings import ACCURACY
from support.processes import become_rank, run_processes
from support.rollout_world import WordRenderer, example_at
from support.scripted import ScriptedSampler
from support.tiny_models import EOS

from actial.config import GRPOConfig
from actial.rl.group_balance import TOLERANCE, balance
from actial.rl.rollouts import RolloutBatch, Rollouts


def sums(sizes: list[list[int]], owners: list[list[int]]) -> list[int]:
    totals = [0] * len(sizes)
    for of_owner, new_owners in zip(sizes, owners, strict=True):
        for size, owner in zip(of_owner, new_owners, strict=True):
            totals[owner] += size
    return totals


def test_worked_example():
    """20 and 8 become 14 and 14 by 9 against 3; nothing else moves."""
    owners = balance([[9, 7, 4], [3, 5]])
    assert owners == [[1, 0, 0], [0, 1]]
    assert sums([[9, 7, 4], [3, 5]], owners) == [14, 14]


@pytest.mark.parametrize(
    "sizes", [[[]], [[], []], [[5, 3, 9]], [[4, 4], [4, 4]], [[100], [1]], [[7], []]]
)
def test_what_cannot_be_better_stays(sizes):
    assert balance(sizes) == [[rank] * len(of_rank) for rank, of_rank in enumerate(sizes)]


@pytest.mark.parametrize("seed", range(20))
def test_the_fullest_of_eight_ranks_comes_near_the_mean(seed):
    """128 prompts of 1,500 tokens each with 16 completions of 20 to 1,000 tokens."""
    rng = random.Random(seed)
    sizes = []
    for _ in range(8):
        lengths = [rng.randint(20, 1000) for _ in range(16 * 16)]
        sizes.append([1500 + sum(lengths[16 * i : 16 * i + 16]) for i in range(16)])
    sizes[0] = [2 * size for size in sizes[0]]  # one rank met a hard part of the stream
    owners = balance(sizes)
    totals = sums(sizes, owners)
    mean = sum(totals) / len(totals)
    assert sum(totals) == sum(map(sum, sizes))
    assert max(totals) <= (1 + TOLERANCE) * mean
    moved = [owner != rank for rank, of_rank in enumerate(owners) for owner in of_rank]
    assert sum(moved) <= 30
    assert balance(sizes) == owners


# ---------------------------------------------------------------- two ranks

SETTINGS: dict[str, dict[str, object]] = {
    "plain": {},
    "mini_batches": {"num_mini_batches": 2},
    "counterfactual": {"counterfactual": True},
}


def rollouts_of(script, **settings) -> Rollouts:
    config = GRPOConfig(
        **{"steps": 1, "batch_size": 12, "group_size": 2, "max_tokens": 60, **settings}
    )
    sampler = ScriptedSampler(script, stop_ids=[EOS])
    return Rollouts(example_at, WordRenderer(4), sampler, ACCURACY, config, seed=5)


def uneven(prompt, member):
    """Positions 0, 2, 4, ..., all of the first rank's, get completions of up to 60 tokens."""
    position = int(prompt.uid.rpartition("@")[2])
    length = 8 + 4 * position if position % 2 == 0 else 2
    return [*[20 + position] * (length - 1 + member), 14 + member]


def make_on_ranks(out: Path, rank: int, ranks: int, port: int) -> None:
    become_rank(rank, ranks, port)
    torch.distributed.init_process_group("gloo")
    for name, settings in SETTINGS.items():
        rollouts = rollouts_of(uneven, **settings)
        rollouts.rank = rank
        batch = rollouts.make(step=0, position=0)
        (out / f"{name}-{rank}.pickle").write_bytes(pickle.dumps(batch))


@pytest.fixture(scope="module")
def batches_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The batch of each rank under each of SETTINGS."""
    folder = tmp_path_factory.mktemp("batches")
    run_processes(make_on_ranks, [(folder, rank, 2) for rank in range(2)])
    return folder


def prompts_of(batch: RolloutBatch) -> dict[str, object]:
    """All that the loss takes of each prompt, by uid."""
    prompts: dict[str, object] = {}
    first = 0
    for group in batch.prefix_groups:
        members = slice(first, first + len(group.continuations))
        first = members.stop
        prompts[group.uid] = (
            group.input_ids,
            [batch.images[index].tobytes() for index in group.images],
            group.continuations,
            batch.advantages[members],
            batch.sampler_logprobs[members],
            batch.tags[members],
            batch.samples[members],
        )
    return prompts


def mini_batches(batch: RolloutBatch) -> list[list]:
    parts, first = [], 0
    for size in batch.mini_batch_sizes:
        parts.append(batch.prefix_groups[first : first + size])
        first += size
    assert first == len(batch.prefix_groups)
    return parts


@pytest.mark.parametrize("name", ["plain", "mini_batches", "counterfactual"])
def test_ranks_share_the_tokens_of_each_update_and_its_prompts(name, batches_folder):
    settings = SETTINGS[name]
    files = [batches_folder / f"{name}-{rank}.pickle" for rank in range(2)]
    batches = [pickle.loads(file.read_bytes()) for file in files]
    alone = rollouts_of(uneven, **settings).make(step=0, position=0)
    first, second = map(prompts_of, batches)
    assert first | second == prompts_of(alone)
    assert not first.keys() & second.keys()
    # Rank r samples positions r, r + 2, ...; its mini-batches are parts of these in order.
    number = settings.get("num_mini_batches", 1)
    per_update = 12 // number
    for update, parts in enumerate(zip(*map(mini_batches, batches), strict=True)):
        tokens = [sum(group.num_tokens for group in groups) for groups in parts]
        positions = {int(group.uid.rpartition("@")[2]) for groups in parts for group in groups}
        assert positions == set(range(update * per_update, (update + 1) * per_update))
        assert max(tokens) < 1.15 * min(tokens)
    for batch in batches:
        assert len({id(image) for image in batch.images}) == len(batch.images)


def test_one_rank_keeps_its_prompts_in_order():
    batch = rollouts_of(uneven, num_mini_batches=3, batch_size=5).make(step=0, position=7)
    assert [group.uid for group in batch.prefix_groups] == [f"q{p}@{p}" for p in range(7, 12)]
    assert batch.mini_batch_sizes == [2, 2, 1]
