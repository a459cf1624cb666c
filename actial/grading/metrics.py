"""Aggregate graded answers into figures with 95 % intervals.

Every figure is a `Cell`: the number of units averaged, their mean as an exact
fraction, an interval, and the shares of answers that could not be read or were
cut off. Scores stay fractions until they are printed.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from actial.core.errors import UserError
from actial.core.multiple_choice_format import LETTERS
from actial.core.records import Outcome

Z95 = 1.959963984540054  # the standard normal's 97.5 % quantile
Key = str | Callable[["Prediction"], Hashable]  # a category's name, "type", or a function
RENAMED_FIELDS = {"hit": "score"}  # of prediction files written before the names changed


@dataclass(slots=True, kw_only=True)
class Prediction:
    """One graded answer: a line of predictions.jsonl."""

    uid: str  # of the question
    text: str  # raw completion
    letter: (
        str | None
    )  # of the option that was read; None where none was, and for open answers
    choice: str | None  # the text of that option, or the value read from an open answer
    answer: str  # the correct letter, or the truth of an open question
    rule: str  # the grader's rule that read the answer, or "none"
    outcome: str  # an `Outcome` value
    score: float  # 1 or 0; in [0, 1] for numeric answers (mean relative accuracy)
    format_ok: bool  # one think block followed by one answer block
    finish: str | None  # a `FinishReason` value
    tokens: int | None = None  # length of the completion
    type: str = ""  # of the question
    example: str = ""  # uid of the Example; the questions about one view pair share it
    categories: dict[str, str] = field(default_factory=dict)
    group: dict[str, Any] = field(
        default_factory=dict
    )  # base, rotation, rotations, flip, options

    def to_json(self) -> dict[str, Any]:
        """Return the line of predictions.jsonl."""
        return asdict(self)

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Prediction:
        """Read a line of predictions.jsonl, older field names included.

        Raises:
            TypeError: a field is missing, unknown or of another type.
            ValueError: the score is not between 0 and 1.
        """
        line = cls(**{RENAMED_FIELDS.get(name, name): value for name, value in entry.items()})
        _check_types(line)
        return line


def _check_types(p: Prediction) -> None:
    """Refuse what figures cannot be made of: they would fail later, or be wrong."""
    texts = (p.uid, p.text, p.answer, p.rule, p.outcome, p.type, p.example)
    for text in (*texts, p.letter or "", p.choice or "", p.finish or ""):
        if not isinstance(text, str):
            raise TypeError(f"{text!r} stands in the place of a text")
    if not isinstance(p.categories, dict) or not isinstance(p.group, dict):
        raise TypeError("categories or group is no mapping")
    for name, category in p.categories.items():
        if not isinstance(category, str):
            raise TypeError(f"category {name} is {category!r}, no text")
    if not isinstance(p.score, int | float):
        raise TypeError(f"score {p.score!r} is no number")
    if not 0 <= p.score <= 1:
        raise ValueError(f"score {p.score} is not between 0 and 1")


@dataclass(slots=True, kw_only=True, frozen=True)
class Cell:
    """A mean over answers, view pairs or groups, with its interval."""

    n: int  # units averaged: answers, pairs or groups
    value: Fraction  # in [0, 1]
    low: float  # limits of the 95 % interval
    high: float
    unparsed: float  # share of answers without a readable option, truncated ones included
    truncated: float  # share of answers cut off before the option

    def to_json(self) -> dict[str, float | int]:
        """Return floats, and the percentage in both printed forms (`round1`, `trunc1`)."""
        rounded = {"round1": round1(self.value), "trunc1": trunc1(self.value)}
        return asdict(self) | {"value": float(self.value)} | rounded

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Cell:
        """Read a cell of results.json or scores.json; rates that are absent count as zero."""
        return cls(
            n=int(entry["n"]),
            value=exact_fraction(entry["value"]),
            low=float(entry["low"]),
            high=float(entry["high"]),
            unparsed=float(entry.get("unparsed", 0.0)),
            truncated=float(entry.get("truncated", 0.0)),
        )


@dataclass(slots=True, kw_only=True, frozen=True)
class Difference:
    """The difference of two cells with its 95 % interval."""

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        return asdict(self)


def cell_tree_to_json(node: Any) -> Any:
    """Return nested dictionaries with every `Cell` in its JSON form."""
    if isinstance(node, Cell):
        return node.to_json()
    if not isinstance(node, dict):
        return node
    return {key: cell_tree_to_json(value) for key, value in node.items()}


def exact_fraction(score: float) -> Fraction:
    """Return the simple fraction that a stored float stands for."""
    return Fraction(score).limit_denominator(1_000_000)


def round1(share: Fraction) -> float:
    """Return the percentage rounded half up to one decimal."""
    return math.floor(share * 1000 + Fraction(1, 2)) / 10


def trunc1(share: Fraction) -> float:
    """Return the percentage cut off after one decimal."""
    return math.floor(share * 1000) / 10


def wilson(successes: float, n: int, z: float = Z95) -> tuple[float, float]:
    """Return the Wilson score interval of a proportion (Wilson 1927); (0, 1) for n = 0."""
    if n == 0:
        return 0.0, 1.0
    p, z2n = successes / n, z * z / n
    center = (p + z2n / 2) / (1 + z2n)
    half = z * math.sqrt(p * (1 - p) / n + z2n / (4 * n)) / (1 + z2n)
    low = center - half if successes else 0.0
    high = center + half if successes < n else 1.0
    return low, high


# ---------------------------------------------------------------- cells


def mean_cell(values: Sequence[Fraction], answers: Sequence[Prediction]) -> Cell:
    """Average `values`; the rates of unparsed and truncated come from the `answers` behind them.

    A value may rest on several answers (a pair, a circular group), so the two lengths may differ.
    """
    total, n = sum(values, Fraction(0)), len(values)
    low, high = wilson(float(total), n)
    outcomes = [p.outcome for p in answers]
    truncated = outcomes.count(Outcome.TRUNCATED.value)
    unparsed = len(outcomes) - outcomes.count(Outcome.PARSED.value)
    return Cell(
        n=n,
        value=total / n if n else Fraction(0),
        low=low,
        high=high,
        unparsed=unparsed / max(1, len(answers)),
        truncated=truncated / max(1, len(answers)),
    )


def accuracy(predictions: Sequence[Prediction]) -> Cell:
    """Return the mean score over answers."""
    return mean_cell([exact_fraction(p.score) for p in predictions], predictions)


def accuracy_by(predictions: Iterable[Prediction], key: Key) -> dict[str, Cell]:
    """Return the accuracy for each value of `key`, sorted by name."""
    return {name: accuracy(members) for name, members in split_by(predictions, key).items()}


def split_by(predictions: Iterable[Prediction], key: Key) -> dict[str, list[Prediction]]:
    """Group predictions by a category's name, by "type", or by a function; sorted by name."""
    groups: dict[str, list[Prediction]] = defaultdict(list)
    for p in predictions:
        groups[str(_key_value(p, key))].append(p)
    return dict(sorted(groups.items()))


def _key_value(p: Prediction, key: Key) -> Hashable:
    if callable(key):
        return key(p)
    return p.type if key == "type" else p.categories[key]


def all_correct(groups: Mapping[Hashable, Sequence[Prediction]]) -> Cell:
    """Return the share of groups in which every answer is correct."""
    values = [Fraction(all(p.score == 1 for p in members)) for members in groups.values()]
    answers = [p for members in groups.values() for p in members]
    return mean_cell(values, answers)


def pairs_all_correct(predictions: Iterable[Prediction], size: int = 3) -> Cell:
    """Return the share of view pairs whose questions are all answered correctly.

    Pairs with fewer than `size` questions are left out.
    """
    groups: dict[Hashable, list[Prediction]] = defaultdict(list)
    for p in predictions:
        groups[p.example].append(p)
    return all_correct(
        {name: members for name, members in groups.items() if len(members) >= size}
    )


def macro(cells: Sequence[Cell], weights: Sequence[Fraction] | None = None) -> Cell:
    """Return the weighted mean of independent cells (equal weights by default).

    The interval adds the members' distances to their own limits in quadrature (MOVER, Zou and
    Donner 2008, doi 10.1002/sim.3095).
    """
    if not cells:
        return mean_cell([], [])
    weights = weights or [Fraction(1, len(cells))] * len(cells)
    weighted = list(zip(weights, cells, strict=True))
    value = sum((w * c.value for w, c in weighted), Fraction(0))
    below = math.hypot(*(float(w) * (float(c.value) - c.low) for w, c in weighted))
    above = math.hypot(*(float(w) * (c.high - float(c.value)) for w, c in weighted))
    n = sum(c.n for c in cells)
    return Cell(
        n=n,
        value=value,
        low=max(0.0, float(value) - below),
        high=min(1.0, float(value) + above),
        unparsed=sum(c.unparsed * c.n for c in cells) / max(1, n),
        truncated=sum(c.truncated * c.n for c in cells) / max(1, n),
    )


def difference(one: Cell, other: Cell) -> Difference:
    """Return one - other for independent cells, with Newcombe's interval (1998, method 10)."""
    a, b = float(one.value), float(other.value)
    below = math.hypot(a - one.low, other.high - b)
    above = math.hypot(one.high - a, b - other.low)
    return Difference(value=a - b, low=a - b - below, high=a - b + above)


def confusion(predictions: Iterable[Prediction]) -> dict[str, float]:
    """Return the shares of correct, side-swapped, "no movement" and unparsed viewpoint answers.

    The shares sum to 1. Answers to numeric questions are left out.
    """
    counts = dict.fromkeys(("correct", "swapped", "no_movement", "unparsed"), 0)
    for p in predictions:
        if p.answer in LETTERS:
            counts[_answer_kind(p)] += 1
    total = sum(counts.values())
    return {kind: count / max(1, total) for kind, count in counts.items()}


def _answer_kind(p: Prediction) -> str:
    if p.choice is None:
        return "unparsed"
    if p.score:
        return "correct"
    return "no_movement" if p.choice.lower().startswith("no ") else "swapped"


# ---------------------------------------------------------------- circular evaluation


def circular(predictions: Iterable[Prediction]) -> Cell:
    """Return the share of questions answered correctly under every rotation of their options.

    This is MMBench's CircularEval (arXiv 2307.06281).

    Raises:
        UserError: a question lacks some of its `group["rotations"]` members or has one twice.
    """
    return all_correct(
        rotation_groups(predictions, lambda p: (p.group["base"], p.group.get("flip", False)))
    )


def any_rotated(predictions: Iterable[Prediction]) -> bool:
    """Return whether some question was posed under more than one order of its options."""
    return any(p.group.get("rotations", 1) > 1 for p in predictions)


def rotation_groups(
    predictions: Iterable[Prediction], key: Callable[[Prediction], Hashable]
) -> dict[Hashable, list[Prediction]]:
    """Group predictions by `key`; every group must hold each rotation once per flip state.

    Raises:
        UserError: a group is incomplete.
    """
    groups: dict[Hashable, list[Prediction]] = defaultdict(list)
    for p in predictions:
        groups[key(p)].append(p)
    for name, members in groups.items():
        rotations = range(members[0].group["rotations"])
        flips = {p.group.get("flip", False) for p in members}
        expected = sorted((flip, r) for flip in flips for r in rotations)
        present = sorted((p.group.get("flip", False), p.group["rotation"]) for p in members)
        if present != expected:
            raise UserError(
                f"circular group {name} holds the rotations {present}, expected are {expected}: "
                "predict the missing ones and score again."
            )
    return groups


# ---------------------------------------------------------------- numbers

THRESHOLDS = np.linspace(0.5, 0.95, 10)


def mra(predicted: float, truth: float) -> float:
    """Return the mean relative accuracy (VSI-Bench, arXiv 2412.14171).

    It is the share of t = 0.50, 0.55 .. 0.95 for which |predicted - truth| / |truth| <= 1 - t.
    """
    if truth == 0:
        return relative_accuracy(abs(predicted))
    return relative_accuracy(abs((predicted - truth) / truth))


def relative_accuracy(error: float) -> float:
    """Return the share of the thresholds that a relative error passes."""
    return float((error <= 1 - THRESHOLDS).mean())
