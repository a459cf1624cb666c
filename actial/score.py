"""python -m actial.score benchmark=NAME predictions=FILE out=DIR: scores of answers that were made elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from actial.config import ScoreConfig
from actial.config.hydra_app import hydra_command
from actial.core.atomic_io import write_json


def score(config: ScoreConfig) -> None:
    """Grade the answers of a predictions file against the benchmark's own files and write scores.json and report.html.

    Ours are graded anew from their raw text, so a change of the reader (`compat`) needs no model.

    Raises:
        UserError: an unknown file form, missing or doubled answers, or files of the benchmark that are missing or changed.
    """
    from actial.evaluation.benchmark_examples import as_example
    from actial.evaluation.benchmark_results import benchmark_scores, beside_paper, open_benchmark
    from actial.evaluation.benchmarks.base import Style
    from actial.evaluation.harness_io import read_answers
    from actial.evaluation.set_results import set_results
    from actial.grading.predictions import predict
    from actial.reporting.html_report import write_report

    benchmark, source, items = open_benchmark(config.benchmark)
    path, out = Path(config.predictions), Path(config.out)
    answers = read_answers(path, items)
    asked = [as_example(item, Style.LETTER, []) for item in items]  # grading looks at options only
    graded = [predict(e, e.questions[0], *answers[e.uid], compat=config.compat) for e in asked]
    scores = benchmark_scores(benchmark, source, graded, partial=bool(config.benchmark.limit)) | {
        "compat": config.compat
    }
    results: dict[str, Any] = {
        "meta": {"title": f"{path.name} on {benchmark.name}", "answers read as": config.compat},
        "sets": {benchmark.name: {path.stem: set_results(graded)}},
        "paper": {benchmark.name: beside_paper(benchmark.name, scores)},
    }
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "scores.json", scores)
    write_json(out / "results.json", results)
    print(f"finished: {write_report(out)}")


@hydra_command("score", folder_key="out")
def main(config: ScoreConfig) -> None:
    """python -m actial.score benchmark=NAME benchmark.root=DIR predictions=FILE out=DIR [compat=MODE] [key=value ...]

    FILE: our predictions.jsonl, lmms-eval's *_samples_*.jsonl, or VLMEvalKit's predictions as .xlsx, .tsv or .json.
    """
    score(config)


if __name__ == "__main__":
    main()
