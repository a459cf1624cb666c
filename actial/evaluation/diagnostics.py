"""Does the model use geometry, or a shortcut? Consistency under known transformations, and what remains when the evidence is taken away.

Transformations map Example -> Example with the truth carried along; scorers compare the answers. Swapping the two photos or mirroring
both turns left into right (spec: the labels are antisymmetric in the viewpoint angle), so an answer must turn too; permuting options must
not change the chosen text; the three questions of a pair share one sign.

Prior art: consistency under symmetric reformulation, SpinBench (arXiv 2509.25390) and ReMindView-Bench (2512.02340); shuffled frames,
Video-R1 (2503.21776); probability drop without the image, PAPO (2507.06448).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np

from actial.core.records import Example
from actial.core.seeding import hash_shuffle
from actial.grading.metrics import (
    Cell,
    Prediction,
    accuracy,
    accuracy_by,
    difference,
    mean_cell,
    split_by,
    to_json,
)
from actial.viewpoint.shortcut_probes import answer_prior, centroid_probe
from actial.viewpoint.symmetry import (
    SIGN,
    _variant,
    implied_motion,
    mirror_views,
    opposite,
    rotate_options,
    swap_views,
    turns,
)

Answer = Callable[
    [list[Example]], list[Prediction]
]  # asks the model; one prediction per question, in order
Score = Callable[
    [list[Example]], list[float]
]  # mean log-probability of each question's target, in order

GRAY = 128


# ---------------------------------------------------------------- transformations


def without_images(example: Example) -> Example:
    return _variant(example, "blind", [], example.questions)


def masked(example: Example, keep: Sequence[int] = ()) -> Example:
    """Photos replaced by flat grey of their size, but for those at the positions `keep`."""
    images = [
        image if i in keep else np.full_like(image, GRAY) for i, image in enumerate(example.images)
    ]
    return _variant(example, f"masked{''.join(map(str, keep))}", images, example.questions)


def wrong_pairs(examples: Sequence[Example]) -> list[Example]:
    """Each first photo with the last photo of another example of equal image size; examples without a partner are left out."""
    by_size = defaultdict(list)
    for example in examples:
        by_size[example.images[-1].shape].append(example)
    result = []
    for same in by_size.values():
        ring = hash_shuffle(same, "wrong_pair", len(same))
        for example, partner in zip(ring, ring[1:] + ring[:1], strict=True):
            if partner is not example:
                result.append(
                    _variant(
                        example,
                        "wrong",
                        [*example.images[:-1], partner.images[-1]],
                        example.questions,
                    )
                )
    return result


# ---------------------------------------------------------------- scorers


def consistency(
    original: Sequence[Prediction],
    others: Sequence[Sequence[Prediction]],
    turn: Callable[[str], str],
) -> dict[str, Cell]:
    """consistent: every other answer is the `turn`ed first one. consistent_right: and all are right. Unread answers are inconsistent."""
    rows = list(zip(original, *others, strict=True))
    same = [
        first.choice is not None and all(p.choice == turn(first.choice) for p in rest)
        for first, *rest in rows
    ]
    right = [ok and all(p.hit == 1 for p in row) for ok, row in zip(same, rows, strict=True)]
    answers = [p for row in rows for p in row]
    return {"consistent": _share(same, answers), "consistent_right": _share(right, answers)}


def three_questions(predictions: Sequence[Prediction]) -> dict[str, Cell]:
    """Whether the answers to a pair's three questions state one and the same motion; pairs without all three are left out."""
    sided = split_by([p for p in predictions if p.type in SIGN], lambda p: p.example)
    pairs = [rows for rows in sided.values() if {p.type for p in rows} == set(SIGN)]
    answers = [p for rows in pairs for p in rows]
    same = [
        len({implied_motion(p.type, p.choice or "") for p in rows}) == 1
        and all(p.choice for p in rows)
        for rows in pairs
    ]
    right = [all(p.hit == 1 for p in rows) for rows in pairs]
    return {"consistent": _share(same, answers), "consistent_right": _share(right, answers)}


def _share(flags: Sequence[bool], answers: Sequence[Prediction]) -> Cell:
    return mean_cell([Fraction(flag) for flag in flags], answers)


def visual_dependence(
    score: Score, examples: Sequence[Example], answers: Sequence[Prediction]
) -> dict[str, float]:
    """Mean drop, in nats per token, of the log-probability of the model's own answers when the photos turn grey; 95 % interval."""
    said = {p.uid: p.text for p in answers}
    targeted = [
        replace(e, questions=[replace(q, target=said[q.uid]) for q in e.questions])
        for e in examples
    ]
    drops = np.subtract(score(targeted), score([masked(e) for e in targeted]))
    half = 1.96 * float(drops.std(ddof=1)) / math.sqrt(len(drops)) if len(drops) > 1 else 0.0
    return {
        "n": len(drops),
        "value": float(drops.mean()),
        "low": float(drops.mean()) - half,
        "high": float(drops.mean()) + half,
    }


# ---------------------------------------------------------------- all of them


def diagnose(
    answer: Answer, examples: Sequence[Example], *, score: Score | None = None
) -> dict[str, Any]:
    """Every diagnostic of one model on one set of view pairs, ready for results.json (cells in `Cell.to_json` form).

    Questions that do not turn with the photos are left out. `score` adds visual dependence. Asks the model about ten times.
    """
    kept = [
        replace(e, questions=[q for q in e.questions if turns(q)])
        for e in examples
        if len(e.images) > 1
    ]
    kept = [e for e in kept if e.questions]
    if not kept:
        return {}
    original = answer(kept)
    shifts = range(1, min(len(q.options) for e in kept for q in e.questions))
    permuted = [answer([rotate_options(e, shift) for e in kept]) for shift in shifts]
    shortcuts = {
        "blind": accuracy(answer([without_images(e) for e in kept])),
        "first view only": accuracy(answer([masked(e, [0]) for e in kept])),
        "last view only": accuracy(answer([masked(e, [len(e.images) - 1]) for e in kept])),
        "wrong pair": accuracy(answer(wrong_pairs(kept))),
        "2-D centroid": centroid_probe(kept),
        "answer prior": answer_prior(kept),
    }
    measured = {name: cell for name, cell in shortcuts.items() if cell.n}
    best = max(measured, key=lambda name: measured[name].value)
    report: dict[str, Any] = {
        "accuracy": accuracy(original),
        "swap": consistency(original, [answer([swap_views(e) for e in kept])], opposite),
        "mirror": consistency(original, [answer([mirror_views(e) for e in kept])], opposite),
        "options": consistency(original, permuted, lambda choice: choice),
        "three questions": three_questions(original),
        "by angle": accuracy_by([p for p in original if "angle" in p.categories], "angle"),
        "shortcuts": measured,
    }
    report = to_json(report)
    report["above best shortcut"] = {"shortcut": best} | difference(
        accuracy(original), measured[best]
    )
    if score is not None:
        report["visual dependence"] = visual_dependence(score, kept, original)
    return report
