"""Compare models on the same items: paired tests and clustered intervals.

The interval is a bootstrap over clusters of items (scenes, source images), and
over seeds where a model has several (Efron 1979; clusters as in Miller, arXiv
2411.00640). The test is McNemar's exact one where scores are 0 or 1, every item
is its own cluster and each model has one seed; else clusters' differences swap
their signs at random (exact for exchangeable differences). P values of several
tasks and pairs of models are corrected by Holm's method.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
from scipy.stats import binomtest, norm, ttest_rel
from scipy.stats import t as student_t

from actial.core.errors import UserError
from actial.core.seeding import hash_int
from actial.evaluation.score_files import ItemScore, ScoredModel

# differences for which the needed number of items is told
GAINS = (0.01, 0.02, 0.05)
POWER = 0.8
# resamples drawn at once; bounds the memory
BLOCK = 200


@dataclass(slots=True, kw_only=True)
class Difference:
    """Model A minus model B on one task, or on all items (task "")."""

    a: str
    b: str
    task: str
    items: int
    clusters: int
    mean_a: float
    mean_b: float
    value: float  # mean_a - mean_b
    low: float  # 95 % interval
    high: float
    # items that only A has correct, in the first seed of each
    only_a: int
    only_b: int
    test: str  # "mcnemar" or "sign flips"
    p: float
    # corrected over tasks and pairs of models
    p_holm: float = 1.0
    # lmms-eval's paired test
    t_test: dict[str, float] = field(default_factory=dict)
    # gain -> items for 80 % power
    items_needed: dict[str, int] = field(default_factory=dict)
    # hashes of A and B, "" if unknown
    protocols: list[str] = field(default_factory=list)
    # names of what differs
    protocol_differences: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """Return which model is better, or that the two are tied."""
        if self.p_holm > 0.05:
            return "tie"
        return self.a if self.value > 0 else self.b

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"verdict": self.verdict}


def compare_models(
    models: Sequence[ScoredModel], *, common: bool = False, resamples: int = 10_000
) -> list[Difference]:
    """Compare every pair of models on all items and on each task.

    Args:
        models: two or more.
        common: compare on the items that all have; otherwise differing items are refused.
        resamples: of the bootstrap and of the sign flips.

    Raises:
        UserError: fewer than two models, two of one name, or items that are not the same.
    """
    if len(models) < 2:
        raise UserError("comparing needs two models: give two or more files of predictions.")
    if len({model.name for model in models}) < len(models):
        models = [ScoredModel(f"{m.name} #{i}", m.seeds) for i, m in enumerate(models, 1)]
    uids = _shared_items(models, common)
    items = [models[0].seeds[0][uid] for uid in uids]
    tasks = sorted({item.task for item in items} - {""})
    groups = {"": list(range(len(items)))}
    if len(tasks) > 1:
        groups |= {t: [i for i, item in enumerate(items) if item.task == t] for t in tasks}
    scores = {model.name: _score_matrix(model, uids) for model in models}
    differences = [
        _difference(one.name, other.name, scores, items, task, members, resamples)
        for one, other in combinations(models, 2)
        for task, members in groups.items()
    ]
    _set_protocols(differences, models)
    _correct_p_values([d for d in differences if not d.task])
    _correct_p_values([d for d in differences if d.task])
    return differences


def _set_protocols(differences: Sequence[Difference], models: Sequence[ScoredModel]) -> None:
    """Set which protocols the two models of each comparison were scored under."""
    protocols = {model.name: model.protocols[0] for model in models if model.protocols}
    for d in differences:
        first, second = protocols.get(d.a), protocols.get(d.b)
        d.protocols = [protocol.hash if protocol else "" for protocol in (first, second)]
        if first and second:
            d.protocol_differences = first.differences(second)


def _shared_items(models: Sequence[ScoredModel], common: bool) -> list[str]:
    files = [seed for model in models for seed in model.seeds]
    shared = set(files[0]).intersection(*files[1:])
    every = set(files[0]).union(*files[1:])
    if not shared:
        raise UserError(
            "the files have no item in common: give answers to the same benchmark."
        )
    if shared != every and not common:
        missing = sorted(every - shared)
        raise UserError(
            f"{len(missing)} of {len(every)} items are not in every file, the first {missing[0]}: "
            "answer them all, or set items=common to compare on the other ones."
        )
    return sorted(shared)


def _score_matrix(model: ScoredModel, uids: Sequence[str]) -> np.ndarray:
    """Return (seeds, items) scores."""
    return np.array([[seed[uid].score for uid in uids] for seed in model.seeds])


def _difference(
    a: str,
    b: str,
    scores: Mapping[str, np.ndarray],
    items: Sequence[ItemScore],
    task: str,
    members: Sequence[int],
    resamples: int,
) -> Difference:
    first, second = scores[a][:, members], scores[b][:, members]
    names = {items[i].cluster for i in members}
    index = {name: number for number, name in enumerate(sorted(names))}
    clusters = np.array([index[items[i].cluster] for i in members])
    deltas = first.mean(axis=0) - second.mean(axis=0)
    low, high = bootstrap_interval(first, second, clusters, resamples)
    binary = bool(np.isin(first, (0, 1)).all() and np.isin(second, (0, 1)).all())
    independent = len(names) == len(members) and len(first) == len(second) == 1
    only_a = int(((first[0] == 1) & (second[0] < 1)).sum())
    only_b = int(((second[0] == 1) & (first[0] < 1)).sum())
    exact = binary and independent
    p = mcnemar(only_a, only_b) if exact else sign_flip_test(deltas, clusters, resamples)
    return Difference(
        a=a,
        b=b,
        task=task,
        items=len(members),
        clusters=len(names),
        mean_a=float(first.mean()),
        mean_b=float(second.mean()),
        value=float(deltas.mean()),
        low=low,
        high=high,
        only_a=only_a,
        only_b=only_b,
        test="mcnemar" if exact else "sign flips",
        p=p,
        t_test=paired_t_test(first.mean(axis=0), second.mean(axis=0)),
        items_needed=items_needed(deltas, clusters),
    )


# ---------------------------------------------------------------- tests


def mcnemar(only_a: int, only_b: int) -> float:
    """Return the two-sided exact p value that discordant items fall to both sides alike."""
    discordant = only_a + only_b
    return float(binomtest(only_a, discordant, 0.5).pvalue) if discordant else 1.0


def sign_flip_test(deltas: np.ndarray, clusters: np.ndarray, resamples: int) -> float:
    """Return the p value of the mean difference when whole clusters swap the two models at random.

    Args:
        deltas: (items,) differences of scores.
        clusters: (items,) number of each item's cluster.
        resamples: random assignments of signs.
    """
    sums = np.bincount(clusters, weights=deltas)
    sums = sums[sums != 0]
    observed = abs(sums.sum())
    if not len(sums):
        return 1.0
    generator = np.random.default_rng(hash_int("sign flips", len(sums)))
    extreme = 0
    for start in range(0, resamples, BLOCK):
        signs = generator.choice((-1.0, 1.0), size=(min(BLOCK, resamples - start), len(sums)))
        extreme += int((np.abs(signs @ sums) >= observed - 1e-9).sum())
    return (extreme + 1) / (resamples + 1)


def paired_t_test(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    """Return the paired t test over items that lmms-eval reports: mean, se, t, p and limits."""
    deltas = first - second
    n = len(deltas)
    if n < 2 or not deltas.any():
        return {
            "mean": float(deltas.mean()),
            "se": 0.0,
            "t": 0.0,
            "p": 1.0,
            "low": 0.0,
            "high": 0.0,
        }
    mean, error = float(deltas.mean()), float(deltas.std(ddof=1) / math.sqrt(n))
    if error == 0:
        infinite = math.copysign(math.inf, mean)
        return {"mean": mean, "se": 0.0, "t": infinite, "p": 0.0, "low": mean, "high": mean}
    test = ttest_rel(first, second)
    half = float(student_t.ppf(0.975, n - 1)) * error
    limits = {"low": mean - half, "high": mean + half}
    return {
        "mean": mean,
        "se": error,
        "t": float(test.statistic),
        "p": float(test.pvalue),
    } | limits


def _correct_p_values(differences: Sequence[Difference]) -> None:
    """Set Holm's corrected p values (Holm 1979)."""
    running = 0.0
    for rank, difference in enumerate(sorted(differences, key=lambda d: d.p)):
        running = max(running, min(1.0, difference.p * (len(differences) - rank)))
        difference.p_holm = running


# ---------------------------------------------------------------- intervals and sizes


def bootstrap_interval(
    first: np.ndarray, second: np.ndarray, clusters: np.ndarray, resamples: int
) -> tuple[float, float]:
    """Return the 95 % percentile interval of the mean difference.

    Clusters are resampled, and in each resample every model's seeds too: (seeds, items) scores.
    """
    sizes = np.bincount(clusters).astype(float)
    # (seeds, clusters) sums of scores: a resample weights clusters and seeds.
    sums = [
        np.stack([np.bincount(clusters, weights=seed) for seed in scores])
        for scores in (first, second)
    ]
    generator = np.random.default_rng(
        hash_int("bootstrap", len(sizes), len(first), len(second))
    )
    values = []
    for start in range(0, resamples, BLOCK):
        count = min(BLOCK, resamples - start)
        drawn = generator.integers(len(sizes), size=(count, len(sizes)))
        offsets = np.arange(count)[:, None] * len(sizes)
        weights = np.bincount((drawn + offsets).ravel(), minlength=count * len(sizes))
        weights = weights.reshape(count, len(sizes))
        means = [_resampled_means(weights @ part.T, generator) for part in sums]
        values.append((means[0] - means[1]) / (weights @ sizes))
    low, high = np.quantile(np.concatenate(values), [0.025, 0.975])
    return float(low), float(high)


def _resampled_means(by_seed: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Average (resamples, seeds) sums over seeds drawn anew in every resample."""
    count, seeds = by_seed.shape
    drawn = generator.integers(seeds, size=(count, seeds))
    means: np.ndarray = np.take_along_axis(by_seed, drawn, axis=1).mean(axis=1)
    return means


def items_needed(deltas: np.ndarray, clusters: np.ndarray) -> dict[str, int]:
    """Return how many items of this kind show a gain with 80 % power at the 5 % level.

    The variance per item is that of clusters' sums, so scenes with many questions count for less.
    """
    sums = np.bincount(clusters, weights=deltas - deltas.mean())
    variance = float((sums**2).sum() / len(deltas))
    factor = float((norm.ppf(0.975) + norm.ppf(POWER)) ** 2)
    return {f"{gain:.2f}": max(1, math.ceil(factor * variance / gain**2)) for gain in GAINS}
