"""Scores of every model of a run on every benchmark set: scores/ and results.json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from actial.config import EvaluateConfig, TrainConfig
from actial.core.records import Example, SamplingParams
from actial.evaluation.loop import evaluate_examples
from actial.evaluation.probing import probe
from actial.evaluation.protocol import Protocol, protocol_of, write_protocol
from actial.evaluation.results import Controls, Diagnostics, Results, SetResult
from actial.evaluation.runners import Runner, open_runner
from actial.evaluation.set_results import sample_answers, set_results
from actial.evaluation.tasks import Task, open_tasks
from actial.grading.metrics import Prediction, accuracy
from actial.grading.predictions import PredictionLog, truth
from actial.inference.open_sampler import close_engines
from actial.inference.samplers import Sampler
from actial.modeling.prompt_renderer import ImageLimits, PromptRenderer
from actial.pipeline.stage_cache import answers_key, reuse_cached_answers
from actial.runs.run_dir import Run
from actial.runs.tracking import Tracker

Answers = dict[str, dict[str, list[Prediction]]]  # task -> model -> one per question


def score_models(
    models: dict[str, str], config: TrainConfig, run: Run, tracker: Tracker
) -> None:
    """Score each model folder of `models` (name -> path) and write results.json.

    results.json marks the run as finished, so it is written last.
    """
    if config.sampler.adapter_sync:
        close_engines()  # one with adapters cannot take the merged models' weights
    tasks: list[Task] = []
    answers: Answers = {}
    controls: dict[str, dict[str, Controls]] = {}
    diagnostics: dict[str, dict[str, Diagnostics]] = {}
    keys: dict[str, str] = {}
    protocols: dict[str, dict[str, Protocol]] = {}
    for model, path in models.items() if has_benchmark(config) else ():
        settings = evaluation(config, path)
        runner = open_runner(settings)
        tasks = tasks or open_tasks(settings, runner.limits)
        for task in tasks:
            key = answers_key(runner.settings | task.settings, config)
            keys[f"{model}/{task.name}"] = key
            predictions = _answers(runner, model, task, key, config, run)
            answers.setdefault(task.name, {})[model] = predictions
            folder = run.folder / "scores" / model / task.name
            protocol = protocol_of(runner.settings | task.settings, task.prompt)
            write_protocol(folder, protocol)
            protocols.setdefault(task.name, {})[model] = protocol
            probed = probe(runner, task, predictions, config.benchmark, folder)
            if probed.controls:
                controls.setdefault(task.name, {})[model] = probed.controls
            if probed.diagnostics:
                diagnostics.setdefault(task.name, {})[model] = probed.diagnostics
    examples = {task.name: task.examples for task in tasks}
    results = Results(
        meta={"title": run.folder.name, "seed": config.seed, "stages": ", ".join(models)},
        models=list(models),
        set_names=list(answers),
        sets={name: _set_results(answers[name], protocols[name]) for name in answers},
        chance={name: chance(of_set) for name, of_set in examples.items()},
        controls=controls,
        diagnostics=diagnostics,
        examples={
            name: sample_answers(run.folder, name, of_set, answers[name])
            for name, of_set in examples.items()
        },
    )
    for name, of_set in examples.items():
        columns, rows = answer_table(of_set, answers[name], tracker.max_table_rows)
        tracker.table(f"answers/{name}", columns, rows)
    tracker.scores(results)
    run.add_provenance({"answers": keys})
    results.write(run.folder)


def _answers(
    runner: Runner, model: str, task: Task, key: str, config: TrainConfig, run: Run
) -> list[Prediction]:
    """Return a model's graded answers to a set, those of another run where they are the same."""
    folder = run.folder / "scores" / model / task.name
    settings = runner.settings | task.settings
    reuse_cached_answers(folder, key, settings, config, run)
    log = PredictionLog(folder, settings)
    return runner.ask(task.examples, f"scoring {model} on {task.name}", log)


def _set_results(
    by_model: dict[str, list[Prediction]], protocols: dict[str, Protocol]
) -> dict[str, SetResult]:
    return {
        model: set_results(predictions, protocol=protocols[model])
        for model, predictions in by_model.items()
    }


def evaluation(config: TrainConfig, path: str) -> EvaluateConfig:
    """Return the settings of actial.evaluate that score the folder `path` as this run does."""
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


def has_benchmark(config: TrainConfig) -> bool:
    """Return whether the run scores its models on anything."""
    benchmark = config.benchmark
    return bool(benchmark.sets or benchmark.name or benchmark.suite)


def accuracies(
    sampler: Sampler, renderer: PromptRenderer, tasks: Sequence[Task], config: TrainConfig
) -> dict[str, float]:
    """Return {"scored/<set>/accuracy": share of correct answers} of a model in training."""
    greedy = SamplingParams(temperature=0.0, max_tokens=config.benchmark.max_tokens)
    figures: dict[str, float] = {}
    for task in tasks:
        predictions = evaluate_examples(
            sampler,
            renderer,
            task.examples,
            greedy,
            batch_size=config.benchmark.batch_size,
            label=f"scoring on {task.name}",
        )
        figures[f"scored/{task.name}/accuracy"] = float(accuracy(predictions).value)
    return figures


def tasks_of(config: TrainConfig, limits: ImageLimits) -> list[Task]:
    """Return the benchmark of this run, for scoring during training; [] without one."""
    if not has_benchmark(config):
        return []
    return open_tasks(evaluation(config, config.model.path), limits)


def chance(examples: Sequence[Example]) -> float:
    """Return the share of questions that guessing among the options answers correctly."""
    questions = [question for example in examples for question in example.questions]
    shares = [1 / len(question.options) for question in questions if question.options]
    return sum(shares) / max(1, len(shares))


def answer_table(
    examples: Sequence[Example], answers: dict[str, list[Prediction]], count: int
) -> tuple[list[str], list[list[Any]]]:
    """Return columns and rows of a table: images, question, truth, every model's answer."""
    texts = {
        model: {p.uid: p.text for p in predictions} for model, predictions in answers.items()
    }
    num_images = max((len(example.images) for example in examples[:count]), default=0)
    rows: list[list[Any]] = []
    for example in examples[:count]:
        images = [*example.images, *[None] * (num_images - len(example.images))]
        for question in example.questions:
            replies = [by_uid[question.uid] for by_uid in texts.values()]
            rows.append([*images, question.text, truth(example.record, question), *replies])
    return [*_image_columns(num_images), "question", "truth", *texts], rows


def _image_columns(count: int) -> list[str]:
    return [f"photo {i + 1}" for i in range(count)]
