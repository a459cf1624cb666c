"""Graded answers -> numbers with intervals; exact fractions until they are shown.

Every figure is a `Cell`: how many, what share, a 95 % interval, and how many answers could not be read or were cut.
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

Z95 = 1.959963984540054


@dataclass(slots=True, kw_only=True)
class Prediction:
    """One answered question: a row of predictions.jsonl."""

    uid: str
    text: str  # raw completion
    letter: str | None
    choice: str | None  # the chosen option's text
    answer: str  # the right letter ("" for open questions)
    rule: str  # rung of the extraction ladder
    outcome: str  # an `Outcome` value
    hit: float  # 1 or 0; a share for numeric answers (mean relative accuracy)
    format_ok: bool
    finish: str | None  # a `FinishReason` value
    tokens: int | None = None  # length of the completion
    type: str = ""
    example: str = ""  # uid of the Example; questions about one pair share it
    categories: dict[str, str] = field(default_factory=dict)
    group: dict[str, Any] = field(
        default_factory=dict
    )  # base, rotation, rotations (how many belong together), flip


@dataclass(slots=True, kw_only=True, frozen=True)
class Cell:
    n: int  # units averaged: answers, pairs or groups
    value: Fraction  # share in [0, 1]
    low: float
    high: float
    unparsed: float  # share of answers without a readable option, cut ones included
    truncated: float  # share of answers cut before the option

    def to_json(self) -> dict[str, float | int]:
        """Floats, and the percentage in both printed forms: `round1` (half up) and `trunc1` (cut), one decimal."""
        return asdict(self) | {
            "value": float(self.value),
            "round1": round1(self.value),
            "trunc1": trunc1(self.value),
        }


def to_json(node: Any) -> Any:
    """Nested dictionaries with their cells in JSON form."""
    if isinstance(node, Cell):
        return node.to_json()
    return {key: to_json(value) for key, value in node.items()} if isinstance(node, dict) else node


def round1(share: Fraction) -> float:
    return math.floor(share * 1000 + Fraction(1, 2)) / 10


def trunc1(share: Fraction) -> float:
    return math.floor(share * 1000) / 10


def wilson(hits: float, n: int, z: float = Z95) -> tuple[float, float]:
    """Wilson score interval of a proportion (Wilson 1927); (0, 1) without observations."""
    if n == 0:
        return 0.0, 1.0
    p, z2n = hits / n, z * z / n
    center, half = (
        (p + z2n / 2) / (1 + z2n),
        z * math.sqrt(p * (1 - p) / n + z2n / (4 * n)) / (1 + z2n),
    )
    return center - half if hits else 0.0, center + half if hits < n else 1.0


# ---------------------------------------------------------------- cells


def accuracy(predictions: Sequence[Prediction]) -> Cell:
    """Mean hit over answers."""
    return mean_cell([_exact(p.hit) for p in predictions], predictions)


def accuracy_by(
    predictions: Iterable[Prediction], key: str | Callable[[Prediction], Hashable]
) -> dict[str, Cell]:
    """Accuracy per value of a category name, of "type", or of a function of the prediction; sorted by name."""
    return {name: accuracy(rows) for name, rows in split_by(predictions, key).items()}


def split_by(
    predictions: Iterable[Prediction], key: str | Callable[[Prediction], Hashable]
) -> dict[str, list[Prediction]]:
    parts: dict[str, list[Prediction]] = defaultdict(list)
    for p in predictions:
        parts[
            str(key(p) if callable(key) else p.type if key == "type" else p.categories[key])
        ].append(p)
    return dict(sorted(parts.items()))


def all_right(groups: Mapping[Hashable, Sequence[Prediction]]) -> Cell:
    """Share of groups whose answers are all right."""
    return mean_cell(
        [Fraction(all(p.hit == 1 for p in rows)) for rows in groups.values()],
        [p for rows in groups.values() for p in rows],
    )


def joint(predictions: Iterable[Prediction], size: int = 3) -> Cell:
    """Share of examples (view pairs) whose questions are all answered right, among those with at least `size` of them."""
    groups = defaultdict(list)
    for p in predictions:
        groups[p.example].append(p)
    return all_right({name: rows for name, rows in groups.items() if len(rows) >= size})


def macro(cells: Sequence[Cell], weights: Sequence[Fraction] | None = None) -> Cell:
    """Weighted mean of independent cells (equal weights by default).

    The interval adds the members' distances to their own limits in quadrature (MOVER, Zou and Donner 2008, doi 10.1002/sim.3095).
    """
    if not cells:
        return mean_cell([], [])
    weights = weights or [Fraction(1, len(cells))] * len(cells)
    value = sum((w * c.value for w, c in zip(weights, cells, strict=True)), Fraction(0))
    below = math.hypot(
        *(float(w) * (float(c.value) - c.low) for w, c in zip(weights, cells, strict=True))
    )
    above = math.hypot(
        *(float(w) * (c.high - float(c.value)) for w, c in zip(weights, cells, strict=True))
    )
    n = sum(c.n for c in cells)
    rates = {
        name: sum(getattr(c, name) * c.n for c in cells) / n if n else 0.0
        for name in ("unparsed", "truncated")
    }
    return Cell(
        n=n,
        value=value,
        low=max(0.0, float(value) - below),
        high=min(1.0, float(value) + above),
        **rates,
    )


def confusion(predictions: Iterable[Prediction]) -> dict[str, float]:
    """Viewpoint answers by kind of mistake: right, side swapped, "no" chosen, unread; shares that sum to 1. Numbers do not count."""
    counts = dict.fromkeys(("right", "swapped", "none", "unparsed"), 0)
    for p in predictions:
        if p.answer not in LETTERS:
            continue
        kind = (
            "unparsed"
            if p.choice is None
            else "right"
            if p.hit
            else "none"
            if p.choice.lower().startswith("no ")
            else "swapped"
        )
        counts[kind] += 1
    total = sum(counts.values())
    return {kind: count / total if total else 0.0 for kind, count in counts.items()}


def mean_cell(values: Sequence[Fraction], answers: Sequence[Prediction]) -> Cell:
    """Mean of `values`; the rates of unread answers come from `answers`, of which a value may rest on several."""
    hits, n = sum(values, Fraction(0)), len(values)
    low, high = wilson(float(hits), n)
    unread = [p for p in answers if p.outcome != Outcome.PARSED.value]
    cut = [p for p in unread if p.outcome == Outcome.TRUNCATED.value]
    return Cell(
        n=n,
        value=hits / n if n else Fraction(0),
        low=low,
        high=high,
        unparsed=len(unread) / len(answers) if answers else 0.0,
        truncated=len(cut) / len(answers) if answers else 0.0,
    )


def difference(one: Cell, other: Cell) -> dict[str, float]:
    """value, low, high of one - other for independent cells (Newcombe 1998, method 10)."""
    a, b = float(one.value), float(other.value)
    low, high = math.hypot(a - one.low, other.high - b), math.hypot(one.high - a, b - other.low)
    return {"value": a - b, "low": a - b - low, "high": a - b + high}


def _exact(hit: float) -> Fraction:
    return Fraction(hit).limit_denominator(1_000_000)


# ---------------------------------------------------------------- circular evaluation


def circular(predictions: Iterable[Prediction]) -> Cell:
    """Share of questions right under every rotation of their options (MMBench's CircularEval, arXiv 2307.06281).

    Raises:
        UserError: a question lacks some of its `group["rotations"]` members or has one twice.
    """
    return all_right(
        rotation_groups(predictions, lambda p: (p.group["base"], p.group.get("flip", False)))
    )


def any_rotated(predictions: Iterable[Prediction]) -> bool:
    """Whether some question was asked under more than one order of its options."""
    return any(p.group.get("rotations", 1) > 1 for p in predictions)


def rotation_groups(
    predictions: Iterable[Prediction], key: Callable[[Prediction], Hashable]
) -> dict[Hashable, list[Prediction]]:
    """Groups that each hold every rotation exactly once per flip state; incomplete ones are refused."""
    groups: dict[Hashable, list[Prediction]] = defaultdict(list)
    for p in predictions:
        groups[key(p)].append(p)
    for name, rows in groups.items():
        flips = {p.group.get("flip", False) for p in rows}
        want = sorted((flip, r) for flip in flips for r in range(rows[0].group["rotations"]))
        have = sorted((p.group.get("flip", False), p.group["rotation"]) for p in rows)
        if have != want:
            raise UserError(
                f"circular group {name} holds rotations {have} of {want}: predict the missing ones and score again."
            )
    return groups


# ---------------------------------------------------------------- benchmarks with a formula of their own

THREEDSR_TYPES = {
    "height": ("height_higher",),
    "location": ("location_above", "location_closer_to_camera", "location_next_to"),
    "orientation": ("orientation_in_front_of", "orientation_on_the_left", "orientation_viewpoint"),
    "multi_object": (
        "multi_object_closer_to",
        "multi_object_facing",
        "multi_object_viewpoint_towards_object",
        "multi_object_parallel",
        "multi_object_same_direction",
    ),
}


def threedsr(predictions: Sequence[Prediction]) -> dict[str, dict[str, Cell]]:
    """3DSRBench (arXiv 2412.07825): metric -> {overall, 4 types, 12 subtypes}.

    vanilla: rows. flip: a row and its mirrored twin, when it has one. circ: all rotations of one image, mirrored images counted apart
    (the published number). flip_circ: all rotations of both. random: circ of a coin that picks one of the options in every row, in
    expectation, where group["options"] is known. The last three only where options are rotated. Needs categories["category"]; UserError
    when a rotation is missing.
    """
    metrics: dict[str, Callable[[Prediction], Hashable]] = {
        "vanilla": lambda p: p.uid,
        "flip": lambda p: (p.group["base"], p.group["rotation"]),
        "circ": lambda p: (p.group["base"], p.group["flip"]),
        "flip_circ": lambda p: p.group["base"],
    }
    rotation_groups(predictions, metrics["flip_circ"])
    turned = any_rotated(predictions)
    ways = [(name, key, all_right) for name, key in metrics.items() if turned or "circ" not in name]
    result = {}
    if turned and all("options" in p.group for p in predictions):
        ways.append(("random", metrics["circ"], coin))
    for metric, key, score in ways:
        groups: dict[Hashable, list[Prediction]] = defaultdict(list)
        for p in predictions:
            groups[key(p)].append(p)
        cells = {"overall": score(groups)}
        category = {name: rows[0].categories["category"] for name, rows in groups.items()}
        for kind, members in THREEDSR_TYPES.items():
            for label, names in [(kind, members), *((member, (member,)) for member in members)]:
                cells[label] = score(
                    {g: rows for g, rows in groups.items() if category[g] in names}
                )
        result[metric] = cells
    return result


def coin(groups: Mapping[Hashable, Sequence[Prediction]]) -> Cell:
    """Expected share of groups that guessing among `group["options"]` options gets right throughout; its own value is its interval."""
    shares = [Fraction(1, math.prod(p.group["options"] for p in rows)) for rows in groups.values()]
    value = sum(shares, start=Fraction(0)) / max(1, len(shares))
    return Cell(
        n=len(shares), value=value, low=float(value), high=float(value), unparsed=0.0, truncated=0.0
    )


def cvbench(predictions: Sequence[Prediction]) -> dict[str, Cell]:
    """CV-Bench (Cambrian-1, arXiv 2406.16860): tasks, sources, and the three averages in use, each under its own name.

    macro4: plain mean of the four tasks (the Actial paper's). cambrian: ((ADE20K + COCO) / 2 + Omni3D) / 2. micro: mean over answers.
    Needs categories["task"] and categories["source"].
    """
    tasks, sources = accuracy_by(predictions, "task"), accuracy_by(predictions, "source")
    cells = {f"task/{name}": cell for name, cell in tasks.items()} | {
        f"source/{name}": cell for name, cell in sources.items()
    }
    cells["micro"] = accuracy(predictions)
    if set(tasks) == {"Count", "Relation", "Depth", "Distance"}:
        cells["macro4"] = macro(list(tasks.values()))
    if set(sources) == {"ADE20K", "COCO", "Omni3D"}:
        cells["cambrian"] = macro(
            [sources[s] for s in ("ADE20K", "COCO", "Omni3D")],
            [Fraction(1, 4), Fraction(1, 4), Fraction(1, 2)],
        )
    return cells


THRESHOLDS = np.linspace(0.5, 0.95, 10)


def mra(predicted: float, truth: float) -> float:
    """Mean relative accuracy (VSI-Bench, arXiv 2412.14171): share of t = 0.50, 0.55 .. 0.95 with |error| / |truth| <= 1 - t."""
    if truth == 0:
        return relative_accuracy(abs(predicted))
    return relative_accuracy(abs((predicted - truth) / truth))


def relative_accuracy(error: float) -> float:
    return float((error <= 1 - THRESHOLDS).mean())
