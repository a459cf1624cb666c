"""Read published files with their columns checked: VLMEvalKit's TSV, parquet, JSON, JSONL."""

from __future__ import annotations

import ast
import base64
import binascii
import csv
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from actial.core.errors import UserError
from actial.core.json_lines import parse_json
from actial.core.multiple_choice_format import LETTERS, answer_position, clean_options
from actial.core.parquet import open_parquet, stream
from actial.evaluation.benchmarks.base import Item, Picture, Source, require

REFERENCE_LENGTH = 64  # a TSV image cell of at most this many characters names another row


def parquet_rows(path: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Rows one by one, the columns checked."""
    require(str(path), open_parquet(path).schema_arrow.names, columns)
    yield from stream(path)


def json_rows(path: Path, columns: Sequence[str]) -> list[dict[str, Any]]:
    """A JSON list, or one JSON object per line."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows = (
            [parse_json(line) for line in text.split("\n") if line.strip()]
            if path.suffix == ".jsonl"
            else parse_json(text)
        )
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}): fetch it again.") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path} is no list of records: fetch the file again.")
    for row in rows:
        require(f"{path}, row {row.get('id', '')}", row, columns)
    return rows


def tsv_rows(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a table, the columns checked; raises UserError for one cut off or not in UTF-8."""
    csv.field_size_limit(sys.maxsize)  # base64 pictures
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, delimiter="\t")
            require(str(path), reader.fieldnames or (), columns)
            rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is no table in UTF-8 ({error}): fetch it again.") from None
    for number, row in enumerate(rows, 1):
        if any(row[column] is None for column in columns):
            raise UserError(
                f"{path} row {number} has fewer cells than the head of the table: the file was cut "
                "short; fetch it again."
            )
    return rows


def lettered_options(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the options in columns A, B, ..., as many as the table has."""
    letters = takewhile(row.__contains__, LETTERS)
    return clean_options(row[letter] for letter in letters)


def tsv_pictures(rows: Sequence[dict[str, str]], path: Path) -> list[list[Picture]]:
    """Return every row's images.

    They are base64, a list of base64, the index of the row that has them, or files of `image_path`.
    """
    by_index = {row["index"]: row for row in rows}

    def pictures(row: dict[str, str], hops: int = 0) -> list[Picture]:
        cell = row.get("image", "")
        if not cell:
            return [path.parent / name for name in _one_or_listed(row.get("image_path"), path)]
        if len(cell) <= REFERENCE_LENGTH:
            if cell not in by_index or hops > 1:
                raise UserError(
                    f"{path}: row {row['index']} points at picture row {cell}, which the file "
                    "does not have: fetch it again."
                )
            return pictures(by_index[cell], hops + 1)
        try:
            return [
                base64.b64decode(part, validate=True) for part in _one_or_listed(cell, path)
            ]
        except binascii.Error:
            raise UserError(
                f"{path}: the picture of row {row['index']} is not base64: fetch the file again."
            ) from None

    return [pictures(row) for row in rows]


def listed(cell: str | None, path: Path) -> list[Any]:
    """Return a list that a cell holds as JSON or Python text; an empty cell is an empty list."""
    if not cell or cell.lower() == "nan":
        return []
    try:
        entries = parse_json(cell)
    except ValueError:
        try:
            entries = ast.literal_eval(cell)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            entries = None
    if not isinstance(entries, list):
        raise UserError(f"{path}: {cell[:60]!r} is no list: fetch the file again.")
    return entries


def _one_or_listed(cell: str | None, path: Path) -> list[str]:
    """Return the values of a cell that holds one of them, or a list as JSON or Python text."""
    if cell and cell.startswith("[") and cell.endswith("]"):
        return [str(entry) for entry in listed(cell, path)]
    return [cell] if cell else []


def without_letters(options: Sequence[Any]) -> tuple[str, ...]:
    """Return option texts without the letters that some tables write before them."""
    texts = clean_options(options)
    bare = [
        re.sub(rf"^\(?{letter}[.:)]\s+", "", text)
        for letter, text in zip(LETTERS, texts, strict=False)
    ]
    # "J. Smith" is a name: letters stand before all options or before none.
    lettered = all(own != text for own, text in zip(bare, texts, strict=False))
    return clean_options(bare) if lettered and len(bare) == len(texts) else texts


MCQ_COLUMNS = ("index", "question", "A", "B", "answer")


def mcq_items(
    source: Source,
    path: Path,
    *,
    categories: Sequence[str] = ("category",),
    type_from: str = "category",
) -> list[Item]:
    """Items of a VLMEvalKit multiple-choice TSV: index, question, A.., answer, category, image."""
    rows = tsv_rows(path, (*MCQ_COLUMNS, *categories))
    for row in rows:
        for name in ("question", "hint", *categories):
            # Tables that we wrote have it behind texts that pandas would alter.
            row[name] = (row.get(name) or "").removesuffix("\N{NO-BREAK SPACE}")
    groups = _groups(rows, path)
    items = []
    for row, images in zip(rows, tsv_pictures(rows, path), strict=True):
        options = lettered_options(row)
        items.append(
            Item(
                uid=f"{source.name}/{row['index']}",
                images=images,
                question=row["question"],
                options=options,
                answer_index=answer_position(
                    row["answer"], options, f"{path} row {row['index']}"
                ),
                type=row[type_from],
                categories={name: row[name] for name in categories},
                circular=groups.get(row["index"], {}),
                hint="" if row["hint"].lower() == "nan" else row["hint"],
                source_index=row["index"],
            )
        )
    return items


def _groups(rows: Sequence[dict[str, str]], path: Path) -> dict[str, dict[str, Any]]:
    """Return index -> its place in a question's rotations, for files with `g_index`.

    Raises UserError for an index that is no number, or a group that lacks a row: a question stands
    there under all its rotations, or once.
    """
    groups: dict[int, list[int]] = {}
    options = {row["index"]: len(lettered_options(row)) for row in rows}
    for row in rows if rows and "g_index" in rows[0] else ():
        try:
            groups.setdefault(int(row["g_index"]), []).append(int(row["index"]))
        except ValueError:
            raise UserError(
                f"{path}: index {row['index']} or g_index {row['g_index']} is no number: fetch "
                "the file again."
            ) from None
    if headless := [head for head, members in groups.items() if head not in members]:
        raise UserError(
            f"{path}: group {headless[0]} lacks its first row, index {headless[0]}: fetch the "
            "file again."
        )
    for head, members in groups.items():
        if len(members) not in (1, count := options[str(head)]):
            raise UserError(
                f"{path}: group {head} has {len(members)} rows for the {count} rotations of its "
                "options: fetch the file again."
            )
    return {
        str(index): {
            "base": str(head),
            "rotation": rotation,
            "rotations": len(members),
            "flip": False,
        }
        for head, members in groups.items()
        for rotation, index in enumerate(sorted(members))
    }


def picture_bytes(cell: Any) -> bytes:
    """A parquet image cell: raw bytes, or the hub's {"bytes": .., "path": ..}."""
    encoded = cell.get("bytes") if isinstance(cell, dict) else cell
    if not isinstance(encoded, bytes):
        raise UserError(
            f"a picture cell holds {type(cell).__name__} without bytes: fetch the parquet file "
            "with embedded pictures."
        )
    return encoded
