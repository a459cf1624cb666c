"""Score answers that were made elsewhere, without a model."""

from __future__ import annotations

from pathlib import Path

from actial.config import ScoreConfig
from actial.config.hydra_app import hydra_command
from actial.core.sealed_files import write_sealed_json


def score(config: ScoreConfig) -> None:
    """Grade a predictions file; write scores.json and report.html.

    Our own predictions are graded anew from their raw text, so another reader (`compat`) needs no
    model.

    Raises:
        UserError: an unknown file form, missing or doubled answers, or files of the benchmark that
            are missing or changed.
    """
    from actial.evaluation.benchmark_examples import as_example
    from actial.evaluation.benchmark_results import (
        asks_published_items,
        benchmark_scores,
        benchmark_settings,
        beside_paper,
        open_benchmark,
    )
    from actial.evaluation.benchmarks.base import Style
    from actial.evaluation.easi import easi_answers, easi_scores
    from actial.evaluation.easi_submission import write_easi_answers
    from actial.evaluation.harness_answers import read_answers
    from actial.evaluation.protocol import protocol_of_file, with_protocol
    from actial.evaluation.results import Results
    from actial.evaluation.set_results import set_results
    from actial.grading.predictions import predict
    from actial.reporting.html_report import write_report

    benchmark, source, items = open_benchmark(config.benchmark)
    path, out = Path(config.predictions), Path(config.out)
    answers = read_answers(path, items)
    # Grading looks at the options only, so the images are not loaded.
    examples = [as_example(item, Style.LETTER, []) for item in items]
    predictions = [
        predict(example, example.questions[0], *answers[example.uid], compat=config.compat)
        for example in examples
    ]
    partial = bool(config.benchmark.limit)
    scores = benchmark_scores(benchmark, source, predictions, partial=partial)
    if asks_published_items(config.benchmark, benchmark):
        scores.easi = easi_scores(benchmark.name, items, predictions)
    settings = benchmark_settings(config.benchmark, benchmark, source)
    protocol = protocol_of_file(path.parent, settings, config.compat)
    paper = beside_paper(benchmark.name, scores)
    title = f"{path.name} on {benchmark.name}"
    results = Results(
        meta={"title": title, "answers read as": config.compat},
        models=[path.stem],
        set_names=[benchmark.name],
        sets={benchmark.name: {path.stem: set_results(predictions, protocol=protocol)}},
        paper={benchmark.name: paper} if paper else {},
    )
    out.mkdir(parents=True, exist_ok=True)
    if scores.easi:
        write_easi_answers(out, easi_answers(benchmark.name, items, predictions))
    content = with_protocol(scores.to_json(), protocol)
    write_sealed_json(out / "scores.json", content | {"compat": config.compat})
    results.write(out)
    print(f"finished: {write_report(out)}")


@hydra_command("score", folder_key="out")
def main(config: ScoreConfig) -> None:
    """python -m actial.score benchmark=NAME benchmark.root=DIR predictions=FILE out=DIR

    FILE: our predictions.jsonl, lmms-eval's *_samples_*.jsonl, or VLMEvalKit's predictions as
    .xlsx, .tsv or .json.
    """
    score(config)


if __name__ == "__main__":
    main()
