"""Find near-duplicate images between two sets: resized, re-encoded, mirrored or cropped copies.

An image is described by thumbnails of itself and of its crops by a tenth; a
copy's thumbnail equals one of them. Low frequencies of the cosine transform
find candidates in k-d trees over blocks of images, the correlation of the
thumbnails decides, and the colors must agree too.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryFile

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
NEIGHBORS = 32  # candidates per image and block, at most
CORRELATION = 0.96  # of two thumbnails of one image
COLOR = 16  # levels of blue and red difference that a quadrant of a copy may be off
GRAY = 3  # levels below which an image has no colors to compare
FLAT = 6.0  # gray levels of standard deviation below which a picture says nothing
CROP = 0.1  # share that a crop takes away
CHUNK = 256  # images per task of the thread pool, and queries per step
BLOCK = 16_384  # images per k-d tree; bounds the memory
LEVELS = 32  # of a stored thumbnail per standard deviation


@dataclass(slots=True, frozen=True)
class ImageMatch:
    """An image of one set that is nearly an image of another."""

    uid: str
    other_uid: str
    correlation: float
    mirrored: bool


@dataclass(slots=True)
class Descriptors:
    """Thumbnails of N images in V views: the whole image first, then its crops."""

    uids: list[str]  # of the items, one per image
    thumbs: np.ndarray  # (N, V, THUMB, THUMB) int8, mean-free; on disk
    colors: np.ndarray  # (N, V, 2, 2, 2) int8: rows, columns, blue and red difference

    def mirrored(self) -> Descriptors:
        """Return the descriptors of the mirrored images."""
        return Descriptors(self.uids, self.thumbs[:, :, :, ::-1], self.colors[:, :, :, ::-1])


# ---------------------------------------------------------------- describing


def describe(audited: AuditSet, workers: int, *, crops: bool) -> Descriptors:
    """Return the descriptors of a set's images; flat images are left out.

    The thumbnails, 4 KB an image, go to a temporary file, so that memory holds 128 bytes an image.

    Raises:
        UserError: an image cannot be read.
    """
    views = 1 + len(CROP_BOXES) if crops else 1
    uids: list[str] = []
    colors: list[np.ndarray] = []
    with TemporaryFile() as file, ThreadPoolExecutor(workers) as pool:
        for chunk in _chunks(audited):
            shares = [chunk[i::workers] for i in range(workers)]
            jobs = [pool.submit(_describe_all, share, crops) for share in shares]
            for job in jobs:
                for uid, thumbs, color in job.result():
                    uids.append(uid)
                    colors.append(color)
                    file.write(thumbs.tobytes())
        file.flush()
        shape = (len(uids), views, THUMB, THUMB)
        stored = np.zeros(shape, np.int8)
        if uids:  # the mapping outlives the closed file
            stored = np.memmap(file, np.int8, "r", shape=shape)
    empty = np.zeros((0, views, 2, 2, 2), np.int8)
    return Descriptors(uids, stored, np.stack(colors) if colors else empty)


def _chunks(audited: AuditSet) -> Iterator[list[tuple[str, Picture]]]:
    def pictures() -> Iterator[tuple[str, Picture]]:
        for position, item in enumerate(audited.items):
            for picture in audited.images(position):
                yield item.uid, picture

    stream = pictures()
    while chunk := list(islice(stream, CHUNK)):
        yield chunk


def _describe_all(
    pictures: Sequence[tuple[str, Picture]], crops: bool
) -> list[tuple[str, np.ndarray, np.ndarray]]:
    described = []
    for uid, picture in pictures:
        views = _views(_small(picture, uid), crops)
        if views is not None:
            described.append((uid, _thumbnails(views), _colors(views)))
    return described


def _small(picture: Picture, uid: str) -> Image.Image:
    """Return an image in SIDE x SIDE pixels."""
    source = picture if isinstance(picture, Path) else io.BytesIO(picture)
    try:
        with Image.open(source) as opened:
            # A JPEG is decoded at a fraction of its size.
            opened.draft("RGB", (2 * SIDE, 2 * SIDE))
            return opened.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)
    except UNREADABLE as error:
        raise UserError(
            f"an image of {uid} cannot be read ({error}): fetch the file again."
        ) from None


def _views(small: Image.Image, crops: bool) -> np.ndarray | None:
    """Return (V, THUMB, THUMB, 3) float32 of brightness and colors; None for a flat image."""
    separated = small.convert("YCbCr")
    if np.asarray(separated.getchannel(0), np.float32).std() < FLAT:
        return None
    boxes = [(0.0, 0.0, 1.0, 1.0), *(CROP_BOXES if crops else ())]
    views = []
    for left, top, right, bottom in boxes:
        box = (left * SIDE, top * SIDE, right * SIDE, bottom * SIDE)
        views.append(separated.resize((THUMB, THUMB), Image.Resampling.BOX, box=box))
    return np.stack([np.asarray(view, np.float32) for view in views])


def _thumbnails(views: np.ndarray) -> np.ndarray:
    """Return (V, THUMB, THUMB) int8 of the brightness, LEVELS per standard deviation."""
    bright = views[..., 0] - views[..., 0].mean(axis=(1, 2), keepdims=True)
    bright /= np.maximum(bright.std(axis=(1, 2), keepdims=True), 1e-6)
    return np.clip(np.rint(LEVELS * bright), -127, 127).astype(np.int8)


def _colors(views: np.ndarray) -> np.ndarray:
    """Return (V, 2, 2, 2) int8: each quadrant's mean blue and red difference."""
    half = THUMB // 2
    quadrants = views[..., 1:].reshape(-1, 2, half, 2, half, 2).mean(axis=(2, 4))
    return np.rint(quadrants - 128).astype(np.int8)


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


# ---------------------------------------------------------------- matching


def matching_images(one: Descriptors, other: Descriptors) -> list[ImageMatch]:
    """Return the best match of every two items with nearly equal images, one of each set.

    Whole images of each set are compared with whole images and crops of the other, as they are and
    mirrored.
    """
    best: dict[tuple[str, str], ImageMatch] = {}
    for mirrored in (False, True):
        turned = one.mirrored() if mirrored else one
        pairs = [
            *_near(turned, other),
            *((a, b, value) for b, a, value in _near(other, turned)),
        ]
        for i, j, value in pairs:
            pair = (one.uids[i], other.uids[j])
            if pair not in best or best[pair].correlation < value:
                best[pair] = ImageMatch(*pair, value, mirrored)
    return sorted(best.values(), key=lambda match: (match.uid, match.other_uid))


def _near(queries: Descriptors, others: Descriptors) -> Iterator[tuple[int, int, float]]:
    """Yield positions of a whole image and of one with a nearly equal view, and the correlation."""
    views = others.thumbs.shape[1]
    for start in range(0, len(others.uids), BLOCK):
        block = others.thumbs[start : start + BLOCK].reshape(-1, THUMB, THUMB)
        tree = cKDTree(_keys(block))
        for first in range(0, len(queries.uids), CHUNK):
            whole = queries.thumbs[first : first + CHUNK, 0]
            # (Q, NEIGHBORS) positions of views in the block; len(block) for none
            _, neighbors = tree.query(
                _keys(whole), NEIGHBORS, distance_upper_bound=RADIUS, workers=-1
            )
            query, rank = np.nonzero(neighbors < len(block))
            view = neighbors[query, rank]
            image = start + view // views
            alike = _colors_agree(
                queries.colors[first + query, 0], others.colors[image, view % views]
            )
            query, view, image = query[alike], view[alike], image[alike]
            values = _correlations(whole[query], block[view])
            for k in np.nonzero(values >= CORRELATION)[0]:
                yield int(first + query[k]), int(image[k]), float(values[k])


def _keys(thumbs: np.ndarray) -> np.ndarray:
    """Return (N, FREQUENCIES**2 - 1) float32 unit vectors of low frequencies, without the mean."""
    keys = np.empty((len(thumbs), FREQUENCIES**2 - 1), np.float32)
    for start in range(0, len(thumbs), BLOCK):
        part = thumbs[start : start + BLOCK].astype(np.float32)
        low = dctn(part, axes=(1, 2), norm="ortho")[:, :FREQUENCIES, :FREQUENCIES]
        flat = low.reshape(len(low), FREQUENCIES**2)[:, 1:]
        norms = np.linalg.norm(flat, axis=1, keepdims=True)
        keys[start : start + BLOCK] = flat / np.maximum(norms, 1e-9)
    return keys


def _colors_agree(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return (N,) bool for two (N, 2, 2, 2) colors; one without colors agrees with all."""
    axes = (1, 2, 3)
    one, other = one.astype(np.int16), other.astype(np.int16)
    gray = (np.abs(one).max(axes) <= GRAY) | (np.abs(other).max(axes) <= GRAY)
    agree: np.ndarray = gray | (np.abs(one - other).max(axes) <= COLOR)
    return agree


def _correlations(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return (N,) correlations of (N, THUMB, THUMB) thumbnails."""
    first, second = (x.reshape(len(x), THUMB**2).astype(np.float32) for x in (one, other))
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    values: np.ndarray = (first * second).sum(axis=1) / np.maximum(norms, 1e-6)
    return values
