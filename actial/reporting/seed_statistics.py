"""Means and differences over seeds, with intervals, from a tidy table (see `analysis.tidy`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import product

import numpy as np
import pandas as pd
from scipy.stats import t as student

from actial.core.errors import UserError
from actial.core.seeding import hash_int, splitmix64

EXACT_RESAMPLES = 50_000  # up to so many, the bootstrap takes every resample there is
DRAWS = 10_000
KEYS = ["condition", "model", "set", "metric"]
TRAINING_SET = "training"  # the set under which a tidy table holds training metrics


@cache
def _resamples(n: int) -> np.ndarray:
    """Return (draws, n) indices: all n^n resamples while they are few, else drawn by hash."""
    if n**n <= EXACT_RESAMPLES:
        return np.array(list(product(range(n), repeat=n)))
    numbers = splitmix64(np.arange(DRAWS * n), hash_int("bootstrap", n))
    return (numbers % np.uint64(n)).astype(int).reshape(DRAWS, n)


def bootstrap(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean of one value per seed, and its 95 % percentile interval (Efron 1979).

    The limits are nan for a single seed. With n seeds of equal spread the interval covers less than
    95 %: about 75 % for three, where it reaches from the least to the greatest.
    """
    per_seed = np.asarray(values, dtype=float)
    if len(per_seed) == 0:
        return math.nan, math.nan, math.nan
    mean = float(per_seed.mean())
    if len(per_seed) == 1:
        return mean, math.nan, math.nan
    means = per_seed[_resamples(len(per_seed))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975], method="inverted_cdf")
    return mean, float(low), float(high)


def student_reach(values: pd.Series) -> float:
    """Return half the width of Student's 95 % interval of a mean; nan for a single value."""
    n = len(values)
    if n < 2:
        return math.nan
    return float(student.ppf(0.975, n - 1) * values.std(ddof=1) / math.sqrt(n))


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Return seeds, mean, low and high (95 % over seeds) per condition, model, set and metric."""
    return _over_seeds(table, lambda part: part["value"])


def paired(table: pd.DataFrame, against: str) -> pd.DataFrame:
    """Return each condition minus the condition `against` at equal seeds.

    Columns: condition, model, set, metric, seeds, mean, low, high of the differences. Where
    conditions end with different stages, their last models are compared, as "last".

    Raises:
        UserError: the table has no such condition.
    """
    names = list(table["condition"].unique())
    if against not in names:
        raise UserError(
            f"against={against} is no condition of these runs: use one of {'; '.join(names)}."
        )
    training = table["set"] == TRAINING_SET
    last = (table["model"] == _last_models(table)) & ~training
    if table["model"][last].nunique() > 1:
        table = pd.concat([table[training], table[last].assign(model="last")])
    reference = table[table["condition"] == against]
    others = table[table["condition"] != against]
    both = others.merge(
        reference, on=["seed", "model", "set", "metric"], suffixes=("", "_against")
    )
    return _over_seeds(both, lambda part: part["value"] - part["value_against"])


def _last_models(table: pd.DataFrame) -> pd.Series:
    """Return for every row the last model that its run has scored."""
    scored = table[table["set"] != TRAINING_SET].groupby("run", sort=False)["model"].last()
    return table["run"].map(scored)


def compare(
    table: pd.DataFrame, left: Mapping[str, str], right: Mapping[str, str] | None = None
) -> dict[str, float]:
    """Return figure `left` minus `right` at equal seeds: seeds, mean, low, high, t_low, t_high.

    Args:
        table: a tidy table.
        left: columns -> values that select one figure per seed (condition, model, set, metric). The
            model "last" is the last that each run has scored.
        right: the same for the figure to subtract; None subtracts nothing.

    Beside the bootstrap's limits stand those of Student's t, which do not shrink when seeds are
    few.

    Raises:
        UserError: no run has one of the figures, or a seed has it more than once.
    """
    values = _figure(table, left)
    if right is not None:
        values = (values - _figure(table, right)).dropna()
    if values.empty:
        raise UserError(f"no seed has both {_words(left)} and {_words(right or {})}.")
    mean, low, high = bootstrap(values.to_list())
    reach = student_reach(values)
    limits = {"low": low, "high": high, "t_low": mean - reach, "t_high": mean + reach}
    return {"seeds": len(values), "mean": mean, **limits}


def _figure(table: pd.DataFrame, where: Mapping[str, str]) -> pd.Series:
    """Return the selected figure by seed."""
    selected = table
    for key, value in where.items():
        if key == "model" and value == "last":
            scored = selected["set"] != TRAINING_SET
            selected = selected[scored & (selected["model"] == _last_models(selected))]
        else:
            selected = selected[selected[key] == value]
    if selected.empty:
        raise UserError(f"no run has {_words(where)}.")
    if selected["seed"].duplicated().any():
        conditions = "; ".join(table["condition"].unique())
        raise UserError(
            f"{_words(where)} is more than one figure of a seed: "
            f"name its condition, one of {conditions}."
        )
    return selected.set_index("seed")["value"]


def _words(where: Mapping[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in where.items())


def _over_seeds(
    table: pd.DataFrame, values_of: Callable[[pd.DataFrame], pd.Series]
) -> pd.DataFrame:
    rows = []
    for names, part in table.groupby(KEYS, sort=False):
        mean, low, high = bootstrap(values_of(part).dropna().to_list())
        figures = {"seeds": part["seed"].nunique(), "mean": mean, "low": low, "high": high}
        rows.append(dict(zip(KEYS, names, strict=True)) | figures)
    return pd.DataFrame(rows, columns=[*KEYS, "seeds", "mean", "low", "high"])
