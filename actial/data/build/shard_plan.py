"""Plan the shards of a build: which pairs stay under the caps, which capture is in which shard.

The work is SQLite's, on disk, so memory does not grow with the number of
objects. A cap keeps the pairs that come first when the strata (motion, angle
bin, side) take turns, each in order of its pairs' ids: angles stay spread, and
left and right even.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CACHE_KIB = 65_536

TABLES = """
CREATE TABLE captures (
  id INTEGER PRIMARY KEY, key TEXT, split TEXT, path TEXT, offset INTEGER, size INTEGER);
CREATE TABLE pairs (
  capture INTEGER, number INTEGER, uid TEXT, split TEXT, class TEXT, stratum TEXT);
"""
# The rank of a pair when the strata of its group take turns: first within each class of a split,
# then within the whole split.
CAPPED = """
CREATE TABLE {name} AS SELECT capture, number, uid, split, class, stratum FROM (
  SELECT *, ROW_NUMBER() OVER (PARTITION BY {group} ORDER BY turn, uid) AS rank FROM (
    SELECT *, ROW_NUMBER() OVER (PARTITION BY {group}, stratum ORDER BY uid) AS turn FROM {source}))
WHERE rank <= {cap}
"""
PLACED = """
CREATE TABLE placed AS
  SELECT split, (ROW_NUMBER() OVER (PARTITION BY split ORDER BY key) - 1) / ? AS shard,
    key, path, offset, size, numbers
  FROM captures JOIN (
    SELECT capture, json_group_array(number) AS numbers FROM {source} GROUP BY capture
  ) ON capture = id
"""


@dataclass(slots=True)
class PlannedCapture:
    """A capture's line in a label file, and which of its pairs are written."""

    key: str
    path: Path
    offset: int  # bytes
    size: int
    pair_numbers: list[int]

    def read(self) -> bytes:
        """Return the line."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


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
            f"PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-{CACHE_KIB}; "
            + TABLES
        )
        _fill(db, labels)
        source = "pairs"
        if per_class:
            capped = CAPPED.format(
                name="in_class", group="split, class", source=source, cap=int(per_class)
            )
            db.execute(capped)
            source = "in_class"
        if per_split:
            cases = " ".join(f"WHEN '{split}' THEN {int(n)}" for split, n in per_split.items())
            cap = f"CASE split {cases} ELSE rank END"
            db.execute(CAPPED.format(name="in_split", group="split", source=source, cap=cap))
            source = "in_split"
        db.execute(PLACED.format(source=source), (per_shard,))
        db.execute("CREATE INDEX by_shard ON placed (split, shard, key)")
        db.commit()
    os.replace(temporary, base)


def _fill(db: sqlite3.Connection, labels: Iterable[Path]) -> None:
    """Insert every capture with the offset of its line, and every pair with its stratum."""
    capture_id = 0
    for path in labels:
        with path.open("rb") as file:
            file.readline()  # counts
            while line := file.readline():
                capture = json.loads(line)
                capture_id += 1
                split, offset = capture["split"], file.tell() - len(line)
                db.execute(
                    "INSERT INTO captures VALUES (?,?,?,?,?,?)",
                    (capture_id, capture["key"], split, str(path), offset, len(line)),
                )
                strata = zip(capture["rows"], capture["strata"], strict=True)
                values = (
                    (capture_id, number, pair["uid"], split, capture["class_id"], stratum)
                    for number, (pair, stratum) in enumerate(strata)
                )
                db.executemany("INSERT INTO pairs VALUES (?,?,?,?,?,?)", values)


class Plan:
    """A finished plan, for reading."""

    def __init__(self, base: Path) -> None:
        self.base = base

    def _query(self, query: str, *values: object) -> Iterator[tuple[Any, ...]]:
        with closing(
            sqlite3.connect(f"{self.base.absolute().as_uri()}?mode=ro", uri=True)
        ) as db:
            yield from db.execute(query, values)

    def shards(self) -> Iterator[tuple[str, int, int]]:
        """Yield (split, number of the shard, its captures), in order."""
        yield from self._query(
            "SELECT split, shard, COUNT(*) FROM placed GROUP BY split, shard ORDER BY split, shard"
        )

    def places(self, split: str, shard: int) -> Iterator[PlannedCapture]:
        """Yield the captures of one shard in order of their keys: each is a mixture of classes."""
        rows = self._query(
            "SELECT key, path, offset, size, numbers FROM placed "
            "WHERE split = ? AND shard = ? ORDER BY key",
            split,
            shard,
        )
        for key, path, offset, size, numbers in rows:
            yield PlannedCapture(key, Path(path), offset, size, sorted(json.loads(numbers)))

    def dropped(self) -> int:
        """Return how many pairs the caps turned away."""
        ((labeled,),) = self._query("SELECT COUNT(*) FROM pairs")
        ((placed,),) = self._query(
            "SELECT COALESCE(SUM(json_array_length(numbers)), 0) FROM placed"
        )
        return int(labeled - placed)
