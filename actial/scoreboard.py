"""Every model of a run on every benchmark set: answers in scores/, figures in results.json, a table of pictures in wandb."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from actial.callbacks import Tracker
from actial.config import TrainConfig
from actial.data.examples import open_set
from actial.data.order import epoch_order
from actial.evaluate import evaluate_examples
from actial.files import write_json
from actial.grpo.sampler import open_sampler
from actial.predictions import PredictionLog
from actial.rendering import PromptRenderer
from actial.report import sample_answers, set_results
from actial.runs import Run
from actial.scoring import Prediction
from actial.types import AnswerMode, Example, SamplingParams


def score_models(models: dict[str, str], config: TrainConfig, run: Run) -> None:
    """Score each model folder of `models` (name -> path) and write results.json, which marks the run as finished."""
    sets = {name: benchmark_examples(config, source) for name, source in config.benchmark.sets.items()}
    answers: dict[str, dict[str, list[Prediction]]] = {name: {} for name in sets}
    for model, path in models.items():
        for name, predictions in score_model(model, path, sets, config, run).items():
            answers[name][model] = predictions
    results = {
        "meta": {"title": run.folder.name, "seed": config.seed, "stages": ", ".join(models)},
        "models": list(models),
        "set_names": list(sets),
        "sets": {name: {model: set_results(rows) for model, rows in found.items()} for name, found in answers.items()},
        "chance": {name: chance(examples) for name, examples in sets.items()},
        "examples": {name: sample_answers(run.folder, name, examples, answers[name]) for name, examples in sets.items()},
    }
    show_answers(sets, answers, config, run)
    write_json(run.folder / "results.json", results)


def score_model(model: str, path: str, sets: dict[str, list[Example]], config: TrainConfig, run: Run) -> dict[str, list[Prediction]]:
    """Greedy answers of one model to every set; answers already on disk are not asked for again."""
    if not sets:
        return {}
    renderer = PromptRenderer.load(config.model, config.prompt, path=path)
    sampler = open_sampler(config.sampler, replace(config.model, path=path), renderer)
    greedy = SamplingParams(temperature=0.0, max_tokens=config.benchmark.max_tokens)
    found = {}
    for name, examples in sets.items():
        settings = {"model": Path(path).name, "prompts": renderer.fingerprint, "max_tokens": greedy.max_tokens}
        log = PredictionLog(run.folder / "scores" / model / name, settings)
        label = f"scoring {model} on {name}"
        found[name] = evaluate_examples(sampler, renderer, examples, greedy, log=log, batch_size=config.benchmark.batch_size, label=label)
    return found


def benchmark_examples(config: TrainConfig, source: str) -> list[Example]:
    """The first `benchmark.limit` examples, in an order drawn by hash, of "<data set>:<split>"."""
    name, _, split = source.partition(":")
    mode = AnswerMode(config.benchmark.mode.value)
    task_set = open_set(config.data.sets[name], split, config.data, config.cold_start, supervised=False, mode=mode)
    order = epoch_order(f"benchmark/{name}/{split}", 0, len(task_set))
    return [task_set.example(int(index), 0) for index in order[: config.benchmark.limit or None]]


def chance(examples: Sequence[Example]) -> float:
    """Share of the questions that guessing among the options gets right."""
    shares = [1 / len(question.options) for example in examples for question in example.questions]
    return sum(shares) / len(shares)


def show_answers(sets: dict[str, list[Example]], answers: dict[str, dict[str, list[Prediction]]], config: TrainConfig, run: Run) -> None:
    """A wandb table of each set: photos, question, truth, and what every model said."""
    tracker = Tracker(config, run)
    for name, examples in sets.items():
        models = list(answers[name])
        texts = {model: {p.uid: p.text for p in rows} for model, rows in answers[name].items()}
        photos = max((len(example.images) for example in examples), default=0)
        rows: list[list[Any]] = []
        for example in examples[: tracker.table_rows]:
            shown = [*example.images, *[None] * (photos - len(example.images))]
            rows += [[*shown, q.text, q.answer_letter, *[texts[model][q.uid] for model in models]] for q in example.questions]
        tracker.table(f"answers/{name}", [*[f"photo {i + 1}" for i in range(photos)], "question", "truth", *models], rows)
    tracker.finish()
