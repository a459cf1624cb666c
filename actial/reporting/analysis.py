"""Turn finished runs into tidy tables: what actial.collect writes and the notebooks show.

    runs = load_runs("runs/ablate_reward")    every run below a folder, whatever became of it
    table = tidy(runs)                        one row per run, model, set and metric
    seed_statistics.summary(table)            means over seeds

A *condition* is one choice of all settings that differ between the runs, the seed aside. Shares and
accuracies are in [0, 1].
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from actial.core.errors import UserError
from actial.core.set_records import ViewPair
from actial.data.shards import INDEX
from actial.evaluation.diagnostics import three_questions
from actial.evaluation.results import Diagnostics, SetResult
from actial.grading.metrics import Cell, confusion, split_by
from actial.reporting.loss_curves import sudden_drop
from actial.reporting.seed_statistics import TRAINING_SET
from actial.runs.run_index import (
    RunRecord,
    conditions,
    finished,
    provenance_hashes,
    setting,
    swept_keys,
)

# Metrics of metrics.jsonl in the tidy table, means over the last tenth of the steps; the table's
# own names on the left are those of the committed tables.
TRAINING = {
    "loss": "loss",
    "reward": "reward",
    "format": "reward/format/mean",
    "accuracy": "reward/accuracy/mean",
    "kl": "kl",
    "length": "completions/mean_length",
    "truncated": "completions/clipped_ratio",
    "entropy": "entropy",
}
# GRPO metrics whose course is in the table: "<metric>_rise", second half of the steps less the
# first.
RISES = ("format", "length")
# GRPO metrics that begin at 0 and have spikes: "<metric>_late", median of the last quarter of the
# steps less that of the one before.
LATE = ("kl",)

OLD_COLUMNS = {"arm": "condition"}  # of tables committed before the names changed
OLD_METRICS = {
    "joint": "all_correct",
    "right_of_read": "accuracy_of_parsed",
    **{
        f"diagnostics/{check}/consistent_right": f"diagnostics/{check}/consistent_correct"
        for check in ("swap", "mirror", "options", "three questions")
    },
}
Figure = dict[str, Any]  # model, set, metric, value, and low, high, n of a share of questions


# ---------------------------------------------------------------- the tidy table


def tidy(runs: Sequence[RunRecord]) -> pd.DataFrame:
    """Return one row per finished run, model, set and metric.

    Columns: run, condition, seed, the swept settings under their full keys, data, commit, config,
    log, minutes, model, set, metric, value, and low, high (95 %, over the questions) and n where
    the value is a share of questions. Training metrics: set "training", model = the stage.

    Raises:
        UserError: no run is finished, or two of them have one condition and one seed, which would
            count one seed twice.
    """
    done = finished(runs)
    if not done:
        raise UserError(
            f"none of the {len(runs)} runs is finished: "
            "run the command of the sweep again, it goes on where it was."
        )
    keys, labels = swept_keys(done), conditions(done)
    run_names: dict[tuple[str, int], str] = {}
    rows = []
    for run in done:
        twin = run_names.setdefault((labels[run.name], run.seed), run.name)
        if twin != run.name:
            raise UserError(
                f"{twin} and {run.name} are runs of one condition ({labels[run.name]}) and one "
                "seed, so that the seed would count twice: move one of them elsewhere."
            )
        head = {"run": run.name, "condition": labels[run.name], "seed": run.seed}
        head |= {key: _plain(setting(run, key)) for key in keys}
        head |= provenance_hashes(run) | {"minutes": run.minutes}
        rows += [head | figure for figure in (*_score_figures(run), *_training_figures(run))]
    return pd.DataFrame(rows)


def read_tidy(path: Path | str) -> pd.DataFrame:
    """Return a committed tidy.csv with today's names of columns and metrics."""
    table = pd.read_csv(path).rename(columns=OLD_COLUMNS)
    return table.assign(metric=table["metric"].replace(OLD_METRICS))


def _plain(value: Any) -> Any:
    """Return a setting as a table can hold it."""
    plain = value is None or isinstance(value, bool | int | float | str)
    return value if plain else json.dumps(value)


def _score_figures(run: RunRecord) -> Iterator[Figure]:
    results = run.results
    for name in results.set_names:
        for model in results.models:
            head = {"model": run.label(model), "set": name}
            result = results.sets[name][model]
            cells = _set_cells(result)
            report = results.diagnostics.get(name, {}).get(model)
            if report:
                cells |= _diagnostic_cells(report)
            controls = results.controls.get(name, {}).get(model)
            if controls:
                cells |= dict(_named_cells(controls.to_json(), "controls"))
            for metric, cell in cells.items():
                yield head | {"metric": metric} | cell
            for metric, value in _set_shares(result).items():
                yield head | {"metric": metric, "value": value}


def _cell_figure(cell: Cell) -> Figure:
    return {"value": float(cell.value), "low": cell.low, "high": cell.high, "n": cell.n}


def _set_cells(result: SetResult) -> dict[str, Figure]:
    cells = {"accuracy": result.overall}
    if result.all_correct:
        cells["all_correct"] = result.all_correct
    for name, cell in (result.by_type | result.by_angle).items():
        cells[f"accuracy/{name}"] = cell
    return {metric: _cell_figure(cell) for metric, cell in cells.items()}


def _set_shares(result: SetResult) -> dict[str, float]:
    shares = {
        "unparsed": result.unparsed,
        "truncated": result.truncated,
        "format": result.format_compliance,
    }
    if result.tokens is not None:
        shares["tokens"] = result.tokens
    if result.unparsed < 1:  # are more answers correct, or only more of them readable?
        shares["accuracy_of_parsed"] = float(result.overall.value) / (1 - result.unparsed)
    return shares


def _diagnostic_cells(report: Diagnostics) -> dict[str, Figure]:
    return dict(_named_cells(report.to_json(), "diagnostics"))


def _named_cells(node: dict[str, Any], path: str) -> Iterator[tuple[str, Figure]]:
    if "value" in node and "low" in node:
        yield path, {key: node.get(key) for key in ("value", "low", "high", "n")}
        return
    for key, child in node.items():
        if isinstance(child, dict):
            yield from _named_cells(child, f"{path}/{key}")


def _training_figures(run: RunRecord) -> Iterator[Figure]:
    for stage in run.settings["stages"]:
        head = {"model": stage, "set": TRAINING_SET}
        logged = run.metrics(stage)
        frame = logged.rename(columns={name: short for short, name in TRAINING.items()})
        values = _final_means(frame)
        if stage == "grpo":
            values |= _courses(frame)
        if stage == "sft":
            values |= _drop_figures(frame)
        for metric, value in values.items():
            yield head | {"metric": metric, "value": value}


def _final_means(frame: pd.DataFrame) -> dict[str, float]:
    last = frame.tail(max(1, len(frame) // 10))
    return {
        metric: float(last[metric].mean())
        for metric in TRAINING
        if metric in frame and last[metric].notna().any()
    }


def _courses(frame: pd.DataFrame) -> dict[str, float]:
    """Return how GRPO metrics move over the steps."""
    values = {}
    half, quarter = len(frame) // 2, len(frame) // 4
    for metric in RISES:
        if half and metric in frame:
            first, second = frame[metric].iloc[:half], frame[metric].iloc[half:]
            values[f"{metric}_rise"] = float(second.mean() - first.mean())
    for metric in LATE:
        if quarter and metric in frame:
            third = frame[metric].iloc[-2 * quarter : -quarter]
            fourth = frame[metric].iloc[-quarter:]
            values[f"{metric}_late"] = float(fourth.median() - third.median())
    return values


def _drop_figures(frame: pd.DataFrame) -> dict[str, float]:
    drop = sudden_drop(frame)
    if drop is None:
        return {"drop": 0.0}
    return {"drop": 1.0, "drop_step": float(drop.step)}


def one_row_per_run(table: pd.DataFrame) -> pd.DataFrame:
    """Spread a tidy table out: settings, provenance, a column "<set>/<model>/<metric>" each."""
    figure_columns = ("model", "set", "metric", "value", "low", "high", "n")
    head = [name for name in table.columns if name not in figure_columns]
    names = table["set"] + "/" + table["model"] + "/" + table["metric"]
    values = table.assign(figure=names).pivot(index="run", columns="figure", values="value")
    return table[head].drop_duplicates("run").merge(values, on="run").reset_index(drop=True)


# ---------------------------------------------------------------- curves, answers


def curve(runs: Sequence[RunRecord], stage: str, metric: str) -> pd.DataFrame:
    """Return a training metric of finished runs: columns condition, seed, step, value."""
    labels = conditions(runs)
    parts = []
    for run in runs:
        frame = run.metrics(stage)
        if metric in frame:
            series = frame[metric].dropna()
            part = {"condition": labels[run.name], "seed": run.seed}
            parts.append(
                pd.DataFrame(part | {"step": series.index, "value": series.to_numpy()})
            )
    if not parts:
        return pd.DataFrame(columns=["condition", "seed", "step", "value"])
    return pd.concat(parts, ignore_index=True)


ANSWER_FIELDS = (
    "uid",
    "example",
    "type",
    "text",
    "choice",
    "answer",
    "outcome",
    "score",
    "tokens",
)


def answers(run: RunRecord) -> pd.DataFrame:
    """Return every graded answer of a run, with model and set, and its categories spread out."""
    rows = []
    for (model, name), predictions in run.predictions().items():
        for p in predictions:
            fields = {field: getattr(p, field) for field in ANSWER_FIELDS}
            rows.append({"model": model, "set": name, **fields, **p.categories})
    return pd.DataFrame(rows)


def mistakes(run: RunRecord) -> pd.DataFrame:
    """Return the shares of kinds of answers (`metrics.confusion`) per model, set and type."""
    rows = []
    for (model, name), predictions in run.predictions().items():
        for kind, part in split_by(predictions, "type").items():
            head = {"model": model, "set": name, "type": kind}
            rows.append(head | confusion(part) | {"n": len(part)})
    return pd.DataFrame(rows)


def agreement(run: RunRecord) -> pd.DataFrame:
    """Return per model and set the share of view pairs whose three answers state one motion."""
    rows = []
    for (model, name), predictions in run.predictions().items():
        for metric, cell in three_questions(predictions).to_json().items():
            if cell["n"]:
                rows.append({"model": model, "set": name, "metric": metric, **cell})
    return pd.DataFrame(rows)


def pairs(root: Path | str) -> pd.DataFrame:
    """Return the view pairs of a built set.

    Columns: uid, split, class, alpha and elevation of the first image in degrees, and the labels.
    """
    rows = []
    with (Path(root) / INDEX).open(encoding="utf-8") as file:
        for pair in map(ViewPair.from_json, map(json.loads, file)):
            row = {
                "uid": pair.uid,
                "split": pair.split,
                "class": pair.class_name,
                "alpha": pair.geometry.alpha_deg,
                "elevation": pair.geometry.elev_deg[0],
            }
            rows.append(row | pair.labels.to_json())
    return pd.DataFrame(rows)
