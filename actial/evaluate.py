"""Ask a model the questions of a set and keep every answer: the one evaluation loop, for training runs, benchmarks and servers."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from actial.config import EvaluateConfig
from actial.config.hydra_app import hydra_command
from actial.core.atomic_io import write_json
from actial.grading.predictions import PredictionLog

# ---------------------------------------------------------------- the command


def evaluate(config: EvaluateConfig) -> None:
    """Answer a benchmark, or named sets, and write predictions.jsonl, scores.json, results.json and report.html into `config.out`.

    Raises:
        UserError: the benchmark's files, the model or the server are not what the config says.
    """
    from actial.evaluation.diagnostics import diagnose
    from actial.evaluation.runners import (
        open_runner,
    )  # torch comes in only once the config is known to be right
    from actial.evaluation.set_results import sample_answers, set_results
    from actial.evaluation.tasks import open_tasks
    from actial.reporting.html_report import write_report

    out = Path(config.out)
    runner = open_runner(config)
    scores: dict[str, Any] = {}
    results: dict[str, Any] = {
        key: {} for key in ("sets", "chance", "diagnostics", "examples", "paper")
    }
    for task in open_tasks(config, runner.limits):
        folder = out if config.benchmark.name else out / task.name
        settings = runner.settings | task.settings
        predictions = runner.ask(
            task.examples, f"{runner.name} on {task.name}", PredictionLog(folder, settings)
        )
        scores[task.name] = task.score(predictions) | {"settings": settings}
        results["sets"][task.name] = {runner.name: set_results(predictions)}
        if task.chance:
            results["chance"][task.name] = task.chance
        results["paper"][task.name] = task.paper(scores[task.name])
        results["examples"][task.name] = sample_answers(
            out, task.name, task.examples, {runner.name: predictions}
        )
        if count := config.benchmark.diagnostics:
            probes = PredictionLog(folder / "diagnostics", settings)
            ask = partial(runner.ask, label=f"diagnostics of {runner.name}", log=probes)
            results["diagnostics"][task.name] = {
                runner.name: diagnose(ask, task.examples[:count], score=runner.score)
            }
    results |= {
        "models": [runner.name],
        "set_names": list(scores),
        "meta": {"title": f"{runner.name} on {', '.join(scores)}"} | runner.settings,
    }
    write_json(
        out / "scores.json", scores[config.benchmark.name] if config.benchmark.name else scores
    )
    write_json(out / "results.json", results)
    print(f"finished: {write_report(out)}")


@hydra_command("evaluate", folder_key="out")
def main(config: EvaluateConfig) -> None:
    """python -m actial.evaluate benchmark=NAME model=NAME [model.path=DIR] [server.url=URL server.model=NAME] out=DIR [key=value ...]

    Scores a checkpoint, or whatever an OpenAI-compatible server serves; the same command again goes on where it stopped.
    """
    evaluate(config)


if __name__ == "__main__":
    main()
