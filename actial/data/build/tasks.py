"""The two passes of a build as independent tasks.

First labels (poses only, a chunk of captures each), then shards (images, one
tar each). A shard of a divided build also packs the images of its captures, so
that joining copies bytes and decodes nothing.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from actial.config import BuildConfig
from actial.core.atomic_io import atomic
from actial.core.errors import Rejected
from actial.core.seeding import hash_unit
from actial.core.set_records import ViewPair
from actial.data.build.rejects import Rejects
from actial.data.build.shard_plan import Plan, PlannedCapture
from actial.data.build.work_files import damaged, read_counts, read_records, write_work
from actial.data.images import encode
from actial.data.shards import Sample, shard_name, write_shard
from actial.data.sources.base import Source
from actial.data.sources.frame_counts import FrameCounts
from actial.data.sources.open_source import open_source
from actial.viewpoint.pairs import CROPPED, capture_key, stratum, view_pairs
from actial.viewpoint.quality_gates import judge_capture

CROP = 0.05  # share of a side that a still pair's second image loses at most
OpenImage = Callable[[str], bytes]  # a frame's name -> its encoded image; raises Rejected


# ---------------------------------------------------------------- pass 1: labels


@dataclass(slots=True, frozen=True, kw_only=True)
class LabeledCapture:
    """One line of a label file: a capture with its pairs."""

    reference: str  # the capture's name in its source
    key: str  # of its sample in a shard
    split: str
    class_id: str
    pairs: list[ViewPair]
    strata: list[str]  # one per pair

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> LabeledCapture:
        fields = dict(fields)
        pairs = [ViewPair.from_json(pair) for pair in fields.pop("rows")]
        return cls(pairs=pairs, **fields)

    def to_json(self) -> dict[str, Any]:
        return {
            "reference": self.reference,
            "key": self.key,
            "split": self.split,
            "class_id": self.class_id,
            "rows": [pair.to_json() for pair in self.pairs],
            "strata": self.strata,
        }


def label_chunk(config: BuildConfig, references: Sequence[str], path: Path) -> None:
    """Judge some captures and write their pairs.

    The first line holds the counts, each further one a capture that has pairs.
    """
    source, counts = open_source(config.source), Rejects()
    captures = [_label_capture(config, source, reference, counts) for reference in references]
    lines = [capture.to_json() for capture in captures if capture is not None]
    write_work(path, counts.as_dict(), lines)


def _label_capture(
    config: BuildConfig, source: Source, reference: str, counts: Rejects
) -> LabeledCapture | None:
    counts.captures["seen"] += 1
    try:
        capture, dropped = source.read(reference)
        counts.add_frames(reference, dropped)
        counts.frames["usable"] += len(capture.frames)
        geometry = judge_capture(capture, config.gates, ordered=config.source.ordered)
        masks = sum(frame.mask_path is not None for frame in geometry.frames)
        if masks > geometry.usable_masks:
            counts.frames["mask_unusable"] += masks - geometry.usable_masks
        pairs, judged = view_pairs(capture, geometry, config.gates, config.pairs)
        counts.pairs.update(judged)
        if not pairs:
            raise Rejected("no_pair", detail=_failed_pairs(judged))
    except Rejected as rejected:
        counts.reject(reference, rejected)
        return None
    counts.captures["accepted"] += 1
    counts.pairs["chosen"] += len(pairs)
    return LabeledCapture(
        reference=reference,
        key=capture_key(capture),
        split=pairs[0].split,
        class_id=capture.class_id,
        pairs=pairs,
        strata=[stratum(pair, config.gates, config.pairs.angle_bins) for pair in pairs],
    )


def _failed_pairs(judged: Counter[str]) -> str:
    """Return how many pairs failed which gates; a pair can fail several."""
    failed = Counter(
        {gate: n for gate, n in judged.items() if gate not in ("judged", "accepted")}
    )
    gates = ", ".join(f"{gate} {count}" for gate, count in failed.most_common(4))
    return f"none of {judged['judged']} pairs passes all gates, failed: {gates}"


# ---------------------------------------------------------------- images


def images_of(config: BuildConfig, source: Source, reference: str) -> OpenImage:
    """Return a function that shrinks and encodes the photos of one capture by name."""

    def open_image(name: str) -> bytes:
        photo = source.pixels(reference, name.removesuffix(CROPPED))
        if name.endswith(CROPPED):
            photo = _cropped(photo, reference + name)
        return encode(photo, config.image)

    return open_image


def _cropped(photo: np.ndarray, draw: str) -> np.ndarray:
    """Return a window that loses up to CROP of each side, resized to the photo's own size.

    The window lies somewhere in the photo; its size tells nothing as it is the photo's.
    """
    window = []
    for axis, side in enumerate(photo.shape[:2]):
        lost = round(side * CROP * hash_unit("crop", draw, axis))
        start = round(lost * hash_unit("crop place", draw, axis))
        window.append(slice(start, start + side - lost))
    size = (photo.shape[1], photo.shape[0])
    cut = Image.fromarray(photo[window[0], window[1]])
    return np.asarray(cut.resize(size, Image.Resampling.LANCZOS))


def frame_names(pairs: Sequence[ViewPair]) -> list[str]:
    """Return the names of all photos that the pairs show, each once, sorted."""
    return sorted({name for pair in pairs for name in pair.frame_names})


def packed_path(labels: Path) -> Path:
    """Return the index of the images behind a label file; their bytes lie beside it in .bin."""
    return labels.with_name(labels.name.replace("labels-", "pictures-"))


def pack_chunk(config: BuildConfig, labels: Path) -> None:
    """Encode every image that the pairs of a label file show, one behind the other.

    The index names per image its [start, size, sha256], or why the photo cannot be read.
    """
    source, out = open_source(config.source), packed_path(labels)
    index = []
    read_counts(labels)
    with atomic(out.with_suffix(".bin")) as packed:
        for capture in map(LabeledCapture.from_json, read_records(labels)):
            open_image = images_of(config, source, capture.reference)
            extents: dict[str, Any] = {}
            for name in frame_names(capture.pairs):
                try:
                    data = open_image(name)
                except Rejected as rejected:
                    extents[name] = {"reasons": rejected.reasons, "detail": rejected.detail}
                    continue
                extents[name] = [packed.tell(), len(data), sha256(data).hexdigest()]
                packed.write(data)
            index.append({"key": capture.key, "pictures": extents})
    write_work(out, {}, index)


@lru_cache(maxsize=8)  # captures of a shard come from several files, each with many captures
def _extents_by_key(index: Path) -> dict[str, dict[str, Any]]:
    read_counts(index)
    return {capture["key"]: capture["pictures"] for capture in read_records(index)}


class PackedImages:
    """The images of one capture as a shard of a divided build left them."""

    def __init__(self, labels: Path, key: str) -> None:
        index = packed_path(labels)
        self.index, self.path = index, index.with_suffix(".bin")
        self.extents = _extents_by_key(index)[key]

    def __call__(self, name: str) -> bytes:
        extent = self.extents[name]
        if isinstance(extent, dict):
            raise Rejected(*extent["reasons"], detail=extent["detail"])
        start, size, digest = extent
        # Without its index the file is made anew, or the photos are read instead.
        try:
            with self.path.open("rb") as file:
                data = os.pread(file.fileno(), size, start)
        except FileNotFoundError as error:
            raise damaged(self.index, f"{self.path.name} beside it is missing") from error
        if sha256(data).hexdigest() != digest:
            cause = f"image {name} in {self.path.name} is not what was written"
            raise damaged(self.index, cause)
        return data


# ---------------------------------------------------------------- pass 2: shards


def write_part(config: BuildConfig, plan: Plan, split: str, number: int, part: Path) -> None:
    """Write one tar and, once it stands, its part of the index.

    The first line of `part` holds the counts, each further one an index entry.
    """
    source, counts = open_source(config.source), Rejects()
    shard = Path(config.out) / shard_name(split, number)
    samples = (_sample(config, source, place, counts) for place in plan.places(split, number))
    index = write_shard(shard, (sample for sample in samples if sample is not None))
    counts.pairs["written"] = len(index)
    if not index:
        shard.unlink()
    write_work(part, counts.as_dict(), index)


def _sample(
    config: BuildConfig, source: Source, place: PlannedCapture, counts: Rejects
) -> Sample | None:
    """Return the capture's images and pairs; a photo that cannot be decoded costs its pairs."""
    capture = LabeledCapture.from_json(json.loads(place.read()))
    pairs = [capture.pairs[i] for i in place.pair_numbers]
    open_image: OpenImage = images_of(config, source, capture.reference)
    if packed_path(place.path).is_file():
        open_image = PackedImages(place.path, place.key)
    names = frame_names(pairs)
    encoded: dict[str, bytes] = {}
    frame_counts = FrameCounts()
    for name in names:
        try:
            encoded[name] = open_image(name)
        except Rejected as rejected:
            frame_counts.reject(rejected)
    counts.add_frames(capture.reference, frame_counts)
    written = [pair for pair in pairs if all(name in encoded for name in pair.frame_names)]
    counts.pairs["photo_unreadable"] += len(pairs) - len(written)
    if not written:
        return None
    suffix = config.image.format.value
    member = {name: f"f{i:03d}.{suffix}" for i, name in enumerate(names)}
    return Sample(
        key=place.key,
        images={member[name]: encoded[name] for name in frame_names(written)},
        rows=[
            {**pair.to_json(), "images": [member[name] for name in pair.frame_names]}
            for pair in written
        ],
    )
