"""python -m actial.export benchmark=NAME format=FORMAT out=DIR: a benchmark for another harness, or a run as a model card."""

from __future__ import annotations

import json
from pathlib import Path

from actial.config import ExportConfig, ExportFormat
from actial.config.hydra_app import hydra_command
from actial.core.atomic_io import write_text
from actial.core.errors import UserError
from actial.runs.run_dir import CONFIG, read_settings


def export(config: ExportConfig) -> None:
    """Write OUT/NAME.tsv, the task folder OUT, or OUT/README.md.

    Raises:
        UserError: the benchmark or the run is not there, or has open answers that the form cannot hold.
    """
    from actial.evaluation.benchmark_results import open_benchmark, style_of
    from actial.evaluation.harness_io import export_lmms, export_vlmeval, model_card

    out = Path(config.out)
    if config.format is ExportFormat.model_card:
        path = Path(config.run_dir) / "results.json"
        if not path.is_file():
            raise UserError(f"run_dir={config.run_dir} has no results.json: give a finished run.")
        results = json.loads(path.read_text())
        models = results.get("models") or list(next(iter(results["sets"].values())))
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / "README.md", model_card(results, models[-1], _base(Path(config.run_dir))))
        return
    benchmark, _, items = open_benchmark(config.benchmark)
    if config.format is ExportFormat.vlmeval:
        export_vlmeval(
            items, out / f"actial_{benchmark.name}.tsv"
        )  # a registered name would be downloaded again
    else:
        export_lmms(
            items,
            out,
            f"actial_{benchmark.name}",
            style_of(config.benchmark, benchmark),
            config.benchmark.max_tokens,
        )


def _base(run_dir: Path) -> str | None:
    """The hub id or folder that a training run started from; None for an evaluation, which does not know it."""
    if not (run_dir / CONFIG).is_file():
        return None
    return str(read_settings(run_dir)["model"]["path"])


@hydra_command("export", folder_key="out")
def main(config: ExportConfig) -> None:
    """python -m actial.export benchmark=NAME benchmark.root=DIR format=vlmeval|lmms_eval out=DIR

    python -m actial.export format=model_card run_dir=RUN out=DIR
    """
    export(config)


if __name__ == "__main__":
    main()
