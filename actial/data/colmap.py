"""COLMAP's binary triple, read by pycolmap behind a check that no corrupt file can pass.

pycolmap trusts the counts and references it finds: an absurd header makes it allocate gigabytes or abort the process. So the three files
are walked first, every count against the bytes that are there and every reference against what it names, at a cost of milliseconds.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pycolmap

from actial.types import Frame

FILES = ("cameras.bin", "images.bin", "points3D.bin")
MAX_BYTES = 1 << 30  # of one file; a capture of 1000 photos stays far below
MAX_SIDE = 1 << 15
MAX_LENGTH = 1e9  # of coordinates; beyond it the sums of the geometry lose their digits or overflow
PARAMS = {0: 3, 1: 4, 2: 4, 3: 5, 4: 8, 5: 8, 6: 12, 7: 5, 8: 4, 9: 5, 10: 12, 11: 16}  # camera model id -> number of parameters
OBSERVATION = np.dtype([("xy", "<f8", 2), ("point", "<i8")])


class Rejected(Exception):
    """A capture that yields nothing; `reasons` are the names under which it is counted."""

    def __init__(self, *reasons: str, detail: str = "") -> None:
        super().__init__(", ".join(reasons) + (f": {detail}" if detail else ""))
        self.reasons = reasons


@dataclass(slots=True, kw_only=True)
class Model:
    """What a capture needs of a reconstruction; poses in image-name order."""

    views: list[View]
    points: np.ndarray  # (N, 3)
    tracks: np.ndarray  # (N,) photos that see each point
    reprojection_error_px: float  # mean


@dataclass(slots=True, kw_only=True)
class View:
    """One registered image: its name, camera and OpenCV world-to-camera pose."""

    name: str
    width: int
    height: int
    K: np.ndarray
    distortion: tuple[str, tuple[float, ...]]
    R: np.ndarray
    t: np.ndarray


def _corrupt(path: Path, what: str) -> Rejected:
    return Rejected("sparse_corrupt", detail=f"{path.name}: {what}")


class _Walk:
    """A cursor that never leaves its file."""

    def __init__(self, path: Path) -> None:
        if path.stat().st_size > MAX_BYTES:
            raise Rejected("sparse_too_large", detail=path.name)
        self.path, self.data, self.at = path, path.read_bytes(), 0

    def take(self, form: str) -> tuple:
        start = self.at
        self.skip(struct.calcsize(form))
        return struct.unpack_from(form, self.data, start)

    def skip(self, size: int) -> None:
        self.at += size
        if self.at > len(self.data):
            raise _corrupt(self.path, "cut short")

    def count(self, least: int) -> int:
        """A leading count whose items take at least `least` bytes each."""
        (n,) = self.take("<Q")
        if n * least > len(self.data) - self.at:
            raise _corrupt(self.path, f"claims {n} items")
        return n

    def end(self) -> None:
        if self.at != len(self.data):
            raise _corrupt(self.path, "has bytes behind its last item")


def check_triple(folder: Path) -> None:
    """Walk the three files of `folder`; raises Rejected("no_sparse" | "sparse_corrupt" | "sparse_too_large")."""
    if not all((folder / name).is_file() for name in FILES):
        raise Rejected("no_sparse", detail=str(folder))
    cameras = _check_cameras(_Walk(folder / FILES[0]))
    observations = _check_images(_Walk(folder / FILES[1]), cameras)
    _check_points(_Walk(folder / FILES[2]), observations)


def _check_cameras(walk: _Walk) -> set[int]:
    ids: set[int] = set()
    for _ in range(walk.count(48)):
        camera, model, width, height = walk.take("<iiQQ")
        if model not in PARAMS or not (0 < width < MAX_SIDE and 0 < height < MAX_SIDE) or camera in ids:
            raise _corrupt(walk.path, f"camera {camera} has model {model} and size {width}x{height}")
        if not np.isfinite(walk.take(f"<{PARAMS[model]}d")).all():
            raise _corrupt(walk.path, f"camera {camera} has parameters that are no numbers")
        ids.add(camera)
    walk.end()
    return ids


def _check_images(walk: _Walk, cameras: set[int]) -> dict[int, np.ndarray]:
    """image id -> point id of each observation."""
    found: dict[int, np.ndarray] = {}
    names: set[bytes] = set()
    for _ in range(walk.count(73)):
        image, *pose, camera = walk.take("<i7di")
        stop = walk.data.find(b"\0", walk.at)
        name = walk.data[walk.at : stop]
        if stop < 0 or camera not in cameras or image in found or name in names or not _is_text(name):
            raise _corrupt(walk.path, f"image {image} is cut short, repeated or without its camera")
        if not np.all(np.abs(pose) < MAX_LENGTH) or abs(float(np.linalg.norm(pose[:4])) - 1) > 1e-3:
            raise _corrupt(walk.path, f"image {image} has no valid pose")
        walk.at = stop + 1
        n = walk.count(OBSERVATION.itemsize)
        found[image] = np.frombuffer(walk.data, OBSERVATION, n, walk.at)["point"]
        names.add(name)
        walk.skip(n * OBSERVATION.itemsize)
    walk.end()
    return found


def _is_text(name: bytes) -> bool:
    try:
        return bool(name.decode())
    except UnicodeDecodeError:
        return False


def _check_points(walk: _Walk, observations: dict[int, np.ndarray]) -> None:
    ids = np.empty(walk.count(51), dtype=np.int64)
    tracks: list[tuple[int, int]] = []
    for i in range(len(ids)):
        ids[i], *place = walk.take("<q3d")
        if not all(abs(value) < MAX_LENGTH for value in place):  # not a number is not below either
            raise _corrupt(walk.path, f"puts point {ids[i]} at {place}")
        walk.skip(11)  # colour, error
        n = walk.count(8)
        tracks.append((walk.at, n))
        walk.skip(8 * n)
    walk.end()
    if len(np.unique(ids)) != len(ids) or (ids < 0).any():
        raise _corrupt(walk.path, "repeats a point")
    seen = [points[points != -1] for points in observations.values()]
    if not np.isin(np.concatenate(seen) if seen else ids[:0], ids).all():
        raise _corrupt(walk.path, "lacks a point that an image names")
    _check_tracks(walk, ids, tracks, observations)


def _check_tracks(walk: _Walk, ids: np.ndarray, tracks: list[tuple[int, int]], observations: dict[int, np.ndarray]) -> None:
    """Every track entry is an observation of that very point."""
    entries = np.frombuffer(b"".join(walk.data[at : at + 8 * n] for at, n in tracks), "<i4").reshape(-1, 2)
    owner = np.repeat(ids, [n for _, n in tracks])
    known = 0
    for image, points in observations.items():
        mine = entries[:, 0] == image
        index = entries[mine, 1]
        if ((index < 0) | (index >= len(points))).any() or (points[index] != owner[mine]).any():
            raise _corrupt(walk.path, f"has a track that image {image} does not confirm")
        known += int(mine.sum())
    if known != len(entries):
        raise _corrupt(walk.path, "has a track through an unknown image")


def read_model(folder: Path) -> Model:
    """Registered images, points and mean reprojection error of `folder`; raises Rejected."""
    check_triple(folder)
    model = pycolmap.Reconstruction(str(folder))
    views = [_view(image) for image in model.images.values() if image.has_pose]
    points = list(model.points3D.values())
    return Model(
        views=sorted(views, key=lambda view: view.name),
        points=np.array([p.xyz for p in points]).reshape(-1, 3),
        tracks=np.array([p.track.length() for p in points]),
        reprojection_error_px=float(model.compute_mean_reprojection_error()) if points else float("nan"),
    )


def _view(image: pycolmap.Image) -> View:
    camera, pose = image.camera, image.cam_from_world()
    assert camera is not None, "check_triple lets no image through without its camera"
    return View(
        name=image.name,
        width=camera.width,
        height=camera.height,
        K=camera.calibration_matrix(),
        distortion=(camera.model.name, tuple(float(p) for p in camera.params)),
        R=pose.rotation.matrix(),
        t=np.array(pose.translation),
    )


# ---------------------------------------------------------------- pixels <-> rays, with lens distortion


def _camera(frame: Frame) -> pycolmap.Camera:
    model, params = frame.distortion
    return pycolmap.Camera(model=model, width=frame.width, height=frame.height, params=list(params))


def pixel_ray(frame: Frame, pixel: np.ndarray) -> np.ndarray:
    """Unit direction in the world of one pixel (x, y), lens distortion undone; NaN where the lens model has no answer."""
    on_plane: np.ndarray = _camera(frame).cam_from_img(np.asarray(pixel, dtype=np.float64).reshape(1, 2))  # type: ignore[assignment]
    ray = frame.R.T @ np.array([*on_plane[0], 1.0])
    return ray / np.linalg.norm(ray)


def project(frame: Frame, points: np.ndarray) -> np.ndarray:
    """World points (N, 3) -> pixels (N, 2); NaN behind the camera."""
    return _camera(frame).img_from_cam(points @ frame.R.T + frame.t)
