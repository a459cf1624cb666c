"""Records of published training sets, one at a time, whatever file they lie in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from actial.core.errors import UserError
from actial.core.parquet import stream

JSON_BLOCK = 1 << 20  # characters read at a time


def json_items(file: IO[str], path: Path) -> Iterator[dict]:
    """Objects of a JSON array without holding it; raises UserError when it ends in the middle of one."""
    decoder, text, at = json.JSONDecoder(), "", 0
    while block := file.read(JSON_BLOCK):
        text, at = text[at:] + block, 0
        while (start := _item_start(text, at)) is not None:
            try:
                item, at = decoder.raw_decode(text, start)
            except json.JSONDecodeError:
                break  # cut by the block: read on
            yield item
    if text[at:].strip(" \n\r\t,]["):
        raise UserError(f"{path} is no JSON array or was cut short: fetch it again.")


def _item_start(text: str, at: int) -> int | None:
    while at < len(text) and text[at] in " \n\r\t,[":
        at += 1
    return at if at < len(text) and text[at] == "{" else None


def records(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a .jsonl, .json (one array) or .parquet file; raises UserError for a broken one."""
    if path.suffix == ".parquet":
        yield from stream(path)
        return
    try:
        with path.open(encoding="utf-8") as file:
            if path.suffix == ".json":
                yield from json_items(file, path)
            else:
                yield from (json.loads(line) for line in file if line.strip())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): fetch it again.") from error
