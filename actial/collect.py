"""python -m actial.collect RUNS_DIR out=DIR: the runs of a sweep -> ablation.csv, ablation.md, tidy.csv and figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from actial.config import CollectConfig
from actial.config.hydra_app import hydra_command
from actial.core.atomic_io import write_text

HEADLINE = ("accuracy", "joint")
CURVES = {
    "sft": ("loss",),
    "grpo": (
        "reward",
        "reward/format/mean",
        "reward/accuracy/mean",
        "kl",
        "completions/mean_length",
        "entropy",
    ),
}
DASH = "\N{EN DASH}"
PAPER_MODELS = {
    "base": "Qwen2.5-VL-7B-Instruct",
    "sft": "Actial-7B without G.E.",
    "grpo": "Actial-7B",
}
NOTE = (
    "Means over seeds in percent, in brackets the 95 % bootstrap interval over seeds: with three seeds it reaches from the least to the "
    "greatest and covers about 75 %. `right_of_read` is the share of right answers among those that can be read."
)


def collect(config: CollectConfig) -> None:
    """Read every run below `config.runs` and write its tables. Raises UserError where no run is finished."""
    from actial.reporting import analysis, figures  # pandas and matplotlib
    from actial.runs import run_index

    runs = run_index.load_runs(config.runs)
    table = analysis.tidy(runs)
    done = run_index.finished(runs)
    against = config.against or str(table["arm"].iloc[0])
    differences = analysis.paired(table, against)
    out = Path(config.out)
    (out / "figures").mkdir(parents=True, exist_ok=True)
    means = analysis.summary(table)
    drawn = []
    for metric in HEADLINE:
        if not means[(means["metric"] == metric)].empty:
            chance = done[0].results["chance"] if metric == "accuracy" else {}
            drawn.append(
                figures.save(
                    figures.arm_figure(table, means, metric, chance),
                    out / "figures" / f"{metric}.png",
                )
            )
    for stage, metrics in CURVES.items():
        curves = {
            name: frame for name in metrics if len(frame := analysis.curve(done, stage, name))
        }
        if curves:
            drawn.append(
                figures.save(
                    figures.curve_figure(curves), out / "figures" / f"training_{stage}.png"
                )
            )
    write_text(out / "tidy.csv", table.to_csv(index=False))
    write_text(out / "ablation.csv", analysis.one_row_per_run(table).to_csv(index=False))
    sections = [
        f"# {Path(config.runs).name}",
        f"`python -m actial.collect {config.runs} out={config.out}{f' against={config.against}' if config.against else ''}`",
        _overview(runs, run_index.swept_keys(done)),
        *[_set_section(means, name) for name in dict.fromkeys(means["set"]) if name != "training"],
        _difference_section(differences, against),
        _training_section(means),
        _run_section(table),
        _left_out(runs),
        *[f"![{path.stem.replace('_', ' ')}](figures/{path.name})" for path in drawn],
    ]
    write_text(out / "ablation.md", "\n\n".join(text for text in sections if text) + "\n")
    left = f", {len(runs) - len(done)} unfinished or failed" if len(runs) > len(done) else ""
    print(f"{len(done)} runs{left}: {out / 'ablation.md'}")


# ---------------------------------------------------------------- sections of ablation.md


def markdown(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table; its first column is left-aligned, the others right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines
    )


def figure_text(row: Any, factor: float, signed: bool = False) -> str:
    """A mean and its interval: "43.1 [40.0, 45.2]"."""
    sign, digits = (
        "+" if signed else "",
        1 if factor == 100 else 4 if 0 < abs(row["mean"]) < 0.1 else 2,
    )
    rounded = [
        round(factor * row[name], digits) + 0.0 for name in ("mean", "low", "high")
    ]  # + 0.0: no minus before a zero
    texts = [f"{value:{sign}.{digits}f}".replace("-", "\N{MINUS SIGN}") for value in rounded]
    return texts[0] if row["low"] != row["low"] else f"{texts[0]} [{texts[1]}, {texts[2]}]"


def _overview(runs: Sequence[Any], keys: Sequence[str]) -> str:
    done = [run for run in runs if run.state == "finished"]
    seeds = ", ".join(str(seed) for seed in sorted({run.seed for run in done}))
    what = ", ".join(f"`{key}`" for key in keys) or "nothing but the seed"
    return f"{len(done)} finished runs of {len(runs)}, seeds {seeds}. Swept: {what}. {NOTE}"


def _grid(
    means: Any, metrics: Sequence[str], columns: Sequence[str], column: str
) -> tuple[list[list[str]], list[str]]:
    """Rows arm x metric, one column per value of `column` ("model" or "set"), and the columns that are there."""
    from actial.reporting.figures import scale

    present = [name for name in columns if name in set(means[column])]
    rows = []
    for metric in metrics:
        part = means[means["metric"] == metric]
        for arm in dict.fromkeys(part["arm"]):
            cells = {
                name: row
                for name in present
                for _, row in part[(part["arm"] == arm) & (part[column] == name)].iterrows()
            }
            shown = [
                figure_text(cells[name], scale(metric)) if name in cells else DASH
                for name in present
            ]
            rows.append(
                [
                    arm,
                    metric,
                    str(max((int(row["seeds"]) for row in cells.values()), default=0)),
                    *shown,
                ]
            )
    return rows, present


def _set_section(means: Any, name: str) -> str:
    here = means[means["set"] == name]
    rows, models = _grid(
        here, (*HEADLINE, "right_of_read", "unparsed"), list(dict.fromkeys(here["model"])), "model"
    )
    paper = _paper_row(name, models)
    return f"## {name}\n\n" + markdown(["arm", "metric", "seeds", *models], [*rows, *paper])


def _paper_row(name: str, models: Sequence[str]) -> list[list[str]]:
    """The paper's 7B figures on its own Viewpoint-100K test, under ours on view pairs: directions compare, levels do not.

    Only where SFT stands between the two others, as in the paper: GRPO straight from the base, or from a trained "base", is another thing.
    """
    if "sft" not in models:
        return []
    from actial.evaluation.benchmark_results import PAPER_COLUMNS
    from actial.evaluation.benchmarks.reference import table

    source = {"viewpoint": "viewpoint", "viewpoint_100k": "viewpoint", "mmsi": "table_a1"}.get(name)
    if source is None:
        return []
    column = "Avg" if source == "table_a1" else next(iter(PAPER_COLUMNS["viewpoint_100k"]))
    rows = table(source).rows
    shown = [rows.get(PAPER_MODELS.get(model, ""), {}).get(column) for model in models]
    return [
        [
            "*paper, 7B, its own data*",
            "accuracy",
            DASH,
            *[DASH if value is None else f"{value:.1f}" for value in shown],
        ]
    ]


def _difference_section(differences: Any, against: str) -> str:
    from actial.reporting.figures import scale

    asked = differences["metric"].isin(HEADLINE) & (differences["set"] != "training")
    shown = differences[
        asked & (differences[["mean", "low", "high"]] != 0).any(axis=1)
    ]  # the base is the same in every arm
    if shown.empty:
        return ""

    rows = [
        [
            row["arm"],
            row["set"],
            row["model"],
            row["metric"],
            row["seeds"],
            figure_text(row, scale(row["metric"]), signed=True),
        ]
        for _, row in shown.iterrows()
    ]
    head = ["arm", "set", "model", "metric", "pairs of runs", "difference"]
    return f"## Differences from {against}, at equal seeds\n\n" + markdown(head, rows)


def _training_section(means: Any) -> str:
    here = means[means["set"] == "training"]
    if here.empty:
        return ""
    rows, stages = _grid(
        here, list(dict.fromkeys(here["metric"])), list(dict.fromkeys(here["model"])), "model"
    )
    text = (
        "Means of the last tenth of the steps; `.._rise` is the mean of the second half less that of the first, `.._late` the median of "
        "the last quarter less that of the one before; `drop_step` is where the supervised loss falls from its plateau, where it does."
    )
    return f"## Training\n\n{text}\n\n" + markdown(["arm", "metric", "seeds", *stages], rows)


def _run_section(table: Any) -> str:
    wide = table.drop_duplicates("run")
    last = (
        table[(table["metric"] == "accuracy") & (table["set"] != "training")]
        .groupby(["run", "set"], sort=False)
        .last()
    )
    sets = list(dict.fromkeys(last.index.get_level_values("set")))
    rows = []
    for _, run in wide.iterrows():
        cells = [
            _with_questions(last.loc[(run["run"], name)])
            if (run["run"], name) in last.index
            else DASH
            for name in sets
        ]
        rows.append(
            [
                f"`{run['run']}`",
                run["seed"],
                *cells,
                *[run[name] for name in ("data", "commit", "config", "log")],
            ]
        )
    text = "The last model's accuracy in percent, in brackets the 95 % interval over the questions asked; then what each run rests on."
    return f"## Runs\n\n{text}\n\n" + markdown(
        ["run", "seed", *sets, "data", "commit", "config", "log"], rows
    )


def _with_questions(row: Any) -> str:
    return f"{100 * row['value']:.1f} [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"


def _left_out(runs: Sequence[Any]) -> str:
    left = [
        [
            f"`{run.name}`",
            run.state,
            run.reason or "stopped before its end; the same command goes on",
        ]
        for run in runs
        if run.state != "finished"
    ]
    return "## Left out\n\n" + markdown(["run", "state", "why"], left) if left else ""


# ---------------------------------------------------------------- command line


@hydra_command("collect", folder_key="out", positional="runs")
def main(config: CollectConfig) -> None:
    """python -m actial.collect RUNS_DIR out=DIR [against=CONDITION]

    Turns the runs of a sweep into ablation.md, ablation.csv (one line per run), tidy.csv (one line per figure) and figures.
    """
    collect(config)


if __name__ == "__main__":
    main()
