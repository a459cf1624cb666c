"""COLMAP's binary triple, read with numpy; lenses by pycolmap.

pycolmap's own reader trusts the counts and references it finds: an absurd header makes it allocate gigabytes or abort the process. So the
three files are walked here, every count against the bytes that are there and every reference against what it names.
"""

from __future__ import annotations

import struct
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from actial.core.errors import Rejected
from actial.core.records import Lens
from actial.viewpoint.lens import calibration

FILES = ("cameras.bin", "images.bin", "points3D.bin")
MAX_BYTES = 1 << 30  # of one file; a capture of 1000 photos stays far below
MAX_SIDE = 1 << 15
MAX_LENGTH = 1e9  # of coordinates; beyond it the sums of the geometry lose their digits or overflow
MODELS = {  # id -> name, number of parameters; f, cx, cy lead in the models of one focal length, else fx, fy, cx, cy
    0: ("SIMPLE_PINHOLE", 3),
    1: ("PINHOLE", 4),
    2: ("SIMPLE_RADIAL", 4),
    3: ("RADIAL", 5),
    4: ("OPENCV", 8),
    5: ("OPENCV_FISHEYE", 8),
    6: ("FULL_OPENCV", 12),
    7: ("FOV", 5),
    8: ("SIMPLE_RADIAL_FISHEYE", 4),
    9: ("RADIAL_FISHEYE", 5),
    10: ("THIN_PRISM_FISHEYE", 12),
    11: ("RAD_TAN_THIN_PRISM_FISHEYE", 16),
}
OBSERVATION = np.dtype([("xy", "<f8", 2), ("point", "<i8")])
POINT = np.dtype(
    [("id", "<i8"), ("xyz", "<f8", 3), ("rgb", "u1", 3), ("error", "<f8"), ("track", "<u8")]
)  # then 8 bytes per track entry
TRACK_AT = POINT.fields["track"][1] if POINT.fields else 0


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
    distortion: Lens
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


@dataclass(slots=True)
class _Image:
    name: str
    pose: tuple[float, ...]  # q (w, x, y, z), t
    camera: int
    points: np.ndarray  # (m,) point id of each observation, -1 = none


def read_model(folder: Path) -> Model:
    """Registered images, points and mean reprojection error; raises Rejected("no_sparse" | "sparse_corrupt" | "sparse_too_large")."""
    if not all((folder / name).is_file() for name in FILES):
        raise Rejected("no_sparse", detail=str(folder))
    cameras = _read_cameras(_Walk(folder / FILES[0]))
    images = _read_images(_Walk(folder / FILES[1]), cameras)
    points = _read_points(_Walk(folder / FILES[2]), images)
    ordered = sorted(images.values(), key=lambda image: image.name)
    poses = np.array([image.pose for image in ordered]).reshape(-1, 7)
    rotations = _rotations(poses[:, :4])
    views = []
    for i, image in enumerate(ordered):
        width, height, lens, K = cameras[image.camera]
        views.append(
            View(
                name=image.name,
                width=width,
                height=height,
                K=K,
                distortion=lens,
                R=rotations[i],
                t=poses[i, 4:],
            )
        )
    return Model(
        views=views,
        points=points["xyz"].astype(np.float64),
        tracks=points["track"].astype(np.int64),
        reprojection_error_px=float(points["error"].mean()) if len(points) else float("nan"),
    )


def _rotations(q: np.ndarray) -> np.ndarray:
    """Quaternions (n, 4), w first, near unit length -> (n, 3, 3)."""
    w, x, y, z = (q / np.linalg.norm(q, axis=1, keepdims=True)).T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def _read_cameras(walk: _Walk) -> dict[int, tuple[int, int, Lens, np.ndarray]]:
    """camera id -> width, height, lens, K."""
    cameras: dict[int, tuple[int, int, Lens, np.ndarray]] = {}
    for _ in range(walk.count(48)):
        key, model, width, height = walk.take("<iiQQ")
        if (
            model not in MODELS
            or not (0 < width < MAX_SIDE and 0 < height < MAX_SIDE)
            or key in cameras
        ):
            raise _corrupt(walk.path, f"camera {key} has model {model} and size {width}x{height}")
        name, count = MODELS[model]
        params = walk.take(f"<{count}d")
        if not np.isfinite(params).all():
            raise _corrupt(walk.path, f"camera {key} has parameters that are no numbers")
        cameras[key] = (width, height, (name, params), calibration((name, params)))
    walk.end()
    return cameras


def _read_images(walk: _Walk, cameras: Collection[int]) -> dict[int, _Image]:
    found: dict[int, _Image] = {}
    names: set[str] = set()
    for _ in range(walk.count(73)):
        key, *pose, camera = walk.take("<i7di")
        stop = walk.data.find(b"\0", walk.at)
        name = _text(walk.data[walk.at : stop])
        if stop < 0 or camera not in cameras or key in found or name in names or not name:
            raise _corrupt(walk.path, f"image {key} is cut short, repeated or without its camera")
        if (
            not all(abs(value) < MAX_LENGTH for value in pose)
            or abs(sum(value * value for value in pose[:4]) - 1) > 2e-3
        ):
            raise _corrupt(
                walk.path, f"image {key} has no valid pose"
            )  # not a number is not below either
        walk.at = stop + 1
        n = walk.count(OBSERVATION.itemsize)
        found[key] = _Image(
            name, tuple(pose), camera, np.frombuffer(walk.data, OBSERVATION, n, walk.at)["point"]
        )
        names.add(name)
        walk.skip(n * OBSERVATION.itemsize)
    walk.end()
    return found


def _text(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        return ""


def _read_points(walk: _Walk, images: dict[int, _Image]) -> np.ndarray:
    """(N,) records of POINT, each confirmed by the observations its track names, and the other way round."""
    heads, tracks = [], []
    data, at, end = walk.data, walk.at + 8, len(walk.data)
    for _ in range(walk.count(POINT.itemsize)):
        stop = at + POINT.itemsize
        n = int.from_bytes(data[at + TRACK_AT : stop], "little")
        heads.append(data[at:stop])
        at = stop + 8 * n
        if at > end:
            raise _corrupt(walk.path, "cut short")
        tracks.append(data[stop:at])
    walk.at = at
    walk.end()
    points = np.frombuffer(b"".join(heads), POINT)
    if not (np.abs(points["xyz"]) < MAX_LENGTH).all():
        raise _corrupt(walk.path, "puts a point nowhere")
    ids = points["id"]
    if len(np.unique(ids)) != len(ids) or (ids < 0).any():
        raise _corrupt(walk.path, "repeats a point")
    seen = np.concatenate([image.points for image in images.values()]) if images else ids[:0]
    if not np.isin(seen[seen != -1], ids).all():
        raise _corrupt(walk.path, "lacks a point that an image names")
    entries = np.frombuffer(b"".join(tracks), "<i4").reshape(-1, 2)
    if not _confirmed(entries, np.repeat(ids, points["track"].astype(np.int64)), images, seen):
        raise _corrupt(walk.path, "has a track that no image confirms")
    return points


def _confirmed(
    entries: np.ndarray, owner: np.ndarray, images: dict[int, _Image], seen: np.ndarray
) -> bool:
    """Every track entry (image id, observation) is an observation of the point that owns the entry; `seen` joins all observations."""
    if not len(entries):
        return True
    if not images:
        return False
    keys = np.array(list(images))
    counts = np.array([len(image.points) for image in images.values()])
    order = np.argsort(keys)
    place = order[np.searchsorted(keys, entries[:, 0], sorter=order).clip(max=len(keys) - 1)]
    inside = (keys[place] == entries[:, 0]) & (entries[:, 1] >= 0) & (entries[:, 1] < counts[place])
    return bool(
        inside.all() and (seen[(np.cumsum(counts) - counts)[place] + entries[:, 1]] == owner).all()
    )


# ---------------------------------------------------------------- pixels <-> rays, with lens distortion
