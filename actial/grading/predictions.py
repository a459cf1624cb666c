"""predictions.jsonl: answers are appended as they come, survive a kill, and are never computed twice."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

from actial.core.atomic_io import write_json
from actial.core.errors import UserError
from actial.core.multiple_choice_format import LETTERS
from actial.core.records import Example, FinishReason, Grade, Question
from actial.grading.metrics import Prediction
from actial.grading.multiple_choice import Compat, grade
from actial.grading.open_ended import grade_open

ANGLE_BINS = tuple(range(20, 101, 20))  # degrees of |alpha|; four bins


def predict(
    example: Example,
    question: Question,
    text: str,
    finish: FinishReason | None = None,
    tokens: int | None = None,
    compat: Compat | str = Compat.LADDER,
) -> Prediction:
    """Grade one answer and keep what scoring needs to know about the question."""
    g, choice = read_answer(example.row, question, text, finish, compat)
    return Prediction(
        uid=question.uid,
        text=text,
        letter=g.letter,
        choice=choice,
        answer=truth(example.row, question),
        rule=g.rule,
        outcome=g.outcome.value,
        hit=g.value,
        format_ok=g.format_ok,
        finish=finish.value if finish else None,
        tokens=tokens,
        type=question.type,
        example=example.uid,
        categories=categories(example.row),
        group=example.row.get("circular", {}),
    )


def read_answer(
    row: Mapping[str, Any],
    question: Question,
    text: str,
    finish: FinishReason | None = None,
    compat: Compat | str = Compat.LADDER,
) -> tuple[Grade, str | None]:
    """The grade of one answer, and the option or the value that was read from it; `row` is the question's example's."""
    if not question.options:
        return grade_open(text, *open_metric(row, question), finish)
    g = grade(text, question.options, question.answer_index, finish, compat)
    return g, question.options[LETTERS.index(g.letter)] if g.letter else None


def truth(row: Mapping[str, Any], question: Question) -> str:
    """The right letter, or what a question without options has instead."""
    return question.answer_letter if question.options else open_metric(row, question)[1]


def open_metric(row: Mapping[str, Any], question: Question) -> tuple[str, str]:
    """How a question without options is graded, and its truth: as its benchmark says, or by relative accuracy to its number."""
    if question.number is not None:
        return "mra_first", f"{question.number:g}"
    return row["open"]["metric"], row["open"]["answer"]


def categories(row: dict[str, Any]) -> dict[str, str]:
    """What a figure may be split by: a benchmark's own categories, or a view pair's class and angle bin."""
    found = dict(row.get("categories", {}))
    if "geom" in row:
        found |= {
            "class": str(row.get("class_name", "")),
            "angle": angle_bin(abs(row["geom"]["alpha_deg"])),
        }
    return found


def angle_bin(degrees: float) -> str:
    """The 20-degree bin of an angle between two views: "20-40" .. "80-100"; "other" outside."""
    for low, high in pairwise(ANGLE_BINS):
        if low <= degrees < high or degrees == high == ANGLE_BINS[-1]:
            return f"{low}-{high}"
    return "other"


class PredictionLog:
    """An append-only predictions.jsonl beside settings.json, the settings that produced it.

    A line cut by a kill is dropped on opening. Opening under other settings is refused: answers of two models never mix.

    Raises:
        UserError: the folder holds predictions made under other settings, or a line that is not a prediction.
    """

    def __init__(self, folder: Path | str, settings: dict[str, Any]) -> None:
        self.folder = Path(folder)
        self.path = self.folder / "predictions.jsonl"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._check_settings(json.loads(json.dumps(settings)))
        self.done = (
            {p.uid: p for p in read_predictions(self.path, repair=True)}
            if self.path.exists()
            else {}
        )

    def _check_settings(self, settings: dict[str, Any]) -> None:
        kept = self.folder / "settings.json"
        if kept.exists():
            before = json.loads(kept.read_text())
            changed = sorted(
                key
                for key in before.keys() | settings.keys()
                if before.get(key) != settings.get(key)
            )
            if changed:
                key = changed[0]
                raise UserError(
                    f"{self.folder} holds predictions made with {key}={before.get(key)}, now {key}={settings.get(key)}: "
                    "give another output folder, or remove this one."
                )
        elif self.path.exists():
            raise UserError(
                f"{self.path} has no settings.json beside it, so its answers cannot be continued: give another output folder."
            )
        else:
            write_json(kept, settings)

    def append(self, predictions: Iterable[Prediction]) -> None:
        """Write and flush to disk; a uid already there is an error of the caller."""
        fresh = list(predictions)
        for p in fresh:
            if p.uid in self.done:
                raise ValueError(f"prediction {p.uid} is already in {self.path}")
            self.done[p.uid] = p
        with self.path.open("ab") as file:
            file.write(b"".join(json.dumps(asdict(p)).encode() + b"\n" for p in fresh))
            file.flush()
            os.fsync(file.fileno())


def read_predictions(path: Path | str, *, repair: bool = False) -> list[Prediction]:
    """Rows of a predictions.jsonl; `repair` first cuts off a last line that a kill left unfinished."""
    path = Path(path)
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if repair and len(whole) < len(data):
        os.truncate(path, len(whole))
    rows = []
    for number, line in enumerate((whole if repair else data).splitlines(), 1):
        try:
            rows.append(Prediction(**json.loads(line)))
        except (ValueError, TypeError):
            raise UserError(
                f"{path} line {number} is not a prediction of this version: remove that line or give another folder."
            ) from None
    return rows
