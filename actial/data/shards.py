"""Data sets on disk: tar shards in WebDataset naming, an index of image offsets, a manifest.

One tar sample holds the records that share images: each image once
(`KEY.f003.png`), and `KEY.json` with the list of records. The tars are written
by `webdataset.TarWriter` with fixed times, owners and modes, so their bytes
depend on the content alone.

There are two readers. `ShardSet` reads any record by its offset, in any order
(`data.reader=index`). `actial.data.stream` reads whole tars one after the
other, from a folder or a URL (`data.reader=stream`).
"""

from __future__ import annotations

import io
import json
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import numpy as np

from actial.config import SetConfig
from actial.core.atomic_io import atomic, file_sha256, write_json
from actial.core.errors import UserError
from actial.core.image_codec import decode_bytes, image_size
from actial.core.json_lines import compact_json, write_lines
from actial.core.set_records import (
    QuestionRecord,
    StoredImage,
    StoredRecord,
    ViewPair,
    stored_record,
)
from actial.data.urls import is_url, open_url

MANIFEST, INDEX = "manifest.json", "index.jsonl"
SCHEMA = 1
TAR_BLOCK = 512  # bytes of a member's header; contents are padded to a multiple of it
FILE_MODE = 0o644
KEY = re.compile(r"[0-9a-z_]{1,64}")  # a dot would make WebDataset merge samples
MEMBER = re.compile(r"[0-9a-z_]+\.(jpg|png)")
TOOLS = ("numpy", "pillow", "pycolmap")  # their versions can change bytes


@dataclass(slots=True, kw_only=True)
class Sample:
    """Records that share images; record["images"] lists names of `images`."""

    key: str
    images: dict[str, bytes]  # "f003.png" -> encoded image
    rows: list[dict[str, Any]]


# ---------------------------------------------------------------- writing


def write_shard(path: Path, samples: Iterable[Sample]) -> list[dict[str, Any]]:
    """Write one tar and return its index entries, in the order of the samples' records.

    An index entry is the record with its shard, its key, and name, offset, size in bytes, sha256,
    width and height of each image. Raises ValueError for a key or image name that WebDataset
    would change or merge.
    """
    import webdataset  # imports torch (3 s), which `--help` and preflight checks do not need

    entries: list[dict[str, Any]] = []
    with atomic(path) as file:
        # Fixed time, owner and mode: the bytes depend on the samples alone.
        writer = webdataset.TarWriter(
            file, encoder=False, mtime=0, user="", group="", mode=FILE_MODE
        )
        with writer:
            for sample in samples:
                _check_names(sample)
                places = _image_places(sample, writer.tarstream.offset)
                records = compact_json(sample.rows)
                writer.write({"__key__": sample.key, **sample.images, "json": records})
                for record in sample.rows:
                    images = [places[name] for name in record["images"]]
                    shard = {"shard": path.name, "key": sample.key, "images": images}
                    entries.append({**record, **shard})
    return entries


def _check_names(sample: Sample) -> None:
    names_are_valid = all(MEMBER.fullmatch(name) for name in sample.images)
    if not KEY.fullmatch(sample.key) or not names_are_valid:
        raise ValueError(
            f"shard key {sample.key!r} or an image name in {sorted(sample.images)} is invalid: "
            "use 0-9, a-z and _ only."
        )


def _image_places(sample: Sample, start: int) -> dict[str, dict[str, Any]]:
    """Return where each image of a sample that begins at byte `start` of the tar will stand.

    TarWriter writes members in the order of their names: images f000, f001, ..., then json.
    """
    places = {}
    for name, data in sorted(sample.images.items()):
        width, height = image_size(io.BytesIO(data))
        places[name] = {
            "name": name,
            "offset": start + TAR_BLOCK,
            "size": len(data),
            "sha256": sha256(data).hexdigest(),
            "width": width,
            "height": height,
        }
        padded_size = -(-len(data) // TAR_BLOCK) * TAR_BLOCK
        start += TAR_BLOCK + padded_size
    return places


def shard_name(split: str, number: int) -> str:
    """Return the file name of a shard, such as train-000012.tar."""
    return f"{split}-{number:06d}.tar"


def finish_set(
    out: Path, index: Iterable[Mapping[str, Any]], description: Mapping[str, Any]
) -> None:
    """Write index and manifest after the shards; the manifest marks the set as complete.

    `description` goes into the manifest: config, config_hash, source, licence, rejects.
    """
    counts: dict[str, int] = {}
    shards: dict[str, None] = {}

    def counted() -> Iterator[Mapping[str, Any]]:
        for entry in index:
            counts[entry["split"]] = counts.get(entry["split"], 0) + 1
            shards[entry["shard"]] = None
            yield entry

    write_lines(out / INDEX, counted())
    manifest = {
        "schema": SCHEMA,
        **description,
        "rows": dict(sorted(counts.items())),
        "shards": {name: file_sha256(out / name) for name in sorted(shards)},
        "index_sha256": file_sha256(out / INDEX),
        "tools": {name: version(name) for name in TOOLS},
    }
    write_json(out / MANIFEST, manifest)


def write_set(
    out: Path,
    splits: Mapping[str, Sequence[Sample]],
    groups_per_shard: int,
    description: Mapping[str, Any],
) -> None:
    """Write a whole data set in this process; raises UserError unless `out` is new or empty."""
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out} is not empty: give a new folder, or remove it first.")
    out.mkdir(parents=True, exist_ok=True)
    index: list[dict[str, Any]] = []
    for split, samples in splits.items():
        for number, start in enumerate(range(0, len(samples), groups_per_shard)):
            shard = out / shard_name(split, number)
            index += write_shard(shard, samples[start : start + groups_per_shard])
    finish_set(out, index, description)


# ---------------------------------------------------------------- reading


def read_manifest(name: str, config: SetConfig) -> dict[str, Any]:
    """Return the manifest of the finished data set `name`; raises UserError when it has none."""
    return load_manifest(config.root, f"data.sets.{name}.root={config.root}")


def load_manifest(root: str, label: str) -> dict[str, Any]:
    """Return the manifest under a folder or URL; `label` names the set in errors (UserError)."""
    if not is_url(root) and not (Path(root) / MANIFEST).is_file():
        raise UserError(
            f"{label} is no finished data set (no {MANIFEST}): "
            "write it with `python -m actial.build ... out=DIR` first."
        )
    try:
        with open_url(f"{root}/{MANIFEST}") as file:
            manifest: dict[str, Any] = json.loads(file.read())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{label}: its {MANIFEST} cannot be read ({error}): check the address, "
            "or build the set again."
        ) from error
    return manifest


class RecordSource(ABC):
    """Records with their images: a `ShardSet`, or one tar sample of a stream."""

    root: Any  # a folder, or the URL of a stream
    records: list[StoredRecord]

    @abstractmethod
    def images(self, record: StoredRecord) -> list[np.ndarray]:
        """Return the record's images in order, uint8 (H, W, 3)."""

    def __len__(self) -> int:
        return len(self.records)

    def view_pairs(self) -> list[ViewPair]:
        """Return the records of a set of view pairs; raises UserError for a question set."""
        pairs = [record for record in self.records if isinstance(record, ViewPair)]
        if len(pairs) != len(self.records):
            raise UserError(
                f"data set {self.root} holds questions of a question set, not view pairs: "
                "give it task: qa, or another root."
            )
        return pairs

    def question_records(self) -> list[QuestionRecord]:
        """Return the records of a question set; raises UserError for a set of view pairs."""
        records = [record for record in self.records if isinstance(record, QuestionRecord)]
        if len(records) != len(self.records):
            raise UserError(
                f"data set {self.root} holds view pairs, not questions of a question set: "
                "give it task: viewpoint, or another root."
            )
        return records


class ShardFiles:
    """The shards of one folder, open for reading.

    Safe to pickle and to share between processes: a read is one pread at a known offset.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self._files: dict[str, IO[bytes]] = {}

    def images(self, record: StoredRecord) -> list[np.ndarray]:
        """Return the record's images in order, uint8 (H, W, 3).

        Raises UserError with the image's key when its bytes are not what was written.
        """
        return [decode_bytes(data) for data in self.encoded(record)]

    def encoded(self, record: StoredRecord) -> list[bytes]:
        """Return the same images as they are stored."""
        return [self._read(record, image) for image in record.images]

    def _read(self, record: StoredRecord, image: StoredImage) -> bytes:
        data = os.pread(self._file(record.shard).fileno(), image.size, image.offset)
        if sha256(data).hexdigest() != image.sha256:
            raise UserError(
                f"{self.root / record.shard} is damaged: image {record.key}.{image.name} "
                "is not what was written: build the set again."
            )
        return data

    def _file(self, shard: str) -> IO[bytes]:
        if shard not in self._files:
            if "/" in shard:
                raise UserError(
                    f"{self.root}: shard {shard!r} lies outside the set: build the set again."
                )
            try:
                self._files[shard] = (self.root / shard).open("rb", buffering=0)
            except FileNotFoundError as error:
                raise UserError(
                    f"data set {self.root} lacks its shard {shard}: build the set again."
                ) from error
        return self._files[shard]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": {}}


class ShardSet(ShardFiles, RecordSource):
    """Map-style reader of one split of a finished data set.

    Raises UserError when the set or the split is missing, or the set is damaged.
    """

    def __init__(self, root: str | Path, split: str) -> None:
        if is_url(str(root)):
            raise UserError(
                f"data set {root} is not a local folder: reading by index needs one; "
                "copy the set, or train SFT on it with data.reader=stream."
            )
        super().__init__(root)
        self.split = split
        if not (self.root / MANIFEST).is_file():
            raise UserError(
                f"data set {self.root} is missing or unfinished (no {MANIFEST}): "
                "build it first, or give another folder."
            )
        try:
            text = (self.root / MANIFEST).read_text(encoding="utf-8")
            self.manifest: dict[str, Any] = json.loads(text)
            if file_sha256(self.root / INDEX) != self.manifest["index_sha256"]:
                raise ValueError(f"{INDEX} is not the one that {MANIFEST} names")
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"data set {self.root} is damaged ({error}): build it again."
            ) from error
        try:
            self.records = self._read_index()
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"data set {self.root} has an entry in {INDEX} that is neither a view pair nor a "
                f"question ({error!r}): build it again with this version."
            ) from error
        if not self.records:
            splits = ", ".join(self.manifest["rows"]) or "no records at all"
            raise UserError(f"data set {self.root} has no split {split!r}: it has {splits}.")

    def _read_index(self) -> list[StoredRecord]:
        with (self.root / INDEX).open(encoding="utf-8") as file:
            entries = map(json.loads, file)
            return [stored_record(entry) for entry in entries if entry["split"] == self.split]
