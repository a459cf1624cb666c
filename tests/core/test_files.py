"""Files of the core: appended lines survive a kill, locks exclude, images come back."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from actial.core.atomic_io import file_sha256, lock_file, write_text
from actial.core.errors import UserError
from actial.core.image_codec import data_url, decode_bytes, image_size, jpeg_bytes, png_bytes
from actial.core.json_lines import append_lines, read_complete_lines, write_lines
from actial.core.sealed_files import read_sealed_json, write_sealed_json


def test_a_line_cut_by_a_kill_is_not_read_and_repair_removes_it(tmp_path):
    path = tmp_path / "log.jsonl"
    append_lines(path, [b'{"a": 1}\n'])
    with path.open("ab") as file:
        file.write(b'{"a": 2')
    assert read_complete_lines(path) == [b'{"a": 1}']
    assert path.read_bytes().endswith(b'{"a": 2')
    assert read_complete_lines(path, repair=True) == [b'{"a": 1}']
    append_lines(path, [b'{"a": 3}\n'], durable=False)
    assert [json.loads(line)["a"] for line in read_complete_lines(path)] == [1, 3]


def test_lines_are_compact_utf_8(tmp_path):
    write_lines(tmp_path / "a.jsonl", [{"name": "Möwe", "n": [1, 2]}])
    assert (tmp_path / "a.jsonl").read_bytes() == '{"name":"Möwe","n":[1,2]}\n'.encode()


def test_half_a_surrogate_pair_is_written_as_a_replacement_character(tmp_path):
    path = tmp_path / "a"
    write_text(path, "a\ud83d")
    assert path.read_text() == "a\ufffd"
    write_lines(path, [{"name": "\udc00"}])
    assert json.loads(path.read_bytes()) == {"name": "\ufffd"}
    write_sealed_json(path, {"name": "\udc00"})
    assert read_sealed_json(path, "remove it") == {"name": "\ufffd"}


def test_a_locked_file_is_refused_with_the_given_sentence_until_it_is_closed(tmp_path):
    with (
        lock_file(tmp_path / "lock", "in use"),
        pytest.raises(UserError, match="in use"),
    ):
        lock_file(tmp_path / "lock", "in use")
    lock_file(tmp_path / "lock", "in use").close()


def test_shared_locks_exclude_only_an_exclusive_one(tmp_path):
    with (
        lock_file(tmp_path / "lock", "in use", shared=True),
        lock_file(tmp_path / "lock", "in use", shared=True),
        pytest.raises(UserError),
    ):
        lock_file(tmp_path / "lock", "in use")


def test_a_checksum_is_that_of_sha256sum(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert file_sha256(tmp_path / "a").startswith("ba7816bf8f01cfea")


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (48, 48), (48, 500)])
def test_png_gives_every_pixel_back_and_equal_pixels_give_equal_bytes(size):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    pixels[: size[0] // 2] = 200  # flat and noisy areas
    encoded = png_bytes(pixels)
    assert np.array_equal(decode_bytes(encoded), pixels)
    assert png_bytes(pixels.copy()) == encoded
    assert image_size(io.BytesIO(encoded)) == (size[1], size[0])


def test_jpeg_carries_no_metadata_and_data_urls_name_the_format():
    pixels = np.full((16, 16, 3), 90, np.uint8)
    encoded = jpeg_bytes(pixels, 90)
    assert not Image.open(io.BytesIO(encoded)).getexif()
    assert data_url(encoded).startswith("data:image/jpeg;base64,/9j/")
    assert data_url(png_bytes(pixels)).startswith("data:image/png;base64,iVBOR")
