"""The stages as jobs: data, module and trainer put together, trained or resumed, and left behind as a plain model folder."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import lightning
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException

from actial.batch import TrainBatch
from actial.callbacks import StepRecorder, Tracker
from actial.checkpoint import CheckpointCallback, resume
from actial.config import MixConfig, StageName, Task, TrainConfig
from actial.data.examples import Mixture, open_set
from actial.data.shards import ShardSet
from actial.policy import Policy
from actial.rendering import PromptRenderer
from actial.runs import Run, provenance
from actial.sft import SFTModule
from actial.step import StepModule, num_ranks, step_loader

MakeBatch = Callable[[int], TrainBatch]


def prepare(config: TrainConfig, run: Run) -> None:
    """Set what holds for the whole process, and write into the passport what this run is made from."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    if config.trainer.threads:
        torch.set_num_threads(config.trainer.threads)
    renderer = PromptRenderer.load(config.model, config.prompt)
    run.stamp({**provenance(), "seed": config.seed, "prompts": renderer.fingerprint, "data": data_facts(config)})


def data_facts(config: TrainConfig) -> dict[str, dict[str, Any]]:
    """Rows and hashes of every set that a stage trains on or that is scored, from its manifest."""
    used = {name for stage in config.stages for name, weight in getattr(config, stage.name).mix.weights.items() if weight}
    used |= {source.partition(":")[0] for source in config.benchmark.sets.values()}
    facts = {}
    for name in sorted(used):
        if config.data.sets[name].task is not Task.clock:
            manifest = ShardSet(config.data.sets[name].root, "train").manifest
            facts[name] = {key: manifest.get(key) for key in ("rows", "config_hash", "index_sha256")}
    return facts


def train_stage(stage: StageName, config: TrainConfig, source: str, run: Run, stop: Callable[[], bool]) -> str:
    """Train one stage from the model folder `source`, or go on where it was stopped; returns its own model folder.

    A model folder that is already there is taken as it is. When `stop` turns true, the state is saved and the folder is not written.
    """
    out = run.stage_folder(stage.name) / "model"
    if out.exists():
        return str(out)
    torch.manual_seed(config.seed)
    checkpoints = run.folder / "checkpoints" / stage.name
    module, make_batch, fingerprint = BUILDERS[stage](config, source, run)
    start = resume(checkpoints, module, fingerprint)
    run.metrics.rewind(stage.name, start)
    run.timings.rewind(stage.name, start)
    tracker = Tracker(config, run)
    saver = CheckpointCallback(checkpoints, module.stage.save_every, fingerprint, stop)
    trainer = make_trainer(config, run, [StepRecorder(run, stage.name, tracker), saver])
    with suppress(SIGTERMException):  # Lightning's own way out, after the saver has seen `stop`
        trainer.fit(module, step_loader(make_batch, start, module.stage.steps, workers=config.data.workers))
    tracker.finish()
    if module.completed_steps == module.stage.steps:
        module.policy.save_pretrained(out)
    return str(out)


def make_trainer(config: TrainConfig, run: Run, callbacks: list[lightning.Callback]) -> lightning.Trainer:
    """A Trainer that does one pass over the loader and writes nothing of its own."""
    return lightning.Trainer(
        accelerator=config.trainer.accelerator.value,
        devices=config.trainer.devices,
        num_nodes=config.trainer.nodes,
        strategy=config.trainer.strategy.value,
        max_epochs=1,
        callbacks=callbacks,
        default_root_dir=run.folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


# ---------------------------------------------------------------- what each stage is made of


def build_sft(config: TrainConfig, source: str, run: Run) -> tuple[StepModule, MakeBatch, dict[str, str]]:
    renderer = PromptRenderer.load(config.model, config.prompt, path=source)
    policy = Policy.load(replace(config.model, path=source))
    module = SFTModule(policy, config.sft, config.model, crash_folder=run.folder / "crashes")
    mixture = open_mixture(config, config.sft.mix, supervised=True)

    def make_batch(step: int) -> TrainBatch:
        first = step * config.sft.batch_size
        return supervised_batch(mixture, renderer, range(first + module.global_rank, first + config.sft.batch_size, num_ranks()))

    return module, make_batch, renderer.fingerprint


def open_mixture(config: TrainConfig, mix: MixConfig, *, supervised: bool) -> Mixture:
    """The stream of training examples of a stage."""
    sets = {
        name: open_set(config.data.sets[name], "train", config.data, config.cold_start, supervised=supervised)
        for name, weight in mix.weights.items()
        if weight > 0
    }
    return Mixture(sets, mix, config.seed)


def supervised_batch(mixture: Mixture, renderer: PromptRenderer, positions: Iterable[int]) -> TrainBatch:
    """The examples at these positions of the stream, their targets scored, each tagged with its question type."""
    batch = TrainBatch(trunks=[], images=[])
    for position in positions:
        example = mixture.example(position)
        batch.trunks.append(renderer.supervised_trunk(example, first_image=len(batch.images)))
        batch.images += example.images
        batch.tags += [question.type for question in example.questions]
    return batch


BUILDERS = {StageName.sft: build_sft}
