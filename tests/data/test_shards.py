"""Shards: the same bytes every time, read by offset and by webdataset; damage is noticed."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import webdataset
from PIL import Image
from support.records import view_pair

from actial.config import ImageConfig, ImageFormat
from actial.core.atomic_io import atomic
from actial.core.errors import UserError
from actial.core.image_codec import decode_bytes
from actial.data.images import encode, fitted_size
from actial.data.shards import INDEX, MANIFEST, Sample, ShardSet, write_set, write_shard

PNG = ImageConfig(max_pixels=64 * 64, multiple=16, format=ImageFormat.png)


def picture(seed: int, height: int = 32, width: int = 48) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def samples(count: int, split: str = "train") -> list[Sample]:
    """Two rows that share the middle one of three pictures."""
    made = []
    for i in range(count):
        images = {f"f{k}.png": encode(picture(10 * i + k), PNG) for k in range(3)}
        rows = [
            view_pair(uid=f"{i}-{k}", split=split).to_json()
            | {"images": [f"f{k}.png", f"f{k + 1}.png"]}
            for k in range(2)
        ]
        made.append(Sample(key=f"{split}_{i}", images=images, rows=rows))
    return made


@pytest.fixture
def built(tmp_path):
    write_set(
        tmp_path / "set",
        {"train": samples(3), "val": samples(1, "val")},
        2,
        {"licence": "none"},
    )
    return tmp_path / "set"


@pytest.mark.parametrize(
    ("size", "max_pixels", "multiple", "expected"),
    [
        ((640, 427), 64 * 64, 16, (80, 48)),  # 78.4 x 52.3 would fit exactly
        ((640, 640), 64 * 64, 16, (64, 64)),
        ((64, 64), 64 * 64, 28, (56, 56)),
        ((1080, 1920), 960 * 540, 28, (532, 952)),
        ((30, 20), 10**6, 8, (32, 16)),  # never enlarged beyond the rounding to a multiple
        ((4000, 10), 4096, 16, (256, 16)),
    ],
)
def test_fitted_size(size, max_pixels, multiple, expected):
    fitted = fitted_size(*size, ImageConfig(max_pixels=max_pixels, multiple=multiple))
    assert fitted == expected
    assert fitted[0] * fitted[1] <= max_pixels


def test_png_keeps_every_pixel_and_jpg_nearly_and_neither_carries_exif():
    flat = np.full((32, 48, 3), (200, 30, 90), dtype=np.uint8)
    assert np.array_equal(decode_bytes(encode(picture(1), PNG)), picture(1))
    jpg = encode(flat, ImageConfig(max_pixels=4096, multiple=16))
    assert np.abs(decode_bytes(jpg).astype(int) - flat).max() <= 3
    assert b"Exif" not in jpg


def test_rows_come_back_with_their_pictures(built):
    data = ShardSet(built, "train")
    assert [row.uid for row in data.records] == ["0-0", "0-1", "1-0", "1-1", "2-0", "2-1"]
    assert [row.shard for row in data.records[::2]] == ["train-000000.tar"] * 2 + [
        "train-000001.tar"
    ]
    first, second = data.images(data.records[3])
    assert np.array_equal(first, picture(11))
    assert np.array_equal(second, picture(12))
    assert data.records[0].images[1].offset == data.records[1].images[0].offset  # stored once
    assert (data.records[0].images[0].width, data.records[0].images[0].height) == (48, 32)
    assert data.manifest["rows"] == {"train": 6, "val": 2}
    assert len(ShardSet(built, "val")) == 2


def test_plain_webdataset_reads_the_same(built):
    found = list(webdataset.WebDataset(str(built / "train-000000.tar"), shardshuffle=False))
    assert [sample["__key__"] for sample in found] == ["train_0", "train_1"]
    assert np.array_equal(decode_bytes(found[1]["f2.png"]), picture(12))
    assert b'"uid":"1-1"' in found[1]["json"]


def test_bytes_depend_on_the_content_alone(built, tmp_path):
    write_set(
        tmp_path / "again",
        {"train": samples(3), "val": samples(1, "val")},
        2,
        {"licence": "none"},
    )
    names = sorted(path.name for path in built.iterdir())
    assert names == [
        "index.jsonl",
        "manifest.json",
        "train-000000.tar",
        "train-000001.tar",
        "val-000000.tar",
    ]
    for name in names:
        assert (built / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_a_changed_byte_is_named(built):
    data = ShardSet(built, "train")
    place = data.records[2].images[0]
    with (built / "train-000000.tar").open("r+b") as file:
        file.seek(place.offset + 40)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(UserError, match=r"train_1\.f0\.png is not what was written"):
        data.images(data.records[2])
    assert data.images(data.records[0])


def test_a_reader_travels_to_other_processes(built):
    data = ShardSet(built, "train")
    data.images(data.records[0])
    copy = pickle.loads(pickle.dumps(data))
    assert np.array_equal(copy.images(copy.records[5])[1], picture(22))


def test_missing_sets_and_splits_are_one_sentence(built, tmp_path):
    with pytest.raises(UserError, match="no split 'test': it has train, val"):
        ShardSet(built, "test")
    (built / MANIFEST).unlink()
    with pytest.raises(UserError, match="missing or unfinished"):
        ShardSet(built, "train")
    with pytest.raises(UserError, match="not empty"):
        write_set(built, {}, 2, {})


def test_a_set_whose_index_or_manifest_is_not_what_was_written_is_one_sentence(built):
    index, manifest = (built / INDEX).read_bytes(), (built / MANIFEST).read_bytes()
    (built / INDEX).write_bytes(index[:-20])
    with pytest.raises(UserError, match=r"is damaged \(index.jsonl is not the one"):
        ShardSet(built, "train")
    (built / INDEX).unlink()
    with pytest.raises(UserError, match="is damaged"):
        ShardSet(built, "train")
    (built / INDEX).write_bytes(index)
    (built / MANIFEST).write_bytes(manifest[:50])
    with pytest.raises(UserError, match="is damaged"):
        ShardSet(built, "train")


def test_an_index_that_points_out_of_its_folder_reads_nothing(built, tmp_path):
    (tmp_path / "secret").write_bytes(b"x" * 600)
    row = replace(ShardSet(built, "train").records[0], shard="../secret")
    with pytest.raises(UserError, match="lies outside the set"):
        ShardSet(built, "train").encoded(row)


@pytest.mark.parametrize("key", ["obj1.5_a", "a/b", "UPPER", ""])
def test_keys_that_webdataset_would_merge_or_change_are_refused(tmp_path, key):
    with pytest.raises(ValueError, match="shard key"):
        write_shard(tmp_path / "train-000000.tar", [Sample(key=key, images={}, rows=[])])
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_nothing(tmp_path):
    def half(file):
        file.write(b"half")
        raise KeyboardInterrupt

    (tmp_path / INDEX).write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic(tmp_path / INDEX) as file:
        half(file)
    assert [path.name for path in tmp_path.iterdir()] == [INDEX]
    assert (tmp_path / INDEX).read_text() == "old"


def test_pictures_are_shrunk_with_their_content():
    image = Image.new("RGB", (640, 640), (255, 0, 0))
    image.paste((0, 0, 255), (320, 0, 640, 640))
    small = decode_bytes(encode(np.asarray(image), PNG))
    assert small.shape == (64, 64, 3)
    assert tuple(small[32, 8]) == (255, 0, 0)
    assert tuple(small[32, 56]) == (0, 0, 255)
