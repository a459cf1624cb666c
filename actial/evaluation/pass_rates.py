"""Measure how often a model solves each question of a data set, before GRPO trains on it.

A group of samples that are all correct, or all wrong, has no gradient.
`data.sets.NAME.pass_rates=FILE` leaves the questions that are always or never
solved out of training.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol, overload

from actial.config import BenchmarkConfig, ColdStartConfig, EvaluateConfig, PassRatesConfig
from actial.core.atomic_io import write_json
from actial.core.json_lines import write_lines
from actial.core.records import AnswerMode, Example
from actial.data.datasets import open_set
from actial.data.sampling_order import epoch_order
from actial.data.shards import read_manifest
from actial.evaluation.runners import open_runner
from actial.grading.metrics import Prediction
from actial.grading.predictions import PredictionLog

RATES, SUMMARY = "passrates.jsonl", "summary.json"
ATTEMPT = "#"  # between a question's id and the number of the attempt


class TrainingSet(Protocol):
    def example(self, index: int, epoch: int) -> Example: ...


class Attempts(Sequence[Example]):
    """Each example `samples` times in a row, with the options in another order each time."""

    def __init__(self, dataset: TrainingSet, order: Sequence[int], samples: int) -> None:
        self.dataset, self.order, self.samples = dataset, order, samples

    def __len__(self) -> int:
        return len(self.order) * self.samples

    @overload
    def __getitem__(self, index: int) -> Example: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Example]: ...

    def __getitem__(self, index: int | slice) -> Example | Sequence[Example]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if index >= len(self):
            raise IndexError(index)
        position, attempt = divmod(index, self.samples)
        example = self.dataset.example(int(self.order[position]), attempt)
        questions = [replace(q, uid=f"{q.uid}{ATTEMPT}{attempt}") for q in example.questions]
        return replace(example, questions=questions)


@dataclass(slots=True, frozen=True)
class PassRate:
    """One question's line of passrates.jsonl."""

    uid: str
    type: str
    samples: int  # attempts
    solved: int  # of them correct

    @property
    def state(self) -> str:
        if self.solved == 0:
            return "never"
        return "always" if self.solved == self.samples else "sometimes"


def rates(predictions: Iterable[Prediction]) -> Iterator[PassRate]:
    """Count each question's correct attempts, in the order of the questions."""
    attempts: dict[str, list[Prediction]] = {}
    for prediction in predictions:
        attempts.setdefault(prediction.uid.rpartition(ATTEMPT)[0], []).append(prediction)
    for uid, answers in attempts.items():
        solved = sum(answer.score == 1 for answer in answers)
        yield PassRate(uid=uid, type=answers[0].type, samples=len(answers), solved=solved)


def summary(pass_rates: Iterable[PassRate]) -> dict[str, dict[str, int]]:
    """Count per question type how many questions are never, sometimes and always solved."""
    counts: dict[str, dict[str, int]] = {}
    for rate in pass_rates:
        states = counts.setdefault(rate.type, {"never": 0, "sometimes": 0, "always": 0})
        states[rate.state] += 1
    return dict(sorted(counts.items()))


def measure_pass_rates(config: PassRatesConfig) -> str:
    """Ask every training question several times; write passrates.jsonl and summary.json.

    Returns:
        What was measured, as one line.

    Raises:
        UserError: the set or the model cannot be opened.
    """
    out, source = Path(config.out), config.data.sets[config.set]
    dataset = open_set(
        source,
        "train",
        config.data,
        ColdStartConfig(),
        supervised=False,
        mode=AnswerMode.THINK,
    )
    order = epoch_order(f"passrates/{config.set}", 0, len(dataset))[: config.limit or None]
    runner = open_runner(as_evaluation(config))
    settings: dict[str, Any] = {
        "set": config.set,
        "samples": config.samples,
        "limit": config.limit,
        "source": {**asdict(source), "task": source.task.value},
        # A set that is built anew keeps its ids, so its content is part of the settings.
        "index": read_manifest(config.set, source)["index_sha256"],
    }
    predictions = runner.ask(
        Attempts(dataset, order.tolist(), config.samples),
        f"{runner.name} on {config.set}",
        PredictionLog(out, runner.settings | settings),
    )
    pass_rates = list(rates(predictions))
    write_lines(out / RATES, [asdict(rate) for rate in pass_rates])
    write_json(out / SUMMARY, summary(pass_rates))
    useful = sum(rate.state == "sometimes" for rate in pass_rates)
    return (
        f"{out}: {useful} of {len(pass_rates)} questions are solved at times; "
        f"data.sets.{config.set}.pass_rates={out / RATES} trains on them"
    )


def as_evaluation(config: PassRatesConfig) -> EvaluateConfig:
    """Return the configuration of an evaluation of the same model on the same questions."""
    return EvaluateConfig(
        out=config.out,
        seed=config.seed,
        model=config.model,
        prompt=config.prompt,
        data=config.data,
        benchmark=BenchmarkConfig(
            sets={config.set: f"{config.set}:train"},
            max_tokens=config.max_tokens,
            batch_size=config.batch_size,
        ),
        sampler=config.sampler,
        server=config.server,
        accelerator=config.accelerator,
        temperature=config.temperature,
    )
