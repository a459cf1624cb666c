"""Write the runs of a sweep as ablation.md, ablation.csv, tidy.csv and figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from actial.config import CollectConfig
from actial.core.atomic_io import write_text
from actial.evaluation.benchmark_results import PAPER_COLUMNS
from actial.evaluation.benchmarks.reference import table as reference_table
from actial.evaluation.protocol import Protocol, protocol_remarks
from actial.reporting import analysis, figures, seed_statistics
from actial.reporting.csv_text import csv_text
from actial.reporting.figures import scale
from actial.reporting.seed_statistics import TRAINING_SET
from actial.runs import run_index
from actial.runs.run_index import RunRecord

HEADLINE = ("accuracy", "all_correct")
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
    "Means over seeds in percent, in brackets the 95 % bootstrap interval over seeds: with three "
    "seeds it "
    "reaches from the least to the greatest and covers about 75 %. `accuracy_of_parsed` is the "
    "share of "
    "correct answers among those that can be read."
)


def write_sweep_report(config: CollectConfig) -> str:
    """Read every run below `config.runs` and write its tables and figures into `config.out`.

    Returns:
        What was written, as one line.

    Raises:
        UserError: no run is finished, or `config.against` is no condition of the runs.
    """
    runs = run_index.load_runs(config.runs)
    table = analysis.tidy(runs)
    done = run_index.finished(runs)
    against = config.against or str(table["condition"].iloc[0])
    differences = seed_statistics.paired(table, against)
    means = seed_statistics.summary(table)
    out = Path(config.out)
    (out / "figures").mkdir(parents=True, exist_ok=True)
    drawn = [*_draw_headlines(table, means, done, out), *_draw_curves(done, out)]
    write_text(out / "tidy.csv", csv_text(table))
    write_text(out / "ablation.csv", csv_text(analysis.one_row_per_run(table)))
    sets = [name for name in dict.fromkeys(means["set"]) if name != TRAINING_SET]
    sections = [
        f"# {Path(config.runs).name}",
        _command(config),
        _overview(runs, run_index.swept_keys(done)),
        *[_set_section(means, name) for name in sets],
        _difference_section(differences, against),
        _training_section(means),
        _run_section(table),
        _protocol_section(done),
        _unfinished_section(runs),
        *[f"![{path.stem.replace('_', ' ')}](figures/{path.name})" for path in drawn],
    ]
    write_text(out / "ablation.md", "\n\n".join(text for text in sections if text) + "\n")
    unfinished = len(runs) - len(done)
    remark = f", {unfinished} unfinished or failed" if unfinished else ""
    return f"{len(done)} runs{remark}: {out / 'ablation.md'}"


def _command(config: CollectConfig) -> str:
    against = f" against={config.against}" if config.against else ""
    return f"`python -m actial.collect {config.runs} out={config.out}{against}`"


def _draw_headlines(
    table: pd.DataFrame, means: pd.DataFrame, done: Sequence[RunRecord], out: Path
) -> Iterator[Path]:
    for metric in HEADLINE:
        if not means[means["metric"] == metric].empty:
            chance: Mapping[str, float] = {}
            if metric == "accuracy":
                chance = done[0].results.chance
            figure = figures.condition_figure(table, means, metric, chance)
            yield figures.save(figure, out / "figures" / f"{metric}.png")


def _draw_curves(done: Sequence[RunRecord], out: Path) -> Iterator[Path]:
    for stage, metrics in CURVES.items():
        frames = {name: analysis.curve(done, stage, name) for name in metrics}
        logged = {name: frame for name, frame in frames.items() if len(frame)}
        if logged:
            figure = figures.curve_figure(logged)
            yield figures.save(figure, out / "figures" / f"training_{stage}.png")


# ---------------------------------------------------------------- tables


def markdown(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a Markdown table; its first column is left-aligned, the others right."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    lines = []
    for line in (head, rule, *rows):
        cells = [str(cell).replace("|", "\\|") for cell in line]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def figure_text(row: Mapping[str, Any], factor: float, signed: bool = False) -> str:
    """Return a mean and its interval as text, "43.1 [40.0, 45.2]".

    Args:
        row: mean, low and high; a nan limit leaves the interval out.
        factor: 100 prints shares in percent.
        signed: print a plus before positive numbers.
    """
    digits = _digits(row["mean"], factor)
    sign = "+" if signed else ""
    texts = []
    for name in ("mean", "low", "high"):
        value = round(factor * row[name], digits) + 0.0  # + 0.0: no minus before a zero
        texts.append(f"{value:{sign}.{digits}f}".replace("-", "\N{MINUS SIGN}"))
    single_seed = row["low"] != row["low"]
    return texts[0] if single_seed else f"{texts[0]} [{texts[1]}, {texts[2]}]"


def _digits(mean: float, factor: float) -> int:
    if factor == 100:
        return 1
    return 4 if 0 < abs(mean) < 0.1 else 2


def _overview(runs: Sequence[RunRecord], keys: Sequence[str]) -> str:
    done = [run for run in runs if run.state == "finished"]
    seeds = ", ".join(str(seed) for seed in sorted({run.seed for run in done}))
    swept = ", ".join(f"`{key}`" for key in keys) or "nothing but the seed"
    return f"{len(done)} finished runs of {len(runs)}, seeds {seeds}. Swept: {swept}. {NOTE}"


def _grid(
    means: pd.DataFrame, metrics: Sequence[str], models: Sequence[str]
) -> tuple[list[list[str]], list[str]]:
    """Return rows condition x metric, a column per model, and the models with figures."""
    present = [name for name in models if name in set(means["model"])]
    rows = []
    for metric in metrics:
        part = means[means["metric"] == metric]
        for condition in dict.fromkeys(part["condition"]):
            here = part[part["condition"] == condition].set_index("model")
            texts = [_cell_text(here, name, metric) for name in present]
            seeds = int(here["seeds"].max()) if len(here) else 0
            rows.append([condition, metric, str(seeds), *texts])
    return rows, present


def _cell_text(here: pd.DataFrame, model: str, metric: str) -> str:
    return figure_text(here.loc[model], scale(metric)) if model in here.index else DASH


def _set_section(means: pd.DataFrame, name: str) -> str:
    here = means[means["set"] == name]
    metrics = (*HEADLINE, "accuracy_of_parsed", "unparsed")
    rows, models = _grid(here, metrics, list(dict.fromkeys(here["model"])))
    rows += _paper_row(name, models)
    return f"## {name}\n\n" + markdown(["condition", "metric", "seeds", *models], rows)


def _paper_row(name: str, models: Sequence[str]) -> list[list[str]]:
    """Return the paper's 7B figures as a row; directions compare with ours, levels do not.

    Only where SFT stands between the two other models, as in the paper: GRPO straight from the
    base, or from a trained "base", is another thing.
    """
    tables = {"viewpoint": "viewpoint", "viewpoint_100k": "viewpoint", "mmsi": "table_a1"}
    if "sft" not in models or name not in tables:
        return []
    is_mmsi = tables[name] == "table_a1"
    column = "Avg" if is_mmsi else next(iter(PAPER_COLUMNS["viewpoint_100k"]))
    rows = reference_table(tables[name]).rows
    values = [rows.get(PAPER_MODELS.get(model, ""), {}).get(column) for model in models]
    texts = [DASH if value is None else f"{value:.1f}" for value in values]
    return [["*paper, 7B, its own data*", "accuracy", DASH, *texts]]


def _difference_section(differences: pd.DataFrame, against: str) -> str:
    scored = differences["metric"].isin(HEADLINE) & (differences["set"] != TRAINING_SET)
    # The base model is the same in every condition, so its differences are all zero.
    moved = (differences[["mean", "low", "high"]] != 0).any(axis=1)
    rows = []
    for _, row in differences[scored & moved].iterrows():
        names = [row[key] for key in ("condition", "set", "model", "metric", "seeds")]
        rows.append([*names, figure_text(row, scale(row["metric"]), signed=True)])
    if not rows:
        return ""
    head = ["condition", "set", "model", "metric", "pairs of runs", "difference"]
    return f"## Differences from {against}, at equal seeds\n\n" + markdown(head, rows)


def _training_section(means: pd.DataFrame) -> str:
    here = means[means["set"] == TRAINING_SET]
    if here.empty:
        return ""
    metrics, stages = list(dict.fromkeys(here["metric"])), list(dict.fromkeys(here["model"]))
    rows, stages = _grid(here, metrics, stages)
    text = (
        "Means of the last tenth of the steps; `.._rise` is the mean of the second half less "
        "that of the "
        "first, `.._late` the median of the last quarter less that of the one before; "
        "`drop_step` is where "
        "the supervised loss falls from its plateau, where it does."
    )
    return f"## Training\n\n{text}\n\n" + markdown(
        ["condition", "metric", "seeds", *stages], rows
    )


def _run_section(table: pd.DataFrame) -> str:
    scored = (table["metric"] == "accuracy") & (table["set"] != TRAINING_SET)
    last = table[scored].groupby(["run", "set"], sort=False).last()
    sets = list(dict.fromkeys(last.index.get_level_values("set")))
    provenance = ("data", "commit", "config", "log")
    rows = []
    for _, run in table.drop_duplicates("run").iterrows():
        keys = [(run["run"], name) for name in sets]
        cells = [_over_questions(last.loc[key]) if key in last.index else DASH for key in keys]
        rows.append(
            [f"`{run['run']}`", run["seed"], *cells, *[run[name] for name in provenance]]
        )
    text = (
        "The last model's accuracy in percent, in brackets the 95 % interval over the questions "
        "asked; "
        "then what each run rests on."
    )
    return f"## Runs\n\n{text}\n\n" + markdown(["run", "seed", *sets, *provenance], rows)


def _protocol_section(runs: Sequence[RunRecord]) -> str:
    """Tabulate the protocols of the scores, and name what differs within a set."""
    protocols: dict[str, dict[str, Protocol]] = {}
    for run in runs:
        for name, models in run.results.sets.items():
            for result in models.values():
                if result.protocol:
                    protocol = Protocol.from_json(result.protocol)
                    protocols.setdefault(name, {}).setdefault(protocol.hash, protocol)
    if not protocols:
        return ""
    rows = [[name, ", ".join(by_hash)] for name, by_hash in protocols.items()]
    remarks = []
    for name, by_hash in protocols.items():
        labeled = [(f"scores on {name}", protocol) for protocol in by_hash.values()]
        remarks += [f"* {remark}" for remark in protocol_remarks(labeled)]
    text = "Figures of one set may be compared where their protocol is one."
    parts = ["## Protocols", text, markdown(["set", "protocol"], rows), "\n".join(remarks)]
    return "\n\n".join(part for part in parts if part)


def _over_questions(row: pd.Series) -> str:
    return f"{100 * row['value']:.1f} [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"


def _unfinished_section(runs: Sequence[RunRecord]) -> str:
    default = "stopped before its end; the same command goes on"
    rows = [
        [f"`{run.name}`", run.state, run.reason or default]
        for run in runs
        if run.state != "finished"
    ]
    return "## Left out\n\n" + markdown(["run", "state", "why"], rows) if rows else ""
