"""Two gloo processes compute what one does, with uneven work, image-free batches and different
numbers of micro-batches.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.grpo_settings import ACCURACY, BANNED
from support.processes import become_rank, run_processes
from support.rollout_world import WordRenderer, example_at
from support.scripted import ScriptedSampler
from support.tiny_models import EOS, IMAGE, tiny_policy
from support.training import Recorder, make_trainer, sft_batch, sft_module
from torch.distributed.device_mesh import init_device_mesh

from actial.config import (
    AdvantageScale,
    DynamicSamplingConfig,
    GRPOConfig,
    KLConfig,
    KLPlace,
    LoraConfig,
    ModelConfig,
    OptimConfig,
    Reference,
    Strategy,
    TrainerConfig,
)
from actial.core.records import Prompt, SamplingParams
from actial.inference.engine import Output, Reply
from actial.inference.engine_requests import EngineRequests
from actial.inference.engine_sampler import EngineSampler, PolicyWeights
from actial.inference.samplers import HFSampler
from actial.inference.weight_probe import ProbeSample, WeightProbe
from actial.modeling.dtensor import whole
from actial.modeling.policy import Policy
from actial.modeling.prefix_packing import PrefixGroup
from actial.rl.grpo_module import GRPOModule
from actial.rl.rollouts import Rollouts
from actial.training.batch import TrainBatch
from actial.training.checkpoint import CheckpointCallback, resume
from actial.training.distributed import lightning_strategy, num_ranks, shard, sum_over_ranks
from actial.training.loaders import step_loader

STEPS = 3


def share(batch: TrainBatch, rank: int, ranks: int) -> TrainBatch:
    """Every R-th trunk; rank 1 keeps no image at all."""
    chosen = [0, 1, 2] if ranks == 1 else ([1, 2], [0])[rank]
    tags = [tag for i in chosen for tag in batch.tags[2 * i : 2 * i + 2]]
    return TrainBatch(
        prefix_groups=[batch.prefix_groups[i] for i in chosen], images=batch.images, tags=tags
    )


def without_images(batch: TrainBatch) -> TrainBatch:
    prefix_groups = [
        PrefixGroup(t.uid, [1, 2, 3], [], t.continuations) for t in batch.prefix_groups
    ]
    return TrainBatch(prefix_groups=prefix_groups, images=[], tags=batch.tags)


def sft_run(folder, **model):
    """Step 1 has no image on any rank: the tower then has no gradient, as in one process."""
    policy = tiny_policy(micro_batch_tokens=60, **model)
    module = sft_module(folder, steps=STEPS, policy=policy)

    def make(step: int) -> TrainBatch:
        whole = sft_batch(step, module.policy)
        return share(
            without_images(whole) if step == 1 else whole, module.global_rank, num_ranks()
        )

    return module, make


def dropout_run(folder):
    """The ranks draw different numbers of random values."""
    return sft_run(folder, lora=LoraConfig(enabled=True, rank=4, dropout=0.2))


def grpo_run(folder, *, sampler=None, **values):
    """Five prompts for two ranks, and a filter that keeps another number on each."""
    config = GRPOConfig(
        **{
            "steps": STEPS,
            "batch_size": 5,
            "group_size": 4,
            "max_tokens": 1,
            "dynamic_sampling": DynamicSamplingConfig(enabled=True, max_rounds=2),
            "advantage": AdvantageScale.group,
            "kl": KLConfig(beta=0.1),
            "optim": OptimConfig(lr=1e-2, warmup_steps=0),
            **values,
        }
    )
    policy = tiny_policy(reference=Reference.frozen_copy, micro_batch_tokens=60)
    renderer = WordRenderer(4)
    renderer.banned_ids = BANNED
    sampler = sampler or HFSampler(policy, stop_ids=[EOS], banned_ids=BANNED)
    rollouts = Rollouts(example_at, renderer, sampler, ACCURACY, config, seed=5)
    module = GRPOModule(policy, config, policy.config, crash_folder=folder, rollouts=rollouts)

    def make(step: int):
        rollouts.rank = module.global_rank
        return module.make_batch(step)

    return module, make


def batch_run(folder):
    """Advantages over the deviation of all ranks' rewards, of which one rank has three prompts and
    the other two.
    """
    return grpo_run(
        folder, advantage=AdvantageScale.batch, dynamic_sampling=DynamicSamplingConfig()
    )


def scripted_run(folder):
    """Fixed completions, KL in the reward and two updates a batch: every forward pass that the
    stage knows.
    """
    sampler = ScriptedSampler(lambda prompt, member: [14 + member % 3, EOS], stop_ids=[EOS])
    kl = KLConfig(beta=0.1, place=KLPlace.reward)
    return grpo_run(
        folder,
        sampler=sampler,
        kl=kl,
        num_mini_batches=2,
        batch_size=4,
        max_tokens=2,
        dynamic_sampling=DynamicSamplingConfig(),
    )


def process(build, folder, strategy: str, stop: int, rank: int, ranks: int, port: int) -> None:
    become_rank(rank, ranks, port)
    # Lightning then takes the processes as started from outside
    os.environ["TORCHELASTIC_RUN_ID"] = "test"
    module, make = build(folder)
    module.policy.config.path = str(folder)
    rows: list[dict[str, float]] = []
    start = resume(folder / "checkpoints", module, {})
    chosen = lightning_strategy(TrainerConfig(devices=ranks, strategy=Strategy(strategy)))
    settings = {"devices": ranks, "strategy": chosen} if ranks > 1 else {}

    def note(done) -> None:
        rows.append(
            {
                **done.metrics,
                "weights": float(
                    whole(done.policy.core.lm_head.weight.detach()).double().sum()
                ),
            }
        )

    saver = CheckpointCallback(folder / "checkpoints", stop, {})
    make_trainer(Recorder(note), saver, **settings).fit(module, step_loader(make, start, stop))
    module.policy.save_pretrained(folder / "model")
    (folder / f"rows-{rank}-of-{ranks}.json").write_text(json.dumps(rows))


@dataclass
class Job:
    """A run of `ranks` processes; a name that occurs again is taken up where it has stopped."""

    name: str
    build: Callable[..., Any]
    ranks: int
    strategy: str = "ddp"
    stop: int = STEPS


PAIR = [
    Job("sft", sft_run, 2),
    Job("grpo", grpo_run, 2),
    Job("batch", batch_run, 2),
    Job("sharded", sft_run, 2, "fsdp2", stop=2),
    Job("scripted", scripted_run, 2, "fsdp2", stop=1),
    Job("dropout", dropout_run, 2),
    Job("dropout-stopped", dropout_run, 2, stop=2),
    Job("dropout-stopped", dropout_run, 2),
]
ALONE = [
    Job("alone-sft", sft_run, 1),
    Job("alone-grpo", grpo_run, 1),
    Job("alone-batch", batch_run, 1),
    Job("alone-scripted", scripted_run, 1, stop=1),
    Job("sharded", sft_run, 1),
]
Rows = list[list[dict[str, float]]]  # of each rank


def run_jobs(jobs: list[Job], root: Path, rank: int, ranks: int, port: int) -> None:
    """All runs of a process, one after the other: to start one costs more than its steps."""
    for job in jobs:
        folder = root / job.name
        process(job.build, folder, job.strategy, job.stop, rank, ranks, port)
    if ranks > 1:
        sample_unevenly(root, rank, ranks)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all runs: two processes first, then one, which resumes what they left."""
    root = tmp_path_factory.mktemp("distributed")
    for job in PAIR + ALONE:
        (root / job.name).mkdir(exist_ok=True)
    run_processes(run_jobs, [(PAIR, root, rank, 2) for rank in range(2)])
    run_processes(run_jobs, [(ALONE, root, 0, 1)])
    return root


def rows_of(folder: Path, ranks: int) -> Rows:
    files = [folder / f"rows-{rank}-of-{ranks}.json" for rank in range(ranks)]
    return [json.loads(file.read_text()) for file in files]


@pytest.mark.parametrize(("name", "compared"), [("sft", STEPS), ("grpo", 1), ("batch", 1)])
def test_two_ranks_equal_one(root, name, compared):
    """Rollouts are compared in the first step only: later a rounding error may tip a sample
    over.
    """
    (alone,) = rows_of(root / f"alone-{name}", 1)
    first, second = rows_of(root / name, 2)
    assert first == second
    assert len(first) == STEPS
    for step in range(compared):
        row, expected = first[step], alone[step]
        assert row.keys() == expected.keys()
        # Adam turns the rounding of tiny gradients into steps of full size
        for key in row.keys() - {"weights"}:
            close = pytest.approx(expected[key], rel=1e-5 if step == 0 else 1e-3, abs=1e-5)
            assert row[key] == close, (step, key)


def test_sharded_ranks_equal_one_and_leave_whole_checkpoints(root):
    """FSDP2 on two ranks; its checkpoint after two steps is taken up by one process, its model
    folder is a plain one.
    """
    (alone,) = rows_of(root / "alone-sft", 1)
    first, second = rows_of(root / "sharded", 2)
    (resumed,) = rows_of(root / "sharded", 1)
    for found, other, expected in zip(first, second, alone[:2], strict=True):
        for name in expected.keys() - {"weights"}:
            assert found[name] == other[name] == pytest.approx(expected[name], rel=1e-4), name
    assert [row["loss"] for row in resumed] == pytest.approx([alone[2]["loss"]], rel=1e-3)
    assert Policy.load(ModelConfig(path=str(root / "sharded" / "model")))


def test_a_resumed_rank_goes_on_with_its_own_random_state(root):
    whole_run, resumed = rows_of(root / "dropout", 2), rows_of(root / "dropout-stopped", 2)
    assert [rank[-1]["loss"] for rank in whole_run] == [rank[-1]["loss"] for rank in resumed]


PROBED = Prompt(uid="a", engine_ids=[5, 6], input_ids=[5, 6], images=[])


class CountingEngine:
    """Counts the weights it is sent; samples token 7 and reports what the trainer gives it."""

    max_model_len, synced_to, background, pending, shows_weights = (
        4096,
        None,
        None,
        None,
        False,
    )
    weights_version = 0

    def __init__(self, trainer_logprobs) -> None:
        self.trainer_logprobs = trainer_logprobs
        self.memory: dict[str, float] = {}
        self.loaded = 0

    def load(self, weights) -> None:
        self.loaded = sum(1 for _ in weights)

    def run(self, requests) -> list[Reply]:
        prompts = [
            Prompt(uid=r.uid, engine_ids=[], input_ids=r.prompt_ids, images=[])
            for r in requests
        ]
        if "logprob_token_ids" not in requests[0].sampling:
            return [Reply(prompt_ids=r.prompt_ids, outputs=[]) for r in requests]
        # a probe: this forward pass needs every rank, as the trainer's own does
        scored = self.trainer_logprobs(
            [ProbeSample(prompt, [7], [], []) for prompt in prompts]
        )
        return [
            Reply(
                prompt_ids=request.prompt_ids,
                outputs=[Output(token_ids=[7], logprobs=[float(value)], stopped=False)],
                first_logprobs=dict.fromkeys(request.sampling["logprob_token_ids"], 0.0),
            )
            for request, value in zip(requests, scored, strict=True)
        ]

    def sleep(self) -> None:
        pass


def sample_unevenly(folder: Path, rank: int, ranks: int) -> None:
    """In a second round, as of a refill, the second rank has nothing to ask; the weights changed
    before it.
    """
    policy = tiny_policy()
    shard(policy, init_device_mesh("cpu", (ranks,)))
    requests = EngineRequests(image_token_id=IMAGE, stop_ids=[EOS], banned_ids=[])
    probe = WeightProbe(policy, requests)
    engine = CountingEngine(probe.trainer_logprobs)
    sampler = EngineSampler(lambda: engine, PolicyWeights(policy, probe), requests)
    for number, prompts in enumerate(([PROBED], [PROBED] if rank == 0 else [])):
        engine.synced_to, engine.loaded = None, 0
        num_prompts = len(sampler.begin(prompts, 2, SamplingParams(max_tokens=4)).result())
        total = sum_over_ranks({"prompts": float(num_prompts)})["prompts"]
        (folder / f"round-{number}-of-{rank}.json").write_text(
            json.dumps([num_prompts, total, engine.loaded])
        )


def test_a_rank_without_prompts_takes_part_in_sending_sharded_weights(root):
    rounds = [
        [json.loads((root / f"round-{n}-of-{rank}.json").read_text()) for n in range(2)]
        for rank in range(2)
    ]
    sent = rounds[0][0][2]
    assert sent > 0
    assert rounds == [[[1, 2.0, sent], [1, 1.0, sent]], [[1, 2.0, sent], [0, 1.0, sent]]]


def test_sharded_rollouts_equal_one_process(root):
    (alone,) = rows_of(root / "alone-scripted", 1)
    first, second = rows_of(root / "scripted", 2)
    assert first == second
    for name, value in alone[0].items():
        assert first[0][name] == pytest.approx(value, rel=1e-3, abs=1e-4), name
