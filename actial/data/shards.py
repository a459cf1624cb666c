"""Data sets on disk: tar shards in WebDataset naming, an index with the place of every picture, a manifest; and their reader.

One tar sample holds the rows that share pictures: each picture once (`KEY.f003.png`) and `KEY.json`, the list of its rows.
The bytes depend on the content alone (no times, owners or process counts). The reader goes by offsets, so any row costs one read per
picture wherever it lies, and plain `webdataset` reads the same tars as a stream.
"""

from __future__ import annotations

import io
import json
import os
import re
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import numpy as np

from actial.config import SetConfig
from actial.core.atomic_io import atomic, write_json
from actial.core.errors import UserError
from actial.core.image_codec import header_size
from actial.data.images import decode_bytes


def read_manifest(name: str, config: SetConfig) -> dict[str, Any]:
    """The manifest of a finished data set; UserError when there is none."""
    path = Path(config.root) / "manifest.json"
    if not path.is_file():
        raise UserError(
            f"data.sets.{name}.root={config.root} is no finished data set (no manifest.json): write it with actial.build first."
        )
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} cannot be read ({error}): build the set again.") from error
    return manifest


MANIFEST, INDEX = "manifest.json", "index.jsonl"
SCHEMA = 1
BLOCK, RECORD = 512, 10_240  # bytes: a tar is made of blocks and padded to whole records
USTAR = struct.Struct(
    "100s8s8s8s12s12s8s1s100s6s2s247x"
)  # name, mode, owner, group, size, time, checksum, kind, link, magic, version
KEY = re.compile(r"[0-9a-z_]{1,64}")  # a dot would make WebDataset merge samples
MEMBER = re.compile(r"[0-9a-z_]+\.(jpg|png)")
TOOLS = ("numpy", "pillow", "pycolmap")  # their versions can change bytes


@dataclass(slots=True, kw_only=True)
class Sample:
    """Rows that share pictures; row["images"] lists names of `images`."""

    key: str
    images: dict[str, bytes]  # "f003.png" -> encoded picture
    rows: list[dict]


# ---------------------------------------------------------------- writing


def write_lines(path: Path, rows: Iterable[Mapping]) -> None:
    with atomic(path) as file:
        for row in rows:
            file.write(json_line(row))


def json_line(row: Mapping) -> bytes:
    return json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def write_shard(path: Path, samples: Iterable[Sample]) -> list[dict]:
    """Write one tar and return its index rows: the sample's rows with shard, key, and each picture's place, checksum and size."""
    index: list[dict] = []
    with atomic(path) as file:
        for sample in samples:
            if not KEY.fullmatch(sample.key) or not all(
                MEMBER.fullmatch(name) for name in sample.images
            ):
                raise ValueError(
                    f"shard key {sample.key!r} and picture names may hold 0-9, a-z and _ only"
                )
            places = {}
            for name, data in sorted(sample.images.items()):
                width, height = header_size(io.BytesIO(data)) or (0, 0)
                offset = _add(file, f"{sample.key}.{name}", data)
                digest = sha256(data).hexdigest()
                places[name] = {
                    "name": name,
                    "offset": offset,
                    "size": len(data),
                    "sha256": digest,
                    "width": width,
                    "height": height,
                }
            _add(
                file,
                f"{sample.key}.json",
                json.dumps(sample.rows, ensure_ascii=False, separators=(",", ":")).encode(),
            )
            index += [
                {
                    **row,
                    "shard": path.name,
                    "key": sample.key,
                    "images": [places[n] for n in row["images"]],
                }
                for row in sample.rows
            ]
        file.write(bytes(2 * BLOCK + -(file.tell() + 2 * BLOCK) % RECORD))
    return index


def _add(file: IO[bytes], name: str, data: bytes) -> int:
    """Append one member with nothing but its name and content (tarfile's own way takes longer than a small picture's encoding)."""
    fields = (
        name.encode(),
        b"0000644",
        b"0000000",
        b"0000000",
        b"%011o" % len(data),
        b"00000000000",
        b" " * 8,
        b"0",
        b"",
        b"ustar",
        b"00",
    )
    header = USTAR.pack(*fields)
    header = header[:148] + b"%06o\0 " % sum(header) + header[156:]
    file.write(header)
    start = file.tell()
    file.write(data)
    file.write(bytes(-len(data) % BLOCK))
    return start


def shard_name(split: str, number: int) -> str:
    return f"{split}-{number:06d}.tar"


def finish_set(out: Path, index: Iterable[Mapping], facts: Mapping[str, Any]) -> None:
    """Write index and manifest behind finished shards; the manifest comes last and marks the set as complete.

    `facts` go into the manifest: config, config_hash, source, licence, rejects.
    """
    counts: dict[str, int] = {}
    shards: dict[str, None] = {}

    def counted() -> Iterator[Mapping]:
        for row in index:
            counts[row["split"]] = counts.get(row["split"], 0) + 1
            shards[row["shard"]] = None
            yield row

    write_lines(out / INDEX, counted())
    manifest = {
        "schema": SCHEMA,
        **facts,
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
    facts: Mapping[str, Any],
) -> None:
    """A whole data set by one process, for sets made from other files than captures (SAT); `out` must be new or empty."""
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out} is not empty: give a new folder, or remove it first.")
    out.mkdir(parents=True, exist_ok=True)
    index: list[dict] = []
    for split, samples in splits.items():
        for number, start in enumerate(range(0, len(samples), groups_per_shard)):
            index += write_shard(
                out / shard_name(split, number), samples[start : start + groups_per_shard]
            )
    finish_set(out, index, facts)


def file_sha256(path: Path) -> str:
    digest = sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


# ---------------------------------------------------------------- reading


class ShardFiles:
    """The shards of one folder, open for reading. Safe to pickle and to share between processes: a read is one pread at a known offset."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self._files: dict[str, IO[bytes]] = {}

    def images(self, row: Mapping) -> list[np.ndarray]:
        """The row's pictures in order, uint8 (H, W, 3); a picture that is not what was written raises OSError with its key."""
        return [decode_bytes(data) for data in self.encoded(row)]

    def encoded(self, row: Mapping) -> list[bytes]:
        """The same pictures as they are stored."""
        return [self._read(row, place) for place in row["images"]]

    def _read(self, row: Mapping, place: Mapping) -> bytes:
        data = os.pread(self._file(row["shard"]).fileno(), place["size"], place["offset"])
        if sha256(data).hexdigest() != place["sha256"]:
            raise OSError(
                f"{self.root / row['shard']}: picture {row['key']}.{place['name']} is not what was written; rebuild the set"
            )
        return data

    def _file(self, shard: str) -> IO[bytes]:
        if shard not in self._files:
            if "/" in shard:
                raise OSError(f"{self.root}: shard {shard!r} lies outside the set; rebuild it")
            self._files[shard] = (self.root / shard).open("rb", buffering=0)
        return self._files[shard]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": {}}


class ShardSet(ShardFiles):
    """Map-style reader of one split of a finished data set; raises UserError when the set or the split is not there."""

    def __init__(self, root: str | Path, split: str) -> None:
        super().__init__(root)
        self.split = split
        if not (self.root / MANIFEST).is_file():
            raise UserError(
                f"data set {self.root} is missing or unfinished (no {MANIFEST}): build it first, or give another folder."
            )
        try:
            self.manifest: dict[str, Any] = json.loads(
                (self.root / MANIFEST).read_text(encoding="utf-8")
            )
            if file_sha256(self.root / INDEX) != self.manifest["index_sha256"]:
                raise ValueError(f"{INDEX} is not the one that {MANIFEST} names")
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"data set {self.root} is damaged ({error}): build it again."
            ) from error
        with (self.root / INDEX).open(encoding="utf-8") as file:
            self.rows: list[dict] = [row for row in map(json.loads, file) if row["split"] == split]
        if not self.rows:
            raise UserError(
                f"data set {self.root} has no split {split!r}: it has {', '.join(self.manifest['rows']) or 'no rows at all'}."
            )

    def __len__(self) -> int:
        return len(self.rows)
