"""Files of unfinished work: lines of JSON behind a first line with counts and a checksum.

They lie in out/.build until the set is finished. A file that is cut or changed by a
full disk, a faulty disk or a hand is noticed when it is read, before anything wrong
gets into the set.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from actial.core.atomic_io import atomic
from actial.core.errors import UserError
from actial.core.json_lines import json_line

CHECKSUM = "sha256"  # of all lines behind the first


def write_work(
    path: Path, counts: Mapping[str, Any], records: Iterable[Mapping[str, Any]]
) -> None:
    """Write counts and records; the file appears when it is complete."""
    lines = [json_line(record) for record in records]
    digest = sha256(b"".join(lines)).hexdigest()
    with atomic(path) as file:
        file.write(json_line({**counts, CHECKSUM: digest}))
        file.writelines(lines)


def read_counts(path: Path) -> dict[str, Any]:
    """Return the counts of a file and check all of it; raises UserError for a damaged one."""
    digest = sha256()
    with path.open("rb") as file:
        head = file.readline()
        for line in file:
            digest.update(line)
    try:
        counts: dict[str, Any] = json.loads(head)
        written = counts.pop(CHECKSUM)
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise damaged(path, f"no counts on its first line: {error!r}") from error
    if digest.hexdigest() != written:
        raise damaged(path, "its checksum is another")
    return counts


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a file that `read_counts` has checked."""
    with path.open("rb") as file:
        file.readline()  # counts
        yield from map(json.loads, file)


def damaged(path: Path, cause: str) -> UserError:
    """Return the error for a file of unfinished work that is not what was written."""
    return UserError(
        f"{path} is damaged ({cause}): remove it, and run the same command again to make it anew."
    )
