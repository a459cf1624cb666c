"""What each stage is made of: policy, prompt renderer, data and the batches of its steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from torch.utils.data import DataLoader

from actial.config import ModelConfig, Reader, Reference, StageName, Strategy, TrainConfig
from actial.core.records import AnswerMode, Example
from actial.data.datasets import open_set
from actial.data.mixture import Mixture
from actial.data.stream import ReaderPosition
from actial.data.streamed_mixture import MixtureReader, StreamedMixture, open_streamed_mixture
from actial.inference.open_sampler import open_sampler
from actial.modeling.policy import Policy
from actial.modeling.prompt_renderer import PromptRenderer
from actial.rl.grpo_module import GRPOModule
from actial.rl.rollouts import Rollouts
from actial.runs.run_dir import Run
from actial.training.batch import TrainBatch
from actial.training.distributed import load_on_first_rank, num_ranks
from actial.training.loaders import StepReader, step_loader, stream_loader
from actial.training.sft_module import SFTModule
from actial.training.train_module import StepModule


@dataclass(slots=True, kw_only=True)
class Job:
    """A stage before training; `make_batch(step)` gives this rank's batch of a 0-based step.

    With data.reader=stream, batches come in sequence from `open_reader` instead.
    """

    module: StepModule
    renderer: PromptRenderer
    mixture: Mixture
    make_batch: Callable[[int], TrainBatch]
    workers: int  # processes that make batches; 0 = this process
    open_reader: Callable[[int, int], StepReader] | None = None

    def loader(self, start: int, stop: int) -> DataLoader[TrainBatch]:
        """Return the batches of the steps [start, stop)."""
        if self.open_reader is None:
            return step_loader(self.make_batch, start, stop, workers=self.workers)
        return stream_loader(self.open_reader, start, stop, workers=self.workers)


def make_job(stage: StageName, config: TrainConfig, source: str, run: Run) -> Job:
    """Build a stage that starts from the model folder or hub id `source`."""
    return {StageName.sft: sft_job, StageName.grpo: grpo_job}[stage](config, source, run)


def sft_job(config: TrainConfig, source: str, run: Run) -> Job:
    """Build the SFT stage: batches of supervised examples, split over the ranks."""
    renderer = PromptRenderer.load(config.model, config.prompt, path=source)
    model = stage_model(config, StageName.sft, source)
    policy = load_policy(config, model)
    module = SFTModule(policy, config.sft, model, crash_folder=run.folder / "crashes")
    mixture = open_mixture(config, StageName.sft)

    def positions(step: int) -> range:
        first = step * config.sft.batch_size
        end = first + config.sft.batch_size
        return range(first + module.global_rank, end, num_ranks())

    def make_batch(step: int) -> TrainBatch:
        examples = (mixture.example(position) for position in positions(step))
        return supervised_batch(examples, renderer)

    def open_reader(stream: int, num_streams: int) -> StepReader:
        assert isinstance(mixture, StreamedMixture)
        place = ReaderPosition.of(module.global_rank, num_ranks(), stream, num_streams)
        return SupervisedReader(mixture.reader(place), positions, renderer)

    streamed = isinstance(mixture, StreamedMixture)
    if isinstance(mixture, StreamedMixture):
        ranks = config.trainer.devices * config.trainer.nodes
        mixture.check_readers(ranks * max(1, config.data.workers))
    return Job(
        module=module,
        renderer=renderer,
        mixture=mixture,
        make_batch=make_batch,
        workers=config.data.workers,
        open_reader=open_reader if streamed else None,
    )


def grpo_job(config: TrainConfig, source: str, run: Run) -> Job:
    """Build the GRPO stage: a sampler beside the policy, whose rollouts are the batches."""
    renderer = PromptRenderer.load(config.model, config.prompt, path=source)
    reference = config.grpo.kl.reference if config.grpo.kl.beta > 0 else Reference.none
    model = stage_model(config, StageName.grpo, source)
    policy = load_policy(config, model, reference)
    mixture = open_mixture(config, StageName.grpo)
    sampler = open_sampler(config.sampler, policy, renderer)
    rollouts = Rollouts(
        mixture.example, renderer, sampler, config.reward, config.grpo, seed=config.seed
    )
    crashes = run.folder / "crashes"
    module = GRPOModule(policy, config.grpo, model, crash_folder=crashes, rollouts=rollouts)
    return Job(
        module=module,
        renderer=renderer,
        mixture=mixture,
        make_batch=module.make_batch,
        workers=0,  # a worker process would sample from the weights that it was started with
    )


def load_policy(
    config: TrainConfig, model: ModelConfig, reference: Reference = Reference.none
) -> Policy:
    """Return the policy that a stage starts from; one that will be sharded has its weights on the
    first rank alone.
    """
    if config.trainer.strategy is Strategy.fsdp2:
        return load_on_first_rank(model, reference=reference)
    return Policy.load(model, reference=reference)


def stage_model(config: TrainConfig, stage: StageName, source: str) -> ModelConfig:
    """Return the model's settings in a stage that starts from the folder or hub id `source`.

    The stage's `train_modules` replace the switches model.*.train.
    """
    model = replace(config.model, path=source)
    trained = getattr(config, stage.name).train_modules
    if trained is None:
        return model
    return replace(
        model,
        vision=replace(model.vision, train="vision" in trained),
        merger=replace(model.merger, train="merger" in trained),
        language=replace(model.language, train="language" in trained),
    )


def resolve_steps(config: TrainConfig) -> TrainConfig:
    """Return the config with the steps of stages whose length is given in epochs.

    The last step of a stage is a whole one: it draws beyond the last epoch where it must.
    """
    for stage in config.stages:
        settings = getattr(config, stage.name)
        if settings.steps:
            continue
        steps, draws_per_epoch = steps_of_epochs(config, stage)
        print(
            f"{stage.name}: {settings.epochs:g} epochs of {draws_per_epoch} draws are {steps} "
            f"steps of {settings.batch_size}"
        )
        config = replace(config, **{stage.name: replace(settings, steps=steps)})
    return config


def steps_of_epochs(config: TrainConfig, stage: StageName) -> tuple[int, int]:
    """Return the steps that the epochs of a stage take, and the draws of one epoch."""
    settings = getattr(config, stage.name)
    draws_per_epoch = open_mixture(config, stage).schedule(1)["epoch_draws"]
    draws = settings.epochs * draws_per_epoch
    return max(1, math.ceil(draws / settings.batch_size)), draws_per_epoch


def open_mixture(config: TrainConfig, stage: StageName) -> Mixture:
    """Return the stream of training examples of a stage.

    Raises UserError for data that do not exist or give no question.
    """
    supervised = stage is StageName.sft
    mix = getattr(config, stage.name).mix
    names = [name for name, weight in mix.weights.items() if weight > 0]
    if config.data.reader is Reader.stream:
        streamed = {name: config.data.sets[name] for name in names}
        return open_streamed_mixture(
            streamed, mix, config.data, config.cold_start, config.seed
        )
    sets = {
        name: open_set(
            config.data.sets[name],
            "train",
            config.data,
            config.cold_start,
            supervised=supervised,
            mode=None if supervised else AnswerMode.THINK,
        )
        for name in names
    }
    return Mixture(sets, mix, config.seed)


def supervised_batch(examples: Iterable[Example], renderer: PromptRenderer) -> TrainBatch:
    """Return the examples as a batch with their target answers as continuations.

    Each continuation is tagged with its question type.
    """
    batch = TrainBatch(prefix_groups=[], images=[])
    for example in examples:
        first_image = len(batch.images)
        batch.prefix_groups.append(renderer.supervised_group(example, first_image=first_image))
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
