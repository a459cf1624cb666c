"""What is written while a stage trains: metrics.jsonl, timings.jsonl, the progress display, and wandb where it is on."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import lightning

from actial.core.atomic_io import write_text
from actial.core.process import is_main_process
from actial.core.progress import Progress
from actial.modeling.prefix_packing import Continuation, PrefixGroup
from actial.runs.run_dir import Run
from actial.runs.tracking import Tracker
from actial.training.batch import TrainBatch
from actial.training.train_module import StepModule

SHOWN = (
    "loss",
    "reward",
    "reward/format/mean",
    "reward/accuracy/mean",
    "kl",
)  # beside the progress bar, those that the stage has
DESCRIBED = 2  # trunks written out


def short_name(metric: str) -> str:
    """ "format" of "reward/format/mean", for the line beside the progress bar."""
    return metric.removeprefix("reward/").removesuffix("/mean")


class StepRecorder(lightning.Callback):
    """Writes the module's `metrics` and `timings` every `stage.log_every` steps and after the last, and shows the progress."""

    def __init__(self, run: Run, stage: str, tracker: Tracker) -> None:
        self.run = run
        self.stage = stage
        self.tracker = tracker
        self.progress: Progress | None = None

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        assert isinstance(module, StepModule)
        if is_main_process():
            self.progress = Progress(
                self.stage, total=module.stage.steps, unit="steps", start=module.completed_steps
            )
            self.progress.__enter__()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, *_: Any
    ) -> None:
        assert isinstance(module, StepModule)
        step = module.completed_steps
        if (
            self.progress is None or step == self.progress.done
        ):  # not the writing process, or the step was skipped
            return
        self.progress.advance(
            note="  ".join(
                f"{short_name(name)} {module.metrics[name]:.3f}"
                for name in SHOWN
                if name in module.metrics
            )
        )
        if step % module.stage.log_every == 0 or step == module.stage.steps:
            self.run.metrics.write(self.stage, step, module.metrics)
            self.run.timings.write(self.stage, step, module.timings)
            self.tracker.log(self.stage, step, {**module.metrics, **module.timings})

    def on_train_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
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


class FirstBatch(lightning.Callback):
    """Writes the first trunks of the first batch as text, scored tokens in brackets, so that a wrong prompt or mask is seen at once."""

    def __init__(self, path: Path, decode: Callable[[list[int]], str], image_token: str) -> None:
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
        tokens = sum(prefix_group.num_tokens for prefix_group in batch.prefix_groups)
        continuations = sum(len(prefix_group.continuations) for prefix_group in batch.prefix_groups)
        head = f"{len(batch.prefix_groups)} trunks, {continuations} branches, {len(batch.images)} photos, {tokens} tokens\n"
        write_text(
            self.path,
            head
            + "".join(
                self._prefix_group(prefix_group) for prefix_group in batch.prefix_groups[:DESCRIBED]
            ),
        )

    def _prefix_group(self, prefix_group: PrefixGroup) -> str:
        text = re.sub(
            f"(?:{re.escape(self.image_token)})+",
            self.image_token,
            self.decode(prefix_group.input_ids),
        )
        return f"\n==== {prefix_group.uid}: {len(prefix_group.input_ids)} tokens\n{text}" + "".join(
            self._continuation(continuation) for continuation in prefix_group.continuations
        )

    def _continuation(self, continuation: Continuation) -> str:
        runs = groupby(
            zip(continuation.input_ids, continuation.loss_mask, strict=True),
            key=lambda pair: pair[1],
        )
        parts = [(scored, self.decode([token for token, _ in pairs])) for scored, pairs in runs]
        return (
            f"\n---- {len(continuation.input_ids)} tokens\n"
            + "".join(f"[[{text}]]" if scored else text for scored, text in parts)
            + "\n"
        )


class Evaluator(lightning.Callback):
    """Scores the model every `stage.eval_every` steps and writes the figures as rows of metrics.jsonl."""

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
        if module.stage.eval_every and step % module.stage.eval_every == 0 and is_main_process():
            figures = self.score()
            self.run.metrics.write(self.stage, step, figures)
            self.tracker.log(self.stage, step, figures)


class SampleTable(lightning.Callback):
    """Shows the completions of a GRPO batch with their photos, reward terms and advantages, each time a checkpoint is due."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        module: lightning.LightningModule,
        outputs: object,
        batch: Any,
        batch_index: int,
    ) -> None:
        assert isinstance(module, StepModule)
        if module.completed_steps % module.stage.save_every:
            return
        photos = max((len(prefix_group.images) for prefix_group in batch.prefix_groups), default=0)
        columns = [
            *[f"photo {i + 1}" for i in range(photos)],
            "question",
            "truth",
            "completion",
            "reward",
            "advantage",
            "terms",
        ]
        rows = []
        owners = [
            prefix_group for prefix_group in batch.prefix_groups for _ in prefix_group.continuations
        ]
        for prefix_group, sample in zip(owners, batch.samples, strict=True):
            seen = [batch.images[i] for i in prefix_group.images]
            facts = [
                sample.question,
                sample.answer,
                sample.text,
                sample.reward,
                sample.advantage,
                str(sample.terms),
            ]
            rows.append([*seen, *[None] * (photos - len(seen)), *facts])
        self.tracker.table(f"samples/{module.completed_steps}", columns, rows)
