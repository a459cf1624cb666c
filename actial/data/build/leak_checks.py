"""Checks of a built set: does it leak between splits, can it be answered without geometry?"""

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

from actial.core.records import AnswerMode, Example
from actial.core.seeding import hash_int
from actial.core.set_records import ViewPair
from actial.data.shards import ShardFiles
from actial.grading.metrics import Cell
from actial.viewpoint.questions import viewpoint_question
from actial.viewpoint.shortcut_probes import answer_prior, centroid, centroid_probe

SAMPLE = 600  # pairs looked at by the probes
SEARCHED = 400  # training pairs and held-out pairs compared for near-duplicates
THUMB = 96  # pixels of the longer side; where the object stands needs no more
HASH_SIDE = 16
NEAR_BITS = 8  # of HASH_SIDE^2: re-encoding and slight resizing change fewer
SHORTCUT = 0.10  # accuracy above the answer prior from which a probe is called a shortcut

Pairs = Callable[[], Iterable[ViewPair]]  # the whole index, read anew with each call


@dataclass(slots=True, kw_only=True)
class Checks:
    """What the checks say of one set."""

    shared_groups: int  # objects that occur in more than one split
    shared_pictures: int  # images, to the byte
    near_duplicates: list[
        tuple[str, str]
    ]  # uids of a training and a held-out pair, of a sample
    letters: Counter[tuple[str, str]] = field(
        default_factory=Counter
    )  # (type, letter) -> pairs
    prior: Cell  # the most frequent answer of each question type: all that the question tells
    centroids: Cell  # from where the object stands in both images

    def warnings(self) -> list[str]:
        """Return a sentence, without its full stop, for each thing a user should look at."""
        sentences = []
        if self.shared_groups or self.shared_pictures:
            sentences.append(
                f"{self.shared_groups} objects and {self.shared_pictures} images occur in more "
                "than one split"
            )
        if self.near_duplicates:
            sentences.append(
                f"{len(self.near_duplicates)} pairs of nearly equal images in training and "
                "held-out records"
            )
        if self.centroids.n and self.centroids.value > self.prior.value + SHORTCUT:
            by_position, prior = float(self.centroids.value), float(self.prior.value)
            sentences.append(
                f"the object's place in the images alone answers {by_position:.2f}, "
                f"the answer prior {prior:.2f}"
            )
        return sentences

    def as_dict(self) -> dict[str, Any]:
        """Return the content of audit.json."""
        prior, centroids = self.prior, self.centroids
        letters = {f"{kind} {letter}": n for (kind, letter), n in sorted(self.letters.items())}
        return {
            "shared_groups": self.shared_groups,
            "shared_pictures": self.shared_pictures,
            "near_duplicates": [list(pair) for pair in self.near_duplicates],
            "right_letters": letters,
            "probes": {
                "answer": {"accuracy": round(float(prior.value), 3), "n": prior.n},
                "centroid": {"accuracy": round(float(centroids.value), 3), "n": centroids.n},
            },
            "warnings": self.warnings(),
        }


def check_set(pairs: Pairs, shards: ShardFiles) -> Checks:
    """Return the checks: leaks and letters of every pair, images of a sample drawn by hash."""
    letters: Counter[tuple[str, str]] = Counter()
    groups, pictures = _leaks(_counted(pairs(), letters))
    sample = nsmallest(SAMPLE, pairs(), key=lambda pair: hash_int("probe", pair.uid))
    examples = [_example(pair, shards) for pair in sample]
    return Checks(
        shared_groups=groups,
        shared_pictures=pictures,
        near_duplicates=near_duplicates(pairs, shards),
        letters=letters,
        prior=answer_prior(examples),
        centroids=centroid_probe(examples),
    )


def _counted(
    pairs: Iterable[ViewPair], letters: Counter[tuple[str, str]]
) -> Iterator[ViewPair]:
    """Yield the pairs and count the right letter of the question each was built for."""
    for pair in pairs:
        if pair.question_type is not None:
            question = viewpoint_question(pair, pair.question_type, AnswerMode.DIRECT)
            if question.options:
                letters[question.type, question.answer_letter] += 1
        yield pair


def _leaks(pairs: Iterable[ViewPair]) -> tuple[int, int]:
    """Return how many groups and how many images are in more than one split; counted on disk."""
    with closing(sqlite3.connect("")) as db:
        db.executescript(
            "CREATE TABLE g (h INTEGER, split TEXT); CREATE TABLE p (h INTEGER, split TEXT)"
        )
        for pair in pairs:
            group = hash_int(pair.source, pair.group) >> 1  # SQLite's integers are signed
            db.execute("INSERT INTO g VALUES (?,?)", (group, pair.split))
            digests = [int(image.sha256[:15], 16) for image in pair.images]
            db.executemany("INSERT INTO p VALUES (?,?)", [(h, pair.split) for h in digests])
        split_values = "SELECT 1 FROM {} GROUP BY h HAVING COUNT(DISTINCT split) > 1"
        shared = f"SELECT COUNT(*) FROM ({split_values})"
        groups, pictures = (db.execute(shared.format(table)).fetchone()[0] for table in "gp")
        return groups, pictures


# ---------------------------------------------------------------- images


def _thumbnails(pair: ViewPair, shards: ShardFiles) -> list[Image.Image]:
    thumbnails = []
    for data in shards.encoded(pair):
        with Image.open(io.BytesIO(data)) as image:
            image.draft("RGB", (THUMB, THUMB))  # a JPEG is decoded at a fraction of its size
            small = image.convert("RGB")
        small.thumbnail((THUMB, THUMB))
        thumbnails.append(small)
    return thumbnails


def _example(pair: ViewPair, shards: ShardFiles) -> Example:
    """Return the pair's questions with the object's positions in place of the pixels."""
    thumbnails = _thumbnails(pair, shards)
    first, last = (centroid(np.asarray(image)) for image in (thumbnails[0], thumbnails[-1]))
    questions = [viewpoint_question(pair, kind, AnswerMode.DIRECT) for kind in pair.questions]
    return Example(
        uid=pair.uid,
        images=[],
        questions=[question for question in questions if question.options],
        task="viewpoint",
        record=pair,
        object_positions=(first, last),
    )


def difference_hash(image: Image.Image) -> np.ndarray:
    """Return (HASH_SIDE^2 / 64,) uint64: is each cell of a gray grid brighter than its left one?"""
    small = image.convert("L").resize((HASH_SIDE + 1, HASH_SIDE), Image.Resampling.BILINEAR)
    gray = np.asarray(small, dtype=np.int16)
    return np.packbits(gray[:, 1:] > gray[:, :-1]).view(np.uint64)


def near_duplicates(pairs: Pairs, shards: ShardFiles) -> list[tuple[str, str]]:
    """Return the uids of (training pair, held-out pair) that show nearly the same image.

    SEARCHED pairs of each are compared, drawn by hash.
    """

    def hashed(held_out: bool) -> tuple[list[str], np.ndarray]:
        """Return the uid and the difference hash (n, words) of every image drawn from one side."""
        of_side = (pair for pair in pairs() if (pair.split != "train") == held_out)
        drawn = nsmallest(SEARCHED, of_side, key=lambda pair: hash_int("duplicates", pair.uid))
        uids: list[str] = []
        hashes: list[np.ndarray] = []
        for pair in drawn:
            for image in _thumbnails(pair, shards):
                uids.append(pair.uid)
                hashes.append(difference_hash(image))
        return uids, np.array(hashes, dtype=np.uint64).reshape(-1, HASH_SIDE**2 // 64)

    held_out_uids, held_out = hashed(True)
    if not held_out_uids:
        return []
    train_uids, train = hashed(False)
    duplicates: dict[tuple[str, str], None] = {}
    for uid, bits in zip(train_uids, train, strict=True):
        near = np.bitwise_count(held_out ^ bits).sum(axis=1) <= NEAR_BITS
        duplicates |= {(uid, held_out_uids[k]): None for k in np.flatnonzero(near)}
    return list(duplicates)


def letter_table(
    letters: Mapping[tuple[str, str], int],
) -> Sequence[tuple[str, dict[str, int]]]:
    """Return per question type how often each letter is right, in the order of the letters."""
    table = []
    for kind in sorted({kind for kind, _ in letters}):
        of_kind = sorted(letter for name, letter in letters if name == kind)
        table.append((kind, {letter: letters[kind, letter] for letter in of_kind}))
    return table
