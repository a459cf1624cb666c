"""Between the two passes of a build: which rows stay under the caps, and which capture goes into which shard.

The work is SQLite's, on disk, so memory does not grow with the number of objects. A cap keeps the rows that come first when the strata
(motion, angle bin, side) take turns, each in order of its rows' ids: angles stay spread, and left and right even.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

CACHE_KIB = 65_536

TABLES = """
CREATE TABLE captures (id INTEGER PRIMARY KEY, key TEXT, split TEXT, path TEXT, offset INTEGER, size INTEGER);
CREATE TABLE rows (capture INTEGER, place INTEGER, uid TEXT, split TEXT, class TEXT, stratum TEXT);
"""
# The rank of a row when the strata of its group take turns, first within each class of a split, then within the whole split.
CAPPED = """
CREATE TABLE {name} AS SELECT capture, place, uid, split, class, stratum FROM (
  SELECT *, ROW_NUMBER() OVER (PARTITION BY {group} ORDER BY turn, uid) AS rank FROM (
    SELECT *, ROW_NUMBER() OVER (PARTITION BY {group}, stratum ORDER BY uid) AS turn FROM {source}))
WHERE rank <= {cap}
"""
PLACED = """
CREATE TABLE placed AS SELECT split, (ROW_NUMBER() OVER (PARTITION BY split ORDER BY key) - 1) / ? AS shard, key, path, offset, size, kept
FROM captures JOIN (SELECT capture, json_group_array(place) AS kept FROM {source} GROUP BY capture) ON capture = id
"""


@dataclass(slots=True)
class Place:
    """A capture's line in a label file, and which of its rows stay."""

    key: str
    path: Path
    offset: int
    size: int
    kept: list[int]

    def read(self) -> dict:
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return json.loads(file.read(self.size))


def make_plan(
    base: Path,
    labels: Sequence[Path],
    *,
    per_class: int,
    per_split: Mapping[str, int],
    per_shard: int,
) -> None:
    """Write the plan of all label files as the SQLite file `base`; per_class 0 = no cap."""
    temporary = base.with_name(f".{base.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    with closing(sqlite3.connect(temporary)) as db:
        db.executescript(
            f"PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-{CACHE_KIB}; {TABLES}"
        )
        _fill(db, labels)
        source = "rows"
        if per_class:
            db.execute(
                CAPPED.format(
                    name="in_class", group="split, class", source=source, cap=int(per_class)
                )
            )
            source = "in_class"
        if per_split:
            cap = (
                "CASE split "
                + " ".join(f"WHEN '{split}' THEN {int(rows)}" for split, rows in per_split.items())
                + " ELSE rank END"
            )
            db.execute(CAPPED.format(name="in_split", group="split", source=source, cap=cap))
            source = "in_split"
        db.execute(PLACED.format(source=source), (per_shard,))
        db.execute("CREATE INDEX by_shard ON placed (split, shard, key)")
        db.commit()
    os.replace(temporary, base)


def _fill(db: sqlite3.Connection, labels: Iterable[Path]) -> None:
    number = 0
    for path in labels:
        with path.open("rb") as file:
            file.readline()  # counts
            while line := file.readline():
                capture = json.loads(line)
                number += 1
                at = file.tell() - len(line)
                db.execute(
                    "INSERT INTO captures VALUES (?,?,?,?,?,?)",
                    (number, capture["key"], capture["split"], str(path), at, len(line)),
                )
                strata = zip(capture["rows"], capture["strata"], strict=True)
                values = (
                    (number, i, row["uid"], capture["split"], capture["class_id"], s)
                    for i, (row, s) in enumerate(strata)
                )
                db.executemany("INSERT INTO rows VALUES (?,?,?,?,?,?)", values)


class Plan:
    """A finished plan, for reading."""

    def __init__(self, base: Path) -> None:
        self.base = base

    def _query(self, query: str, *values: object) -> Iterator[tuple]:
        with closing(sqlite3.connect(f"file:{self.base}?mode=ro", uri=True)) as db:
            yield from db.execute(query, values)

    def shards(self) -> Iterator[tuple[str, int, int]]:
        """(split, number of the shard, its captures), in order."""
        yield from self._query(
            "SELECT split, shard, COUNT(*) FROM placed GROUP BY split, shard ORDER BY split, shard"
        )

    def places(self, split: str, shard: int) -> Iterator[Place]:
        """The captures of one shard in order of their keys, so that every shard is a mixture of classes."""
        rows = self._query(
            "SELECT key, path, offset, size, kept FROM placed WHERE split = ? AND shard = ? ORDER BY key",
            split,
            shard,
        )
        for key, path, offset, size, kept in rows:
            yield Place(key, Path(path), offset, size, sorted(json.loads(kept)))

    def dropped(self) -> int:
        """Rows that the caps turned away."""
        ((seen,),) = self._query("SELECT COUNT(*) FROM rows")
        ((kept,),) = self._query("SELECT COALESCE(SUM(json_array_length(kept)), 0) FROM placed")
        return seen - kept
