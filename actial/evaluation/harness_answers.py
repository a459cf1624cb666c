"""Read what a harness says a model answered, to be graded by us."""

from __future__ import annotations

import re
import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from actial.core.errors import UserError
from actial.core.json_lines import parse_json
from actial.core.multiple_choice_format import LETTERS, answer_position
from actial.core.records import FinishReason
from actial.evaluation.benchmarks.base import Item

CIRCULAR_OFFSET = 1_000_000  # `vlmutil circular` numbers the rotations of a row so far apart
Names = Callable[[Sequence[Item]], list[str]]
Answer = tuple[str, FinishReason | None]  # raw text, and why it ended where that is known


@dataclass(slots=True)
class Answers:
    """Answers by key; `keys` gives every item's: its uid or its position."""

    keys: Names
    answers: dict[str, Answer]
    # What the harness took for the correct answer, where it says so.
    truths: dict[str, str] = field(default_factory=dict)
    by_index: bool = False  # rows were told by the numbers of VLMEvalKit's table


def read_answers(path: Path, items: Sequence[Item]) -> dict[str, Answer]:
    """Return uid -> answer, of a file of ours, of lmms-eval or of VLMEvalKit.

    Args:
        path: predictions.jsonl, lmms-eval's samples (.jsonl), or VLMEvalKit's predictions (.xlsx,
            .tsv, .json).
        items: of the benchmark.

    Raises:
        UserError: unknown form, an answer twice, items without an answer, or rows with other
            correct answers than the items (the harness ran on another revision, or in another
            order).
    """
    if not path.is_file():
        raise UserError(
            f"predictions={path} is no file: give a predictions file of ours, of lmms-eval or of "
            "VLMEvalKit."
        )
    read = _jsonl(path) if path.suffix == ".jsonl" else _vlmeval(path, items)
    keys = read.keys(items)
    missing = [
        item.uid for item, key in zip(items, keys, strict=True) if key not in read.answers
    ]
    if missing:
        raise UserError(
            f"{path} has no answer to {len(missing)} of {len(items)} questions, the first "
            f"{missing[0]}: {_why_missing(read, items, missing)}."
        )
    for item, key in zip(items, keys, strict=True):
        _check_truth(path, item, key, read.truths.get(key))
    return {item.uid: read.answers[key] for item, key in zip(items, keys, strict=True)}


def _why_missing(read: Answers, items: Sequence[Item], missing: Sequence[str]) -> str:
    """Return the remedy: rows numbered by the harness itself belong to its own TSV."""
    numbered = all(key.isdigit() for key in read.answers)
    if len(missing) == len(items) and numbered and read.by_index:
        return "its rows are numbers of the harness's own TSV; score them with benchmark=tsv"
    if read.by_index or read.keys is _places:
        return "run the harness to its end"
    return "answer them all, or give benchmark.limit, .circular and .split as it was made with"


def _check_truth(path: Path, item: Item, key: str, truth: str | None) -> None:
    if truth is None or not item.options:
        return
    try:
        position = answer_position(truth, item.options, item.uid)
    except UserError:
        return  # written in a way of the harness's own
    if position != item.answer_index:
        ours = LETTERS[item.answer_index]
        raise UserError(
            f"{path}: the right answer of row {key} is {truth}, of {item.uid} it is {ours}: the "
            "harness ran on another revision, or its rows have other names or another order; score "
            "the files that it read."
        )


def _uids(items: Sequence[Item]) -> list[str]:
    return [item.uid for item in items]


def _places(items: Sequence[Item]) -> list[str]:
    return [str(place) for place in range(len(items))]


def _jsonl(path: Path) -> Answers:
    """Read ours by uid, lmms-eval's by doc_id, the position in the set.

    Of lmms-eval the raw response before the task's own filters is taken; where both are equal the
    harness leaves the raw one out.
    """
    rows, truths, ours = [], {}, False
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
            ours = "uid" in row
            text = row["text"] if ours else _response(row)
            if not isinstance(text, str):
                raise TypeError
            finish = FinishReason(row["finish"]) if row.get("finish") else None
            key = row["uid"] if ours else row["doc_id"]
            rows.append((key, (text, finish)))
            truths[str(key)] = str(row.get("answer" if ours else "target", ""))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError(
                f"{path} line {number} has neither uid and text nor doc_id and resps: give ours or "
                "lmms-eval's samples."
            ) from None
    return Answers(_uids if ours else _places, _once(path, rows), truths)


def _response(row: dict[str, Any]) -> str:
    """Return the raw response of a sample; "" where the harness got none (null or no entry).

    Raises:
        KeyError: the row is no sample.
    """
    text = row["resps"] if "resps" in row else row["filtered_resps"]
    while isinstance(text, list):
        text = text[0] if text else None
    return "" if text is None else str(text)


def _vlmeval(path: Path, items: Sequence[Item]) -> Answers:
    """By the uid that our TSV carries along, else by the row's index in the benchmark's file."""
    import pandas as pd

    readers = {
        # an answer "None" is text, an empty cell is no answer
        ".xlsx": lambda: pd.read_excel(path, dtype=str, keep_default_na=False),
        ".tsv": lambda: pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False),
        # with null beside it the answer 3 would become 3.0
        ".json": lambda: pd.DataFrame(parse_json(path.read_text("utf-8-sig")), dtype=object),
    }
    if path.suffix not in readers:
        raise UserError(
            f"predictions={path} has the ending {path.suffix}: give .jsonl, .xlsx, .tsv or .json."
        )
    try:
        frame = readers[path.suffix]()
    except (ValueError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path} is not a readable {path.suffix} file ({str(error).splitlines()[0]}): "
            "copy it again."
        ) from None
    if not {"index", "prediction"} <= set(frame.columns):
        raise UserError(
            f"{path} lacks the columns index and prediction of VLMEvalKit's output; it has "
            f"{', '.join(map(str, frame.columns))}."
        )
    frame["index"] = [_whole(index) for index in frame["index"]]
    by_index = not _has_uids_of(frame, items)
    keys = _row_keys(frame, items, by_index)
    rows = [
        (key, (str(text), None))
        for key, text in zip(keys, frame["prediction"].fillna(""), strict=True)
        if key is not None
    ]
    if len(rows) < len(keys):
        print(
            f"{path}: {len(keys) - len(rows)} answers to rotated options are not counted: "
            "benchmark.circular=true asks for them.",
            file=sys.stderr,
        )
    truths = {}
    if "answer" in frame.columns:
        truths = dict(zip(map(str, keys), map(str, frame["answer"]), strict=True))
    answers = _once(path, rows)
    return Answers(
        lambda items: [_key(*_name(item, by_index)) for item in items],
        answers,
        truths,
        by_index,
    )


def _has_uids_of(frame: Any, items: Sequence[Item]) -> bool:
    """Return whether rows have the uids of this benchmark, as a table that we wrote carries along.

    Those of another one say nothing: the table that we wrote is then itself the benchmark.
    """
    benchmarks = {item.uid.partition("/")[0] for item in items}
    uids = frame["uid"] if "uid" in frame.columns else ()
    return any(str(uid).partition("/")[0] in benchmarks for uid in uids)


def _whole(index: Any) -> str:
    """Return an index as it stands in the table: beside an empty cell 7 became 7.0."""
    return re.sub(r"(?<=\d)\.0$", "", str(index))


def _row_keys(frame: Any, items: Sequence[Item], by_index: bool) -> list[str | None]:
    """Return each row's key, which is an item's where it answers one.

    Rows of `vlmutil circular` are the items' rotations, and None where those are not asked for.
    """
    names = frame["index"] if by_index else frame["uid"]
    copied = by_index or names.duplicated().any()
    rotations = {}  # of the items whose options we have rotated
    for item in items:
        name, shift = _name(item, by_index)
        rotations[name] = None if shift is None else int(item.circular["rotations"])
    keys: list[str | None] = []
    for name, index in zip(names, frame["index"], strict=True):
        turns = int(index) // CIRCULAR_OFFSET if index.isdecimal() and copied else 0
        if by_index and name in rotations:
            turns = 0
        elif by_index and turns:
            name = str(int(index) % CIRCULAR_OFFSET)
        # Its options have moved to the right, those of our rotations to the left.
        count = rotations.get(name)
        shift = -turns % (count or 1)
        if turns and not shift:
            keys.append(None)
        else:
            keys.append(_key(name, None if count is None else shift))
    return keys


def _name(item: Item, by_index: bool) -> tuple[str, int | None]:
    """Return the name of an item's row, and by how many places we have rotated its options."""
    uid, _, place = item.uid.rpartition("#")
    if not item.circular or place != str(item.circular.get("rotation")):
        uid, place = item.uid, ""
    return str(item.source_index) if by_index else uid, int(place) if place else None


def _key(name: str, shift: int | None) -> str:
    return f"{name}#{shift}" if shift is not None else name


def _once(path: Path, rows: Sequence[tuple[Any, Answer]]) -> dict[str, Answer]:
    answers: dict[str, Answer] = {}
    for key, answer in rows:
        if str(key) in answers:
            raise UserError(
                f"{path} answers question {key} twice: merge the runs' files into one."
            )
        answers[str(key)] = answer
    return answers
