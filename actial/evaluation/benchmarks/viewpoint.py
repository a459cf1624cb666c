"""Viewpoint-100K's test set (Actial, arXiv 2511.01618) in chat form."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from actial.core.errors import UserError
from actial.core.multiple_choice_format import answer_position, inline_options
from actial.core.set_records import QuestionType
from actial.evaluation.benchmarks.base import Benchmark, Item, Scores, Source, Style
from actial.evaluation.benchmarks.tables import json_rows, parquet_rows, picture_bytes
from actial.grading import metrics
from actial.grading.metrics import Prediction

JOINT = re.compile(r"([lrn]),\s*([A-F])")


def load(source: Source) -> list[Item]:
    """Read rows of chat messages and images; a joint answer such as "r,A" makes an open item."""
    columns: tuple[str, ...] = ("images",)
    names = ("test.parquet", "viewpoint_test.parquet", "test.json", "test.jsonl")
    path = source.file(*names, columns=("images", "messages or conversations"))
    rows: Any = (
        parquet_rows(path, columns) if path.suffix == ".parquet" else json_rows(path, columns)
    )
    return [_item(source, number, row) for number, row in enumerate(rows)]


def _item(source: Source, number: int, row: dict[str, Any]) -> Item:
    turns = row.get("messages") or row.get("conversations")
    if not turns:
        raise UserError(
            f"{source.name} row {number} has neither messages nor conversations: the file is not "
            "the published one."
        )
    texts = {
        turn.get("role", turn.get("from")): turn.get("content", turn.get("value"))
        for turn in turns
    }
    question_text = (
        (texts.get("user") or texts.get("human") or "").replace("<image>", "").strip()
    )
    answer = (texts.get("assistant") or texts.get("gpt") or "").strip()
    images = [
        source.picture(cell) if isinstance(cell, str) else picture_bytes(cell)
        for cell in row["images"]
    ]
    item = Item(
        uid=f"{source.name}/{number}",
        images=images,
        question=question_text,
        type="joint",
        raw_prompt=question_text,
        source_index=number,
    )
    if joint := JOINT.fullmatch(answer):
        item.open = {"metric": "joint", "answer": f"{joint[1]},{joint[2]}"}
        return item
    stem, options = inline_options(
        question_text.splitlines()[0]
        if "\n" not in question_text
        else question_text.rpartition("\n")[0]
    )
    options = tuple(option.splitlines()[0].strip() for option in options)
    item.question, item.options, item.type = stem, options, _kind(question_text).value
    item.answer_index = answer_position(answer, options, item.uid)
    return item


def _kind(text: str) -> QuestionType:
    words = text.lower()
    if "rotat" in words or "turn" in words:
        return QuestionType.EGO_ROTATION
    seen_from_object = "object's" in words or "from the object" in words
    return (
        QuestionType.OBJECT_TRANSLATION if seen_from_object else QuestionType.EGO_TRANSLATION
    )


def score(predictions: Sequence[Prediction]) -> Scores:
    """Score questions, types, and kinds of answers.

    "No movement" is never correct here, so guessing reaches 1/2, not 1/3.
    """
    return {
        "overall": metrics.accuracy(predictions),
        "type": metrics.accuracy_by(predictions, "type"),
        "answers": metrics.confusion(predictions),
    }


BENCHMARK = Benchmark(
    name="viewpoint_100k",
    questions=1000,
    note="no pair is without movement, so a model that has learnt this guesses right half of "
    "the time, not a third",
    hub="INno0o/Viewpoint-100K",
    load=load,
    score=score,
    style=Style.LETTER,
    paper="https://arxiv.org/abs/2511.01618",
    reference="viewpoint",
)
