"""Compare two or more models on the same items."""

from __future__ import annotations

from pathlib import Path

from actial.config import CompareConfig
from actial.config.hydra_app import hydra_command

WIDEST = 10_000  # columns


def compare(config: CompareConfig) -> None:
    """Print the comparison of the models, and write it into `config.out` where that is given.

    Raises:
        UserError: a file is missing, or the items are not the same.
    """
    # scipy and matplotlib are imported only once the config is known to be right.
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from actial.evaluation.comparison import compare_models
    from actial.evaluation.protocol import protocol_remarks
    from actial.evaluation.score_files import named_protocols, read_model
    from actial.reporting.comparison_report import HEAD, comparison_rows, write_comparison

    models = [read_model(word, config.task, config.cluster) for word in config.models]
    common = config.items == "common"
    differences = compare_models(models, common=common, resamples=config.resamples)
    table = Table(*HEAD)
    for row in comparison_rows(differences):
        table.add_row(*map(Text, row))  # [x] in a name is no markup
    # A pipe is 80 columns wide, in which 1.5e-08 would be cut to 1.5.
    width = Console(width=WIDEST).measure(table).maximum
    Console(width=max(Console().width, width)).print(table)
    for difference in differences:
        if not difference.task:
            needed = difference.items_needed["0.02"]
            print(f"{difference.a} and {difference.b}: {needed} items show a gain of 2 points")
    remarks = protocol_remarks(named_protocols(models))
    for remark in remarks:
        print(f"warning: {remark}")
    if config.out:
        write_comparison(differences, Path(config.out), remarks)
        print(f"finished: {Path(config.out) / 'comparison.md'}")


@hydra_command("compare", folder_key=None, positional="models[]")
def main(config: CompareConfig) -> None:
    """python -m actial.compare A B [C ...] [out=DIR] [task=KEY] [cluster=KEY] [items=common]

    A, B: predictions.jsonl, its folder, or lmms-eval's *_samples_*.jsonl; files joined by commas
    are the seeds of one condition. Tells which model is better on the same items, or that they are
    tied.
    """
    compare(config)


if __name__ == "__main__":
    main()
