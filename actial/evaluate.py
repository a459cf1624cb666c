"""Score a checkpoint or a served model on a benchmark or on built sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from actial.config import EvaluateConfig
from actial.config.hydra_app import hydra_command
from actial.core.sealed_files import write_sealed_json


def evaluate(config: EvaluateConfig) -> None:
    """Answer the questions and write predictions.jsonl, scores.json, results.json and report.html.

    A suite has a folder per set, and EASI's submission files where `config.submission` names a
    model.

    Raises:
        UserError: the benchmark's files, the model or the server are not what the config says.
    """
    # torch is imported only once the config is known to be right.
    from actial.evaluation.easi import total_text
    from actial.evaluation.easi_submission import write_easi_answers, write_suite
    from actial.evaluation.probing import probe
    from actial.evaluation.protocol import freeze_protocol, protocol_of, with_protocol
    from actial.evaluation.results import BenchmarkScores, Results
    from actial.evaluation.runners import open_runner
    from actial.evaluation.set_results import sample_answers, set_results
    from actial.evaluation.tasks import open_tasks
    from actial.grading.predictions import PredictionLog
    from actial.modeling.saved_settings import with_saved_settings
    from actial.reporting.html_report import write_report

    config = with_saved_settings(config)
    out = Path(config.out)
    runner = open_runner(config)
    model = runner.name
    tasks = open_tasks(config, runner.limits)
    names = [task.name for task in tasks]
    meta = {"title": f"{model} on {', '.join(names)}"} | runner.settings
    results = Results(meta=meta, models=[model], set_names=names, sets={})
    scores: dict[str, Any] = {}
    for task in tasks:
        folder = out if config.benchmark.name else out / task.name
        settings = runner.settings | task.settings
        log = PredictionLog(folder, settings)
        protocol = freeze_protocol(folder, protocol_of(settings, task.prompt))
        predictions = runner.ask(task.examples, f"{model} on {task.name}", log)
        task_scores = task.score(predictions)
        paper = task.paper(task_scores)
        if isinstance(task_scores, BenchmarkScores):
            task_scores = task_scores.to_json()
        scores[task.name] = with_protocol(task_scores, protocol) | {"settings": settings}
        if answers := task.easi(predictions):
            write_easi_answers(folder, answers)
        results.sets[task.name] = {model: set_results(predictions, protocol=protocol)}
        if task.chance:
            results.chance[task.name] = task.chance
        if paper:
            results.paper[task.name] = paper
        results.examples[task.name] = sample_answers(
            out, task.name, task.examples, {model: predictions}
        )
        probed = probe(runner, task, predictions, config.benchmark, folder)
        if probed.controls:
            results.controls[task.name] = {model: probed.controls}
        if probed.diagnostics:
            results.diagnostics[task.name] = {model: probed.diagnostics}
    published = config.benchmark.name
    if config.benchmark.suite:
        total = write_suite(out, scores, config.submission)
        scores[config.benchmark.suite] = total
        results.meta["EASI-8"] = total_text(total)
    write_sealed_json(out / "scores.json", scores[published] if published else scores)
    results.write(out)
    print(f"finished: {write_report(out)}")


@hydra_command("evaluate", folder_key="out", plus=("paper_model",))
def main(config: EvaluateConfig) -> None:
    """python -m actial.evaluate benchmark=NAME model=NAME out=DIR [key=value ...]

    Scores a checkpoint (model.path=DIR), or whatever an OpenAI-compatible
    server serves (server.url=URL server.model=NAME). The same command again
    goes on where it stopped.
    """
    evaluate(config)


if __name__ == "__main__":
    main()
