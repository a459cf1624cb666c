"""Photos in the formats and modes that people have become the pixels that they show."""

import io

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from actial.core.errors import Rejected
from actial.data.photos import PhotoHeader, decode, photo_rgb, read_header

GRAY = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
COLOR = np.stack([GRAY, 255 - GRAY, GRAY // 2], axis=-1)
ORIENTATION = 0x0112


def as_gray(pixels: np.ndarray) -> np.ndarray:
    return np.repeat(pixels[..., None], 3, axis=2)


@pytest.mark.parametrize("scale", [256, 257])
def test_16_bit_grays_keep_their_high_byte(tmp_path, scale):
    Image.fromarray(GRAY.astype(np.uint16) * scale).save(tmp_path / "a.png")
    assert np.array_equal(decode(tmp_path / "a.png")[0], as_gray(GRAY))


@pytest.mark.parametrize(
    ("bits", "name"),
    [(8, "a.png"), (10, "a.png"), (12, "a.png"), (12, "a.tif"), (14, "a.png")],
)
def test_fewer_bits_in_16_are_not_black(tmp_path, bits, name):
    widened = GRAY.astype(np.uint16) << (bits - 8)
    Image.fromarray(widened).save(tmp_path / name)
    assert np.array_equal(decode(tmp_path / name)[0], as_gray(GRAY))


def test_32_bit_integers_are_taken_for_8_or_16_bits_and_others_are_refused(tmp_path):
    assert np.array_equal(photo_rgb(Image.fromarray(GRAY.astype(np.int32))), as_gray(GRAY))
    assert np.array_equal(
        photo_rgb(Image.fromarray(GRAY.astype(np.int32) * 257)), as_gray(GRAY)
    )
    for values in (GRAY.astype(np.int32) * 10**6, GRAY.astype(np.float32) / 255):
        Image.fromarray(values).save(tmp_path / "a.tif")
        with pytest.raises(Rejected, match="no known range"):
            decode(tmp_path / "a.tif")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB"])
def test_what_lies_under_alpha_0_is_not_seen(tmp_path, mode):
    hidden = np.full((4, 4, 4), (255, 0, 255, 0), dtype=np.uint8)
    hidden[1, 2] = (10, 10, 10, 255)
    image = Image.fromarray(hidden)
    if mode == "P":
        image = image.convert("RGB").quantize(4)
        image.info["transparency"] = image.getpixel((0, 0))
    elif mode == "LA":
        image = image.convert("LA")
    elif mode == "RGB":  # one color stands for transparent
        image = image.convert("RGB")
        image.info["transparency"] = (255, 0, 255)
    image.save(tmp_path / "a.png")
    pixels = decode(tmp_path / "a.png")[0]
    assert (pixels[0, 0] == 255).all()
    assert (pixels[1, 2] == 10).all()


def test_half_transparent_edges_are_mixed_with_the_background(tmp_path):
    Image.new("RGBA", (2, 2), (0, 0, 0, 128)).save(tmp_path / "a.png")
    assert np.abs(decode(tmp_path / "a.png")[0].astype(int) - 127).max() <= 1


@pytest.mark.parametrize("name", ["a.bmp", "a.tif", "a.ppm", "a.webp", "a.png"])
def test_lossless_formats_keep_every_pixel(tmp_path, name):
    Image.fromarray(COLOR).save(
        tmp_path / name, **({"lossless": True} if "webp" in name else {})
    )
    assert np.array_equal(decode(tmp_path / name)[0], COLOR)
    assert read_header(tmp_path / name) == PhotoHeader(4, 3, 1)


def test_phone_formats_are_decoded(tmp_path):
    flat = Image.new("RGB", (64, 48), (200, 30, 90))
    flat.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[flat])
    pillow_heif.from_pillow(flat).save(tmp_path / "a.heic", quality=95)
    for name in ("a.jpg", "a.heic"):
        assert read_header(tmp_path / name) == PhotoHeader(64, 48, 1)
        difference = decode(tmp_path / name)[0].astype(int) - (200, 30, 90)
        assert np.abs(difference).max() <= 6


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_pixels_are_as_stored_whatever_the_orientation(tmp_path, name, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(COLOR).save(tmp_path / name, exif=exif)
    pixels, tag = decode(tmp_path / name)
    assert np.array_equal(pixels, COLOR)
    assert tag == orientation
    assert read_header(tmp_path / name) == PhotoHeader(4, 3, orientation)


def test_broken_metadata_turn_nothing(tmp_path):
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    Image.fromarray(COLOR).save(buffer, "JPEG", exif=exif)
    data = buffer.getvalue()
    at = data.index(b"Exif\0\0") + 6
    (tmp_path / "a.jpg").write_bytes(data[:at] + b"\xff" * 12 + data[at + 12 :])
    assert read_header(tmp_path / "a.jpg").orientation == 1
