"""Finished runs -> tidy tables with intervals over seeds: what actial.collect writes and the notebooks show.

    runs = load_runs("runs/ablate_reward")    every run below a folder, whatever became of it
    table = tidy(runs)                        one row per run, model, set and metric
    summary(table), paired(table, against)    means over seeds, differences at equal seeds

An *arm* is one choice of all settings that differ between the runs, the seed aside. Shares and accuracies are in [0, 1].
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import OmegaConf

from actial.cli import ERROR
from actial.data.order import splitmix64
from actial.errors import UserError
from actial.hashing import hash_int
from actial.predictions import read_predictions
from actial.runs import CONFIG, MAY_DIFFER, RowLog, flat

TRAINING = ("loss", "reward", "format", "accuracy", "kl", "length", "truncated", "entropy")  # of metrics.jsonl, means over the last tenth
EXACT_RESAMPLES = 50_000  # up to this many, the bootstrap takes every resample there is
DRAWS = 10_000
KEYS = ["arm", "model", "set", "metric"]


# ---------------------------------------------------------------- runs


@dataclass(slots=True, kw_only=True)
class RunRecord:
    name: str  # path below the folder that was searched
    folder: Path
    settings: dict[str, Any]  # full key -> value; empty where the run ended before it had a config
    state: str  # finished, unfinished or failed
    reason: str = ""  # of a failed run, its last line

    @property
    def seed(self) -> int:
        return int(self.settings.get("seed", -1))

    @property
    def results(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "results.json").read_text())
        return found

    def metrics(self, stage: str) -> pd.DataFrame:
        """metrics.jsonl of one stage: a row per logged step, indexed by step."""
        rows = [row for row in RowLog(self.folder / "metrics.jsonl").rows() if row["stage"] == stage]
        frame = pd.DataFrame(rows)
        return frame.groupby("step").first(numeric_only=True) if rows else frame


def load_runs(root: Path | str) -> list[RunRecord]:
    """Every run in `root`, sorted by name. Raises UserError where there is none."""
    root = Path(root)
    found = [_record(folder, root) for folder in _run_folders(root)]
    if not found:
        raise UserError(f"{root} holds no run of actial.train: give the folder of a sweep, such as runs/ablate_reward.")
    return sorted(found, key=lambda run: run.name)


def _run_folders(root: Path) -> Iterator[Path]:
    for folder, below, files in os.walk(root):
        if CONFIG in files or ERROR in files:
            below.clear()  # what lies inside a run is the run's
            yield Path(folder)
        below[:] = sorted(name for name in below if not name.startswith("."))


def _record(folder: Path, root: Path) -> RunRecord:
    settings = flat(OmegaConf.load(folder / CONFIG)) if (folder / CONFIG).exists() else {}
    name = str(folder.relative_to(root)) if folder != root else folder.name
    if (folder / "results.json").exists() and settings:
        return RunRecord(name=name, folder=folder, settings=settings, state="finished")
    if (folder / ERROR).exists():
        reason = (folder / ERROR).read_text().strip().splitlines() or [""]
        return RunRecord(name=name, folder=folder, settings=settings, state="failed", reason=reason[-1].removeprefix("error: "))
    return RunRecord(name=name, folder=folder, settings=settings, state="unfinished")


def finished(runs: Sequence[RunRecord]) -> list[RunRecord]:
    return [run for run in runs if run.state == "finished"]


def swept_keys(runs: Sequence[RunRecord]) -> list[str]:
    """Settings that differ between runs; where a path names the run's own seed, that alone is no difference."""
    keys = sorted({key for run in runs for key in run.settings})
    return [
        key
        for key in keys
        if key != "seed" and not key.startswith(MAY_DIFFER) and len({json.dumps(_setting(run, key)) for run in runs}) > 1
    ]


def _setting(run: RunRecord, key: str) -> Any:
    value = run.settings.get(key)
    return value.replace(f"seed={run.seed}", "seed=*") if isinstance(value, str) else value


def arms(runs: Sequence[RunRecord]) -> dict[str, str]:
    """Run name -> its arm's label: the job's own name without its seed where that is unambiguous, else the settings that differ."""
    keys = swept_keys(runs)
    chosen = {run.name: json.dumps([_setting(run, key) for key in keys]) for run in runs}
    short = {run.name: re.sub(r"(^|,)(seed=\d+|\+experiment=[^,]*)", "", Path(run.name).name).strip(",") for run in runs}
    owners: dict[str, set[str]] = {}
    for name, text in short.items():
        owners.setdefault(text, set()).add(chosen[name])
    labels: dict[str, set[str]] = {}
    for name, arm in chosen.items():
        labels.setdefault(arm, set()).add(short[name])
    if all(len(found) == 1 and "" not in found for found in (*owners.values(), *labels.values())):
        return short
    return {run.name: ", ".join(f"{key}={_setting(run, key)}" for key in keys) or "all runs" for run in runs}


def provenance(run: RunRecord) -> dict[str, str]:
    """What a figure rests on: data, commit (+ = with uncommitted changes), and hashes of the settings and of what was logged."""
    passport = json.loads((run.folder / "passport.json").read_text())
    data = {name: facts["index_sha256"] for name, facts in passport["data"].items()}
    kept = {key: value for key, value in run.settings.items() if not key.startswith(MAY_DIFFER)}
    logged = b"".join((run.folder / name).read_bytes() for name in ("metrics.jsonl", "results.json") if (run.folder / name).exists())
    commit = (passport.get("commit") or "unknown")[:8] + ("+" if passport.get("uncommitted_changes") else "")
    return {
        "data": _digest(json.dumps(data, sort_keys=True)),
        "commit": commit,
        "config": _digest(json.dumps(kept, sort_keys=True, default=str)),
    } | {"log": blake2b(logged, digest_size=4).hexdigest()}


def _digest(text: str) -> str:
    return blake2b(text.encode(), digest_size=4).hexdigest()


# ---------------------------------------------------------------- the tidy table


def tidy(runs: Sequence[RunRecord]) -> pd.DataFrame:
    """One row per finished run, model, set and metric.

    Columns: run, arm, seed, the swept settings under their full keys, data, commit, config, log, model, set, metric, value, and low, high
    (95 %, over the questions asked) and n where the value is a share of questions. Training metrics: set "training", model = the stage.
    Raises UserError when no run is finished.
    """
    done = finished(runs)
    if not done:
        raise UserError(f"none of the {len(runs)} runs is finished: run the command of the sweep again, it goes on where it was.")
    keys, labels = swept_keys(done), arms(done)
    rows = []
    for run in done:
        head = {"run": run.name, "arm": labels[run.name], "seed": run.seed}
        head |= {key: _plain(_setting(run, key)) for key in keys} | provenance(run)
        rows += [head | figure for figure in (*_scores(run), *_training(run))]
    return pd.DataFrame(rows)


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, bool | int | float | str) else json.dumps(value)


def _scores(run: RunRecord) -> Iterator[dict[str, Any]]:
    results = run.results
    for name in results["set_names"]:
        for model in results["models"]:
            found, where = results["sets"][name][model], {"model": model, "set": name}
            cells = {"accuracy": found["overall"], "joint": found.get("joint")}
            cells |= {f"accuracy/{kind}": cell for kind, cell in found.get("by_type", {}).items()}
            cells |= dict(_cells(results.get("diagnostics", {}).get(name, {}).get(model) or {}, "diagnostics"))
            for metric, cell in cells.items():
                if cell:
                    yield where | {"metric": metric} | {key: cell.get(key) for key in ("value", "low", "high", "n")}
            for metric in ("unparsed", "truncated", "format", "tokens"):
                if metric in found:
                    yield where | {"metric": metric, "value": found[metric]}


def _cells(node: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if "value" in node and "low" in node:
        yield path, node
        return
    for key, below in node.items():
        if isinstance(below, dict):
            yield from _cells(below, f"{path}/{key}")


def _training(run: RunRecord) -> Iterator[dict[str, Any]]:
    for stage in run.settings["stages"]:
        frame = run.metrics(stage)
        last = frame.tail(max(1, len(frame) // 10))
        for metric in TRAINING:
            if metric in frame and last[metric].notna().any():
                yield {"model": stage, "set": "training", "metric": metric, "value": float(last[metric].mean())}
        if stage == "sft" and (drop := sudden_drop(frame)):
            yield {"model": stage, "set": "training", "metric": "drop_step", "value": float(drop.step)}


@dataclass(slots=True, frozen=True)
class Drop:
    step: int  # where the lower level begins
    before: float  # mean loss, nats per token, from the end of the first tenth to the drop
    after: float


def sudden_drop(frame: pd.DataFrame, column: str = "loss", least: float = 0.2) -> Drop | None:
    """The step that splits the curve best into two levels (least squares), the first tenth left out: it is the answers' form being learnt.

    None where the lower level is not at least the share `least` below the upper one (paper, appendix B: a plateau, then a sudden drop).
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
    return Drop(int(curve.index[best]), before, after) if after < (1 - least) * before else None


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
    low, high = np.quantile(found[_resamples(len(found))].mean(axis=1), [0.025, 0.975], method="inverted_cdf")
    return float(found.mean()), float(low), float(high)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Per arm, model, set and metric: seeds, mean, low, high (95 % over seeds)."""
    return _over_seeds(table, KEYS, lambda part: part["value"])


def paired(table: pd.DataFrame, against: str) -> pd.DataFrame:
    """Each arm minus the arm `against` at equal seeds: seeds, mean, low, high of the differences per model, set and metric.

    Raises UserError for an arm that is not in the table.
    """
    names = list(table["arm"].unique())
    if against not in names:
        raise UserError(f"against={against} is no arm of these runs: use one of {'; '.join(names)}.")
    reference = table[table["arm"] == against]
    others = table[table["arm"] != against]
    both = others.merge(reference, on=["seed", "model", "set", "metric"], suffixes=("", "_against"))
    return _over_seeds(both, KEYS, lambda part: part["value"] - part["value_against"])


def _over_seeds(table: pd.DataFrame, keys: list[str], value: Callable[[pd.DataFrame], pd.Series]) -> pd.DataFrame:
    rows = []
    for names, part in table.groupby(keys, sort=False):
        mean, low, high = bootstrap(value(part).dropna())
        rows.append(dict(zip(keys, names, strict=True)) | {"seeds": part["seed"].nunique(), "mean": mean, "low": low, "high": high})
    return pd.DataFrame(rows, columns=[*keys, "seeds", "mean", "low", "high"])


def one_row_per_run(table: pd.DataFrame) -> pd.DataFrame:
    """The tidy table spread out: settings and provenance, then a column "<set>/<model>/<metric>" for every value."""
    head = [name for name in table.columns if name not in ("model", "set", "metric", "value", "low", "high", "n")]
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
            parts.append(pd.DataFrame({"arm": labels[run.name], "seed": run.seed, "step": found.index, "value": found.to_numpy()}))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["arm", "seed", "step", "value"])


def answers(run: RunRecord) -> pd.DataFrame:
    """Every graded answer of a run: the columns of predictions.jsonl, with model, set and the categories (class, angle) spread out."""
    rows = []
    for path in sorted((run.folder / "scores").glob("*/*/predictions.jsonl")):
        for p in read_predictions(path):
            said = {name: getattr(p, name) for name in ("uid", "example", "type", "text", "choice", "answer", "outcome", "hit", "tokens")}
            rows.append({"model": path.parts[-3], "set": path.parts[-2], **said, **p.categories})
    return pd.DataFrame(rows)
