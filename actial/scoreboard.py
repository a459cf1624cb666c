"""Every model of a run on every benchmark set: answers in scores/, figures in results.json, a table of pictures in wandb."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from actial.callbacks import Tracker
from actial.config import LoraConfig, SamplerConfig, SamplerKind, TrainConfig
from actial.data.examples import open_set
from actial.data.order import epoch_order
from actial.errors import UserError
from actial.evaluate import evaluate_examples
from actial.files import write_json
from actial.grpo.sampler import HFSampler, Sampler
from actial.policy import Policy
from actial.predictions import PredictionLog
from actial.rendering import PromptRenderer
from actial.report import sample_answers, set_results
from actial.runs import Run
from actial.scoring import Prediction, accuracy
from actial.types import AnswerMode, Example, SamplingParams

Sets = dict[str, list[Example]]


def score_models(models: dict[str, str], config: TrainConfig, run: Run, tracker: Tracker) -> None:
    """Score each model folder of `models` (name -> path) and write results.json, which marks the run as finished."""
    sets = benchmark_sets(config)
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
    for name, examples in sets.items():
        tracker.table(f"answers/{name}", *answer_table(examples, answers[name], tracker.table_rows))
    write_json(run.folder / "results.json", results)


def score_model(model: str, path: str, sets: Sets, config: TrainConfig, run: Run) -> dict[str, list[Prediction]]:
    """Greedy answers of one model to every set; answers already on disk are not asked for again."""
    if not sets:
        return {}
    renderer = PromptRenderer.load(config.model, config.prompt, path=path)
    policy = Policy.load(replace(config.model, path=path, lora=LoraConfig()))  # a stage's model folder has its adapters merged
    sampler = open_sampler(config.sampler, policy, renderer)
    settings = {"prompts": renderer.fingerprint, "max_tokens": config.benchmark.max_tokens, "mode": config.benchmark.mode.value}
    logs = {name: PredictionLog(run.folder / "scores" / model / name, settings) for name in sets}
    return {name: ask(sampler, renderer, sets[name], config, f"scoring {model} on {name}", logs[name]) for name in sets}


def ask(
    sampler: Sampler, renderer: PromptRenderer, examples: list[Example], config: TrainConfig, label: str, log: PredictionLog | None = None
) -> list[Prediction]:
    greedy = SamplingParams(temperature=0.0, max_tokens=config.benchmark.max_tokens)
    return evaluate_examples(sampler, renderer, examples, greedy, log=log, batch_size=config.benchmark.batch_size, label=label)


def accuracies(sampler: Sampler, renderer: PromptRenderer, sets: Sets, config: TrainConfig) -> dict[str, float]:
    """{"scored/<set>/accuracy": share right} of a model in training."""
    answers = {name: ask(sampler, renderer, examples, config, f"scoring on {name}") for name, examples in sets.items()}
    return {f"scored/{name}/accuracy": float(accuracy(rows).value) for name, rows in answers.items()}


def open_sampler(config: SamplerConfig, policy: Policy, renderer: PromptRenderer) -> Sampler:
    """The sampler of `config.kind` for these weights."""
    if config.kind is not SamplerKind.hf:
        raise UserError(f"sampler.kind={config.kind.value} cannot be opened here: use sampler=hf.")
    return HFSampler(policy, stop_ids=[renderer.stop_id], banned_ids=renderer.banned_ids, batch_size=config.batch_size)


def benchmark_sets(config: TrainConfig) -> Sets:
    return {name: benchmark_examples(config, source) for name, source in config.benchmark.sets.items()}


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


def answer_table(examples: list[Example], answers: dict[str, list[Prediction]], count: int) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows of a table: photos, question, truth, and what every model said."""
    texts = {model: {p.uid: p.text for p in rows} for model, rows in answers.items()}
    photos = max((len(example.images) for example in examples), default=0)
    rows: list[list[Any]] = []
    for example in examples[:count]:
        shown = [*example.images, *[None] * (photos - len(example.images))]
        rows += [[*shown, q.text, q.answer_letter, *[said[q.uid] for said in texts.values()]] for q in example.questions]
    return [*[f"photo {i + 1}" for i in range(photos)], "question", "truth", *texts], rows
