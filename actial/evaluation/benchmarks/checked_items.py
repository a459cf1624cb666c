"""Read a benchmark's items; what its rows lack is refused before a model is asked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from traceback import walk_tb
from types import TracebackType
from typing import Any

from actial.core.errors import UserError
from actial.evaluation.benchmarks.base import Benchmark, Item, Source
from actial.grading.open_ended import COUNT, WHOLE_NUMBER

# What a cell raises that is empty or of another type, where a loader uses it.
OF_A_ROW = (
    *(AttributeError, TypeError, LookupError, ValueError),
    *(StopIteration, SyntaxError),
)
NAME_COLUMNS = ("id", "index", "idx", "question_id", "ID")
NUMBERS = ("mra_first", "mra_last", "mra_token", "mra_strict", "count")
THOUSANDS = re.compile(r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d+)?")


def read_items(benchmark: Benchmark, source: Source) -> list[Item]:
    """Return the items of a benchmark.

    Raises:
        UserError: files that are missing or changed, a row that cannot be read, an item without
            question or category, or an answer that its metric cannot compare with.
    """
    try:
        items = benchmark.load(source)
    except OF_A_ROW as error:
        place = _row_at_fault(error.__traceback__)
        if place is None:
            raise
        raise UserError(_of_row(source, *place, error)) from error
    for item in items:
        _check_texts(item)
        if item.open:
            metric, answer = item.open["metric"], item.open["answer"]
            item.open = item.open | {"answer": checked_truth(metric, answer, item.uid)}
    return items


def _row_at_fault(traceback: TracebackType | None) -> tuple[Mapping[str, Any], Any] | None:
    """Return the row that a loader had in hand and its number, if it counts them.

    None where an error is not of a row.
    """
    frames = [frame.f_locals for frame, _ in walk_tb(traceback)]
    rows = [names["row"] for names in frames if isinstance(names.get("row"), Mapping)]
    numbers = [names["number"] for names in frames if "number" in names]
    return (rows[-1], numbers[-1] if numbers else "") if rows else None


def _of_row(source: Source, row: Mapping[str, Any], number: Any, error: Exception) -> str:
    """Return the sentence about a row: the file that was read last, the row's name, the cause."""
    file = f"{next(reversed(source.hashes))}, " if source.hashes else ""
    named = [row[column] for column in NAME_COLUMNS if row.get(column) not in (None, "")]
    name = [*named, number][0]
    empty = [column for column, cell in row.items() if cell is None or cell in ("", [])]
    causes = [f"nothing in {', '.join(empty)}"] if empty else []
    causes.append(f"{type(error).__name__} {error}".strip())
    return (
        f"{source.name}: {file}row {name} cannot be read ({'; '.join(causes)}): fetch the file "
        "again."
    )


def _check_texts(item: Item) -> None:
    """Numbers are fine as categories: they are written out."""
    item.categories = {
        name: str(cell) if isinstance(cell, int) else cell
        for name, cell in item.categories.items()
    }
    texts = {"question": item.question, "type": item.type, **item.categories}
    for name, text in texts.items():
        if not isinstance(text, str):
            raise UserError(
                f"{item.uid}: {name} is {text!r}, no text: fetch the benchmark's files again."
            )


def checked_truth(metric: str, answer: Any, name: str) -> str:
    """Return the truth of an open question as its metric compares with it: "1,200" is 1200.

    Raises:
        UserError: it is empty, or no number where the metric compares numbers.
    """
    text = "" if answer is None else str(answer).strip()
    if metric in NUMBERS:
        if THOUSANDS.fullmatch(text):
            text = text.replace(",", "")
        if metric == "count":
            text = re.sub(r"(?<=\d)\.0*$", "", text)
        valid = bool((COUNT if metric == "count" else WHOLE_NUMBER).fullmatch(text))
    else:
        valid = bool(text)
    if not valid:
        kind = {"count": "whole number"}.get(metric, "number" if metric in NUMBERS else "text")
        raise UserError(
            f"{name}: the answer {answer!r} is no {kind}, with which {metric} compares: fetch the "
            "benchmark's files again."
        )
    return text if metric in NUMBERS else str(answer)
