"""Streams read the same examples as the index, in a fixed order, from folders and URLs."""

from __future__ import annotations

import threading
from collections import Counter
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from support import tiny_world

from actial.config import ColdStartConfig, DataConfig, MixConfig, SetConfig, Task
from actial.core.errors import UserError
from actial.data.datasets import open_set
from actial.data.shards import ShardSet
from actial.data.stream import ReaderPosition
from actial.data.streamed_mixture import StreamedMixture, open_streamed_mixture
from actial.training.loaders import stream_loader

ALONE = ReaderPosition(0, 1)
PAIRS = 72  # 24 objects of three pairs each, in 6 shards


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("stream") / "pairs"
    assert len(tiny_world.write_pairs(root, objects=24)) == PAIRS
    assert len(list(root.glob("train-*.tar"))) == 6
    return root


@pytest.fixture(scope="module")
def questions(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("stream") / "sat"
    tiny_world.write_questions(root)
    return root


@pytest.fixture
def server(pairs):
    """The address of a real HTTP server over the folder of pairs."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(pairs)))
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_address[1]}"
    httpd.shutdown()
    httpd.server_close()


def mixture(
    root: Path | str, *, seed: int = 0, buffer: int = 16, **settings
) -> StreamedMixture:
    sets = {"pairs": SetConfig(task=Task.viewpoint, root=str(root), **settings)}
    return open_mixture(sets, {"pairs": 1.0}, seed=seed, buffer=buffer)


def open_mixture(
    sets: dict[str, SetConfig], weights: dict[str, float], *, seed: int = 0, buffer: int = 16
) -> StreamedMixture:
    data = DataConfig(questions_per_pair=3, shuffle_buffer=buffer)
    return open_streamed_mixture(
        sets, MixConfig(weights=weights), data, ColdStartConfig(), seed
    )


def uids(streamed: StreamedMixture, count: int, position: ReaderPosition = ALONE) -> list[str]:
    taken = streamed.reader(position).take(range(count))
    return [decode().uid for decode in taken]


@pytest.mark.parametrize("readers", [1, 2, 3, 6])
def test_readers_share_every_epoch_without_repeats(pairs, readers):
    streams = mixture(pairs).streams["pairs"]
    everything = Counter(pair.uid for pair in ShardSet(pairs, "train").records)
    for epoch in range(2):
        drawn = Counter(
            example().uid
            for reader in range(readers)
            for example in streams._epoch(epoch, ReaderPosition(reader, readers))
        )
        assert drawn == everything


def test_ranks_see_other_shards_in_the_next_epoch(pairs):
    streams = mixture(pairs).streams["pairs"]
    first, second = (
        {example().uid for example in streams._epoch(epoch, ReaderPosition(0, 2))}
        for epoch in range(2)
    )
    assert first != second


def test_the_order_depends_on_seed_epoch_and_readers_alone(pairs):
    order = uids(mixture(pairs), 2 * PAIRS)
    assert order == uids(mixture(pairs), 2 * PAIRS)
    assert order[:PAIRS] != order[PAIRS:]
    assert Counter(order[:PAIRS]) == Counter(order[PAIRS:])
    assert order != uids(mixture(pairs, seed=1), 2 * PAIRS)
    assert order[: PAIRS // 2] != uids(mixture(pairs), PAIRS // 2, ReaderPosition(0, 2))


def test_a_streamed_example_equals_the_indexed_one(pairs):
    indexed = open_set(
        SetConfig(task=Task.viewpoint, root=str(pairs)),
        "train",
        DataConfig(questions_per_pair=3),
        ColdStartConfig(),
        supervised=True,
    )
    by_uid = {(e := indexed.example(i, 0)).uid: e for i in range(len(indexed))}
    for decode in mixture(pairs).reader(ALONE).take(range(10)):
        example = decode()
        expected = by_uid[example.uid]
        assert example.questions == expected.questions
        for image, same in zip(example.images, expected.images, strict=True):
            assert np.array_equal(image, same)


def test_http_and_pipes_give_the_order_of_the_folder(pairs, server):
    order = uids(mixture(pairs), PAIRS + 5)
    assert uids(mixture(server), PAIRS + 5) == order
    assert uids(mixture(f"pipe:cat {pairs}"), PAIRS + 5) == order


def test_fsspec_opens_what_webdataset_does_not_know(pairs):
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.put(str(pairs), "/bucket", recursive=True)
    assert uids(mixture("memory://bucket"), PAIRS) == uids(mixture(pairs), PAIRS)


def test_types_and_angles_select_examples(pairs):
    streamed = mixture(pairs, types=["ego_rotation"])
    for decode in streamed.reader(ALONE).take(range(6)):
        assert [question.type for question in decode().questions] == ["ego_rotation"]
    with pytest.raises(UserError, match=r"hold no example that data\.sets selects"):
        uids(mixture(pairs, angles=[70, 90]), 1)


def test_a_mixture_of_streams_and_generated_sets_keeps_the_draws(pairs, questions):
    sets = {
        "pairs": SetConfig(task=Task.viewpoint, root=str(pairs)),
        "sat": SetConfig(task=Task.qa, root=str(questions), types=["static"]),
        "clock": SetConfig(task=Task.clock),
    }
    streamed = open_mixture(sets, {"pairs": 0.5, "sat": 0.3, "clock": 0.2})
    examples = [decode() for decode in streamed.reader(ALONE).take(range(60))]
    names = [streamed.names[streamed.draw(position)[0]] for position in range(60)]
    expected = {"pairs": "viewpoint", "sat": "qa", "clock": "clock"}
    assert [example.task for example in examples] == [expected[name] for name in names]
    assert {q.type for e in examples if e.task == "qa" for q in e.questions} == {"static"}
    assert streamed.schedule(100)["sets"]["pairs"]["rows"] == PAIRS


class UidReader:
    """Batches of uids: what a data worker reads for each of its steps."""

    def __init__(self, root: Path, rank: int, ranks: int, stream: int, streams: int) -> None:
        place = ReaderPosition.of(rank, ranks, stream, streams)
        self.reader = mixture(root).reader(place)

    def batch(self, step: int) -> list[str]:
        return [decode().uid for decode in self.reader.take(range(4 * step, 4 * step + 4))]

    def skip(self, step: int) -> None:
        self.reader.take(range(4 * step, 4 * step + 4))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_loader_replays_to_the_same_batches(pairs, workers):
    """Stops in the first and in the second epoch, also where the worker's turn is not 0."""
    steps = 24
    open_reader = partial(UidReader, pairs, 0, 2)
    whole = list(stream_loader(open_reader, 0, steps, workers=workers))
    assert len(whole) == steps
    for start in (1, steps - 2):
        assert list(stream_loader(open_reader, start, steps, workers=workers)) == whole[start:]


def test_more_readers_than_shards_are_refused(pairs):
    with pytest.raises(UserError, match="has 6 shards of split 'train', but 7 readers"):
        mixture(pairs).check_readers(7)
    with pytest.raises(UserError, match=r"lower data\.workers"):
        uids(mixture(pairs), 1, ReaderPosition(0, 7))


@pytest.fixture
def copied(pairs, tmp_path) -> Path:
    for path in pairs.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def test_a_shard_cut_between_two_samples_is_not_taken_for_a_whole_one(copied):
    records = ShardSet(copied, "train").records
    first_image = next(pair for pair in records if pair.key == records[-1].key).images[0]
    shard = copied / records[-1].shard
    shard.write_bytes(shard.read_bytes()[: first_image.offset - 512] + bytes(10_240))
    with pytest.raises(UserError, match="cut short or changed"):
        uids(mixture(copied), 2 * PAIRS)


def test_a_cut_download_is_one_sentence(copied):
    shard = copied / "train-000002.tar"
    shard.write_bytes(shard.read_bytes()[:3000])
    with pytest.raises(UserError, match="cannot be streamed"):
        uids(mixture(copied), 2 * PAIRS)


def test_missing_shards_and_sets_are_one_sentence(copied, server):
    (copied / "train-000001.tar").unlink()
    for root in (copied, f"pipe:cat {copied}"):
        with pytest.raises(UserError, match="cannot be streamed"):
            uids(mixture(root), 2 * PAIRS)
    for root in (f"{server}/nowhere", "pipe:cat /nowhere", "nosuch://bucket/set"):
        with pytest.raises(UserError, match=r"manifest\.json cannot be read"):
            mixture(root)
    with pytest.raises(UserError, match="reading by index needs one"):
        ShardSet(server, "train")


def test_streams_read_like_folders_whatever_characters_their_path_has(pairs, tmp_path):
    odd = tmp_path / "a#b ?c%20"
    odd.mkdir()
    for path in pairs.iterdir():
        (odd / path.name).write_bytes(path.read_bytes())
    assert uids(mixture(odd), 9) == uids(mixture(pairs), 9)


def test_all_of_an_epoch_passes_a_buffer_of_one(pairs):
    order = uids(mixture(pairs, buffer=1), PAIRS)
    assert Counter(order) == Counter(pair.uid for pair in ShardSet(pairs, "train").records)
    assert len(list(islice(mixture(pairs).streams["pairs"].examples(ALONE), 3))) == 3
