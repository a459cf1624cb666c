"""Object masks as people store them -> bool arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from actial.core.image_codec import UNREADABLE

EDGE_LEVEL = 225 / 255  # share of the brightest value; masks have gray edges
MAX_LABEL = 31  # masks without a brighter value hold labels, 0 = background


def read_mask(path: Path, size: tuple[int, int], quarter_turns: int = 0) -> np.ndarray | None:
    """Return bool (height, width) of a mask resized to `size` (width, height), or None.

    None stands for a mask that cannot be read. `quarter_turns` turns it counter-clockwise first.
    A mask may hold 0 and 255, 0 and 1, labels, 16-bit values, or be an alpha channel.
    """
    try:
        with Image.open(path) as image:
            values = _values(image)
    except UNREADABLE:
        return None
    values = np.rot90(values, quarter_turns)
    brightest = int(values.max())
    inside = values > (0 if brightest <= MAX_LABEL else EDGE_LEVEL * brightest)
    resized = Image.fromarray(inside.astype(np.uint8)).resize(size, Image.Resampling.NEAREST)
    return np.asarray(resized) > 0


def _values(image: Image.Image) -> np.ndarray:
    """Return what tells object from background: alpha where it varies, else brightness."""
    if image.has_transparency_data:
        alpha = np.asarray(image.convert("RGBA").getchannel("A"))
        if alpha.min() < alpha.max():
            return alpha
    if image.mode.startswith("I") or image.mode == "F":
        return np.asarray(image)
    return np.asarray(image.convert("L"))
