"""Published formulas of benchmarks that average in their own way: 3DSRBench, CV-Bench, SITE."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

from actial.grading.metrics import (
    Cell,
    Prediction,
    accuracy,
    accuracy_by,
    all_correct,
    any_rotated,
    macro,
    rotation_groups,
)

THREEDSR_TYPES = {
    "height": ("height_higher",),
    "location": ("location_above", "location_closer_to_camera", "location_next_to"),
    "orientation": (
        "orientation_in_front_of",
        "orientation_on_the_left",
        "orientation_viewpoint",
    ),
    "multi_object": (
        "multi_object_closer_to",
        "multi_object_facing",
        "multi_object_viewpoint_towards_object",
        "multi_object_parallel",
        "multi_object_same_direction",
    ),
}
Groups = Mapping[Hashable, Sequence[Prediction]]


def threedsr(predictions: Sequence[Prediction]) -> dict[str, dict[str, Cell]]:
    """Score 3DSRBench (arXiv 2412.07825): metric -> {overall, 4 types, 12 subtypes}.

    vanilla: every answer. flip: an answer and that to its mirrored twin, where there is one. circ:
    all rotations of one image, mirrored images counted apart (the published number). flip_circ: all
    rotations of both. random: circ of guessing, in expectation, where group["options"] is set. The
    last three only where options are rotated. Needs categories["category"].

    Raises:
        UserError: a rotation is missing.
    """
    keys: dict[str, Callable[[Prediction], Hashable]] = {
        "vanilla": lambda p: p.uid,
        "flip": lambda p: (p.group["base"], p.group["rotation"]),
        "circ": lambda p: (p.group["base"], p.group["flip"]),
        "flip_circ": lambda p: p.group["base"],
    }
    rotation_groups(predictions, keys["flip_circ"])
    if not any_rotated(predictions):
        keys = {name: keys[name] for name in ("vanilla", "flip")}
    scores = {
        name: _threedsr_cells(predictions, key, all_correct) for name, key in keys.items()
    }
    if "circ" in keys and all("options" in p.group for p in predictions):
        scores["random"] = _threedsr_cells(predictions, keys["circ"], guessing)
    return scores


def _threedsr_cells(
    predictions: Sequence[Prediction],
    key: Callable[[Prediction], Hashable],
    score: Callable[[Groups], Cell],
) -> dict[str, Cell]:
    groups: dict[Hashable, list[Prediction]] = defaultdict(list)
    for p in predictions:
        groups[key(p)].append(p)
    category = {name: members[0].categories["category"] for name, members in groups.items()}
    cells = {"overall": score(groups)}
    for kind, subtypes in THREEDSR_TYPES.items():
        for label, names in [(kind, subtypes), *((name, (name,)) for name in subtypes)]:
            cells[label] = score(
                {g: rows for g, rows in groups.items() if category[g] in names}
            )
    return cells


def guessing(groups: Groups) -> Cell:
    """Return the expected share of groups that guessing answers correctly throughout.

    Needs group["options"], the number of options of each answer. The interval is the value itself.
    """
    shares = [
        Fraction(1, math.prod(p.group["options"] for p in members))
        for members in groups.values()
    ]
    value = sum(shares, start=Fraction(0)) / max(1, len(shares))
    low = high = float(value)
    return Cell(n=len(shares), value=value, low=low, high=high, unparsed=0.0, truncated=0.0)


def cvbench(predictions: Sequence[Prediction]) -> dict[str, Cell]:
    """Score CV-Bench (Cambrian-1, arXiv 2406.16860): tasks, sources and the three averages in use.

    macro4: plain mean of the four tasks (the Actial paper's). cambrian: ((ADE20K + COCO) / 2 +
    Omni3D) / 2. micro: mean over answers. Needs categories["task"] and categories["source"].
    """
    tasks = accuracy_by(predictions, "task")
    sources = accuracy_by(predictions, "source")
    cells = {f"task/{name}": cell for name, cell in tasks.items()}
    cells |= {f"source/{name}": cell for name, cell in sources.items()}
    cells["micro"] = accuracy(predictions)
    if set(tasks) == {"Count", "Relation", "Depth", "Distance"}:
        cells["macro4"] = macro(list(tasks.values()))
    if set(sources) == {"ADE20K", "COCO", "Omni3D"}:
        members = [sources[name] for name in ("ADE20K", "COCO", "Omni3D")]
        cells["cambrian"] = macro(members, [Fraction(1, 4), Fraction(1, 4), Fraction(1, 2)])
    return cells


def chance_adjusted(predictions: Sequence[Prediction]) -> Cell:
    """Score SITE-Bench's chance-adjusted accuracy (arXiv 2505.05456): 0 is guessing, 1 perfect.

    (correct - S) / (n - S), where S sums 1 / options over the questions. Needs
    categories["options"], the number of options. The interval is that of the accuracy, adjusted
    alike.
    """
    cell = accuracy(predictions)
    guessed = sum(
        (Fraction(1, int(p.categories["options"])) for p in predictions), Fraction(0)
    )
    if not cell.n - guessed:
        return cell

    def adjusted(share: Fraction) -> Fraction:
        return (share * cell.n - guessed) / (cell.n - guessed)

    limits = [float(adjusted(Fraction(limit))) for limit in (cell.low, cell.high)]
    return replace(cell, value=adjusted(cell.value), low=limits[0], high=limits[1])
