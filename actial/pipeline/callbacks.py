"""What is recorded while a stage trains: metrics, timings, progress, first batch, samples."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import lightning

from actial.core.atomic_io import write_text
from actial.core.errors import UserError
from actial.core.process import is_main_process
from actial.core.progress import Progress
from actial.modeling.prefix_packing import Continuation, PrefixGroup
from actial.rl.rollouts import RolloutBatch
from actial.runs.run_dir import CONFIG, Run
from actial.runs.tracking import Tracker
from actial.training.batch import TrainBatch
from actial.training.distributed import gathered
from actial.training.train_module import StepModule

# Beside the progress bar, those that the stage has.
PROGRESS_METRICS = ("loss", "reward", "reward/format/mean", "reward/accuracy/mean", "kl")
DESCRIBED_GROUPS = 2  # prefix groups that FirstBatch writes out


class SharedFolderCheck(lightning.Callback):
    """Raises UserError on every rank when some rank sees another run folder than rank 0."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def on_train_start(
        self, trainer: lightning.Trainer, module: lightning.LightningModule
    ) -> None:
        assert isinstance(module, StepModule)
        own = ((self.run.folder / CONFIG).exists(), module.completed_steps)
        if any(rank != (True, own[1]) for rank in gathered(own)):
            raise UserError(
                f"run_dir={self.run.folder} is not the same folder on every node: give one on a "
                "file system that all nodes share."
            )


class StepRecorder(lightning.Callback):
    """Writes the module's `metrics` and `timings` every `stage.log_every` steps; shows progress."""

    def __init__(self, run: Run, stage: str, tracker: Tracker) -> None:
        self.run = run
        self.stage = stage
        self.tracker = tracker
        self.progress: Progress | None = None

    def on_train_start(
        self, trainer: lightning.Trainer, module: lightning.LightningModule
    ) -> None:
        assert isinstance(module, StepModule)
        if is_main_process():
            total, start = module.stage.steps, module.completed_steps
            self.progress = Progress(self.stage, total=total, unit="steps", start=start)
            self.progress.__enter__()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, *_: Any
    ) -> None:
        assert isinstance(module, StepModule)
        step = module.completed_steps
        # Another rank than the main one has no progress; a skipped step completes nothing.
        if self.progress is None or step == self.progress.done:
            return
        self.progress.advance(note=_progress_note(module.metrics))
        if step % module.stage.log_every == 0 or step == module.stage.steps:
            self.run.metrics.write(self.stage, step, module.metrics)
            self.run.timings.write(self.stage, step, module.timings)
            self.tracker.log(self.stage, step, {**module.metrics, **module.timings})

    def on_train_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule
    ) -> None:
        if self.progress is not None:
            self.progress.__exit__(None)

    def on_exception(
        self,
        trainer: lightning.Trainer,
        module: lightning.LightningModule,
        exception: BaseException,
    ) -> None:
        if self.progress is not None:
            self.progress.__exit__(type(exception))


def _progress_note(metrics: dict[str, float]) -> str:
    """Return "loss 0.693  format 0.500" of the metrics that the stage has."""
    names = [name for name in PROGRESS_METRICS if name in metrics]
    short = {name: name.removeprefix("reward/").removesuffix("/mean") for name in names}
    return "  ".join(f"{short[name]} {metrics[name]:.3f}" for name in names)


class FirstBatch(lightning.Callback):
    """Writes the first examples of the first batch as text, with supervised tokens in [[brackets]].

    A wrong prompt or loss mask is visible in it.
    """

    def __init__(
        self, path: Path, decode: Callable[[list[int]], str], image_token: str
    ) -> None:
        self.path = path
        self.decode = decode
        self.image_token = image_token

    def on_train_batch_start(
        self,
        trainer: lightning.Trainer,
        module: lightning.LightningModule,
        batch: TrainBatch,
        batch_index: int,
    ) -> None:
        if batch_index or self.path.exists() or not is_main_process():
            return
        groups = batch.prefix_groups
        num_tokens = sum(group.num_tokens for group in groups)
        num_continuations = sum(len(group.continuations) for group in groups)
        head = (
            f"{len(groups)} prompts, {num_continuations} continuations, "
            f"{len(batch.images)} images, {num_tokens} tokens\n"
        )
        described = [self._prefix_group(group) for group in groups[:DESCRIBED_GROUPS]]
        write_text(self.path, head + "".join(described))

    def _prefix_group(self, group: PrefixGroup) -> str:
        # An image is one placeholder per visual token; one of them is enough to read.
        repeated = f"(?:{re.escape(self.image_token)})+"
        text = re.sub(repeated, self.image_token, self.decode(group.input_ids))
        continuations = [self._continuation(one) for one in group.continuations]
        head = f"\n==== {group.uid}: {len(group.input_ids)} tokens\n"
        return head + text + "".join(continuations)

    def _continuation(self, continuation: Continuation) -> str:
        pairs = zip(continuation.input_ids, continuation.loss_mask, strict=True)
        text = ""
        for supervised, run in groupby(pairs, key=lambda pair: pair[1]):
            decoded = self.decode([token for token, _ in run])
            text += f"[[{decoded}]]" if supervised else decoded
        return f"\n---- {len(continuation.input_ids)} tokens\n{text}\n"


class Evaluator(lightning.Callback):
    """Scores the model every `stage.eval_every` steps and logs the figures to metrics.jsonl."""

    def __init__(
        self, run: Run, stage: str, tracker: Tracker, score: Callable[[], dict[str, float]]
    ) -> None:
        self.run = run
        self.stage = stage
        self.tracker = tracker
        self.score = score

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, *_: Any
    ) -> None:
        assert isinstance(module, StepModule)
        step = module.completed_steps
        if not module.stage.eval_every or step % module.stage.eval_every:
            return
        # Sending the weights to the sampler takes all ranks: each scores, the first one writes.
        figures = self.score()
        if is_main_process():
            self.run.metrics.write(self.stage, step, figures)
            self.tracker.log(self.stage, step, figures)


class SampleTable(lightning.Callback):
    """Logs the completions of a GRPO batch as a table each time a checkpoint is due.

    A row holds the images, the reward terms and the advantage. The table is STAGE/samples.
    """

    def __init__(self, tracker: Tracker, stage: str) -> None:
        self.tracker = tracker
        self.stage = stage

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        module: lightning.LightningModule,
        outputs: object,
        batch: Any,
        batch_index: int,
    ) -> None:
        assert isinstance(module, StepModule)
        step = module.completed_steps
        if step % module.stage.save_every == 0:
            columns, rows = sample_table(batch)
            axis = {f"{self.stage}/step": step}
            self.tracker.table(f"{self.stage}/samples", columns, rows, axis)


def sample_table(batch: RolloutBatch) -> tuple[list[str], Sequence[Sequence[Any]]]:
    """Return columns and rows of the table: one row per completion."""
    groups = batch.prefix_groups
    num_images = max((len(group.images) for group in groups), default=0)
    owners = [group for group in groups for _ in group.continuations]
    rows = []
    for group, sample in zip(owners, batch.samples, strict=True):
        images = [batch.images[i] for i in group.images]
        padding = [None] * (num_images - len(images))
        cells = [sample.question, sample.answer, sample.text, sample.reward, sample.advantage]
        rows.append([*images, *padding, *cells, str(sample.terms)])
    names = ["question", "truth", "completion", "reward", "advantage", "terms"]
    return [*(f"photo {i + 1}" for i in range(num_images)), *names], rows
