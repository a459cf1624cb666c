"""Viewpoint-100K's test set (Actial, arXiv 2511.01618) in chat form."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from actial.core.errors import UserError
from actial.core.multiple_choice_format import answer_position
from actial.data.qa.released_rows import (
    UnknownColumns,
    released_images,
    released_turns,
    split_chain,
    split_options,
)
from actial.data.qa.sat_rows import Unusable
from actial.evaluation.benchmarks.base import Benchmark, Item, Scores, Source, Style
from actial.evaluation.benchmarks.tables import json_rows, parquet_rows, picture_bytes
from actial.grading import metrics
from actial.grading.metrics import Prediction
from actial.viewpoint.recognized_types import recognize_type

JOINT = re.compile(r"([lrn]),\s*([A-F])")


def load(source: Source) -> list[Item]:
    """Read rows of chat messages and images; a joint answer such as "r,A" makes an open item."""
    names = ("test.parquet", "viewpoint_test.parquet", "test.json", "test.jsonl")
    path = source.file(*names, columns=("images", "messages or conversations"))
    rows: Any = parquet_rows(path, ()) if path.suffix == ".parquet" else json_rows(path, ())
    try:
        return [_item(source, number, row) for number, row in enumerate(rows)]
    except UnknownColumns as error:
        raise UserError(f"{path}: a row {error}.") from error
    except Unusable as error:
        raise UserError(f"{path}: of a row {error}: fetch the published file.") from error


def _item(source: Source, number: int, row: dict[str, Any]) -> Item:
    uid = f"{source.name}/{number}"
    turn = next(released_turns(row), None)
    if turn is None or not turn.answer:
        raise UserError(
            f"{source.name} row {number} has no answered turn: the file is not the published one."
        )
    turn = turn._replace(question=turn.question.replace("<image>", "").strip())
    images = [
        source.picture(cell) if isinstance(cell, str) else picture_bytes(cell)
        for cell in released_images(row)
    ]
    item = Item(
        uid=uid,
        images=images,
        question=turn.text,
        type="joint",
        raw_prompt=turn.text,
        source_index=number,
    )
    _, letter = split_chain(turn.answer)
    if joint := JOINT.fullmatch(letter):
        item.open = {"metric": "joint", "answer": f"{joint[1]},{joint[2]}"}
        return item
    item.question, item.options = turn.split(split_options)
    kind = recognize_type(item.question, item.options)
    item.type = kind.value if kind else "unknown"
    item.answer_index = answer_position(letter, item.options, item.uid)
    return item


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
