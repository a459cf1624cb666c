"""LLFF's poses_bounds.npy: one row of 17 numbers for each photo of images/, in order of names."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from actial.core.records import Frame, Lens
from actial.data.sources.frame_counts import FrameCounts
from actial.data.sources.photo_files import PhotoFiles
from actial.data.sources.pose_files import make_frame, rotation_scale

POSES_BOUNDS = "poses_bounds.npy"
PHOTO_FOLDERS = ("images", "images_2", "images_4", "images_8")


def llff_frames(folder: Path, counts: FrameCounts) -> list[Frame]:
    """Return the frames of a folder; raises ValueError where rows and photos do not match.

    Rows that hold no numbers are counted as dropped frames. A row is a (3, 5)
    matrix and two depth bounds. Its columns are the camera's down, right and
    backward directions in the world, its center, and (height, width, focal
    length).
    """
    try:
        rows = np.load(folder / POSES_BOUNDS, allow_pickle=False).astype(np.float64)
    except (EOFError, MemoryError) as error:  # an empty file, a header that claims too much
        raise ValueError(f"{POSES_BOUNDS}: {error}") from error
    if rows.ndim != 2 or rows.shape[1] != 17:
        raise ValueError(f"{POSES_BOUNDS} has shape {rows.shape} instead of (photos, 17)")
    photos = _photos(folder, len(rows))
    frames = []
    for name, row in zip(photos, rows[:, :15].reshape(-1, 3, 5), strict=True):
        down, right, backward, center = row[:, :4].T
        height, width, focal = (float(value) for value in row[:, 4])
        if not np.isfinite(row).all():
            counts.drop(
                "frame_pose", f"{name}: its row of {POSES_BOUNDS} holds NaN or infinity"
            )
            continue
        lens: Lens = ("SIMPLE_PINHOLE", (focal, width / 2, height / 2))
        R = np.stack([right, down, -backward])
        R /= rotation_scale(R, counts)
        size = (round(width), round(height))
        frames.append(make_frame(name, folder / name, size, lens, (R, -R @ center)))
    return frames


def _photos(folder: Path, count: int) -> list[str]:
    """Return the names of `count` photos, of images/ or of one of its smaller copies."""
    counts = {}
    for place in PHOTO_FOLDERS:
        if (folder / place).is_dir():
            photos = PhotoFiles(folder / place)
            for names in (photos.names, photos.originals()):
                if len(names) == count:
                    return [f"{place}/{name}" for name in names]
            counts[place] = len(names)
    raise ValueError(f"{POSES_BOUNDS} has {count} rows, but photos are {counts or 'missing'}")
