"""Grade answers without options: numbers, yes or no, contained text, camera motions.

Each metric is its benchmark's published rule. Every pattern takes time linear in the answer's
length.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from actial.core.errors import UserError
from actial.core.records import FinishReason, Grade, Outcome
from actial.grading.answer_text import answer_region, format_ok
from actial.grading.easi_readers import easi_number
from actial.grading.metrics import mra

NUMBER = re.compile(r"(?<!\^)\d+\.\d+|(?<!\^)\d+")
WHOLE_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,2})?")
COUNT = re.compile(
    r"[+-]?\d{1,300}"
)  # no object is counted beyond that; int() refuses 4,300 digits
MOTION = re.compile(r"((?:move|rotate)_[a-z]+)\s*:\s*(-?\d+(?:\.\d+)?)")
AXES = (
    ("move_right", "move_left"),
    ("move_up", "move_down"),
    ("move_forward", "move_backward"),
    ("rotate_right", "rotate_left"),
    ("rotate_up", "rotate_down"),
)
Result = tuple[
    float, str | None
]  # the value in [0, 1], and what was read (None: nothing could be)


def grade_open(
    text: str, metric: str, answer: str, finish: FinishReason | None = None
) -> tuple[Grade, str | None]:
    """Return the grade of an open answer, and the value that was read from it.

    Args:
        text: decoded completion.
        metric: name of a published rule, a key of `METRICS`.
        answer: the truth in the form that the rule compares with.
        finish: why sampling stopped.

    Raises:
        UserError: the metric is unknown.
    """
    if metric not in METRICS:
        raise UserError(
            f"metric {metric} of an open answer is unknown: use one of {', '.join(METRICS)}."
        )
    body = text if metric in WHOLE_TEXT else body_of(text)
    value, read = (0.0, None) if body is None else METRICS[metric](body, answer)
    outcome = Outcome.PARSED
    if read is None:
        truncated = body is None or finish is FinishReason.LENGTH
        outcome = Outcome.TRUNCATED if truncated else Outcome.NO_ANSWER
    return (
        Grade(
            letter=None, rule=metric, outcome=outcome, value=value, format_ok=format_ok(text)
        ),
        read,
    )


def body_of(text: str) -> str | None:
    """Return the last answer tag behind the chain of thought, or all that follows the chain.

    Omni3D-Bench's `<ans>` counts as an answer tag. None: the chain of thought is not finished.
    """
    region = answer_region(re.sub(r"<(/?)ans>", r"<\1answer>", text))
    return region.text.strip() if region else None


# ---------------------------------------------------------------- numbers


def _mra_of(read: str | None, answer: str) -> Result:
    return (mra(float(read), float(answer)), read) if read else (0.0, None)


def _mra_first(text: str, answer: str) -> Result:
    """Mean relative accuracy of the first number."""
    numbers = NUMBER.findall(text)
    return _mra_of(numbers[0] if numbers else None, answer)


def _mra_last(text: str, answer: str) -> Result:
    """SPAR-Bench takes the last number in tasks over several views."""
    numbers = NUMBER.findall(text)
    return _mra_of(numbers[-1] if numbers else None, answer)


def _mra_token(text: str, answer: str) -> Result:
    """VSI-Bench: the first word is the number, or there is none."""
    word = next(iter(text.split()), "").rstrip(".")
    return _mra_of(word if WHOLE_NUMBER.fullmatch(word) else None, answer)


def _mra_easi(text: str, answer: str) -> Result:
    """EASI's reading of VSI-Bench: the number of the answer tag, else the last one."""
    return _mra_of(easi_number(text), answer)


def _mra_strict(text: str, answer: str) -> Result:
    """Omni3D-Bench: share of the relative errors 0.05, 0.10 .. 0.50 that the answer stays below."""
    numbers = NUMBER.findall(text)
    if not numbers:
        return 0.0, None
    read, predicted, true = numbers[0], float(numbers[0]), float(answer)
    error = abs(predicted - true) / abs(true) if true else float(predicted != 0)
    return sum(error < 0.05 * i for i in range(1, 11)) / 10, read


def _count(text: str, answer: str) -> Result:
    """An integer, written as one: "3.0" is not 3."""
    read = text if COUNT.fullmatch(text) else None
    return (float(int(read) == int(answer)), read) if read else (0.0, None)


# ---------------------------------------------------------------- texts


def _yes_no(text: str, answer: str) -> Result:
    lowered, truth = text.lower(), answer.lower()
    if truth in lowered:
        return 1.0, truth
    return 0.0, next((word for word in ("yes", "no") if word in lowered), None)


def _exact(text: str, answer: str) -> Result:
    return float(text.lower() == answer.lower()), text or None


def _contains(text: str, answer: str) -> Result:
    """SpatialEval: the answer's text anywhere in the output, lower-cased."""
    return float(answer.lower() in text.lower()), text or None


def _joint(text: str, answer: str) -> Result:
    """Viewpoint-100K's older form "r,A": the direction and the angle's letter, both correct."""
    pairs = re.findall(r"\b([lrn])\s*,\s*([A-F])\b", text)
    read = ",".join(pairs[-1]) if pairs else None
    return float(read == answer), read


# ---------------------------------------------------------------- camera motions


def _view_change(text: str, answer: str) -> Result:
    """SPAR-Bench: mean relative accuracy over five signed axes.

    The error is relative to the prediction, as in the released scorer.
    """
    predicted, true = _motions(text), _motions(answer)
    if not predicted:
        return 0.0, None
    values = [mra(_along(true, axis), _along(predicted, axis)) for axis in AXES]
    return sum(values) / len(values), text


def _motions(text: str) -> dict[str, float]:
    return {name: float(value) for name, value in MOTION.findall(text)}


def _along(motions: dict[str, float], axis: tuple[str, str]) -> float:
    plus, minus = axis
    return motions.get(plus, 0.0) - motions.get(minus, 0.0)


METRICS: dict[str, Callable[[str, str], Result]] = {
    "mra_first": _mra_first,
    "mra_token": _mra_token,
    "mra_last": _mra_last,
    "mra_strict": _mra_strict,
    "mra_easi": _mra_easi,
    "count": _count,
    "yes_no": _yes_no,
    "exact": _exact,
    "contains": _contains,
    "joint": _joint,
    "view_change": _view_change,
}
WHOLE_TEXT = ("mra_easi",)  # metrics that look for the answer's tags themselves
