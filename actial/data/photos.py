"""Photo files as people have them -> uint8 RGB pixels as stored, and what their headers say.

Poses belong to pixels in a certain orientation, so nothing here applies an EXIF
orientation: the tag is reported, and `actial.data.sources.orientation` decides what it
means for a capture.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import pillow_heif
from PIL import Image, UnidentifiedImageError

from actial.core.errors import Rejected
from actial.core.image_codec import UNREADABLE

pillow_heif.register_heif_opener()

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM", "HEIF")  # JPEG opens MPO too
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".bmp"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".pnm", ".heic", ".heif", ".hif"),
)
# folders in which systems and network drives keep copies, thumbnails and deleted files
SYSTEM_FOLDERS = {
    *("__macosx", "@eadir", "@recycle", "#recycle", "#snapshot", "@tmp", "$recycle.bin"),
    *("system volume information", "lost+found"),
}
PIXELS_MAX = 2 * (Image.MAX_IMAGE_PIXELS or 0)  # Pillow's own limit for a decompression bomb
ORIENTATION = 0x0112  # EXIF tag
UPRIGHT = 1  # the tag of a photo that is shown as it is stored
GRAY_DEPTHS = (8, 10, 12, 14, 16)  # bits
BACKGROUND = (255, 255, 255)  # behind transparent pixels
BROKEN_EXIF = (SyntaxError, ValueError, TypeError, KeyError, struct.error, OSError)


def is_system_name(name: str) -> bool:
    """Return whether a file or folder of this name is hidden, or a system's own."""
    return name.startswith(".") or name.casefold() in SYSTEM_FOLDERS


@dataclass(slots=True, frozen=True)
class PhotoHeader:
    """What a photo file says before its pixels are decoded."""

    width: int  # of the pixels as stored
    height: int
    orientation: (
        int  # EXIF: 1 = upright, 3 = upside down, 6 and 8 = on its side, others mirrored
    )


def open_regular(path: Path) -> IO[bytes]:
    """Open a regular file; raises OSError for a pipe or device, which would block forever."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(path)
        raise OSError(f"{path} is not a regular file")
    return os.fdopen(descriptor, "rb")


def read_header(path: Path) -> PhotoHeader:
    """Return size and orientation; raises Rejected("frame_missing" | "frame_unreadable")."""
    try:
        with open_regular(path) as file, Image.open(file, formats=FORMATS) as image:
            orientation = _orientation(image)
            width, height = image.size
            if image.format == "TIFF" and orientation > 4:
                width, height = height, width  # Pillow swaps the sides of a turned TIFF
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise Rejected("frame_missing", detail=str(path)) from error
    except (*UNREADABLE, UnidentifiedImageError) as error:
        raise Rejected("frame_unreadable", detail=f"{path}: {_cause(error)}") from error
    if width * height > PIXELS_MAX:
        raise Rejected("frame_unreadable", detail=f"{path}: {width}x{height} pixels")
    return PhotoHeader(width, height, orientation)


def _cause(error: Exception) -> str:
    """Return Pillow's message, without the file object that it prints for an unknown format."""
    if isinstance(error, UnidentifiedImageError):
        return "no image of a known format"
    return str(error)


def _orientation(image: Image.Image) -> int:
    try:
        tag = image.getexif().get(ORIENTATION, UPRIGHT)
    except BROKEN_EXIF:
        return UPRIGHT  # metadata that cannot be read turn nothing
    return tag if isinstance(tag, int) and 1 <= tag <= 8 else UPRIGHT


def decode(path: Path, gray_bits: Callable[[], int] | None = None) -> tuple[np.ndarray, int]:
    """Return the pixels as stored, uint8 (H, W, 3), and the EXIF orientation.

    `gray_bits` gives the depth of a capture's grays of more than 8 bits; without it
    the photo's own values tell. Raises Rejected("frame_unreadable") for a broken or
    truncated file.
    """
    try:
        with open_regular(path) as file, Image.open(file, formats=FORMATS) as image:
            orientation = _orientation(image)
            bits = gray_bits() if gray_bits and _is_wide_gray(image) else 8
            pixels = photo_rgb(image, bits)
            if image.format == "TIFF":
                pixels = _stored_again(pixels, orientation)
            return pixels, orientation
    except UNREADABLE as error:
        raise Rejected("frame_unreadable", detail=f"{path}: {_cause(error)}") from error


def gray_depth(paths: Iterable[Path]) -> int:
    """Return the bits that hold the gray values of all photos of a capture.

    A dark photo among them would else seem to have fewer bits, and be shown too
    bright. Photos that cannot be read, or are no grays of more than 8 bits, do not
    count.
    """
    bits = min(GRAY_DEPTHS)
    for path in paths:
        with (
            suppress(*UNREADABLE),
            open_regular(path) as file,
            Image.open(file, formats=FORMATS) as image,
        ):
            if _is_wide_gray(image):
                bits = max(bits, _depth_of(np.asarray(image)))
    return bits


def _is_wide_gray(image: Image.Image) -> bool:
    return image.mode.startswith("I") or image.mode == "F"


def photo_rgb(image: Image.Image, gray_bits: int = 8) -> np.ndarray:
    """Return uint8 (H, W, 3) of any photo.

    Grays of more than 8 bits keep the high ones of `gray_bits`, or of as many as their values
    need; transparent pixels show BACKGROUND: what
    lies under alpha 0 is whatever a program left there. Raises ValueError for gray values without
    a range.
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        return np.asarray(image)
    if _is_wide_gray(image):
        values = np.asarray(image)
        bits = max(gray_bits, _depth_of(values))
        gray = (values >> (bits - 8)).astype(np.uint8)
        return np.repeat(gray[..., None], 3, axis=2)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        canvas = Image.new("RGBA", layer.size, (*BACKGROUND, 255))
        return np.asarray(Image.alpha_composite(canvas, layer).convert("RGB"))
    return np.asarray(image.convert("RGB"))


def _depth_of(values: np.ndarray) -> int:
    """Return the narrowest depth that holds all gray values; raises ValueError without one.

    Sensors of 10 to 14 bits, and programs that widen 8-bit values, store them in 16 bits as they
    are.
    """
    low, high = values.min(), values.max()
    if values.dtype.kind == "f" or low < 0 or high > 0xFFFF:
        raise ValueError(
            f"gray values from {low} to {high} have no known range: store 8 or 16 bits"
        )
    return next(depth for depth in GRAY_DEPTHS if high < 1 << depth)


def _stored_again(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undo the orientation that Pillow applied to a TIFF when it decoded it."""
    if orientation in QUARTER_TURNS:
        return np.rot90(pixels, -QUARTER_TURNS[orientation])
    if orientation == 2:
        return pixels[:, ::-1]
    if orientation == 4:
        return pixels[::-1]
    # 5 and 7 are transpositions, which undo themselves
    transposed = pixels.transpose(1, 0, 2)
    return transposed if orientation == 5 else transposed[::-1, ::-1]


QUARTER_TURNS = {1: 0, 3: 2, 6: 3, 8: 1}  # counter-clockwise, that stand the stored pixels up
