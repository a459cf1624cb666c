"""What a built set says about itself: does it leak between splits, and can its questions be answered without geometry?"""

from __future__ import annotations

import io
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from heapq import nsmallest
from typing import Any

import numpy as np
from PIL import Image

from actial.core.records import AnswerMode, Example, QuestionType
from actial.core.seeding import hash_int
from actial.data.shards import ShardFiles
from actial.grading.metrics import Cell
from actial.viewpoint.questions import viewpoint_question
from actial.viewpoint.shortcut_probes import answer_prior, centroid, centroid_probe

SAMPLE = 600  # rows looked at by the probes
SEARCHED = 400  # training rows and held-out rows compared for near-duplicates
THUMB = 96  # pixels of the longer side; where the object stands needs no more
HASH_SIDE = 16
NEAR_BITS = 8  # of HASH_SIDE^2: re-encoding and slight resizing change fewer
SHORTCUT = 0.10  # accuracy above the answer prior from which a probe is called a shortcut

Rows = Callable[[], Iterable[Mapping[str, Any]]]


@dataclass(slots=True, kw_only=True)
class Checks:
    shared_groups: int  # objects that occur in more than one split
    shared_pictures: int  # pictures, to the byte
    near_duplicates: list[
        tuple[str, str]
    ]  # (uid of a training row, uid of a held-out row), of a sample of each
    letters: Counter[tuple[str, str]] = field(
        default_factory=Counter
    )  # (question type, right letter) -> rows
    prior: Cell  # the most frequent answer of each question type, by text or letter; all that the question alone tells
    centroids: Cell  # from where the object stands in both pictures

    def warnings(self) -> list[str]:
        found = []
        if self.shared_groups or self.shared_pictures:
            found.append(
                f"{self.shared_groups} objects and {self.shared_pictures} pictures occur in more than one split"
            )
        if self.near_duplicates:
            found.append(
                f"{len(self.near_duplicates)} pairs of nearly equal pictures in training and held-out rows"
            )
        if self.centroids.n and self.centroids.value > self.prior.value + SHORTCUT:
            known, prior = float(self.centroids.value), float(self.prior.value)
            found.append(
                f"the object's place in the pictures alone answers {known:.2f}, the answer prior {prior:.2f}"
            )
        return found

    def as_dict(self) -> dict[str, Any]:
        return {
            "shared_groups": self.shared_groups,
            "shared_pictures": self.shared_pictures,
            "near_duplicates": [list(pair) for pair in self.near_duplicates],
            "right_letters": {
                f"{kind} {letter}": n for (kind, letter), n in sorted(self.letters.items())
            },
            "probes": {
                "answer": {"accuracy": round(float(self.prior.value), 3), "n": self.prior.n},
                "centroid": {
                    "accuracy": round(float(self.centroids.value), 3),
                    "n": self.centroids.n,
                },
            },
            "warnings": self.warnings(),
        }


def check_set(rows: Rows, shards: ShardFiles) -> Checks:
    """Every row is read for leaks and letters, a sample drawn by hash for the pictures."""
    letters: Counter[tuple[str, str]] = Counter()
    groups, pictures = _leaks(_counted(rows(), letters))
    sample = nsmallest(SAMPLE, rows(), key=lambda row: hash_int("probe", row["uid"]))
    examples = [_example(row, shards) for row in sample]
    return Checks(
        shared_groups=groups,
        shared_pictures=pictures,
        near_duplicates=near_duplicates(rows, shards),
        letters=letters,
        prior=answer_prior(examples),
        centroids=centroid_probe(examples),
    )


def _counted(rows: Iterable[Mapping], letters: Counter[tuple[str, str]]) -> Iterator[Mapping]:
    for row in rows:
        question = viewpoint_question(row, QuestionType(row["question_type"]), AnswerMode.DIRECT)
        if question.options:
            letters[question.type, question.answer_letter] += 1
        yield row


def _leaks(rows: Iterable[Mapping]) -> tuple[int, int]:
    """Groups and pictures in more than one split; counted on disk."""
    with closing(sqlite3.connect("")) as db:
        db.executescript(
            "CREATE TABLE g (h INTEGER, split TEXT); CREATE TABLE p (h INTEGER, split TEXT)"
        )
        for row in rows:
            db.execute(
                "INSERT INTO g VALUES (?,?)",
                (hash_int(row["source"], row["group"]) >> 1, row["split"]),
            )
            db.executemany(
                "INSERT INTO p VALUES (?,?)",
                ((int(place["sha256"][:15], 16), row["split"]) for place in row["images"]),
            )
        shared = (
            "SELECT COUNT(*) FROM (SELECT 1 FROM {} GROUP BY h HAVING COUNT(DISTINCT split) > 1)"
        )
        groups, pictures = (db.execute(shared.format(table)).fetchone()[0] for table in "gp")
        return groups, pictures


# ---------------------------------------------------------------- pictures


def _thumbnails(row: Mapping, shards: ShardFiles) -> list[Image.Image]:
    found = []
    for data in shards.encoded(row):
        with Image.open(io.BytesIO(data)) as image:
            image.draft("RGB", (THUMB, THUMB))  # a JPEG is decoded at a fraction of its size
            small = image.convert("RGB")
        small.thumbnail((THUMB, THUMB))
        found.append(small)
    return found


def _example(row: Mapping, shards: ShardFiles) -> Example:
    """The row's questions with where the object stands in the first and last picture, and no pixels."""
    pictures = _thumbnails(row, shards)
    places = [centroid(np.asarray(picture)) for picture in (pictures[0], pictures[-1])]
    questions = [
        viewpoint_question(row, QuestionType(kind), AnswerMode.DIRECT) for kind in row["questions"]
    ]
    return Example(
        uid=row["uid"],
        images=[],
        questions=[question for question in questions if question.options],
        task="viewpoint",
        row={"object_id": row["object_id"], "centroids": places},
    )


def difference_hash(image: Image.Image) -> np.ndarray:
    """(HASH_SIDE^2 / 64,) uint64: is each cell of a grey grid brighter than its left neighbour?"""
    gray = np.asarray(
        image.convert("L").resize((HASH_SIDE + 1, HASH_SIDE), Image.Resampling.BILINEAR),
        dtype=np.int16,
    )
    return np.packbits(gray[:, 1:] > gray[:, :-1]).view(np.uint64)


def near_duplicates(rows: Rows, shards: ShardFiles) -> list[tuple[str, str]]:
    """Pairs (training row, held-out row) that show nearly the same picture, of SEARCHED rows of each."""

    def drawn(held_out: bool) -> tuple[list[str], np.ndarray]:
        of_side = (row for row in rows() if (row["split"] != "train") == held_out)
        chosen = nsmallest(SEARCHED, of_side, key=lambda row: hash_int("duplicates", row["uid"]))
        hashed = [
            (row["uid"], difference_hash(picture))
            for row in chosen
            for picture in _thumbnails(row, shards)
        ]
        return [uid for uid, _ in hashed], np.array(
            [bits for _, bits in hashed], dtype=np.uint64
        ).reshape(-1, HASH_SIDE**2 // 64)

    held, b = drawn(True)
    if not held:
        return []
    train, a = drawn(False)
    found: dict[tuple[str, str], None] = {}
    for i, bits in enumerate(a):
        near = np.bitwise_count(b ^ bits).sum(axis=1) <= NEAR_BITS
        found |= {(train[i], held[k]): None for k in np.flatnonzero(near)}
    return list(found)


def letter_table(letters: Mapping[tuple[str, str], int]) -> Sequence[tuple[str, dict[str, int]]]:
    kinds = sorted({kind for kind, _ in letters})
    return [
        (
            kind,
            {
                letter: letters.get((kind, letter), 0)
                for letter in "ABCDEF"
                if (kind, letter) in letters
            },
        )
        for kind in kinds
    ]
