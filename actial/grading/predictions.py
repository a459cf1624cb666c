"""Grade answers into `Prediction` records and keep them in predictions.jsonl.

Answers are appended as they come, survive a kill, and are never computed twice.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

from actial.core.errors import UserError
from actial.core.json_lines import append_lines, read_complete_lines
from actial.core.line_counts import check_line_count
from actial.core.multiple_choice_format import LETTERS
from actial.core.records import Example, FinishReason, Grade, Question
from actial.core.sealed_files import (
    read_line,
    read_sealed_json,
    sealed_line,
    write_sealed_json,
)
from actial.core.set_records import BenchmarkRecord, Record, ViewPair
from actial.grading.metrics import Prediction
from actial.grading.multiple_choice import Compat, grade
from actial.grading.open_ended import grade_open

ANGLE_BINS = tuple(range(20, 101, 20))  # limits of the four bins of |alpha|, degrees


def predict(
    example: Example,
    question: Question,
    text: str,
    finish: FinishReason | None = None,
    tokens: int | None = None,
    compat: Compat | str = Compat.LADDER,
) -> Prediction:
    """Grade one answer and keep what aggregation needs to know about the question."""
    grade_read, choice = read_answer(example.record, question, text, finish, compat)
    return Prediction(
        uid=question.uid,
        text=text,
        letter=grade_read.letter,
        choice=choice,
        answer=truth(example.record, question),
        rule=grade_read.rule,
        outcome=grade_read.outcome.value,
        score=grade_read.value,
        format_ok=grade_read.format_ok,
        finish=finish.value if finish else None,
        tokens=tokens,
        type=question.type,
        example=example.uid,
        categories=categories(example.record),
        group=_rotation_group(example.record),
    )


def read_answer(
    record: Record | None,
    question: Question,
    text: str,
    finish: FinishReason | None = None,
    compat: Compat | str = Compat.LADDER,
) -> tuple[Grade, str | None]:
    """Return the grade of one answer, and the text of the option or the value read from it.

    Args:
        record: of the question's example; a benchmark's names the metric of an open question.
        question: the question that was answered.
        text: decoded completion.
        finish: why sampling stopped.
        compat: reader of the answers, a `Compat` value; numbers are read anew by EASI's only.
    """
    if not question.options:
        metric, answer = open_metric(record, question)
        if compat == Compat.EASI and metric == "mra_token":
            metric = "mra_easi"
        return grade_open(text, metric, answer, finish)
    result = grade(text, question.options, question.answer_index, finish, compat)
    choice = question.options[LETTERS.index(result.letter)] if result.letter else None
    return result, choice


def truth(record: Record | None, question: Question) -> str:
    """Return the correct letter, or the truth of a question without options."""
    return question.answer_letter if question.options else open_metric(record, question)[1]


def open_metric(record: Record | None, question: Question) -> tuple[str, str]:
    """Return the metric of a question without options, and its truth.

    A question with a number is scored by relative accuracy, any other as its benchmark says.
    """
    if question.number is not None:
        return "mra_first", f"{question.number:g}"
    if not isinstance(record, BenchmarkRecord):
        raise ValueError(f"question {question.uid} has neither options nor an open answer")
    return record.open["metric"], record.open["answer"]


def categories(record: Record | None) -> dict[str, str]:
    """Return what figures may be split by: a benchmark's categories, a pair's class and angle."""
    if isinstance(record, ViewPair):
        return {"class": record.class_name, "angle": angle_bin(abs(record.geometry.alpha_deg))}
    return dict(record.categories) if isinstance(record, BenchmarkRecord) else {}


def _rotation_group(record: Record | None) -> dict[str, Any]:
    return record.circular if isinstance(record, BenchmarkRecord) else {}


def angle_bin(degrees: float) -> str:
    """Return the 20-degree bin of an angle between two views, "20-40" .. "80-100", or "other"."""
    for low, high in pairwise(ANGLE_BINS):
        if low <= degrees < high or degrees == high == ANGLE_BINS[-1]:
            return f"{low}-{high}"
    return "other"


class PredictionLog:
    """An append-only predictions.jsonl beside settings.json, the settings that produced it.

    A line cut by a kill is dropped on opening. Opening under other settings is refused, so answers
    of two models never mix.

    Raises:
        UserError: the folder holds predictions made under other settings, or an invalid line.
    """

    def __init__(self, folder: Path | str, settings: dict[str, Any]) -> None:
        self.folder = Path(folder)
        self.path = self.folder / "predictions.jsonl"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._check_settings(json.loads(json.dumps(settings)))
        self.done: dict[str, Prediction] = {}
        if self.path.exists():
            self.done = {p.uid: p for p in read_predictions(self.path, repair=True)}

    def _check_settings(self, settings: dict[str, Any]) -> None:
        path = self.folder / "settings.json"
        if path.exists():
            before = read_sealed_json(path, "remove its folder, or give another one")
            keys = sorted(before.keys() | settings.keys())
            changed = [key for key in keys if before.get(key) != settings.get(key)]
            if changed:
                key = changed[0]
                raise UserError(
                    f"{self.folder} holds predictions made with {key}={before.get(key)}, "
                    f"now {key}={settings.get(key)}: give another output folder, "
                    "or remove this one."
                )
        elif self.path.exists():
            raise UserError(
                f"{self.path} has no settings.json beside it, so its answers cannot be continued: "
                "give another output folder."
            )
        else:
            write_sealed_json(path, settings)

    def append(self, predictions: Iterable[Prediction]) -> None:
        """Write predictions and flush them to disk.

        Raises:
            ValueError: a uid is already in the file.
        """
        fresh = list(predictions)
        for p in fresh:
            if p.uid in self.done:
                raise ValueError(f"prediction {p.uid} is already in {self.path}")
            self.done[p.uid] = p
        append_lines(self.path, (sealed_line(p.to_json()) for p in fresh))


def read_predictions(path: Path | str, *, repair: bool = False) -> list[Prediction]:
    """Read a predictions.jsonl; `repair` first cuts off a last line that a kill left unfinished.

    Raises:
        UserError: a line is no prediction; without `repair` also where lines of a finished run are
            missing.
    """
    path = Path(path)
    if not repair:
        check_line_count(path)
    lines = (
        read_complete_lines(path, repair=True) if repair else path.read_bytes().splitlines()
    )
    predictions = []
    for number, line in enumerate(lines, 1):
        try:
            predictions.append(Prediction.from_json(read_line(line)))
        except (ValueError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path} line {number} is damaged or not a prediction of this version ({error}): "
                "remove that line or give another folder."
            ) from None
    return predictions
