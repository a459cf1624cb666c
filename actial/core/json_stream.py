"""Read the records of published training sets one at a time, whatever file they lie in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from actial.core.errors import UserError
from actial.core.json_lines import parse_json
from actial.core.parquet import stream

JSON_BLOCK = 1 << 20  # characters read at a time


def json_items(file: IO[str], path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON array without holding it.

    Raises UserError when the file ends in the middle of an object.
    """
    decoder = json.JSONDecoder()
    text, position = "", 0  # what is read and not yet yielded begins at `position`
    while block := file.read(JSON_BLOCK):
        text, position = text[position:] + block, 0
        while (start := _item_start(text, position)) is not None:
            try:
                item, position = decoder.raw_decode(text, start)
            except json.JSONDecodeError:
                break  # cut by the block: read on
            yield item
    if text[position:].strip(" \n\r\t,]["):
        raise UserError(f"{path} is no JSON array or was cut short: fetch it again.")


def _item_start(text: str, position: int) -> int | None:
    """Return where the next object begins, None where the text ends before it."""
    while position < len(text) and text[position] in " \n\r\t,[":
        position += 1
    return position if text[position : position + 1] == "{" else None


def records(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a .jsonl, .json (one array, as some .jsonl are) or .parquet file.

    Raises UserError for a broken file.
    """
    if path.suffix == ".parquet":
        yield from stream(path)
        return
    try:
        with path.open(encoding="utf-8-sig") as file:
            beginning = file.read(1)
            file.seek(0)
            if path.suffix == ".json" or beginning == "[":
                yield from json_items(file, path)
            else:
                yield from (parse_json(line) for line in file if line.strip())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): fetch it again.") from error
