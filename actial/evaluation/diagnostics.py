"""Measure whether a model uses geometry or a shortcut.

Transformations map Example -> Example with the truth carried along; the answers
before and after are compared. Swapping the two images or mirroring both turns
left into right (the labels are antisymmetric in the viewpoint angle), so the
answer must turn too. Permuting options must not change the chosen text. The
three questions of a pair share one sign.

Prior art: consistency under symmetric reformulation, SpinBench (arXiv
2509.25390) and ReMindView-Bench (2512.02340); shuffled frames, Video-R1
(2503.21776); probability drop without the image, PAPO (2507.06448).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from fractions import Fraction

import numpy as np

from actial.core.records import Example
from actial.core.seeding import hash_shuffle
from actial.core.set_records import ViewPair
from actial.evaluation.results import (
    Consistency,
    Diagnostics,
    ShortcutMargin,
    VisualDependence,
)
from actial.grading.metrics import (
    Cell,
    Prediction,
    accuracy,
    accuracy_by,
    difference,
    mean_cell,
    split_by,
)
from actial.viewpoint.shortcut_probes import answer_prior, centroid_probe
from actial.viewpoint.symmetry import (
    SIGN,
    answer_turns,
    implied_motion,
    mirror_views,
    opposite,
    rotate_options,
    swap_views,
    variant,
)

# Asks the model under a condition, named for the progress: one prediction per question, in order.
Answer = Callable[[list[Example], str], list[Prediction]]
# Mean log-probability of each question's target, in order.
Score = Callable[[list[Example]], list[float]]

GRAY = 128


# ---------------------------------------------------------------- transformations


def without_images(example: Example) -> Example:
    """Return the example as text alone."""
    return variant(example, "blind", [], example.questions)


def masked(example: Example, keep: Sequence[int] = ()) -> Example:
    """Return the example with gray images, except those at the positions `keep`."""
    images = [
        image if i in keep else np.full_like(image, GRAY)
        for i, image in enumerate(example.images)
    ]
    return variant(example, f"masked{''.join(map(str, keep))}", images, example.questions)


def wrong_pairs(examples: Sequence[Example]) -> list[Example]:
    """Replace each last image by that of another example of equal image size.

    Examples without a partner are left out.
    """
    by_size = defaultdict(list)
    for example in examples:
        by_size[example.images[-1].shape].append(example)
    result = []
    for same_size in by_size.values():
        ring = hash_shuffle(same_size, "wrong_pair", len(same_size))
        for example, partner in zip(ring, ring[1:] + ring[:1], strict=True):
            if partner is not example:
                images = [*example.images[:-1], partner.images[-1]]
                result.append(variant(example, "wrong", images, example.questions))
    return result


# ---------------------------------------------------------------- scorers


def consistency(
    original: Sequence[Prediction],
    others: Sequence[Sequence[Prediction]],
    turn: Callable[[str], str],
) -> Consistency:
    """Compare answers to transformed questions with the original answers.

    An item is consistent if every other answer is the original one mapped by `turn`; unparsed
    answers are inconsistent.
    """
    items = list(zip(original, *others, strict=True))
    consistent = [
        first.choice is not None and all(p.choice == turn(first.choice) for p in rest)
        for first, *rest in items
    ]
    return _consistency(consistent, items)


def three_questions(predictions: Sequence[Prediction]) -> Consistency:
    """Compare the motions that the answers to a pair's three questions state.

    Pairs without all three questions are left out.
    """
    by_pair = split_by([p for p in predictions if p.type in SIGN], lambda p: p.example)
    pairs = [answers for answers in by_pair.values() if {p.type for p in answers} == set(SIGN)]
    consistent = [
        all(p.choice for p in answers)
        and len({implied_motion(p.type, p.choice or "") for p in answers}) == 1
        for answers in pairs
    ]
    return _consistency(consistent, pairs, required_for_correct=False)


def _consistency(
    consistent: Sequence[bool],
    items: Sequence[Sequence[Prediction]],
    required_for_correct: bool = True,
) -> Consistency:
    correct = [all(p.score == 1 for p in answers) for answers in items]
    if required_for_correct:
        correct = [a and b for a, b in zip(consistent, correct, strict=True)]
    answers = [p for item in items for p in item]
    return Consistency(
        consistent=mean_cell([Fraction(flag) for flag in consistent], answers),
        consistent_correct=mean_cell([Fraction(flag) for flag in correct], answers),
    )


def visual_dependence(
    score: Score, examples: Sequence[Example], answers: Sequence[Prediction]
) -> VisualDependence:
    """Measure how much log-probability the model's own answers lose when the images turn gray."""
    texts = {p.uid: p.text for p in answers}
    targeted = [
        replace(e, questions=[replace(q, target=texts[q.uid]) for q in e.questions])
        for e in examples
    ]
    drops = np.subtract(score(targeted), score([masked(e) for e in targeted]))
    mean = float(drops.mean())
    half = 0.0
    if len(drops) > 1:
        half = 1.96 * float(drops.std(ddof=1)) / math.sqrt(len(drops))
    return VisualDependence(n=len(drops), value=mean, low=mean - half, high=mean + half)


# ---------------------------------------------------------------- all of them


def diagnose(
    answer: Answer, examples: Sequence[Example], *, score: Score | None = None
) -> Diagnostics | None:
    """Run every diagnostic of one model on a set of view pairs; asks the model about eight times.

    Questions whose answer does not turn with the images are left out, and checks and shortcuts
    that do not apply to the set.

    Args:
        answer: asks the model, under a named condition.
        examples: view pairs with their questions.
        score: log-probabilities of given answers; adds the visual dependence.

    Returns:
        None where the set has no such question.
    """
    pairs = [part for part in map(turning_part, examples) if part]
    if not pairs:
        return None
    original = answer(pairs, "as scored")
    overall = accuracy(original)
    shortcuts = _shortcuts(answer, pairs)
    best = max(shortcuts, key=lambda name: shortcuts[name].value)
    with_angle = [p for p in original if "angle" in p.categories]
    return Diagnostics(
        accuracy=overall,
        checks=_consistency_checks(answer, pairs, original),
        by_angle=accuracy_by(with_angle, "angle"),
        shortcuts=shortcuts,
        margin=ShortcutMargin(shortcut=best, **asdict(difference(overall, shortcuts[best]))),
        visual_dependence=visual_dependence(score, pairs, original) if score else None,
    )


def turning_part(example: Example) -> Example | None:
    """Return an example of several views with those questions whose answer turns with them."""
    questions = [question for question in example.questions if answer_turns(question)]
    if len(example.images) < 2 or not questions:
        return None
    return replace(example, questions=questions)


def _consistency_checks(
    answer: Answer, pairs: list[Example], original: Sequence[Prediction]
) -> dict[str, Consistency]:
    option_counts = [len(question.options) for pair in pairs for question in pair.questions]
    swapped = answer([swap_views(pair) for pair in pairs], "swapped images")
    mirrored = answer([mirror_views(pair) for pair in pairs], "mirrored images")
    permuted = [
        answer([rotate_options(pair, shift) for pair in pairs], f"options moved by {shift}")
        for shift in range(1, min(option_counts))
    ]
    checks = {
        "swap": consistency(original, [swapped], opposite),
        "mirror": consistency(original, [mirrored], opposite),
        "options": consistency(original, permuted, lambda choice: choice),
        "three questions": three_questions(original),
    }
    return {name: check for name, check in checks.items() if check.consistent.n}


def _shortcuts(answer: Answer, pairs: list[Example]) -> dict[str, Cell]:
    """Return the accuracy of answers that do not see both images; those that apply to the set."""
    altered = {
        "blind": [without_images(pair) for pair in pairs],
        "first view only": [masked(pair, [0]) for pair in pairs],
        "last view only": [masked(pair, [len(pair.images) - 1]) for pair in pairs],
        "wrong pair": wrong_pairs(pairs),
    }
    shortcuts = {
        **{name: accuracy(answer(examples, name)) for name, examples in altered.items()},
        # only photos of one object have one place in the frame
        "2-D centroid": centroid_probe([p for p in pairs if isinstance(p.record, ViewPair)]),
        "answer prior": answer_prior(pairs),
    }
    return {name: cell for name, cell in shortcuts.items() if cell.n}
