"""Every model of a run on every benchmark set: answers in scores/, figures in results.json, a table of photos in wandb."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from actial.config import EvaluateConfig, TrainConfig
from actial.core.atomic_io import write_json
from actial.core.records import Example, SamplingParams
from actial.evaluation.diagnostics import diagnose
from actial.evaluation.loop import evaluate_examples
from actial.evaluation.runners import open_runner
from actial.evaluation.set_results import sample_answers, set_results
from actial.evaluation.tasks import Task, open_tasks
from actial.grading.metrics import Prediction, accuracy
from actial.grading.predictions import PredictionLog, truth
from actial.inference.samplers import Sampler
from actial.modeling.prompt_renderer import ImageLimits, PromptRenderer
from actial.pipeline.stage_cache import answers_key, reuse_cached_answers
from actial.runs.run_dir import Run
from actial.runs.tracking import Tracker

Answers = dict[str, dict[str, list[Prediction]]]  # task -> model -> one per question


def score_models(models: dict[str, str], config: TrainConfig, run: Run, tracker: Tracker) -> None:
    """Score each model folder of `models` (name -> path) and write results.json, which marks the run as finished."""
    tasks: list[Task] = []
    answers: Answers = {}
    diagnostics: dict[str, dict[str, Any]] = {}
    keys: dict[str, str] = {}
    for model, path in models.items() if asks_anything(config) else ():
        asked = evaluation(config, path)
        runner = open_runner(asked)
        tasks = tasks or open_tasks(asked, runner.limits)
        for task in tasks:
            folder, settings = (
                run.folder / "scores" / model / task.name,
                runner.settings | task.settings,
            )
            keys[f"{model}/{task.name}"] = key = answers_key(settings, config)
            reuse_cached_answers(folder, key, settings, config, run)
            log = PredictionLog(folder, settings)
            answers.setdefault(task.name, {})[model] = runner.ask(
                task.examples, f"scoring {model} on {task.name}", log
            )
            if count := config.benchmark.diagnostics:
                ask = partial(
                    runner.ask,
                    label=f"diagnostics of {model}",
                    log=PredictionLog(folder / "diagnostics", settings),
                )
                diagnostics.setdefault(task.name, {})[model] = diagnose(
                    ask, task.examples[:count], score=runner.score
                )
    examples = {task.name: task.examples for task in tasks}
    results = {
        "meta": {"title": run.folder.name, "seed": config.seed, "stages": ", ".join(models)},
        "models": list(models),
        "set_names": list(answers),
        "sets": {
            name: {model: set_results(rows) for model, rows in found.items()}
            for name, found in answers.items()
        },
        "chance": {name: chance(shown) for name, shown in examples.items()},
        "diagnostics": diagnostics,
        "examples": {
            name: sample_answers(run.folder, name, shown, answers[name])
            for name, shown in examples.items()
        },
    }
    for name, shown in examples.items():
        tracker.table(f"answers/{name}", *answer_table(shown, answers[name], tracker.table_rows))
    run.stamp({"answers": keys})
    write_json(run.folder / "results.json", results)


def evaluation(config: TrainConfig, path: str) -> EvaluateConfig:
    """What actial.evaluate would be told, to score the model folder `path` as this run does."""
    return EvaluateConfig(
        out="",
        seed=config.seed,
        model=replace(config.model, path=path),
        prompt=config.prompt,
        data=config.data,
        benchmark=config.benchmark,
        sampler=config.sampler,
        accelerator=config.trainer.accelerator,
    )


def asks_anything(config: TrainConfig) -> bool:
    return bool(config.benchmark.sets or config.benchmark.name)


def accuracies(
    sampler: Sampler, renderer: PromptRenderer, tasks: Sequence[Task], config: TrainConfig
) -> dict[str, float]:
    """{"scored/<set>/accuracy": share right} of a model in training."""
    greedy = SamplingParams(temperature=0.0, max_tokens=config.benchmark.max_tokens)
    size = config.benchmark.batch_size
    answers = {
        task.name: evaluate_examples(
            sampler,
            renderer,
            task.examples,
            greedy,
            batch_size=size,
            label=f"scoring on {task.name}",
        )
        for task in tasks
    }
    return {
        f"scored/{name}/accuracy": float(accuracy(rows).value) for name, rows in answers.items()
    }


def tasks_of(config: TrainConfig, limits: ImageLimits) -> list[Task]:
    """The benchmark of this run, for scoring during training."""
    return (
        open_tasks(evaluation(config, config.model.path), limits) if asks_anything(config) else []
    )


def chance(examples: Sequence[Example]) -> float:
    """Share of the questions that guessing among the options gets right."""
    shares = [
        1 / len(question.options)
        for example in examples
        for question in example.questions
        if question.options
    ]
    return sum(shares) / max(1, len(shares))


def answer_table(
    examples: Sequence[Example], answers: dict[str, list[Prediction]], count: int
) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows of a table: photos, question, truth, and what every model said."""
    texts = {model: {p.uid: p.text for p in rows} for model, rows in answers.items()}
    photos = max((len(example.images) for example in examples[:count]), default=0)
    rows: list[list[Any]] = []
    for example in examples[:count]:
        shown = [*example.images, *[None] * (photos - len(example.images))]
        rows += [
            [*shown, q.text, truth(example.row, q), *[said[q.uid] for said in texts.values()]]
            for q in example.questions
        ]
    return [*[f"photo {i + 1}" for i in range(photos)], "question", "truth", *texts], rows
