"""Ask a scored model again: control conditions and diagnostics, no question twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from actial.config import BenchmarkConfig
from actial.core.records import Example
from actial.evaluation.controls import measure_controls, turning_examples
from actial.evaluation.diagnostics import Answer, diagnose
from actial.evaluation.results import Controls, Diagnostics
from actial.evaluation.runners import Runner
from actial.evaluation.tasks import Task
from actial.grading.metrics import Prediction
from actial.grading.predictions import PredictionLog

MIN_QUESTIONS = 100  # of a set's diagnostics, where it has them


@dataclass(slots=True)
class Probed:
    """What further questions told of a model; None where nothing was asked or applies."""

    controls: Controls | None = None
    diagnostics: Diagnostics | None = None


def probe(
    runner: Runner,
    task: Task,
    predictions: Sequence[Prediction],
    config: BenchmarkConfig,
    folder: Path,
) -> Probed:
    """Run the control conditions and the diagnostics that the config asks for.

    Args:
        runner: asks the model.
        task: the set.
        predictions: the model's answers to the whole set.
        config: how many questions and examples.
        folder: of the set's predictions; the further answers go to its folder "diagnostics".
    """
    probed = Probed()
    if not (config.controls or config.diagnostics):
        return probed
    log = PredictionLog(folder / "diagnostics", runner.settings | task.settings)
    log.done |= {p.uid: p for p in predictions}

    def asking(what: str) -> Answer:
        def ask(examples: Sequence[Example], condition: str) -> list[Prediction]:
            label = f"{what} of {runner.name} on {task.name}, {condition}"
            return runner.ask(examples, label, log)

        return ask

    if config.controls:
        ask = asking("controls")
        probed.controls = measure_controls(ask, task, predictions, config.controls)
    if config.diagnostics:
        indices = turning_examples(task, config.diagnostics, MIN_QUESTIONS)
        examples = [task.examples[i] for i in indices]
        probed.diagnostics = diagnose(asking("diagnostics"), examples, score=runner.score)
    return probed
