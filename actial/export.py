"""Write a benchmark in another harness's form, a run as a model card, an adapter as a model."""

from __future__ import annotations

from pathlib import Path

from actial.config import ExportConfig, ExportFormat
from actial.config.hydra_app import hydra_command
from actial.core.atomic_io import write_text
from actial.core.errors import UserError
from actial.runs.run_dir import CONFIG, read_settings


def export(config: ExportConfig) -> None:
    """Write OUT/NAME.tsv, the task folder OUT, OUT/README.md, or the model folder OUT.

    Raises:
        UserError: the benchmark, run, adapter or certificate is not there, or a benchmark has
            open answers that the form cannot hold.
    """
    if config.format is ExportFormat.model_card:
        _export_model_card(Path(config.run_dir), Path(config.out), config.certificate)
    elif config.format is ExportFormat.merged:
        _export_merged(config.adapter, Path(config.out))
    else:
        _export_benchmark(config, Path(config.out))


def _export_model_card(run_dir: Path, out: Path, certificate: str) -> None:
    from actial.evaluation.audit.certificate import Certificate
    from actial.evaluation.model_card import model_card
    from actial.evaluation.results import Results
    from actial.modeling.adapter_folder import base_of, is_adapter

    if not (run_dir / "results.json").is_file():
        raise UserError(f"run_dir={run_dir} has no results.json: give a finished run.")
    results = Results.read(run_dir)
    stage = out.resolve().parent.name  # of RUN/sft/model and RUN/sft/adapter
    model = stage if stage in results.models else results.models[-1]
    audit = Certificate.read(Path(certificate)) if certificate else None
    if is_adapter(out):
        card = model_card(results, model, base_of(out)[0], "peft", audit)
    else:
        card = model_card(results, model, _base_model(run_dir), audit=audit)
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "README.md", card)


def _export_merged(adapter: str, out: Path) -> None:
    """Write the adapter's base with the adapter merged, float32, and its actial.json."""
    from actial.config import ModelConfig
    from actial.modeling.adapter_folder import is_adapter
    from actial.modeling.policy import Policy
    from actial.modeling.saved_settings import FILE

    if not is_adapter(adapter):
        raise UserError(f"adapter={adapter} has no adapter_config.json: give a PEFT folder.")
    if out.exists():
        raise UserError(f"out={out} exists: give a new folder.")
    saved = Path(adapter) / FILE
    extra = {FILE: saved.read_text(encoding="utf-8")} if saved.is_file() else None
    Policy.load(ModelConfig(path=adapter)).save_pretrained(out, extra)


def _base_model(run_dir: Path) -> str | None:
    """Return the hub id or folder that a training run started from; None for an evaluation."""
    if not (run_dir / CONFIG).is_file():
        return None
    return str(read_settings(run_dir)["model"]["path"])


def _export_benchmark(config: ExportConfig, out: Path) -> None:
    from actial.evaluation.benchmark_results import open_benchmark
    from actial.evaluation.harness_io import export_lmms, export_vlmeval, lmms_style

    benchmark, _, items = open_benchmark(config.benchmark)
    name = f"actial_{benchmark.name}"  # the harnesses download a registered name again
    if config.format is ExportFormat.vlmeval:
        export_vlmeval(items, out / f"{name}.tsv")
    else:
        style = lmms_style(config.benchmark, benchmark)
        export_lmms(items, out, name, style, config.benchmark.max_tokens)


@hydra_command("export", folder_key="out")
def main(config: ExportConfig) -> None:
    """python -m actial.export benchmark=NAME benchmark.root=DIR format=vlmeval|lmms_eval out=DIR

    python -m actial.export format=model_card run_dir=RUN out=DIR [certificate=FILE]

    python -m actial.export format=merged adapter=RUN/grpo/adapter out=DIR
    """
    export(config)


if __name__ == "__main__":
    main()
