"""Gather the runs of a sweep into tables and figures."""

from __future__ import annotations

from actial.config import CollectConfig
from actial.config.hydra_app import hydra_command


def collect(config: CollectConfig) -> None:
    """Read every run below `config.runs` and write its tables; raises UserError if none is finished."""
    from actial.reporting.sweep_report import write_sweep_report  # imports pandas and matplotlib

    print(write_sweep_report(config))


@hydra_command("collect", folder_key="out", positional="runs")
def main(config: CollectConfig) -> None:
    """python -m actial.collect RUNS_DIR out=DIR [against=CONDITION]

    Turns the runs of a sweep into ablation.md, ablation.csv (one row per run), tidy.csv (one row
    per figure) and figures.
    """
    collect(config)


if __name__ == "__main__":
    main()
