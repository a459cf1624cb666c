"""Gather the runs of a sweep into tables and figures."""

from __future__ import annotations

from pathlib import Path

from actial.config import CollectConfig
from actial.config.hydra_app import hydra_command


def collect(config: CollectConfig) -> None:
    """Read what lies below `config.runs` and write its tables; raises UserError if none."""
    # pandas and matplotlib are imported only once the config is known to be right.
    if config.paper_table:
        from actial.reporting.paper_table import write_paper_table

        print(write_paper_table(Path(config.runs), Path(config.out)))
        return
    if config.submission.model_name:
        from actial.evaluation.easi_submission import write_submission

        print(write_submission(Path(config.runs), Path(config.out), config.submission))
        return
    from actial.reporting.sweep_report import write_sweep_report

    print(write_sweep_report(config))


@hydra_command("collect", folder_key="out", positional="runs")
def main(config: CollectConfig) -> None:
    """python -m actial.collect RUNS_DIR out=DIR [against=CONDITION] [paper_table=true]

    Turns the runs of a sweep into ablation.md, ablation.csv (one line per run),
    tidy.csv (one line per figure) and figures. With paper_table=true RUNS_DIR holds
    evaluations, MODEL/BENCHMARK, and table.md has them beside the paper's tables 1 and
    A1. With submission.model_name=ORG/MODEL RUNS_DIR holds evaluations of EASI-8's
    sets, and easi_results.json and .zip are written.
    """
    collect(config)


if __name__ == "__main__":
    main()
