"""Two gloo processes compute what one does, with uneven work, image-free batches and different numbers of micro-batches."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket

import pytest
import torch
from rollout_world import WordRenderer, example_at
from test_grpo import ACCURACY, BANNED
from tiny_models import EOS, tiny_policy
from training import Recorder, make_trainer, sft_batch, sft_module

from actial.batch import TrainBatch
from actial.config import AdvantageScale, GRPOConfig, KLConfig, OptimConfig, Reference
from actial.grpo.module import GRPOModule
from actial.grpo.rollouts import Rollouts
from actial.grpo.sampler import HFSampler
from actial.step import num_ranks, step_loader
from actial.trunk import Trunk

STEPS = 3


def share(batch: TrainBatch, rank: int, ranks: int) -> TrainBatch:
    """Every R-th trunk; rank 1 keeps no image at all."""
    chosen = [0, 1, 2] if ranks == 1 else ([1, 2], [0])[rank]
    tags = [tag for i in chosen for tag in batch.tags[2 * i : 2 * i + 2]]
    return TrainBatch(trunks=[batch.trunks[i] for i in chosen], images=batch.images, tags=tags)


def without_images(batch: TrainBatch) -> TrainBatch:
    trunks = [Trunk(t.uid, [1, 2, 3], [], t.branches) for t in batch.trunks]
    return TrainBatch(trunks=trunks, images=[], tags=batch.tags)


def sft_run(folder):
    """Step 1 has no image on any rank: the tower then has no gradient, as in one process."""
    module = sft_module(folder, steps=STEPS, policy=tiny_policy(micro_tokens=60))

    def make(step: int) -> TrainBatch:
        whole = sft_batch(step, module.policy)
        return share(without_images(whole) if step == 1 else whole, module.global_rank, num_ranks())

    return module, make


def grpo_run(folder):
    """Five prompts for two ranks, and a filter that keeps another number on each."""
    config = GRPOConfig(
        steps=STEPS, batch_size=5, group_size=4, max_tokens=1, updates_per_batch=1, filter_zero_variance=True, max_refills=2,
        advantage=AdvantageScale.group, kl=KLConfig(beta=0.1), optim=OptimConfig(lr=1e-2, warmup_steps=0),
    )  # fmt: skip
    policy = tiny_policy(reference=Reference.frozen_copy, micro_tokens=60)
    renderer = WordRenderer(4)
    renderer.banned_ids = BANNED
    rollouts = Rollouts(example_at, renderer, HFSampler(policy, stop_ids=[EOS], banned_ids=BANNED), ACCURACY, config, seed=5)
    module = GRPOModule(policy, config, policy.config, crash_folder=folder, rollouts=rollouts)

    def make(step: int):
        rollouts.rank = module.global_rank
        return module.make_batch(step)

    return module, make


def process(build, folder, rank: int, ranks: int, port: int) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE=str(ranks), RANK=str(rank), LOCAL_RANK=str(rank))
    os.environ["TORCHELASTIC_RUN_ID"] = "test"  # Lightning then takes the processes as started from outside
    module, make = build(folder)
    rows: list[dict[str, float]] = []
    settings = {"devices": ranks, "strategy": "ddp"} if ranks > 1 else {}

    def note(done) -> None:
        rows.append({**done.metrics, "weights": float(done.policy.core.lm_head.weight.detach().double().sum())})

    make_trainer(Recorder(note), **settings).fit(module, step_loader(make, 0, STEPS))
    (folder / f"rows-{rank}-of-{ranks}.json").write_text(json.dumps(rows))


def run_ranks(build, folder, ranks: int) -> list[list[dict[str, float]]]:
    """Rows of each rank; fails instead of hanging."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=process, args=(build, folder, rank, ranks, port)) for rank in range(ranks)]
    for child in children:
        child.start()
    for child in children:
        child.join(120)
    hung = [child for child in children if child.is_alive()]
    for child in hung:
        child.kill()
    assert not hung, "a rank hung"
    assert [child.exitcode for child in children] == [0] * ranks
    return [json.loads((folder / f"rows-{rank}-of-{ranks}.json").read_text()) for rank in range(ranks)]


@pytest.mark.parametrize(("build", "compared"), [(sft_run, STEPS), (grpo_run, 1)])
def test_two_ranks_equal_one(tmp_path, build, compared):
    """Rollouts are compared in the first step only: later a rounding error may tip a sample over."""
    (alone,) = run_ranks(build, tmp_path, 1)
    first, second = run_ranks(build, tmp_path, 2)
    assert first == second
    assert len(first) == STEPS
    for step in range(compared):
        row, expected = first[step], alone[step]
        assert row.keys() == expected.keys()
        for name in row.keys() - {"weights"}:  # Adam turns the rounding of tiny gradients into steps of full size
            assert row[name] == pytest.approx(expected[name], rel=1e-5 if step == 0 else 1e-3, abs=1e-5), (step, name)
