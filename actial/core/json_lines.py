"""Files with one JSON object per line: written as a whole, or appended to as work is done.

The append-only logs (metrics, predictions, replies of a teacher) share these
functions: a line cut by a kill is not read, and cut off before more is
appended.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from actial.core.atomic_io import atomic, well_formed


def compact_json(value: Any) -> bytes:
    """Return JSON without spaces, in UTF-8."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return well_formed(text).encode()


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text; raises ValueError for any text that is none."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("its brackets are nested too deeply") from None


def json_line(record: Mapping[str, Any]) -> bytes:
    """Return the record as one line of compact JSON."""
    return compact_json(record) + b"\n"


def write_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write one line of JSON per record; the file appears when it is complete."""
    with atomic(path) as file:
        for record in records:
            file.write(json_line(record))


def append_lines(path: Path, lines: Iterable[bytes], *, durable: bool = True) -> None:
    """Append complete lines to a file, which is created where it does not exist.

    With `durable` the lines survive a power cut when this returns, else a kill of the process.
    """
    with path.open("ab") as file:
        file.write(b"".join(lines))
        if durable:
            file.flush()
            os.fsync(file.fileno())


def read_complete_lines(path: Path, *, repair: bool = False) -> list[bytes]:
    """Return the lines of a file without the last one where a kill has cut it short.

    `repair` also removes it from the file, so that the next line does not follow half of one.
    """
    data = path.read_bytes()
    complete = data[: data.rfind(b"\n") + 1]
    if repair and len(complete) < len(data):
        os.truncate(path, len(complete))
    return complete.splitlines()
