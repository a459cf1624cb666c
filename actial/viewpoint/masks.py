"""Object masks as people store them -> bool arrays."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from PIL import Image

from actial.core.image_codec import UNREADABLE

EDGE_LEVEL = 225 / 255  # share of the brightest value; masks have gray edges
MAX_STRETCH = 0.05  # of a mask's aspect against the photo's: sides rounded to a multiple of 32
MAX_LABEL = 31  # masks without a brighter value hold labels, 0 = background


def read_mask(path: Path, size: tuple[int, int], quarter_turns: int = 0) -> np.ndarray | None:
    """Return bool (height, width) of a mask resized to `size` (width, height), or None.

    None stands for a mask that cannot be read, or has another shape: it may be
    stretched or cut. `quarter_turns` turns it counter-clockwise first, unless it is
    turned already. A mask may hold 0 and 255, 0 and 1, labels, 16-bit values, or be an
    alpha channel.
    """
    try:
        with Image.open(path) as image:
            values = _values(image)
        brightest = int(values.max())  # ValueError for NaN
    except UNREADABLE:
        return None
    turned = np.rot90(values, quarter_turns)
    if _has_shape(turned, size):
        values = turned
    elif not _has_shape(values, size):
        return None
    inside = values > (0 if brightest <= MAX_LABEL else EDGE_LEVEL * brightest)
    resized = Image.fromarray(inside.astype(np.uint8)).resize(size, Image.Resampling.NEAREST)
    return np.asarray(resized) > 0


def _has_shape(values: np.ndarray, size: tuple[int, int]) -> bool:
    aspect = values.shape[1] / values.shape[0] * size[1] / size[0]
    return abs(math.log(aspect)) <= MAX_STRETCH


def _values(image: Image.Image) -> np.ndarray:
    """Return what tells object from background: alpha where it varies, else brightness.

    Colors as dark as labels have no brightness of their own: their largest channel counts, and
    the numbers of a palette whose colors are all alike.
    """
    if image.has_transparency_data:
        alpha = np.asarray(image.convert("RGBA").getchannel("A"))
        if alpha.min() < alpha.max():
            return alpha
    if image.mode.startswith("I") or image.mode == "F":
        return np.asarray(image)
    if image.mode in ("RGB", "P"):
        strongest: np.ndarray = np.asarray(image.convert("RGB")).max(axis=2)
        if image.mode == "P" and strongest.min() == strongest.max():
            return np.asarray(image)
        if strongest.max() <= MAX_LABEL:
            return strongest
    return np.asarray(image.convert("L"))
