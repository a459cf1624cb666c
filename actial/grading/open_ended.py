"""Answers without options: numbers, yes or no, contained text, camera motions. Each metric is its benchmark's published rule."""

from __future__ import annotations

import re
from collections.abc import Callable

from actial.core.errors import UserError
from actial.core.records import FinishReason, Grade, Outcome
from actial.grading.metrics import mra
from actial.grading.multiple_choice import THINK_CLOSE, THINK_OPEN, answer_bodies, format_ok

NUMBER = re.compile(r"(?<!\^)\d+\.\d+|(?<!\^)\d+")
AXES = (
    ("move_right", "move_left"),
    ("move_up", "move_down"),
    ("move_forward", "move_backward"),
    ("rotate_right", "rotate_left"),
    ("rotate_up", "rotate_down"),
)
Result = tuple[float, str | None]


def grade_open(
    text: str, metric: str, answer: str, finish: FinishReason | None = None
) -> tuple[Grade, str | None]:
    """The grade, its value in [0, 1], and what was read from the output; None where nothing could be, as in an unfinished chain."""
    if metric not in _METRICS:
        raise UserError(
            f"metric {metric} of an open answer is unknown: use one of {', '.join(_METRICS)}."
        )
    body = body_of(text)
    value, read = (0.0, None) if body is None else _METRICS[metric](body, answer)
    cut = body is None or finish is FinishReason.LENGTH
    outcome = (
        Outcome.PARSED if read is not None else Outcome.TRUNCATED if cut else Outcome.NO_ANSWER
    )
    return Grade(
        letter=None, rule=metric, outcome=outcome, value=value, format_ok=format_ok(text)
    ), read


def body_of(text: str) -> str | None:
    """The last answer tag behind the chain of thought (`<ans>` too, Omni3D-Bench's), else all that follows it; None in an open chain."""
    closes = list(THINK_CLOSE.finditer(text))
    tail = text[closes[-1].end() :] if closes else text
    bodies = answer_bodies(re.sub(r"<(/?)ans>", r"<\1answer>", tail))
    if THINK_OPEN.search(tail) and not bodies:
        return None
    return (bodies[-1] if bodies else tail).strip()


def _number(text: str, last: bool = False) -> str | None:
    found = NUMBER.findall(text)
    return found[-1 if last else 0] if found else None


def _mra_first(text: str, answer: str) -> Result:
    read = _number(text)
    return (mra(float(read), float(answer)), read) if read else (0.0, None)


def _mra_token(text: str, answer: str) -> Result:
    """VSI-Bench: the first word is the number, or there is none."""
    read = next(iter(text.split()), "").rstrip(".")
    return (
        (mra(float(read), float(answer)), read)
        if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)", read)
        else (0.0, None)
    )


def _mra_last(text: str, answer: str) -> Result:
    """SPAR-Bench takes the last number of the several-view tasks."""
    read = _number(text, last=True)
    return (mra(float(read), float(answer)), read) if read else (0.0, None)


def _mra_strict(text: str, answer: str) -> Result:
    """Omni3D-Bench: share of the relative errors 0.05, 0.10 .. 0.50 that the answer's stays below."""
    read = _number(text)
    if read is None:
        return 0.0, None
    error = (
        abs(float(read) - float(answer)) / abs(float(answer))
        if float(answer)
        else float(float(read) != 0)
    )
    return sum(error < 0.05 * i for i in range(1, 11)) / 10, read


def _count(text: str, answer: str) -> Result:
    """An integer, written as one: "3.0" is not 3."""
    read = text if re.fullmatch(r"-?\d+", text) else None
    return (float(int(read) == int(answer)), read) if read else (0.0, None)


def _yes_no(text: str, answer: str) -> Result:
    said = text.lower()
    read = (
        answer.lower()
        if answer.lower() in said
        else next((word for word in ("yes", "no") if word in said), None)
    )
    return float(answer.lower() in said), read


def _exact(text: str, answer: str) -> Result:
    return float(text.lower() == answer.lower()), text or None


def _contains(text: str, answer: str) -> Result:
    """SpatialEval: the answer's text anywhere in the output, lower-cased."""
    return float(answer.lower() in text.lower()), text or None


def _joint(text: str, answer: str) -> Result:
    """Viewpoint-100K's older form: direction and angle letter, both right."""
    found = re.findall(r"\b([lrn])\s*,\s*([A-F])\b", text)
    read = ",".join(found[-1]) if found else None
    return float(read == answer), read


def _view_change(text: str, answer: str) -> Result:
    """SPAR-Bench: mean relative accuracy over five signed axes, relative to the prediction as its released scorer has it."""
    said, truth = _motions(text), _motions(answer)
    if not said:
        return 0.0, None

    def along(motions: dict[str, float], plus: str, minus: str) -> float:
        return motions.get(plus, 0.0) - motions.get(minus, 0.0)

    pairs = [(along(truth, *axis), along(said, *axis)) for axis in AXES]
    values = [mra(t, s) for t, s in pairs]
    return sum(values) / len(values), text


def _motions(text: str) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in re.findall(r"((?:move|rotate)_[a-z]+)\s*:\s*(-?\d+(?:\.\d+)?)", text)
    }


_METRICS: dict[str, Callable[[str, str], Result]] = {
    "mra_first": _mra_first,
    "mra_token": _mra_token,
    "mra_last": _mra_last,
    "mra_strict": _mra_strict,
    "count": _count,
    "yes_no": _yes_no,
    "exact": _exact,
    "contains": _contains,
    "joint": _joint,
    "view_change": _view_change,
}
