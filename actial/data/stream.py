"""Data sets read in sequence by webdataset, from a folder or a URL (`data.reader=stream`).

A stream reads whole tars from beginning to end, so it works over HTTP, from object
stores and from shell pipes, needs no index and no local disk, and keeps only a shuffle
buffer in memory.

Order. In epoch e, the shards of a split are permuted by hash(seed, e); the
readers (one per rank and data worker) take every n-th shard of that
permutation, so ranks see other shards every epoch. Within a reader, examples
pass a shuffle buffer seeded by (seed, e, reader). The order is thus a function
of the seed, the number of ranks and the number of workers, and does not depend
on time.

What a stream cannot do, and what reading by index can:
* No seeking. A resumed run replays: it reads the consumed examples again without decoding them and
  goes on with the same order. This costs their download, never their computation.
* Another number of ranks or workers gives another order, so a run cannot be resumed with it.
* Readers with unequal numbers of examples begin their next epoch at different steps: over a short
  run some examples are drawn once more than others. No reader ever waits for another.
* No random access: GRPO, evaluation, pass rates and teacher chains read by index.
"""

from __future__ import annotations

import json
import random
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from itertools import count
from typing import Any, NamedTuple

import numpy as np

from actial.core.errors import UserError
from actial.core.image_codec import decode_bytes
from actial.core.records import Example
from actial.core.seeding import hash_int
from actial.core.set_records import StoredRecord, stored_record
from actial.data.sampling_order import epoch_order
from actial.data.shards import RecordSource, load_manifest
from actial.data.urls import open_url

READ_SIZE = 1 << 20
DelayedExample = Callable[[], Example]  # decodes the images when called


class ReaderPosition(NamedTuple):
    """Which of the readers that share a stream this one is: number `reader` (from 0) of `total`."""

    reader: int
    total: int

    @classmethod
    def of(cls, rank: int, num_ranks: int, worker: int, num_workers: int) -> ReaderPosition:
        """Return the position of a data worker among those of all ranks."""
        return cls(rank * num_workers + worker, num_ranks * num_workers)


class SampleFiles(RecordSource):
    """The records and encoded images of one tar sample."""

    def __init__(self, sample: Mapping[str, Any], root: str) -> None:
        self.root = root
        self._images = {name: data for name, data in sample.items() if name[0] != "_"}
        self.key = str(sample["__key__"])
        if "json" not in self._images:
            raise OSError(f"{sample['__url__']}: sample {self.key} has no list of records")
        place = {"shard": sample["__url__"], "key": self.key}
        entries = json.loads(self._images.pop("json"))
        self.records = [stored_record(entry | place) for entry in entries]

    def images(self, record: StoredRecord) -> list[np.ndarray]:
        """Return the record's images in order, uint8 (H, W, 3)."""
        return [decode_bytes(self._images[image.name]) for image in record.images]


@dataclass(slots=True, kw_only=True)
class StreamedSet:
    """One split of a data set as an endless stream of examples.

    `examples_of(sample, epoch)` lists the examples of one tar sample; it may be empty.
    """

    root: str  # a folder or a URL to which "/train-000000.tar" is appended
    split: str
    shards: dict[str, str]  # name -> sha256
    records: int  # in the split, before any filter
    seed: str
    shuffle_buffer: int  # examples
    examples_of: Callable[[SampleFiles, int], Sequence[DelayedExample]]

    def __len__(self) -> int:
        return self.records

    def check_readers(self, total: int) -> None:
        """Raise UserError when there are fewer shards than readers."""
        if total > len(self.shards):
            raise UserError(
                f"data set {self.root} has {len(self.shards)} shards of split {self.split!r}, but "
                f"{total} readers (ranks x data.workers) need one each: lower data.workers, or "
                "build the set with a smaller groups_per_shard."
            )

    def examples(self, position: ReaderPosition) -> Iterator[DelayedExample]:
        """Yield this reader's examples, epoch after epoch; raises UserError when reading fails."""
        self.check_readers(position.total)
        for epoch in count():
            number = 0
            for example in self._epoch(epoch, position):
                yield example
                number += 1
            if number == 0:
                raise UserError(
                    f"data set {self.root}: the shards of reader {position.reader} hold no example "
                    "that data.sets selects: lower data.workers, or select more types or angles."
                )

    def _epoch(self, epoch: int, position: ReaderPosition) -> Iterator[DelayedExample]:
        import webdataset

        names = list(self.shards)
        order = epoch_order(f"{self.seed}/shards", epoch, len(names))
        mine = [names[i] for i in order[position.reader :: position.total]]
        stream: Any = webdataset.WebDataset(
            [f"{self.root}/{name}" for name in mine],
            shardshuffle=False,
            nodesplitter=None,  # split above, after shuffling
            workersplitter=None,
            empty_check=False,
        )
        _replace_opener(stream, self._open_verified)
        shuffled = stream.compose(lambda samples: self._delayed(samples, epoch)).shuffle(
            self.shuffle_buffer,
            initial=self.shuffle_buffer,
            rng=random.Random(hash_int("stream", self.seed, epoch, *position)),
        )
        try:
            yield from shuffled
        except (OSError, EOFError, ValueError, ImportError, tarfile.TarError) as error:
            raise UserError(
                f"data set {self.root} cannot be streamed ({error}): check the address and that "
                "the set is complete."
            ) from error

    def _delayed(
        self, samples: Iterator[Mapping[str, Any]], epoch: int
    ) -> Iterator[DelayedExample]:
        for sample in samples:
            yield from self.examples_of(SampleFiles(sample, self.root), epoch)

    def _open_verified(self, sources: Iterator[dict[str, str]]) -> Iterator[dict[str, Any]]:
        """Open each shard; raise OSError behind one whose bytes are not those of the manifest.

        A cut shard could otherwise end without a word: a tar without its last members is a tar.
        """
        for source in sources:
            url = source["url"]
            file = open_url(url)
            hashed = _HashedStream(file)
            try:
                yield {"url": url, "stream": hashed}
            except GeneratorExit:
                with suppress(
                    OSError
                ):  # a command that failed has already raised in the reader
                    file.close()
                raise
            hashed.drain()
            file.close()
            if hashed.digest.hexdigest() != self.shards[url.rpartition("/")[2]]:
                raise OSError(
                    f"{url} is cut short or changed: its sha256 is not the manifest's"
                )


def open_stream(
    root: str,
    split: str,
    label: str,
    *,
    seed: str,
    shuffle_buffer: int,
    examples_of: Callable[[SampleFiles, int], Sequence[DelayedExample]],
) -> StreamedSet:
    """Return the stream of a split; raises UserError when the set or the split is missing."""
    manifest = load_manifest(root, label)
    shards = {
        name: digest
        for name, digest in manifest["shards"].items()
        if name.rpartition("-")[0] == split
    }
    if not shards:
        splits = ", ".join(manifest["rows"]) or "no records at all"
        raise UserError(f"data set {root} has no split {split!r}: it has {splits}.")
    return StreamedSet(
        root=root,
        split=split,
        shards=shards,
        records=manifest["rows"][split],
        seed=seed,
        shuffle_buffer=shuffle_buffer,
        examples_of=examples_of,
    )


def _replace_opener(stream: Any, opener: Callable[..., Iterator[dict[str, Any]]]) -> None:
    """Put `opener` in the place of webdataset's: it also closes, verifies, and opens s3://."""
    from webdataset.cache import StreamingOpen

    [at] = [i for i, stage in enumerate(stream.pipeline) if isinstance(stage, StreamingOpen)]
    stream.pipeline[at] = opener


class _HashedStream:
    """A stream that hashes what is read from it."""

    def __init__(self, file: Any) -> None:
        self.file = file
        self.digest = sha256()

    def read(self, size: int = -1) -> bytes:
        data: bytes = self.file.read(size)
        self.digest.update(data)
        return data

    def drain(self) -> None:
        """Read to the end: tar readers stop before the padding."""
        while self.read(READ_SIZE):
            pass
