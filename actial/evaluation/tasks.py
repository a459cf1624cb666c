"""What is asked in one evaluation: a published benchmark, or sets written by actial.build."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from actial.config import ColdStartConfig, EvaluateConfig
from actial.core.records import AnswerMode, Example
from actial.data.datasets import open_set
from actial.data.sampling_order import epoch_order
from actial.data.shards import read_manifest
from actial.evaluation.benchmark_examples import BenchmarkExamples
from actial.evaluation.benchmark_results import (
    benchmark_scores,
    beside_paper,
    open_benchmark,
    style_of,
)
from actial.evaluation.set_results import set_results
from actial.grading.metrics import Prediction, confusion, to_json
from actial.modeling.prompt_renderer import ImageLimits


@dataclass(slots=True)
class Task:
    name: str
    examples: Sequence[Example]
    settings: dict[str, Any]  # what its questions depend on
    score: Callable[[Sequence[Prediction]], dict[str, Any]]
    chance: float  # share that guessing among the options gets right, without the questions that have none
    paper: Callable[[dict[str, Any]], dict[str, Any] | None] = lambda scores: None


def open_tasks(config: EvaluateConfig, limits: ImageLimits) -> list[Task]:
    """Raises UserError for files that are missing or changed."""
    if config.benchmark.name:
        return [_published(config, limits)]
    return [_built(config, name, place) for name, place in config.benchmark.sets.items()]


def _published(config: EvaluateConfig, limits: ImageLimits) -> Task:
    asked = config.benchmark
    benchmark, source, items = open_benchmark(asked)
    style = style_of(asked, benchmark)
    settings = {
        "benchmark": benchmark.name,
        "split": source.split,
        "style": style.value,
        "circular": asked.circular,
        "limit": asked.limit,
        "files": source.hashes,
    }
    return Task(
        name=benchmark.name,
        examples=BenchmarkExamples(
            items,
            style,
            multiple=limits.multiple,
            min_pixels=limits.min_pixels,
            max_pixels=limits.max_pixels,
        ),
        settings=settings,
        score=lambda predictions: benchmark_scores(
            benchmark, source, predictions, partial=bool(asked.limit)
        ),
        chance=_chance([len(item.options) for item in items]),
        paper=lambda scores: beside_paper(benchmark.name, scores),
    )


def _built(config: EvaluateConfig, name: str, place: str) -> Task:
    data_set, _, split = place.partition(":")
    mode = AnswerMode(config.benchmark.mode.value)
    source = config.data.sets[data_set]
    found = open_set(source, split, config.data, ColdStartConfig(), supervised=False, mode=mode)
    order = epoch_order(f"benchmark/{data_set}/{split}", 0, len(found))
    if limit := config.benchmark.limit:
        order = order[: max(1, limit // len(found.example(int(order[0]), 0).questions))]
    settings = {
        "set": place,
        "root": source.root,
        "mode": mode.value,
        "limit": config.benchmark.limit,
    }
    settings["index"] = read_manifest(data_set, source)[
        "index_sha256"
    ]  # built anew, a set keeps its ids
    examples = [found.example(int(i), 0) for i in order]
    guess = _chance(
        [len(question.options) for example in examples for question in example.questions]
    )
    return Task(name=name, examples=examples, settings=settings, score=_set_scores, chance=guess)


def _chance(counts: Sequence[int]) -> float:
    shares = [1 / count for count in counts if count]
    return sum(shares) / max(1, len(shares))


def _set_scores(predictions: Sequence[Prediction]) -> dict[str, Any]:
    return {
        "n": len(predictions),
        **set_results(predictions),
        "answers": to_json(confusion(predictions)),
    }
