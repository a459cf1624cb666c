"""The two passes of a build as independent tasks: labels (poses only, a chunk of captures each), then shards (pictures, one tar each).

A part of a divided build also packs the pictures of its captures, so that joining the parts copies bytes and decodes nothing.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from actial.config import BuildConfig
from actial.core.atomic_io import atomic
from actial.core.errors import Rejected
from actial.core.seeding import hash_unit
from actial.data.build.shard_plan import Place, Plan
from actial.data.images import encode
from actial.data.shards import Sample, json_line, shard_name, write_shard
from actial.data.sources.base import Source
from actial.data.sources.open_source import open_source
from actial.viewpoint.pairs import CROPPED, capture_key, pair_rows, stratum
from actial.viewpoint.quality_gates import judge_capture

EXAMPLES = 5  # captures named per reason in rejects.json
CROP = 0.05  # share of a side that a still pair's second photo loses at most
Picture = Callable[[str], bytes]  # a frame's name -> its encoded picture; raises Rejected


class Rejects:
    """What was seen, kept and turned away, by reason."""

    def __init__(self) -> None:
        self.captures: Counter[str] = Counter()
        self.frames: Counter[str] = Counter()
        self.pairs: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = {}

    def reject(self, reference: str, reasons: Sequence[str]) -> None:
        self.captures.update(reasons)
        for reason in reasons:
            named = self.examples.setdefault(reason, [])
            if len(named) < EXAMPLES:
                named.append(reference)

    def add(self, part: Mapping[str, Any]) -> None:
        for kind in ("captures", "frames", "pairs"):
            getattr(self, kind).update(part[kind])
        for reason, named in part["examples"].items():
            self.examples[reason] = [*self.examples.get(reason, []), *named][:EXAMPLES]

    def as_dict(self) -> dict[str, Any]:
        counters = {
            kind: dict(sorted(getattr(self, kind).items()))
            for kind in ("captures", "frames", "pairs")
        }
        return {**counters, "examples": dict(sorted(self.examples.items()))}

    def most_common(self) -> str:
        reasons = Counter({k: n for k, n in self.captures.items() if k not in ("seen", "accepted")})
        failed = Counter(
            {
                k: n
                for k, n in self.pairs.items()
                if k not in ("judged", "accepted", "chosen", "written") and n
            }
        )
        return ", ".join(
            f"{name} {n} times" for name, n in [*reasons.most_common(3), *failed.most_common(3)]
        )


# ---------------------------------------------------------------- pass 1: labels


def label_chunk(config: BuildConfig, references: Sequence[str], path: Path) -> None:
    """Judge some captures and write their rows: first line = counts, then one line per capture that has pairs."""
    source, counts = open_source(config.source), Rejects()
    lines = [
        line
        for reference in references
        if (line := _label_capture(config, source, reference, counts)) is not None
    ]
    with atomic(path) as file:
        file.writelines(json_line(line) for line in (counts.as_dict(), *lines))


def _label_capture(
    config: BuildConfig, source: Source, reference: str, counts: Rejects
) -> dict | None:
    counts.captures["seen"] += 1
    try:
        capture, dropped = source.read(reference)
        counts.frames.update(dropped)
        counts.frames["usable"] += len(capture.frames)
        geometry = judge_capture(capture, config.gates, ordered=config.source.ordered)
        rows, judged = pair_rows(capture, geometry, config.gates, config.pairs)
        counts.pairs.update(judged)
        if not rows:
            raise Rejected("no_pair")
    except Rejected as rejected:
        counts.reject(reference, rejected.reasons)
        return None
    counts.captures["accepted"] += 1
    counts.pairs["chosen"] += len(rows)
    strata = [stratum(row, config.gates, config.pairs.angle_bins) for row in rows]
    key = capture_key(capture)
    return {
        "reference": reference,
        "key": key,
        "split": rows[0]["split"],
        "class_id": capture.class_id,
        "rows": rows,
        "strata": strata,
    }


# ---------------------------------------------------------------- pictures


def pictures_of(config: BuildConfig, source: Source, reference: str) -> Picture:
    """The pictures of one capture, shrunk and encoded from its photos."""

    def picture(name: str) -> bytes:
        photo = source.pixels(reference, name.removesuffix(CROPPED))
        return encode(
            _cropped(photo, reference + name) if name.endswith(CROPPED) else photo, config.image
        )

    return picture


def _cropped(photo: np.ndarray, draw: str) -> np.ndarray:
    """A window that loses up to CROP of each side, somewhere in the photo, at the photo's own size: sizes tell nothing."""
    window = []
    for axis, side in enumerate(photo.shape[:2]):
        lost = round(side * CROP * hash_unit("crop", draw, axis))
        start = round(lost * hash_unit("crop place", draw, axis))
        window.append(slice(start, start + side - lost))
    size = (photo.shape[1], photo.shape[0])
    return np.asarray(
        Image.fromarray(photo[window[0], window[1]]).resize(size, Image.Resampling.LANCZOS)
    )


def frame_names(rows: Sequence[Mapping]) -> list[str]:
    return sorted({name for row in rows for name in row["frame_names"]})


def packed_path(labels: Path) -> Path:
    """Where the pictures behind a label file lie: a file of encoded pictures, and where each of them stands in it."""
    return labels.with_name(labels.name.replace("labels-", "pictures-"))


def pack_chunk(config: BuildConfig, labels: Path) -> None:
    """Encode every picture that the rows of a label file show; a broken photo is noted by its reason."""
    source, out = open_source(config.source), packed_path(labels)
    index = []
    with labels.open("rb") as file, atomic(out.with_suffix(".bin")) as packed:
        file.readline()
        for capture in map(json.loads, file):
            picture = pictures_of(config, source, capture["reference"])
            found: dict[str, list] = {}
            for name in frame_names(capture["rows"]):
                try:
                    data = picture(name)
                except Rejected as rejected:
                    found[name] = list(rejected.reasons)
                    continue
                found[name] = [packed.tell(), len(data)]
                packed.write(data)
            index.append({"key": capture["key"], "pictures": found})
    with atomic(out) as file:
        file.writelines(map(json_line, index))


class Packed:
    """The pictures of one capture as a part of a divided build left them."""

    def __init__(self, labels: Path, key: str) -> None:
        self.path = packed_path(labels).with_suffix(".bin")
        with packed_path(labels).open("rb") as file:
            line = next(line for line in file if line.startswith(b'{"key":"' + key.encode()))
            self.places = json.loads(line)["pictures"]

    def __call__(self, name: str) -> bytes:
        if isinstance(self.places[name][0], str):
            raise Rejected(*self.places[name])
        start, size = self.places[name]
        with self.path.open("rb") as file:
            return os.pread(file.fileno(), size, start)


# ---------------------------------------------------------------- pass 2: shards


def write_part(config: BuildConfig, plan: Plan, split: str, number: int, part: Path) -> None:
    """Write one tar and, once it stands, its part of the index: first line = counts, then the rows."""
    source, counts = open_source(config.source), Rejects()
    shard = Path(config.out) / shard_name(split, number)
    places = plan.places(split, number)
    index = write_shard(
        shard,
        (
            sample
            for place in places
            if (sample := _sample(config, source, place, counts)) is not None
        ),
    )
    counts.pairs["written"] = len(index)
    if not index:
        shard.unlink()
    with atomic(part) as file:
        file.writelines(json_line(line) for line in (counts.as_dict(), *index))


def _sample(config: BuildConfig, source: Source, place: Place, counts: Rejects) -> Sample | None:
    """The capture's pictures and rows; a photo that cannot be decoded takes its pairs with it."""
    capture = place.read()
    rows = [capture["rows"][i] for i in place.kept]
    names = frame_names(rows)
    member = {name: f"f{i:03d}.{config.image.format.value}" for i, name in enumerate(names)}
    packed = packed_path(place.path).is_file()
    picture = (
        Packed(place.path, place.key)
        if packed
        else pictures_of(config, source, capture["reference"])
    )
    images = {}
    for name in names:
        try:
            images[member[name]] = picture(name)
        except Rejected as rejected:
            counts.frames.update(rejected.reasons)
    written = [{**row, "images": [member[name] for name in row["frame_names"]]} for row in rows]
    written = [row for row in written if all(name in images for name in row["images"])]
    counts.pairs["photo_unreadable"] += len(rows) - len(written)
    used = {name for row in written for name in row["images"]}
    return (
        Sample(key=place.key, images={name: images[name] for name in used}, rows=written)
        if written
        else None
    )
