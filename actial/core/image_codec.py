"""Encoded pictures to RGB arrays and back."""

from __future__ import annotations

import base64
import io
import struct
from typing import IO

import numpy as np
from PIL import Image


def png_bytes(image: np.ndarray) -> bytes:
    """Return a lossless PNG of uint8 (H, W, 3)."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def data_url(encoded: bytes) -> str:
    """Return an encoded PNG or JPEG as a data URL."""
    form = "png" if encoded.startswith(PNG) else "jpeg"
    return f"data:image/{form};base64,{base64.b64encode(encoded).decode()}"


def png_url(image: np.ndarray) -> str:
    """Return uint8 (H, W, 3) as the data URL of a lossless PNG."""
    return data_url(png_bytes(image))


UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    Image.DecompressionBombError,
)  # what Pillow raises on broken files


PNG = b"\x89PNG\r\n\x1a\n"


HEAD = 2048  # bytes that mostly hold all that comes before the size


NO_FRAME = {0xC4, 0xC8, 0xCC}  # JPEG markers within C0..CF that are no frame header


def header_size(file: IO[bytes]) -> tuple[int, int] | None:
    """(width, height) of a PNG or JPEG without the cost of an image library; None for anything else or broken. Rewinds the file."""
    file.seek(0)
    head = file.read(HEAD)
    size = None
    if head[:8] == PNG and head[12:16] == b"IHDR":
        size = struct.unpack(">II", head[16:24])
    elif head[:2] == b"\xff\xd8":
        size = _jpeg_size(head, file)
    file.seek(0)
    return size if size and size[0] and size[1] else None


def _jpeg_size(head: bytes, file: IO[bytes]) -> tuple[int, int] | None:
    at = 2
    while True:
        segment = head[at : at + 9]
        if len(segment) < 9:  # a large profile or preview comes first
            file.seek(at)
            segment = file.read(9)
        if len(segment) < 9 or segment[0] != 0xFF:
            return None
        marker, length = segment[1], int.from_bytes(segment[2:4], "big")
        if marker == 0xFF:  # a fill byte
            at += 1
        elif 0xC0 <= marker <= 0xCF and marker not in NO_FRAME:
            return int.from_bytes(segment[7:9], "big"), int.from_bytes(segment[5:7], "big")
        elif marker in (0xDA, 0xD9) or length < 2:
            return None
        else:
            at += 2 + length


def rgb(image: Image.Image) -> np.ndarray:
    """uint8 (H, W, 3), without a copy where the picture has three colours already."""
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
