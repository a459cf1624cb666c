"""How often a model solves each question of a data set: what GRPO cannot learn from is found before anything is trained on it.

A group of samples that are all right, or all wrong, has no gradient. `data.sets.NAME.pass_rates=FILE` leaves out of training the questions
that the file says are always or never solved.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, overload

from actial.config import BenchmarkConfig, ColdStartConfig, EvaluateConfig, PassRatesConfig
from actial.config.hydra_app import hydra_command
from actial.core.atomic_io import write_json
from actial.core.records import AnswerMode, Example
from actial.data.shards import write_lines
from actial.grading.metrics import Prediction

RATES, SUMMARY = "passrates.jsonl", "summary.json"
DRAW = "#"  # between a question's id and the number of the try


class Tries(Sequence[Example]):
    """Each example `samples` times in a row, every time with its options in the order of another epoch."""

    def __init__(self, task: Any, order: Sequence[int], samples: int) -> None:
        self.task, self.order, self.samples = task, order, samples

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
        place, draw = divmod(index, self.samples)
        example = self.task.example(int(self.order[place]), draw)
        return replace(
            example, questions=[replace(q, uid=f"{q.uid}{DRAW}{draw}") for q in example.questions]
        )


def rates(predictions: Sequence[Prediction]) -> Iterator[dict[str, Any]]:
    """Per question, in order: how many of its tries were right."""
    tries: dict[str, list[Prediction]] = {}
    for prediction in predictions:
        tries.setdefault(prediction.uid.rpartition(DRAW)[0], []).append(prediction)
    for uid, answers in tries.items():
        solved = sum(answer.hit == 1 for answer in answers)
        yield {"uid": uid, "type": answers[0].type, "samples": len(answers), "solved": solved}


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Question type -> how many are never, sometimes, always solved."""
    found: dict[str, Counter[str]] = {}
    for row in rows:
        state = {0: "never", row["samples"]: "always"}.get(row["solved"], "sometimes")
        found.setdefault(row["type"], Counter(never=0, sometimes=0, always=0))[state] += 1
    return {kind: dict(counts) for kind, counts in sorted(found.items())}


def measure(config: PassRatesConfig) -> None:
    """python -m actial.passrates set=NAME model=NAME [model.path=DIR] out=DIR [samples=16] [key=value ...]

    Asks the model every training question of a set several times and counts the right answers. Writes out/passrates.jsonl, to be named by
    data.sets.NAME.pass_rates in training; run the same command again to go on where it stopped.
    """
    from actial.data.datasets import open_set
    from actial.data.sampling_order import epoch_order
    from actial.data.shards import read_manifest
    from actial.evaluation.runners import (
        open_runner,
    )  # torch comes in only once the config is known to be right
    from actial.grading.predictions import PredictionLog

    out, source = Path(config.out), config.data.sets[config.set]
    task = open_set(
        source, "train", config.data, ColdStartConfig(), supervised=False, mode=AnswerMode.THINK
    )
    order = epoch_order(f"passrates/{config.set}", 0, len(task))[: config.limit or None]
    runner = open_runner(evaluation(config))
    asked = {
        "set": config.set,
        "samples": config.samples,
        "limit": config.limit,
        "source": {**asdict(source), "task": source.task.value},
    }
    asked["index"] = read_manifest(config.set, source)[
        "index_sha256"
    ]  # built anew, a set keeps its ids
    predictions = runner.ask(
        Tries(task, order.tolist(), config.samples),
        f"{runner.name} on {config.set}",
        PredictionLog(out, runner.settings | asked),
    )
    found = list(rates(predictions))
    write_lines(out / RATES, found)
    write_json(out / SUMMARY, summary(found))
    useful = sum(0 < row["solved"] < row["samples"] for row in found)
    print(
        f"{out}: {useful} of {len(found)} questions are solved at times; data.sets.{config.set}.pass_rates={out / RATES} trains on them"
    )


def evaluation(config: PassRatesConfig) -> EvaluateConfig:
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


main = hydra_command("passrates", folder_key="out")(measure)

if __name__ == "__main__":
    main()
