"""COLMAP's text models: cameras.txt, images.txt, points3D.txt."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from actial.core.errors import Rejected
from actial.data.sources.colmap_model import (
    MAX_BYTES,
    RawCamera,
    RawImage,
    RawPoints,
    corrupt,
    data_lines,
)
from actial.data.sources.photo_files import photo_name
from actial.viewpoint.lens import camera_models


def read_cameras(path: Path) -> dict[int, RawCamera]:
    """Return the cameras by id; raises Rejected("sparse_corrupt")."""
    counts = dict(camera_models().values())
    cameras: dict[int, RawCamera] = {}
    for line in _filled_lines(path):
        key, model, width, height, *params = line.split()
        name = model.decode()
        if name not in counts or len(params) != counts[name]:
            raise corrupt(
                path, f"camera model {name} with {len(params)} parameters is not known"
            )
        lens = (name, tuple(float(value) for value in params))
        cameras[int(key)] = RawCamera(int(float(width)), int(float(height)), lens)
    return cameras


def read_images(path: Path) -> dict[int, RawImage]:
    """Return the images by id, each of two lines; raises Rejected("sparse_corrupt")."""
    images: dict[int, RawImage] = {}
    lines = data_lines(path)
    _check_size(path)
    for line in lines:
        if not line.strip():
            continue
        fields = line.split(maxsplit=9)
        if len(fields) != 10:
            raise corrupt(path, f"the line {line[:60]!r} is not an image")
        key, *pose, camera, name = fields
        observations = next(lines, b"").split()
        if len(observations) % 3:
            raise corrupt(path, f"the points of image {int(key)} are cut short")
        points = np.array([int(float(value)) for value in observations[2::3]], dtype=np.int64)
        numbers = tuple(float(value) for value in pose)
        if int(key) in images:
            raise corrupt(path, f"repeats image {int(key)}")
        images[int(key)] = RawImage(photo_name(name.strip()), numbers, int(camera), points)
    return images


def read_points(path: Path) -> RawPoints:
    """Return the points with their tracks; raises Rejected("sparse_corrupt")."""
    ids, coordinates, errors, lengths = [], [], [], []
    tracks: list[list[int]] = []
    for line in _filled_lines(path):
        key, x, y, z, _, _, _, error, *track = line.split()
        if len(track) % 2:
            raise corrupt(path, f"the track of point {int(key)} is cut short")
        ids.append(int(key))
        coordinates.append((float(x), float(y), float(z)))
        errors.append(float(error))
        lengths.append(len(track) // 2)
        tracks += [
            [int(image), int(number)]
            for image, number in zip(track[::2], track[1::2], strict=True)
        ]
    return RawPoints(
        id=np.array(ids, dtype=np.int64),
        xyz=np.array(coordinates, dtype=np.float64).reshape(-1, 3),
        error=np.array(errors, dtype=np.float64),
        track_length=np.array(lengths, dtype=np.int64),
        tracks=np.array(tracks, dtype=np.int64).reshape(-1, 2),
    )


def _filled_lines(path: Path) -> Iterator[bytes]:
    _check_size(path)
    return (line for line in data_lines(path) if line.strip())


def _check_size(path: Path) -> None:
    if path.stat().st_size > MAX_BYTES:
        raise Rejected("sparse_too_large", detail=str(path))
