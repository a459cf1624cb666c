"""Procedural questions as parquet in SAT's schema: columns, order of rows and spellings of types.

SAT_train.parquet   static rows first (type "other"), then the dynamic ones; one
row group SAT_val.parquet     the same kinds, other scenes SAT_test.parquet
dynamic kinds only, under the test split's names, and the kind perspective
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

from actial.synthetic.captures import in_processes, jpeg
from actial.synthetic.scene_questions import ask
from actial.synthetic.scenes import render_scene

STATIC_SHARE = 0.4  # of train and val; 0.74 in the original
STATIC_PER_SCENE = 3
TRAIN_TYPES = {
    "ego_motion": "action_sequence",
    "obj_motion": "obj_movement",
    "goal_aim": "goal_aim",
    "action_conseq": "action_consequence",
}
TEST_TYPES = {
    "ego_motion": "ego_movement",
    "obj_motion": "obj_movement",
    "action_conseq": "action_conseq",
    "goal_aim": "goal_aim",
    "perspective": "perspective",
}


@dataclass(slots=True, frozen=True)
class SatJob:
    """One scene to ask about."""

    kind: str
    raw_type: str
    split: str
    index: int
    seed: int
    size: int
    rows: int  # how many of its questions are written


def sat_jobs(split: str, rows: int, seed: int, size: int) -> list[SatJob]:
    """Return the scenes behind `rows` rows of a split, in the order of the file."""
    static = 0 if split == "test" else round(rows * STATIC_SHARE)
    types = TEST_TYPES if split == "test" else TRAIN_TYPES
    counts = [
        min(STATIC_PER_SCENE, static - done) for done in range(0, static, STATIC_PER_SCENE)
    ]
    jobs = [
        SatJob("static", "other", split, i, seed, size, count)
        for i, count in enumerate(counts)
    ]
    dynamic = islice(cycle(types.items()), rows - static)
    return jobs + [
        SatJob(kind, raw, split, i, seed, size, 1) for i, (kind, raw) in enumerate(dynamic)
    ]


def sat_rows(job: SatJob) -> list[dict]:
    """Return the rows of one scene."""
    questions = ask(job.kind, (job.seed, job.split, job.index), job.size)
    images = [jpeg(image) for image in render_scene(questions[0].scene)]
    return [
        {
            "image_bytes": images,
            "question": item.question,
            "answers": list(item.answers),
            "question_type": job.raw_type,
            "correct_answer": item.correct,
        }
        for item in questions[: job.rows]
    ]


def write_sat(
    path: Path, split: str, rows: int, seed: int, size: int, workers: int
) -> Iterator[int]:
    """Write one parquet file; yield how many rows each scene gave, for a progress bar.

    The bytes do not depend on `workers`.
    """
    table: list[dict] = []
    for scene_rows in in_processes(sat_rows, sat_jobs(split, rows, seed, size), workers):
        table += scene_rows
        yield len(scene_rows)
    write_rows(path, table)


def write_rows(path: Path, table: list[dict]) -> None:
    """Write rows in SAT's schema as one parquet file with one row group."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [
            ("image_bytes", pa.list_(pa.binary())),
            ("question", pa.string()),
            ("answers", pa.list_(pa.string())),
            ("question_type", pa.string()),
            ("correct_answer", pa.string()),
        ]
    )
    temporary = path.with_name(f".{path.name}")
    pq.write_table(pa.Table.from_pylist(table, schema), temporary, row_group_size=len(table))
    temporary.replace(path)
