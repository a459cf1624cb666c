"""A tiny supervised run: the loader, trainer and module that the tests of steps, checkpoints and
stages share.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import lightning
import numpy as np

from actial.config import OptimConfig, SFTConfig
from actial.training.batch import TrainBatch
from actial.training.loaders import step_loader
from actial.training.sft_module import SFTModule
from actial.training.train_module import StepModule
from support.tiny_models import make_group, random_continuation, random_image, tiny_policy

TAGS = ("left", "right")


def sft_batch(step: int, policy, *, size: int = 3, with_images: bool = True) -> TrainBatch:
    """A function of the step alone, as real loaders are."""
    rng = random.Random(step)
    images: list[np.ndarray] = []
    prefix_groups = []
    for number in range(size):
        chosen = list(range(len(images), len(images) + (number % 3 if with_images else 0)))
        images += [random_image(rng, policy, 2, 2) for _ in chosen]
        continuations = [random_continuation(rng, length) for length in (3, 5)]
        prefix_groups.append(
            make_group(
                f"{step}/{number}", policy, images, chosen, [rng.randrange(200)], continuations
            )
        )
    return TrainBatch(prefix_groups=prefix_groups, images=images, tags=list(TAGS) * size)


def sft_module(folder: Path, *, steps: int = 6, policy=None, **optim) -> SFTModule:
    policy = policy or tiny_policy()
    stage = SFTConfig(
        steps=steps,
        batch_size=3,
        optim=OptimConfig(**{"lr": 1e-2, "warmup_steps": 2, **optim}),
    )
    return SFTModule(policy, stage, policy.config, crash_folder=folder)


class Recorder(lightning.Callback):
    """Calls `note(module)` after each step."""

    def __init__(self, note: Callable[[StepModule], None]) -> None:
        self.note = note

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.note(pl_module)


def make_trainer(*callbacks: lightning.Callback, **settings) -> lightning.Trainer:
    return lightning.Trainer(
        **{
            "accelerator": "cpu",
            "max_epochs": 1,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "use_distributed_sampler": False,
            "callbacks": list(callbacks),
            **settings,
        }
    )


def fit_sft(
    module: SFTModule, *callbacks: lightning.Callback, batch=sft_batch, **settings
) -> list[float]:
    losses: list[float] = []
    loader = step_loader(
        lambda step: batch(step, module.policy), module.completed_steps, module.stage.steps
    )
    make_trainer(
        Recorder(lambda done: losses.append(done.metrics["loss"])), *callbacks, **settings
    ).fit(module, loader)
    return losses
