"""COLMAP models, binary or text, read with numpy.

pycolmap's own reader trusts the counts and references in the files: an absurd
header makes it allocate gigabytes or abort the process. So the binary files are
walked here, every count against the bytes that are there and every reference
against what it names. What people do to models is accepted: images or points
taken away by a script, and quaternions of any one length. A pose or a point that
is none costs itself.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from actial.core.errors import Rejected
from actial.core.records import Lens
from actial.data.sources import colmap_binary, colmap_text
from actial.data.sources.base import MAX_LENGTH
from actial.data.sources.colmap_model import (
    ModelFiles,
    RawCamera,
    RawImage,
    RawPoints,
    corrupt,
    find_models,
)
from actial.data.sources.frame_counts import FrameCounts
from actial.viewpoint.lens import calibration, is_photo_lens

MAX_SIDE = 1 << 15
LENGTH_TOLERANCE = 1e-3  # of a quaternion's length, relative to that of most


@dataclass(slots=True, kw_only=True)
class Model:
    """What a capture needs of a reconstruction; poses in image-name order."""

    views: list[View]
    points: np.ndarray  # (N, 3)
    tracks: np.ndarray  # (N,) photos that see each point
    reprojection_error_px: float | None  # mean; None without points that have one
    lost_points: int  # points without usable coordinates, which are left out


@dataclass(slots=True, kw_only=True)
class View:
    """One registered image: its name, camera and OpenCV world-to-camera pose."""

    name: str
    width: int
    height: int
    K: np.ndarray
    distortion: Lens
    R: np.ndarray
    t: np.ndarray


def read_model(files: ModelFiles | Path) -> Model:
    """Return registered images, points and mean reprojection error of a model.

    Raises Rejected("sparse_corrupt" | "sparse_too_large" | "camera_model") naming file and cause.
    """
    if isinstance(files, Path):
        models = list(find_models(files))
        if not models:
            raise Rejected("no_sparse", detail=str(files))
        files = next(model for model in models if model.folder == models[-1].folder)
    path = files.path("cameras")
    form: Any = colmap_text if files.suffix == ".txt" else colmap_binary
    try:
        cameras = form.read_cameras(path)
        path = files.path("images")
        images = form.read_images(path)
        path = files.path("points3D")
        points = form.read_points(path)
        _check_cameras(files.path("cameras"), cameras)
        _check_images(files.path("images"), images, cameras)
        _check_points(path, points, images)
    except (ValueError, UnicodeDecodeError, OverflowError) as error:
        raise corrupt(path, f"holds what is not a number ({error})") from error
    return _model(files, cameras, images, points)


def read_largest_model(models: Sequence[ModelFiles], counts: FrameCounts) -> Model:
    """Return the first of the models that can be read; the broken ones before it are counted.

    Raises what the first one raises where none can be read.
    """
    errors: list[Rejected] = []
    for files in models:
        try:
            model = read_model(files)
        except Rejected as rejected:
            errors.append(rejected)
            continue
        if errors:
            counts.drop("models_broken", errors[0].detail, len(errors))
        return model
    raise errors[0]


def _model(
    files: ModelFiles,
    cameras: dict[int, RawCamera],
    images: dict[int, RawImage],
    points: RawPoints,
) -> Model:
    ordered = sorted(images.values(), key=lambda image: image.name)
    poses = np.array([image.pose for image in ordered]).reshape(-1, 7)
    rotations = _rotations(poses[:, :4])
    views = []
    for i, image in enumerate(ordered):
        camera = cameras[image.camera]
        if not is_photo_lens(camera.lens):
            raise Rejected(
                "camera_model",
                detail=f"{files.path('cameras')}: {camera.lens[0]} photos are panoramas: "
                "undistort them to PINHOLE views first",
            )
        views.append(
            View(
                name=image.name,
                width=camera.width,
                height=camera.height,
                K=calibration(camera.lens),
                distortion=camera.lens,
                R=rotations[i],
                t=poses[i, 4:],
            )
        )
    placed = (np.abs(points.xyz) < MAX_LENGTH).all(axis=1)  # no NaN either
    errors = points.error[placed]
    measured = errors[errors >= 0]
    return Model(
        views=views,
        points=points.xyz[placed],
        tracks=points.track_length[placed],
        reprojection_error_px=float(measured.mean()) if len(measured) else None,
        lost_points=int((~placed).sum()),
    )


# ---------------------------------------------------------------- what holds for both forms


def _check_cameras(path: Path, cameras: dict[int, RawCamera]) -> None:
    for key, camera in cameras.items():
        sides = (camera.width, camera.height)
        if not all(0 < side < MAX_SIDE for side in sides):
            raise corrupt(path, f"camera {key} has size {sides[0]}x{sides[1]}")
        if not np.isfinite(camera.lens[1]).all():
            raise corrupt(path, f"camera {key} has parameters that are not numbers")


def _check_images(path: Path, images: dict[int, RawImage], cameras: Collection[int]) -> None:
    """Raise unless images have one name and a camera; poses that are none become NaN."""
    names: set[str] = set()
    lengths = np.array([np.linalg.norm(image.pose[:4]) for image in images.values()])
    # COLMAP normalizes quaternions: any length is right that most of them share
    usable = lengths[np.isfinite(lengths) & (lengths > 0)]
    common = float(np.median(usable)) if len(usable) else 1.0
    for length, (key, image) in zip(lengths, images.items(), strict=True):
        if not image.name or image.name in names:
            raise corrupt(path, f"image {key} has no name, or one that another image has")
        if image.camera not in cameras:
            raise corrupt(path, f"image {key} names camera {image.camera}, which is missing")
        names.add(image.name)
        bounded = all(abs(value) < MAX_LENGTH for value in image.pose)
        if not bounded or not abs(length - common) <= LENGTH_TOLERANCE * common:
            image.pose = (np.nan,) * 7  # a photo without a pose is dropped and counted


def _check_points(path: Path, points: RawPoints, images: dict[int, RawImage]) -> None:
    """Raise unless tracks and observations agree, as far as both ends are still there."""
    ids = points.id
    if len(np.unique(ids)) != len(ids) or (ids < 0).any():
        raise corrupt(path, "repeats a point")
    owner = np.repeat(ids, points.track_length)
    # Scripts take images out of a model and leave the tracks that name them.
    present = np.isin(points.tracks[:, 0], np.array(list(images), dtype=np.int64))
    if not _confirmed(points.tracks[present], owner[present], images):
        raise corrupt(path, "has a track that no image confirms")


def _confirmed(tracks: np.ndarray, owner: np.ndarray, images: dict[int, RawImage]) -> bool:
    """Return whether every entry (image, observation) is one of the point that owns it."""
    if not len(tracks):
        return True
    keys = np.array(list(images), dtype=np.int64)
    counts = np.array([len(image.points) for image in images.values()])
    observed = np.concatenate([image.points for image in images.values()])
    order = np.argsort(keys)
    at = order[np.searchsorted(keys, tracks[:, 0], sorter=order)]
    number = tracks[:, 1]
    if ((number < 0) | (number >= counts[at])).any():
        return False
    first = np.cumsum(counts) - counts
    return bool((observed[first[at] + number] == owner).all())


def _rotations(q: np.ndarray) -> np.ndarray:
    """Quaternions (n, 4), w first, near unit length -> (n, 3, 3)."""
    w, x, y, z = (q / np.linalg.norm(q, axis=1, keepdims=True)).T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)
