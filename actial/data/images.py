"""The one shrinking of the whole project, and compression without metadata."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from actial.config import ImageConfig, ImageFormat
from actial.core.image_codec import jpeg_bytes, png_bytes


def fitted_size(width: int, height: int, config: ImageConfig) -> tuple[int, int]:
    """Return the largest (width, height) of about the same aspect that fits.

    Both sides are multiples of `multiple`, the area is at most `max_pixels`; never enlarged.
    `square` gives equal sides.
    """
    m = config.multiple
    if config.square:
        side = min(width, height, math.isqrt(config.max_pixels))
        return (max(m, side // m * m),) * 2
    scale = min(1.0, math.sqrt(config.max_pixels / (width * height)))
    w, h = (max(m, round(side * scale / m) * m) for side in (width, height))
    while w * h > config.max_pixels and max(w, h) > m:
        if h <= m or (w > m and w / width >= h / height):
            w -= m
        else:
            h -= m
    return w, h


def encode(pixels: np.ndarray, config: ImageConfig) -> bytes:
    """Shrink uint8 (H, W, 3) to its fitted size and compress it.

    No metadata is written: an EXIF orientation would turn the photo in the model's image loader.
    """
    height, width = pixels.shape[:2]
    size = fitted_size(width, height, config)
    if size != (width, height):
        pixels = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))
    if config.format is ImageFormat.png:
        return png_bytes(pixels)
    return jpeg_bytes(pixels, config.quality)
