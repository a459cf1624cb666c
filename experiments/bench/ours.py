"""Our side: the modules that `actial.train` trains with, under Lightning, on given completions."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import torch
from setting import Setting

from actial.config import (
    AdvantageScale,
    GRPOConfig,
    KLConfig,
    KLEstimator,
    LossType,
    OptimConfig,
    Precision,
    Reference,
    RewardConfig,
    SFTConfig,
)
from actial.inference.samplers import HFSampler
from actial.modeling import onednn_linear
from actial.modeling.policy import Policy
from actial.modeling.prefix_packing import Continuation, PackedBatch, PrefixGroup
from actial.rl.grpo_module import GRPOModule
from actial.rl.rollouts import RolloutBatch, Rollouts
from actial.training.batch import TrainBatch
from actial.training.loaders import step_loader
from actial.training.sft_module import SFTModule
from actial.training.train_module import StepModule

ACCELERATOR = os.environ.get("ACTIAL_BENCH_ACCELERATOR", "cpu")  # of both sides
LR = 1e-4
DIFFERENCE = "sampling/sampling_logp_difference/max"
OPTIM = {"lr": LR, "weight_decay": 0.0, "warmup_steps": 0, "grad_clip": 1.0}


def now() -> float:
    """Return the time at which the device has done all that it was given, in seconds."""
    if ACCELERATOR == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


class AllPositions(Policy):
    """Scores, beside what is wanted, every position of every padded sequence that the peer's head
    scores.
    """

    def forward(self, batch: PackedBatch, distribution: Any, **options: Any) -> Any:
        count = len(batch.target_ids)
        prefix_group = (
            (batch.continuation_of.flatten() == 0).nonzero()[:, 0].repeat(batch.num_sequences)
        )
        extended = replace(
            batch,
            source_position=torch.cat([batch.source_position, prefix_group]),
            target_ids=torch.cat([batch.target_ids, batch.input_ids.flatten()[prefix_group]]),
        )
        result = super().forward(extended, distribution, **options)
        result.logprobs = result.logprobs[:count] + 0.0 * result.logprobs[count:].sum()
        for name in ("entropy", "reference_logprobs"):
            if (values := getattr(result, name)) is not None:
                setattr(result, name, values[:count])
        return result


class Clock(lightning.Callback):
    """One row per step: loss, gradient norm, and the seconds of its phases."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self.spent: dict[str, float] = {}
        self.started = 0.0

    @contextmanager
    def phase(self, name: str):
        begun = now()
        yield
        self.spent[name] = self.spent.get(name, 0.0) + now() - begun

    def on_train_batch_end(self, trainer: Any, pl_module: StepModule, *_: Any) -> None:
        whole, update = now() - self.started, pl_module.timings["seconds"]
        packing, optimise = self.spent["pack"], self.spent["optimise"]
        self.rows.append(
            {
                "loss": pl_module.metrics["loss"],
                "grad_norm": pl_module.metrics["grad_norm"],
                "whole": whole,
                "update": update,
                "prepare": whole - update + packing,
                "compute": update - packing - optimise,  # the reference's forward included
                "optimise": optimise,
                "sampling_difference": pl_module.metrics.get(DIFFERENCE, 0.0),
            }
        )


class Ours:
    """`run(steps)` trains on, from where the last call ended, and returns one row per step."""

    def __init__(
        self, setting: Setting, scratch: Path, policy_class: type[Policy] = Policy
    ) -> None:
        self.setting = setting
        work = setting.work
        model = replace(
            setting.model, precision=Precision.bf16 if work.bf16 else Precision.fp32
        )
        if work.all_positions:
            policy_class = AllPositions
        if work.torch_products:
            onednn_linear.HAS_ONEDNN = False  # in this process
        policy = policy_class.load(
            model, reference=Reference.frozen_copy if work.beta else Reference.none
        )
        if work.kind == "sft":
            stage = SFTConfig(steps=10**6, batch_size=work.pairs, optim=OptimConfig(**OPTIM))
            self.module: StepModule = SFTModule(policy, stage, model, crash_folder=scratch)
        else:
            self.module = self._grpo(policy, model, scratch)
        self.clock = Clock()
        self._time_phases()

    def _grpo(self, policy: Policy, model: Any, scratch: Path) -> GRPOModule:
        work, renderer = self.setting.work, self.setting.renderer
        estimator = KLEstimator.k3 if work.beta else KLEstimator.none
        reference = Reference.frozen_copy if work.beta else Reference.none
        stage = GRPOConfig(
            steps=10**6,
            batch_size=1,
            group_size=work.group,
            max_tokens=work.length,
            loss=LossType.dapo,
            dual_clip=None,
            advantage=AdvantageScale.none,
            kl=KLConfig(beta=work.beta, estimator=estimator, reference=reference),
            optim=OptimConfig(**OPTIM),
        )
        sampler = HFSampler(
            policy, stop_ids=[renderer.stop_id], banned_ids=[]
        )  # nothing is sampled: completions are given
        rollouts = Rollouts(
            lambda position: self.setting.examples(position)[0],
            renderer,
            sampler,
            RewardConfig(),
            stage,
            seed=0,
        )
        return GRPOModule(policy, stage, model, crash_folder=scratch, rollouts=rollouts)

    def _time_phases(self) -> None:
        packed, configure = self.module.packed, self.module.configure_optimizers

        def timed_pack(*arguments: Any) -> PackedBatch:
            with self.clock.phase("pack"):
                return packed(*arguments)

        def timed_optimizer() -> torch.optim.Optimizer:
            optimizer = configure()
            begun: list[float] = []
            optimizer.register_step_pre_hook(lambda *_: begun.append(now()))
            optimizer.register_step_post_hook(
                lambda *_: self.clock.spent.update(optimise=now() - begun.pop())
            )
            return optimizer

        self.module.packed, self.module.configure_optimizers = timed_pack, timed_optimizer  # type: ignore[method-assign]

    def batch(self, step: int) -> TrainBatch:
        """The step's prefix groups; GRPO's continuations are the given completions."""
        self.clock.started, self.clock.spent = time.perf_counter(), {}
        if self.setting.work.samples_itself:
            assert isinstance(self.module, GRPOModule)
            return self.module.make_batch(step)
        renderer, examples = self.setting.renderer, self.setting.examples(step)
        if self.setting.work.kind == "sft":
            batch = TrainBatch(prefix_groups=[], images=[])
            for example in examples:
                batch.prefix_groups.append(
                    renderer.supervised_group(example, first_image=len(batch.images))
                )
                batch.images += example.images
            return batch
        prompt = renderer.prompt(examples[0], examples[0].questions[0])
        continuations = [
            Continuation(ids, [True] * len(ids)) for ids in self.setting.completions(step)
        ]
        prefix_group = PrefixGroup(
            prompt.uid, prompt.input_ids, list(range(len(prompt.images))), continuations
        )
        return RolloutBatch(
            prefix_groups=[prefix_group],
            images=prompt.images,
            advantages=self.setting.advantages(step),
            sums={},
            position=0,
            mini_batch_sizes=[1],
            # only for the metrics of the gap
            sampler_logprobs=[
                [0.0] * len(continuation.input_ids) for continuation in continuations
            ],
        )

    def run(self, steps: int) -> list[dict[str, float]]:
        first, known = self.module.completed_steps, len(self.clock.rows)
        trainer = lightning.Trainer(
            accelerator=ACCELERATOR,
            max_epochs=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            callbacks=[self.clock],
        )
        trainer.fit(self.module, step_loader(self.batch, first, first + steps))
        return self.clock.rows[known:]
