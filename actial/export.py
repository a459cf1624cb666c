"""Write a benchmark in another harness's form, or a run as a model card."""

from __future__ import annotations

from pathlib import Path

from actial.config import ExportConfig, ExportFormat
from actial.config.hydra_app import hydra_command
from actial.core.atomic_io import write_text
from actial.core.errors import UserError
from actial.runs.run_dir import CONFIG, read_settings


def export(config: ExportConfig) -> None:
    """Write OUT/NAME.tsv, the task folder OUT, or OUT/README.md.

    Raises:
        UserError: the benchmark or the run is not there, or has open answers that the form cannot
            hold.
    """
    if config.format is ExportFormat.model_card:
        _export_model_card(Path(config.run_dir), Path(config.out))
    else:
        _export_benchmark(config, Path(config.out))


def _export_model_card(run_dir: Path, out: Path) -> None:
    from actial.evaluation.model_card import model_card
    from actial.evaluation.results import Results

    if not (run_dir / "results.json").is_file():
        raise UserError(f"run_dir={run_dir} has no results.json: give a finished run.")
    results = Results.read(run_dir)
    out.mkdir(parents=True, exist_ok=True)
    write_text(
        out / "README.md", model_card(results, results.models[-1], _base_model(run_dir))
    )


def _base_model(run_dir: Path) -> str | None:
    """Return the hub id or folder that a training run started from; None for an evaluation."""
    if not (run_dir / CONFIG).is_file():
        return None
    return str(read_settings(run_dir)["model"]["path"])


def _export_benchmark(config: ExportConfig, out: Path) -> None:
    from actial.evaluation.benchmark_results import open_benchmark, style_of
    from actial.evaluation.harness_io import export_lmms, export_vlmeval

    benchmark, _, items = open_benchmark(config.benchmark)
    name = f"actial_{benchmark.name}"  # the harnesses download a registered name again
    if config.format is ExportFormat.vlmeval:
        export_vlmeval(items, out / f"{name}.tsv")
    else:
        style = style_of(config.benchmark, benchmark)
        export_lmms(items, out, name, style, config.benchmark.max_tokens)


@hydra_command("export", folder_key="out")
def main(config: ExportConfig) -> None:
    """python -m actial.export benchmark=NAME benchmark.root=DIR format=vlmeval|lmms_eval out=DIR

    python -m actial.export format=model_card run_dir=RUN out=DIR
    """
    export(config)


if __name__ == "__main__":
    main()
