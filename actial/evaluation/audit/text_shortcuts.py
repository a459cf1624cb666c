"""Measure what a set's text gives away without its images."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from zlib import crc32

import numpy as np
from scipy.optimize import minimize
from scipy.sparse import csr_array, vstack
from scipy.stats import binomtest, chisquare

from actial.core.multiple_choice_format import LETTERS
from actial.core.seeding import hash_int
from actial.evaluation.audit.items import AuditItem
from actial.grading.metrics import wilson

FOLDS = 5
BITS = 15  # of the hashed features
RIDGE = 1.0
WORD = re.compile(r"[a-z]+|\d+")
NUMBER_OR_NAME = re.compile(r"\d+(?:\.\d+)?|\"[^\"]*\"|'[^']*'")


@dataclass(slots=True, kw_only=True, frozen=True)
class Shortcut:
    """What a guesser without images scores, against the chance of guessing."""

    n: int
    accuracy: float
    low: float  # 95 % interval
    high: float
    chance: float
    p: float  # of so many hits or more by chance


def position_counts(items: Sequence[AuditItem]) -> tuple[Counter[str], float]:
    """Count the correct options by position; the p value is that all positions are alike.

    Only questions with the most frequent number of options are counted.
    """
    sizes = Counter(len(item.options) for item in items)
    size = sizes.most_common(1)[0][0]
    counts = Counter(dict.fromkeys(LETTERS[:size], 0))
    for item in items:
        if len(item.options) == size:
            counts[LETTERS[item.answer_index]] += 1
    return counts, float(chisquare(list(counts.values())).pvalue)


def template(item: AuditItem) -> str:
    """Return a question with its numbers and quoted names left out."""
    return f"{item.kind}|{NUMBER_OR_NAME.sub('#', item.question.lower())}"


def template_prior(items: Sequence[AuditItem]) -> Shortcut:
    """Answer each question by the option that is most often correct for its template, k-fold."""
    hits = []
    for train, test in _folds(items):
        wins: dict[str, Counter[str]] = defaultdict(Counter)
        seen: dict[str, Counter[str]] = defaultdict(Counter)
        for item in train:
            key = template(item)
            wins[key][item.options[item.answer_index].lower()] += 1
            seen[key].update(option.lower() for option in item.options)
        for item in test:
            key = template(item)
            rates = [
                (wins[key][o.lower()] + 0.5) / (seen[key][o.lower()] + 1) for o in item.options
            ]
            hits.append(_expected_hit(rates, item.answer_index))
    return _shortcut(hits, items)


def blind_solver(items: Sequence[AuditItem]) -> Shortcut:
    """Answer by a logistic model of the words of question and options and their positions, k-fold.

    This is the test-set stress test: what is learnt from one part of the set answers the other.
    """
    hits = []
    for train, test in _folds(items):
        weights = _fit(train)
        for item in test:
            scores = _features(item) @ weights
            hits.append(_expected_hit(scores.tolist(), item.answer_index))
    return _shortcut(hits, items)


def _expected_hit(scores: Sequence[float], answer_index: int) -> Fraction:
    """Return the chance of a hit when ties for the best score are broken at random."""
    best = max(scores)
    tied = [i for i, score in enumerate(scores) if score >= best - 1e-9]
    return Fraction(1, len(tied)) if answer_index in tied else Fraction(0)


def _folds(items: Sequence[AuditItem]) -> list[tuple[list[AuditItem], list[AuditItem]]]:
    """Split by group, so that no scene is on both sides."""
    fold = [hash_int("audit fold", item.group or item.uid) % FOLDS for item in items]
    return [
        (
            [item for item, number in zip(items, fold, strict=True) if number != held_out],
            [item for item, number in zip(items, fold, strict=True) if number == held_out],
        )
        for held_out in range(FOLDS)
    ]


def _features(item: AuditItem) -> csr_array:
    """Return (options, 2**BITS) hashed features of every option in the light of the question."""
    words = WORD.findall(item.question.lower())
    context = [item.kind, *words, *map("_".join, pairwise(words))]
    rows, columns = [], []
    for row, option in enumerate(item.options):
        text = " ".join(WORD.findall(option.lower()))
        own = [
            f"o:{text}",
            f"p:{row}",
            f"k:{item.kind}:{text}",
            *(f"w:{w}" for w in text.split()),
        ]
        crossed = [f"x:{word}:{text}" for word in context]
        for name in {*own, *crossed}:
            rows.append(row)
            columns.append(crc32(name.encode()) % 2**BITS)
    shape = (len(item.options), 2**BITS)
    return csr_array((np.ones(len(rows)), (rows, columns)), shape=shape)


def _fit(items: Sequence[AuditItem]) -> np.ndarray:
    """Return the weights of a softmax over each question's options; all zero without questions."""
    if not items:
        return np.zeros(2**BITS)  # a set of one scene has nothing to learn from beside it
    blocks = [_features(item) for item in items]
    sizes = np.array([block.shape[0] for block in blocks])
    owner = np.repeat(np.arange(len(items)), sizes)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    matrix = csr_array(vstack(blocks))
    correct = starts + np.array([item.answer_index for item in items])

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        logits = matrix @ weights
        logits = logits - np.maximum.reduceat(logits, starts)[owner]
        exponents = np.exp(logits)
        totals = np.add.reduceat(exponents, starts)
        value = np.log(totals).sum() - logits[correct].sum()
        residual = exponents / totals[owner]
        residual[correct] -= 1
        gradient = matrix.T @ residual + RIDGE * weights
        return float(value + RIDGE / 2 * weights @ weights), gradient

    start = np.zeros(2**BITS)
    result = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 60})
    weights: np.ndarray = result.x
    return weights


def _shortcut(hits: Sequence[Fraction], items: Sequence[AuditItem]) -> Shortcut:
    n = len(hits)
    total = float(sum(hits, Fraction(0)))
    chance = sum(1 / len(item.options) for item in items) / max(1, n)
    low, high = wilson(total, n)
    p = float(binomtest(round(total), n, chance, alternative="greater").pvalue) if n else 1.0
    accuracy = total / max(1, n)
    return Shortcut(n=n, accuracy=accuracy, low=low, high=high, chance=chance, p=p)
