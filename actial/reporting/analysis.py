"""Finished runs -> tidy tables with intervals over seeds: what actial.collect writes and the notebooks show.

    runs = load_runs("runs/ablate_reward")    every run below a folder, whatever became of it
    table = tidy(runs)                        one row per run, model, set and metric
    summary(table), paired(table, against)    means over seeds, differences at equal seeds

An *arm* is one choice of all settings that differ between the runs, the seed aside. Shares and accuracies are in [0, 1].
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t as student

from actial.core.errors import UserError
from actial.core.seeding import hash_int, splitmix64
from actial.data.shards import INDEX
from actial.evaluation.diagnostics import three_questions
from actial.grading.metrics import confusion, split_by, to_json
from actial.runs.run_index import RunRecord, arms, finished, provenance_hashes, setting, swept_keys

# Metrics of metrics.jsonl in the tidy table, means over the last tenth of the steps; the table's own
# names on the left are those of the committed tables.
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
RISES = (
    "format",
    "length",
)  # of GRPO, whose course over the steps a claim may be about: "<metric>_rise", second half less first
LATE = (
    "kl",
)  # which begin at 0 and have spikes: "<metric>_late", median of the last quarter of the steps less that of the one before
EXACT_RESAMPLES = 50_000  # up to this many, the bootstrap takes every resample there is
DRAWS = 10_000
KEYS = ["arm", "model", "set", "metric"]


# ---------------------------------------------------------------- the tidy table


def tidy(runs: Sequence[RunRecord]) -> pd.DataFrame:
    """One row per finished run, model, set and metric.

    Columns: run, arm, seed, the swept settings under their full keys, data, commit, config, log, minutes, model, set, metric, value,
    and low, high (95 %, over the questions asked) and n where the value is a share of questions. Training metrics: set "training", model =
    the stage.
    Raises UserError when no run is finished.
    """
    done = finished(runs)
    if not done:
        raise UserError(
            f"none of the {len(runs)} runs is finished: run the command of the sweep again, it goes on where it was."
        )
    keys, labels = swept_keys(done), arms(done)
    rows = []
    for run in done:
        head = {"run": run.name, "arm": labels[run.name], "seed": run.seed}
        head |= (
            {key: _plain(setting(run, key)) for key in keys}
            | provenance_hashes(run)
            | {"minutes": run.minutes}
        )
        rows += [head | figure for figure in (*_scores(run), *_training(run))]
    return pd.DataFrame(rows)


def _plain(value: Any) -> Any:
    return (
        value if value is None or isinstance(value, bool | int | float | str) else json.dumps(value)
    )


def _scores(run: RunRecord) -> Iterator[dict[str, Any]]:
    results = run.results
    for name in results["set_names"]:
        for model in results["models"]:
            found, where = results["sets"][name][model], {"model": run.label(model), "set": name}
            cells = {"accuracy": found["overall"], "joint": found.get("joint")}
            cells |= {
                f"accuracy/{kind}": cell
                for by in ("by_type", "by_angle")
                for kind, cell in found.get(by, {}).items()
            }
            cells |= dict(
                _cells(results.get("diagnostics", {}).get(name, {}).get(model) or {}, "diagnostics")
            )
            for metric, cell in cells.items():
                if cell:
                    yield (
                        where
                        | {"metric": metric}
                        | {key: cell.get(key) for key in ("value", "low", "high", "n")}
                    )
            for metric in ("unparsed", "truncated", "format", "tokens"):
                if metric in found:
                    yield where | {"metric": metric, "value": found[metric]}
            if found["unparsed"] < 1:  # more of them right, or only more of them readable?
                yield where | {
                    "metric": "right_of_read",
                    "value": found["overall"]["value"] / (1 - found["unparsed"]),
                }


def _cells(node: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if "value" in node and "low" in node:
        yield path, node
        return
    for key, below in node.items():
        if isinstance(below, dict):
            yield from _cells(below, f"{path}/{key}")


def _training(run: RunRecord) -> Iterator[dict[str, Any]]:
    for stage in run.settings["stages"]:
        logged = run.metrics(stage)
        frame = logged.rename(columns={name: short for short, name in TRAINING.items()})
        last = frame.tail(max(1, len(frame) // 10))
        for metric in TRAINING:
            if metric in frame and last[metric].notna().any():
                yield {
                    "model": stage,
                    "set": "training",
                    "metric": metric,
                    "value": float(last[metric].mean()),
                }
        half = len(frame) // 2
        for metric in RISES if stage == "grpo" and half else ():
            if metric in frame:
                rise = float(frame[metric].iloc[half:].mean() - frame[metric].iloc[:half].mean())
                yield {"model": stage, "set": "training", "metric": f"{metric}_rise", "value": rise}
        quarter = len(frame) // 4
        for metric in LATE if stage == "grpo" and quarter else ():
            if metric in frame:
                late = float(
                    frame[metric].iloc[-quarter:].median()
                    - frame[metric].iloc[-2 * quarter : -quarter].median()
                )
                yield {"model": stage, "set": "training", "metric": f"{metric}_late", "value": late}
        if stage == "sft":
            drop = sudden_drop(frame)
            yield {
                "model": stage,
                "set": "training",
                "metric": "drop",
                "value": float(drop is not None),
            }
            if drop:
                yield {
                    "model": stage,
                    "set": "training",
                    "metric": "drop_step",
                    "value": float(drop.step),
                }


@dataclass(slots=True, frozen=True)
class Drop:
    step: int  # where the lower level begins
    before: float  # mean loss, nats per token, from the end of the first tenth to the drop
    after: float


def sudden_drop(frame: pd.DataFrame, column: str = "loss", least: float = 0.2) -> Drop | None:
    """The step that splits the curve best into two levels (least squares), the first tenth left out: it is the answers' form being learnt.

    None where the lower level is not at least the share `least` below the upper one (paper, appendix B: a plateau, then a sudden drop), or
    where an exponential decay, which has as many parameters, is closer to the curve than the two levels.
    """
    if column not in frame:
        return None
    curve = frame[column].dropna().iloc[len(frame) // 10 :]
    values = curve.to_numpy(dtype=float)
    if len(values) < 4:
        return None
    splits = range(2, len(values) - 1)
    costs = [values[:i].var() * i + values[i:].var() * (len(values) - i) for i in splits]
    best = splits[int(np.argmin(costs))]
    before, after = float(values[:best].mean()), float(values[best:].mean())
    if after >= (1 - least) * before or _decay_cost(
        curve.index.to_numpy(dtype=float), values
    ) <= min(costs):
        return None
    return Drop(int(curve.index[best]), before, after)


def _decay_cost(steps: np.ndarray, values: np.ndarray) -> float:
    """Squared error of the best a + b exp(-step / tau); tau from half a logged step to four times the curve's length, which is a line."""
    steps = steps - steps[0]
    taus = np.geomspace(steps[1] / 2, 4 * steps[-1], 60)
    designs = [np.stack([np.ones_like(steps), np.exp(-steps / tau)], axis=1) for tau in taus]
    return min(
        float(((design @ np.linalg.lstsq(design, values)[0] - values) ** 2).sum())
        for design in designs
    )


# ---------------------------------------------------------------- over seeds


@cache
def _resamples(n: int) -> np.ndarray:
    """(draws, n) indices: all n^n of them while they are few, else drawn by hash."""
    if n**n <= EXACT_RESAMPLES:
        return np.array(list(product(range(n), repeat=n)))
    numbers = splitmix64(np.arange(DRAWS * n), hash_int("bootstrap", n))
    return (numbers % np.uint64(n)).astype(int).reshape(DRAWS, n)


def bootstrap(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean of one value per seed and its 95 % percentile interval over resampled seeds (Efron 1979); nan limits for a single seed.

    With n seeds of equal spread it covers less than 95 %: about 75 % for three, where it reaches from the least to the greatest.
    """
    found = np.asarray(values, dtype=float)
    if len(found) < 2:
        return float(found.mean()) if len(found) else math.nan, math.nan, math.nan
    low, high = np.quantile(
        found[_resamples(len(found))].mean(axis=1), [0.025, 0.975], method="inverted_cdf"
    )
    return float(found.mean()), float(low), float(high)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Per arm, model, set and metric: seeds, mean, low, high (95 % over seeds)."""
    return _over_seeds(table, KEYS, lambda part: part["value"])


def paired(table: pd.DataFrame, against: str) -> pd.DataFrame:
    """Each arm minus the arm `against` at equal seeds: seeds, mean, low, high of the differences per model, set and metric.

    Where arms end with different stages, their last models are compared, as "last", and not what one of them still trains further.
    Raises UserError for an arm that is not in the table.
    """
    names = list(table["arm"].unique())
    if against not in names:
        raise UserError(
            f"against={against} is no arm of these runs: use one of {'; '.join(names)}."
        )
    final = table["model"] == _last_models(table)
    if table["model"][final & (table["set"] != "training")].nunique() > 1:
        table = pd.concat(
            [
                table[table["set"] == "training"],
                table[final & (table["set"] != "training")].assign(model="last"),
            ]
        )
    reference = table[table["arm"] == against]
    others = table[table["arm"] != against]
    both = others.merge(reference, on=["seed", "model", "set", "metric"], suffixes=("", "_against"))
    return _over_seeds(both, KEYS, lambda part: part["value"] - part["value_against"])


def _last_models(table: pd.DataFrame) -> pd.Series:
    """For every row, the last model that its run has scored."""
    scored = table[table["set"] != "training"].groupby("run", sort=False)["model"].last()
    return table["run"].map(scored)


def compare(
    table: pd.DataFrame, left: Mapping[str, str], right: Mapping[str, str] | None = None
) -> dict[str, float]:
    """Cell `left` (columns -> values, such as arm, model, set, metric), minus cell `right` at equal seeds: seeds, mean, low, high.

    Beside the bootstrap's low and high, those of Student's t (`t_low`, `t_high`), which do not shrink when seeds are few. The model
    "last" is the last that each run has scored. Raises UserError for a cell that no run has.
    """
    values = _cell(table, left)
    if right is not None:
        values = (values - _cell(table, right)).dropna()
    if values.empty:
        raise UserError(f"no seed has both {_words(left)} and {_words(right or {})}.")
    mean, low, high = bootstrap(values)
    reach = (
        float(student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))
        if len(values) > 1
        else math.nan
    )
    return {
        "seeds": len(values),
        "mean": mean,
        "low": low,
        "high": high,
        "t_low": mean - reach,
        "t_high": mean + reach,
    }


def _cell(table: pd.DataFrame, where: Mapping[str, str]) -> pd.Series:
    """Value by seed."""
    chosen = table
    for key, value in where.items():
        if key == "model" and value == "last":
            chosen = chosen[
                (chosen["set"] != "training") & (chosen["model"] == _last_models(chosen))
            ]
        else:
            chosen = chosen[chosen[key] == value]
    if chosen.empty:
        raise UserError(f"no run has {_words(where)}.")
    if chosen["seed"].duplicated().any():
        raise UserError(
            f"{_words(where)} is more than one figure of a seed: name its arm, one of {'; '.join(table['arm'].unique())}."
        )
    return chosen.set_index("seed")["value"]


def _words(where: Mapping[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in where.items())


def _over_seeds(
    table: pd.DataFrame, keys: list[str], value: Callable[[pd.DataFrame], pd.Series]
) -> pd.DataFrame:
    rows = []
    for names, part in table.groupby(keys, sort=False):
        mean, low, high = bootstrap(value(part).dropna())
        rows.append(
            dict(zip(keys, names, strict=True))
            | {"seeds": part["seed"].nunique(), "mean": mean, "low": low, "high": high}
        )
    return pd.DataFrame(rows, columns=[*keys, "seeds", "mean", "low", "high"])


def one_row_per_run(table: pd.DataFrame) -> pd.DataFrame:
    """The tidy table spread out: settings and provenance, then a column "<set>/<model>/<metric>" for every value."""
    head = [
        name
        for name in table.columns
        if name not in ("model", "set", "metric", "value", "low", "high", "n")
    ]
    wide = table.assign(figure=table["set"] + "/" + table["model"] + "/" + table["metric"])
    values = wide.pivot(index="run", columns="figure", values="value")
    return table[head].drop_duplicates("run").merge(values, on="run").reset_index(drop=True)


# ---------------------------------------------------------------- curves, answers


def curve(runs: Sequence[RunRecord], stage: str, metric: str) -> pd.DataFrame:
    """One training metric of finished runs against the step: columns arm, seed, step, value."""
    labels = arms(runs)
    parts = []
    for run in runs:
        frame = run.metrics(stage)
        if metric in frame:
            found = frame[metric].dropna()
            parts.append(
                pd.DataFrame(
                    {
                        "arm": labels[run.name],
                        "seed": run.seed,
                        "step": found.index,
                        "value": found.to_numpy(),
                    }
                )
            )
    return (
        pd.concat(parts, ignore_index=True)
        if parts
        else pd.DataFrame(columns=["arm", "seed", "step", "value"])
    )


def answers(run: RunRecord) -> pd.DataFrame:
    """Every graded answer of a run: what predictions.jsonl says, with model and set, and the categories (class, angle) spread out."""
    shown = ("uid", "example", "type", "text", "choice", "answer", "outcome", "hit", "tokens")
    return pd.DataFrame(
        {"model": model, "set": name, **{key: getattr(p, key) for key in shown}, **p.categories}
        for (model, name), found in run.predictions().items()
        for p in found
    )


def mistakes(run: RunRecord) -> pd.DataFrame:
    """Per model, set and question type: shares of right, swapped, "no movement" and unread answers, and how many there are."""
    rows = []
    for (model, name), found in run.predictions().items():
        for kind, part in split_by(found, "type").items():
            rows.append(
                {"model": model, "set": name, "type": kind, **confusion(part), "n": len(part)}
            )
    return pd.DataFrame(rows)


def agreement(run: RunRecord) -> pd.DataFrame:
    """Per model and set of view pairs: shares of pairs whose three answers state one motion, and the right one (95 % intervals)."""
    rows = []
    for (model, name), found in run.predictions().items():
        for metric, cell in three_questions(found).items():
            if cell.n:
                rows.append({"model": model, "set": name, "metric": metric, **to_json(cell)})
    return pd.DataFrame(rows)


def pairs(root: Path | str) -> pd.DataFrame:
    """The view pairs of a built set: uid, split, class, alpha and elevation of the first photo in degrees, and the labels."""
    rows = []
    with (Path(root) / INDEX).open(encoding="utf-8") as file:
        for row in map(json.loads, file):
            geometry = {"alpha": row["geom"]["alpha_deg"], "elevation": row["geom"]["elev_deg"][0]}
            rows.append(
                {"uid": row["uid"], "split": row["split"], "class": row["class_name"]}
                | geometry
                | row["labels"]
            )
    return pd.DataFrame(rows)
