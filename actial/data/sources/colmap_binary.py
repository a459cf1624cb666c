"""COLMAP's binary models: cameras.bin, images.bin, points3D.bin."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np

from actial.core.errors import Rejected
from actial.data.sources.colmap_model import (
    IMAGE_BYTES,
    MAX_BYTES,
    RawCamera,
    RawImage,
    RawPoints,
    corrupt,
)
from actial.data.sources.photo_files import photo_name
from actial.viewpoint.lens import camera_models

CAMERA_BYTES = 40  # of a camera in cameras.bin, at least
OBSERVATION = np.dtype([("xy", "<f8", 2), ("point", "<i8")])
POINT = np.dtype(
    [("id", "<i8"), ("xyz", "<f8", 3), ("rgb", "u1", 3), ("error", "<f8"), ("track", "<u8")]
)  # then 8 bytes per track entry
TRACK_AT = POINT.itemsize - 8


class _Walk:
    """A cursor that never leaves its file."""

    def __init__(self, path: Path) -> None:
        if path.stat().st_size > MAX_BYTES:
            raise Rejected("sparse_too_large", detail=path.name)
        self.path, self.data, self.at = path, path.read_bytes(), 0

    def take(self, form: str) -> tuple[Any, ...]:
        """Return the values at the cursor in struct's notation, and move behind them."""
        start = self.at
        self.skip(struct.calcsize(form))
        return struct.unpack_from(form, self.data, start)

    def skip(self, size: int) -> None:
        self.at += size
        if self.at > len(self.data):
            raise corrupt(self.path, "cut short")

    def count(self, least: int) -> int:
        """Return a leading count of items that take at least `least` bytes each."""
        n: int = self.take("<Q")[0]
        if n * least > len(self.data) - self.at:
            raise corrupt(self.path, f"claims {n} items")
        return n

    def end(self) -> None:
        if self.at != len(self.data):
            raise corrupt(self.path, "has bytes behind its last item")


def read_cameras(path: Path) -> dict[int, RawCamera]:
    """Return the cameras by id; raises Rejected("sparse_corrupt" | "sparse_too_large")."""
    walk = _Walk(path)
    models = camera_models()
    cameras: dict[int, RawCamera] = {}
    for _ in range(walk.count(CAMERA_BYTES)):
        key, model, width, height = walk.take("<iiQQ")
        if key in cameras:
            raise corrupt(walk.path, f"repeats camera {key}")
        if model not in models:
            raise corrupt(
                walk.path,
                f"camera {key} has model {model}, which is not one of pycolmap's "
                f"(0 to {max(models)}): undistort the photos with the COLMAP that made it",
            )
        name, count = models[model]
        cameras[key] = RawCamera(width, height, (name, walk.take(f"<{count}d")))
    walk.end()
    return cameras


def read_images(path: Path) -> dict[int, RawImage]:
    """Return the images by id; raises Rejected("sparse_corrupt" | "sparse_too_large")."""
    walk = _Walk(path)
    images: dict[int, RawImage] = {}
    for _ in range(walk.count(IMAGE_BYTES)):
        key, *pose, camera = walk.take("<i7di")
        stop = walk.data.find(b"\0", walk.at)
        if stop < 0 or key in images:
            raise corrupt(walk.path, f"image {key} is cut short or repeated")
        name = photo_name(walk.data[walk.at : stop])
        walk.at = stop + 1
        n = walk.count(OBSERVATION.itemsize)
        observations = np.frombuffer(walk.data, OBSERVATION, n, walk.at)
        images[key] = RawImage(name, tuple(pose), camera, observations["point"])
        walk.skip(n * OBSERVATION.itemsize)
    walk.end()
    return images


def read_points(path: Path) -> RawPoints:
    """Return the points with their tracks; raises Rejected("sparse_corrupt" | ...)."""
    walk = _Walk(path)
    heads, tracks = [], []
    data, at, end = walk.data, walk.at + 8, len(walk.data)
    for _ in range(walk.count(POINT.itemsize)):
        stop = at + POINT.itemsize
        length = int.from_bytes(data[at + TRACK_AT : stop], "little")
        heads.append(data[at:stop])
        at = stop + 8 * length
        if at > end:
            raise corrupt(walk.path, "cut short")
        tracks.append(data[stop:at])
    walk.at = at
    walk.end()
    points = np.frombuffer(b"".join(heads), POINT)
    return RawPoints(
        id=points["id"],
        xyz=points["xyz"].astype(np.float64),
        error=points["error"],
        track_length=points["track"].astype(np.int64),
        tracks=np.frombuffer(b"".join(tracks), "<i4").reshape(-1, 2),
    )
