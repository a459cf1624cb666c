"""The stages as jobs: data, module and trainer put together, trained or resumed, and left behind as a plain model folder."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import lightning
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch.utils.data import DataLoader
from transformers.utils.logging import disable_progress_bar

from actial.config import Accelerator, Reader, Reference, SamplerKind, StageName, TrainConfig
from actial.config.exit_codes import STOPPED, Exit
from actial.core.process import is_main_process
from actial.core.records import AnswerMode, Example
from actial.data.datasets import open_set
from actial.data.mixture import Mixture
from actial.data.stream import ReaderPosition
from actial.data.streamed_mixture import (
    MixtureReader,
    StreamedMixture,
    open_streamed_mixture,
)
from actial.inference.open_sampler import open_sampler
from actial.modeling.policy import Policy
from actial.modeling.prompt_renderer import PromptRenderer
from actial.pipeline.callbacks import Evaluator, FirstBatch, SampleTable, StepRecorder
from actial.pipeline.preflight import data_identity
from actial.pipeline.rollout_log import RolloutLog
from actial.pipeline.score_models import accuracies, tasks_of
from actial.pipeline.stage_cache import reuse_cached_stage, stage_key
from actial.rl.grpo_module import GRPOModule
from actial.rl.rollouts import Rollouts
from actial.runs.run_dir import Run, provenance, stop_requested
from actial.runs.tracking import Tracker
from actial.training.batch import TrainBatch
from actial.training.checkpoint import CheckpointCallback, resume
from actial.training.distributed import lightning_strategy, num_ranks
from actial.training.sft_module import SFTModule
from actial.training.train_module import StepModule, StepReader, step_loader, stream_loader


def prepare(config: TrainConfig, run: Run) -> None:
    """Set what holds for the whole process, and write into the passport what this run is made from."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings(
        "ignore", message="`isinstance.treespec, LeafSpec.` is deprecated", module="lightning"
    )
    warnings.filterwarnings(
        "ignore", message="Found .* module.s. in eval mode", module="lightning"
    )  # the frozen reference
    warnings.filterwarnings(  # streams divide themselves among the workers: data/stream.py
        "ignore", message="Your `IterableDataset` has `__len__` defined"
    )
    disable_progress_bar()  # transformers' own, one for every weight file
    if config.trainer.threads:
        torch.set_num_threads(config.trainer.threads)
    if config.trainer.accelerator is Accelerator.cpu or not torch.cuda.is_available():
        # threads would add up the gradient of an indexed tensor in any order
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # nothing reads such memory, and filling it takes time
    renderer = PromptRenderer.load(config.model, config.prompt)
    facts = {"seed": config.seed, "prompts": renderer.fingerprint, "data": data_identity(config)}
    run.stamp({**provenance(), **facts})
    for stage in config.stages[
        1:
    ]:  # what is wrong with a later stage's data is said before the first one trains
        open_mixture(config, stage)


def train_stage(
    stage: StageName, config: TrainConfig, source: str, run: Run, tracker: Tracker
) -> str:
    """Train one stage from the model folder `source`, or go on where it was stopped; returns its own model folder.

    A model folder that is already there is taken as it is. Raises Exit(143), the state saved, when SIGTERM or Ctrl-C comes.
    """
    out = run.stage_folder(stage.name) / "model"
    if out.exists():
        return str(out)
    key = stage_key(stage, config, source)
    if reuse_cached_stage(stage, key, config, run, tracker):
        return str(out)
    torch.manual_seed(config.seed)
    job = {StageName.sft: sft_job, StageName.grpo: grpo_job}[stage](config, source, run)
    module, fingerprint = job.module, job.renderer.fingerprint
    checkpoints = run.folder / "checkpoints" / stage.name
    start = resume(checkpoints, module, fingerprint)
    run.stamp(
        {f"{stage.name}_mix": job.mixture.schedule(module.stage.steps * module.stage.batch_size)}
    )
    run.metrics.rewind(stage.name, start)
    run.timings.rewind(stage.name, start)
    described = FirstBatch(
        run.stage_folder(stage.name) / "first_batch.txt",
        job.renderer.tokenizer.decode,
        job.renderer.image_token,
    )
    callbacks: list[lightning.Callback] = [described, StepRecorder(run, stage.name, tracker)]
    if stage is StageName.grpo:
        callbacks += [
            SampleTable(tracker),
            RolloutLog(run.folder / "rollouts.parquet", stage.name, module.stage.save_every),
        ]
    if module.stage.eval_every:
        sampler, tasks = (
            open_sampler(config.sampler, module.policy, job.renderer),
            tasks_of(config, job.renderer.limits),
        )
        callbacks.append(
            Evaluator(
                run, stage.name, tracker, lambda: accuracies(sampler, job.renderer, tasks, config)
            )
        )
    module.train()  # loaded in evaluation mode
    with (
        stop_requested() as stop,
        suppress(SIGTERMException),
    ):  # Lightning's own way out, after the checkpoint
        callbacks.append(
            CheckpointCallback(checkpoints, module.stage.save_every, fingerprint, stop)
        )  # last: what it saves is on record
        make_trainer(config, run, callbacks).fit(module, job.loader(start, module.stage.steps))
    if module.completed_steps < module.stage.steps:
        print(
            f"stopped at step {module.completed_steps} of {stage.name}, all saved: run the same command again to go on."
        )
        raise Exit(STOPPED)
    run.stamp(
        {stage.name: {"steps": module.completed_steps, "last_metrics": module.metrics, "key": key}}
    )
    module.policy.save_pretrained(out)
    return str(out)


def teardown_distributed(config: TrainConfig) -> bool:
    """Whether this process is the one that scores, after the last stage: what the ranks did together is over.

    Their group is dissolved, but where an engine within the process lives in it.
    """
    if num_ranks() > 1 and config.sampler.kind is not SamplerKind.vllm:
        torch.distributed.destroy_process_group()
    return is_main_process()


def make_trainer(
    config: TrainConfig, run: Run, callbacks: list[lightning.Callback]
) -> lightning.Trainer:
    """A Trainer that does one pass over the loader and writes nothing of its own."""
    return lightning.Trainer(
        accelerator=config.trainer.accelerator.value,
        devices=config.trainer.devices,
        num_nodes=config.trainer.nodes,
        strategy=lightning_strategy(config.trainer),
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


@dataclass(slots=True, kw_only=True)
class Job:
    """A stage before training: `make_batch(step)` gives this rank's batch of a 0-based step.

    With data.reader=stream, batches come in sequence from `open_reader` instead.
    """

    module: StepModule
    renderer: PromptRenderer
    mixture: Mixture
    make_batch: Callable[[int], TrainBatch]
    workers: int
    open_reader: Callable[[int, int], StepReader] | None = None

    def loader(self, start: int, stop: int) -> DataLoader[TrainBatch]:
        """Return the batches of the steps [start, stop)."""
        if self.open_reader is None:
            return step_loader(self.make_batch, start, stop, workers=self.workers)
        return stream_loader(self.open_reader, start, stop, workers=self.workers)


def sft_job(config: TrainConfig, source: str, run: Run) -> Job:
    renderer = PromptRenderer.load(config.model, config.prompt, path=source)
    policy = Policy.load(replace(config.model, path=source))
    module = SFTModule(policy, config.sft, config.model, crash_folder=run.folder / "crashes")
    mixture = open_mixture(config, StageName.sft)

    def positions(step: int) -> range:
        first = step * config.sft.batch_size
        return range(first + module.global_rank, first + config.sft.batch_size, num_ranks())

    def make_batch(step: int) -> TrainBatch:
        examples = (mixture.example(position) for position in positions(step))
        return supervised_batch(examples, renderer)

    def open_reader(stream: int, num_streams: int) -> StepReader:
        assert isinstance(mixture, StreamedMixture)
        place = ReaderPosition.of(module.global_rank, num_ranks(), stream, num_streams)
        return SupervisedReader(mixture.reader(place), positions, renderer)

    if isinstance(mixture, StreamedMixture):
        mixture.check_readers(
            config.trainer.devices * config.trainer.nodes * max(1, config.data.workers)
        )
    return Job(
        module=module,
        renderer=renderer,
        mixture=mixture,
        make_batch=make_batch,
        workers=config.data.workers,
        open_reader=open_reader if isinstance(mixture, StreamedMixture) else None,
    )


def grpo_job(config: TrainConfig, source: str, run: Run) -> Job:
    renderer = PromptRenderer.load(config.model, config.prompt, path=source)
    reference = config.grpo.kl.reference if config.grpo.kl.beta > 0 else Reference.none
    policy = Policy.load(replace(config.model, path=source), reference=reference)
    mixture = open_mixture(config, StageName.grpo)
    sampler = open_sampler(config.sampler, policy, renderer)
    rank = int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")))
    rollouts = Rollouts(
        mixture.example, renderer, sampler, config.reward, config.grpo, seed=config.seed, rank=rank
    )
    module = GRPOModule(
        policy, config.grpo, config.model, crash_folder=run.folder / "crashes", rollouts=rollouts
    )
    make_batch = module.make_batch  # in this process: a worker would sample from old weights
    return Job(module=module, renderer=renderer, mixture=mixture, make_batch=make_batch, workers=0)


def open_mixture(config: TrainConfig, stage: StageName) -> Mixture:
    """The stream of training examples of a stage. Raises UserError for data that are not there or give no question."""
    supervised, mix = stage is StageName.sft, getattr(config, stage.name).mix
    mode = None if supervised else AnswerMode.THINK
    if config.data.reader is Reader.stream:
        streamed = {
            name: config.data.sets[name] for name, weight in mix.weights.items() if weight > 0
        }
        return open_streamed_mixture(streamed, mix, config.data, config.cold_start, config.seed)
    sets = {
        name: open_set(
            config.data.sets[name],
            "train",
            config.data,
            config.cold_start,
            supervised=supervised,
            mode=mode,
        )
        for name, weight in mix.weights.items()
        if weight > 0
    }
    return Mixture(sets, mix, config.seed)


def supervised_batch(examples: Iterable[Example], renderer: PromptRenderer) -> TrainBatch:
    """Return the examples as a batch, their targets scored, each tagged with its question type."""
    batch = TrainBatch(prefix_groups=[], images=[])
    for example in examples:
        batch.prefix_groups.append(
            renderer.supervised_group(example, first_image=len(batch.images))
        )
        batch.images += example.images
        batch.tags += [question.type for question in example.questions]
    return batch


@dataclass(slots=True)
class SupervisedReader:
    """One data worker's batches from a streamed mixture; `positions(step)` are this rank's."""

    reader: MixtureReader
    positions: Callable[[int], Sequence[int]]
    renderer: PromptRenderer

    def batch(self, step: int) -> TrainBatch:
        """Return the batch of this step."""
        delayed = self.reader.take(self.positions(step))
        return supervised_batch((decode() for decode in delayed), self.renderer)

    def skip(self, step: int) -> None:
        """Consume this step's examples without decoding their images."""
        self.reader.take(self.positions(step))
