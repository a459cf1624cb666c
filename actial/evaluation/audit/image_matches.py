"""Find near-duplicate images between two sets: resized, re-encoded, mirrored or cropped copies.

An image is described by thumbnails of itself and of its crops by a tenth; a copy's thumbnail equals
one of them. Low frequencies of the cosine transform find candidates in a k-d tree, and the
correlation of the thumbnails decides.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.fft import dctn
from scipy.spatial import cKDTree

from actial.core.errors import UserError
from actial.core.image_codec import UNREADABLE
from actial.evaluation.audit.items import AuditSet
from actial.evaluation.benchmarks.base import Picture

SIDE = 64  # pixels of the picture that crops are taken from
THUMB = 16  # pixels of a thumbnail
FREQUENCIES = 4  # of the cosine transform, each way
RADIUS = 0.3  # between unit vectors of low frequencies, for candidates
CORRELATION = 0.96  # of two thumbnails of one image
FLAT = 6.0  # gray levels of standard deviation below which a picture says nothing
CROP = 0.1  # share that a crop takes away
CHUNK = 256  # images per task of the process pool


@dataclass(slots=True, frozen=True)
class ImageMatch:
    """An image of one set that is nearly an image of another."""

    uid: str
    other_uid: str
    correlation: float
    mirrored: bool


@dataclass(slots=True)
class Descriptors:
    """Thumbnails of a set's images: (N, THUMB, THUMB) unit vectors, mean-free."""

    uids: list[str]  # of the items, one per thumbnail
    thumbs: np.ndarray
    is_whole: np.ndarray  # (N,) bool: of the whole image, not of a crop

    def whole(self) -> Descriptors:
        """Return the thumbnails of whole images."""
        uids = [uid for uid, whole in zip(self.uids, self.is_whole, strict=True) if whole]
        return Descriptors(uids, self.thumbs[self.is_whole], np.ones(len(uids), bool))

    def mirrored(self) -> Descriptors:
        """Return the thumbnails of the mirrored images."""
        return Descriptors(self.uids, self.thumbs[:, :, ::-1], self.is_whole)

    @property
    def keys(self) -> np.ndarray:
        """(N, FREQUENCIES**2 - 1) unit vectors of low frequencies."""
        low = dctn(self.thumbs, axes=(1, 2), norm="ortho")[:, :FREQUENCIES, :FREQUENCIES]
        flat = low.reshape(len(low), FREQUENCIES**2)[:, 1:]
        norms = np.linalg.norm(flat, axis=1, keepdims=True)
        return np.asarray(flat / np.maximum(norms, 1e-9))


def describe(audited: AuditSet, workers: int, *, crops: bool) -> Descriptors:
    """Return the thumbnails of a set's images, and of their crops.

    Raises:
        UserError: an image cannot be read.
    """
    uids: list[str] = []
    thumbs: list[np.ndarray] = []
    whole: list[bool] = []
    with ThreadPoolExecutor(workers) as pool:
        for chunk in _chunks(audited):
            part = [pictures for _, pictures in chunk]
            futures = [
                pool.submit(_thumbnails, part[i::workers], crops) for i in range(workers)
            ]
            for i, future in enumerate(futures):
                for (uid, _), described in zip(
                    chunk[i::workers], future.result(), strict=True
                ):
                    uids += [uid] * len(described)
                    thumbs.append(described)
                    whole += [True, *[False] * len(CROP_BOXES)][: len(described)]
    empty = np.zeros((0, THUMB, THUMB), np.float32)
    every = np.concatenate(thumbs) if thumbs else empty
    return Descriptors(uids, every, np.array(whole, bool))


def _chunks(audited: AuditSet) -> Iterator[list[tuple[str, Picture]]]:
    def pictures() -> Iterator[tuple[str, Picture]]:
        for position, item in enumerate(audited.items):
            for picture in audited.images(position):
                yield item.uid, picture

    stream = pictures()
    while chunk := list(islice(stream, CHUNK)):
        yield chunk


def _thumbnails(pictures: Iterable[Picture], crops: bool) -> list[np.ndarray]:
    return [_thumbnails_of(picture, crops) for picture in pictures]


def _thumbnails_of(picture: Picture, crops: bool) -> np.ndarray:
    """Return (K, THUMB, THUMB) float32; none for a flat picture."""
    try:
        with Image.open(
            picture if isinstance(picture, Path) else io.BytesIO(picture)
        ) as opened:
            opened.draft(
                "L", (2 * SIDE, 2 * SIDE)
            )  # a JPEG is decoded at a fraction of its size
            gray = opened.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
    except UNREADABLE as error:
        raise UserError(f"an image cannot be read ({error}): fetch the file again.") from None
    if np.asarray(gray, np.float32).std() < FLAT:
        return np.zeros((0, THUMB, THUMB), np.float32)
    boxes = [(0.0, 0.0, 1.0, 1.0), *(CROP_BOXES if crops else ())]
    views = []
    for left, top, right, bottom in boxes:
        box = (left * SIDE, top * SIDE, right * SIDE, bottom * SIDE)
        small = gray.resize((THUMB, THUMB), Image.Resampling.BOX, box=box)
        view = np.asarray(small, np.float32)
        view = view - view.mean()
        views.append(view / max(float(np.linalg.norm(view)), 1e-6))
    return np.stack(views)


def _crop_boxes() -> list[tuple[float, float, float, float]]:
    """Boxes that leave out a tenth: of one side, of both sides of an axis, or of both axes."""
    shifts = (0.0, CROP / 2, CROP)
    boxes = []
    for x in (None, *shifts):
        for y in (None, *shifts):
            left, right = (0.0, 1.0) if x is None else (x, x + 1 - CROP)
            top, bottom = (0.0, 1.0) if y is None else (y, y + 1 - CROP)
            boxes.append((left, top, right, bottom))
    return boxes[1:]


CROP_BOXES = _crop_boxes()


def matching_images(one: Descriptors, other: Descriptors) -> list[ImageMatch]:
    """Return the best match of every two items with nearly equal images, one of each set.

    Whole images of each set are compared with whole images and crops of the other, as they are and
    mirrored.
    """
    best: dict[tuple[str, str], ImageMatch] = {}
    for mirrored in (False, True):
        turned = one.mirrored() if mirrored else one
        pairs = [
            *_near(turned.whole(), other),
            *((a, b, value) for b, a, value in _near(other.whole(), turned)),
        ]
        for uid, other_uid, value in pairs:
            pair = (uid, other_uid)
            if pair not in best or best[pair].correlation < value:
                best[pair] = ImageMatch(uid, other_uid, value, mirrored)
    return sorted(best.values(), key=lambda match: (match.uid, match.other_uid))


def _near(queries: Descriptors, others: Descriptors) -> Iterator[tuple[str, str, float]]:
    """Yield the uids of two nearly equal thumbnails, and their correlation."""
    if not queries.uids or not others.uids:
        return
    tree, keys = cKDTree(others.keys), queries.keys
    for start in range(0, len(keys), CHUNK):
        candidates = tree.query_ball_point(keys[start : start + CHUNK], RADIUS, workers=-1)
        for position, indices in enumerate(candidates, start):
            values = _correlations(queries.thumbs[position], others.thumbs[indices])
            for index, value in zip(indices, values.tolist(), strict=True):
                if value >= CORRELATION:
                    yield queries.uids[position], others.uids[index], value


def _correlations(thumb: np.ndarray, others: np.ndarray) -> np.ndarray:
    values: np.ndarray = np.tensordot(others, thumb, axes=([1, 2], [0, 1]))
    return values
