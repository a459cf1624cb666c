"""What one evaluation asks: a published benchmark, or sets written by actial.build."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from actial.config import ColdStartConfig, EvaluateConfig
from actial.core.records import AnswerMode, Example
from actial.core.seeding import hash_shuffle
from actial.data.datasets import TaskSet, open_set
from actial.data.sampling_order import epoch_order
from actial.data.shards import read_manifest
from actial.evaluation.benchmark_examples import BenchmarkExamples
from actial.evaluation.benchmark_results import (
    asks_published_items,
    benchmark_scores,
    benchmark_settings,
    beside_paper,
    open_benchmark,
    style_of,
)
from actial.evaluation.benchmarks.base import Style
from actial.evaluation.benchmarks.prompts import sample_prompt
from actial.evaluation.easi import easi_answers, easi_scores, suite_members
from actial.evaluation.paper_protocol import comparable_rows
from actial.evaluation.results import BenchmarkScores, PaperComparison
from actial.evaluation.set_results import set_results
from actial.grading.metrics import Prediction, confusion
from actial.modeling.prompt_renderer import ImageLimits

# of a published benchmark, or of a built set
Scores = BenchmarkScores | dict[str, Any]


@dataclass(slots=True)
class Task:
    """A set of questions, and how its answers are scored."""

    name: str
    examples: Sequence[Example]
    # what the questions depend on
    settings: dict[str, Any]
    score: Callable[[Sequence[Prediction]], Scores]
    # indices of the examples, for samples of them
    random_order: Sequence[int]
    # example i, asked to think first or to answer directly
    reworded: Callable[[int, AnswerMode], Example]
    # example i, maybe with empty images
    outline: Callable[[int], Example]
    # accuracy of guessing, over the questions with options; 0 without any
    chance: float
    # a user's text that stands for those of all questions
    prompt: str
    paper: Callable[[Scores], PaperComparison | None] = lambda scores: None
    # the answers as EASI reads them; none for sets that its leaderboard does not have
    easi: Callable[[Sequence[Prediction]], list[Prediction]] = lambda predictions: []


def open_tasks(config: EvaluateConfig, limits: ImageLimits) -> list[Task]:
    """Return the tasks of a configuration; raises UserError for missing or changed files."""
    if config.benchmark.name:
        return [_published_task(config, limits)]
    if config.benchmark.suite:
        members = suite_members(config.benchmark)
        return [_published_task(replace(config, benchmark=m), limits) for m in members]
    return [
        _built_task(config, name, address) for name, address in config.benchmark.sets.items()
    ]


def _published_task(config: EvaluateConfig, limits: ImageLimits) -> Task:
    options = config.benchmark
    benchmark, source, items = open_benchmark(options)
    style = style_of(options, benchmark)
    examples = BenchmarkExamples(
        items,
        style,
        multiple=limits.multiple,
        min_pixels=limits.min_pixels,
        max_pixels=limits.max_pixels,
        square=limits.square,
    )
    settings = benchmark_settings(options, benchmark, source) | {"style": style.value}

    published_items = asks_published_items(options, benchmark)

    def easi(predictions: Sequence[Prediction]) -> list[Prediction]:
        return easi_answers(benchmark.name, items, predictions) if published_items else []

    def reworded(index: int, mode: AnswerMode) -> Example:
        style = Style.LETTER if mode is AnswerMode.DIRECT else Style.THINK
        return examples.in_style(index, style)

    def score(predictions: Sequence[Prediction]) -> Scores:
        partial = bool(options.limit)
        scores = benchmark_scores(benchmark, source, predictions, partial=partial)
        if published_items:
            scores.easi = easi_scores(benchmark.name, items, predictions)
        return scores

    def paper(scores: Scores) -> PaperComparison | None:
        assert isinstance(scores, BenchmarkScores)
        return comparable_rows(beside_paper(benchmark.name, scores), config, benchmark, style)

    return Task(
        name=benchmark.name,
        examples=examples,
        settings=settings,
        score=score,
        random_order=hash_shuffle(range(len(items)), "sample", len(items)),
        reworded=reworded,
        outline=examples.outline,
        chance=_chance([len(item.options) for item in items]),
        prompt=sample_prompt(style),
        paper=paper,
        easi=easi,
    )


def _built_task(config: EvaluateConfig, name: str, address: str) -> Task:
    """Open the set and split of an address such as "viewpoint:test"."""
    data_set, _, split = address.partition(":")
    source = config.data.sets[data_set]

    @cache
    def opened(mode: AnswerMode) -> TaskSet:
        return open_set(
            source, split, config.data, ColdStartConfig(), supervised=False, mode=mode
        )

    mode = AnswerMode(config.benchmark.mode.value)
    dataset = opened(mode)
    order = epoch_order(f"benchmark/{data_set}/{split}", 0, len(dataset))
    if limit := config.benchmark.limit:
        questions_per_example = len(dataset.example(int(order[0]), 0).questions)
        order = order[: max(1, limit // questions_per_example)]
    settings = {
        "set": address,
        "root": source.root,
        "mode": mode.value,
        "limit": config.benchmark.limit,
        # A set that is built anew keeps its ids, so its content is part of the settings.
        "index": read_manifest(data_set, source)["index_sha256"],
    }
    examples = [dataset.example(int(i), 0) for i in order]
    questions = [question for example in examples for question in example.questions]
    return Task(
        name=name,
        examples=examples,
        settings=settings,
        score=_set_scores,
        # `order` is random
        random_order=range(len(examples)),
        reworded=lambda index, mode: opened(mode).example(int(order[index]), 0),
        outline=examples.__getitem__,
        chance=_chance([len(question.options) for question in questions]),
        prompt=questions[0].text if questions else "",
    )


def _chance(option_counts: Sequence[int]) -> float:
    shares = [1 / count for count in option_counts if count]
    return sum(shares) / max(1, len(shares))


def _set_scores(predictions: Sequence[Prediction]) -> dict[str, Any]:
    result = set_results(predictions).to_json()
    return {"n": len(predictions), **result, "answers": confusion(predictions)}
