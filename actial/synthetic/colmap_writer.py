"""Writer of COLMAP's binary models without rigs, the form that MVImgNet ships.

Byte layout: COLMAP's `scene/reconstruction_io`.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

PINHOLE = 1
_POINT = np.dtype(
    [("id", "<u8"), ("xyz", "<f8", 3), ("rgb", "u1", 3), ("error", "<f8"), ("length", "<u8")]
)
_OBSERVATION = np.dtype([("xy", "<f8", 2), ("point", "<i8")])


@dataclass(slots=True, frozen=True)
class SparseModel:
    """One reconstruction; photo i has camera i, ids start at 1."""

    names: list[str]
    R: np.ndarray  # (N, 3, 3) world -> camera, OpenCV axes
    t: np.ndarray  # (N, 3)
    K: np.ndarray  # (N, 3, 3)
    size: tuple[int, int]  # width, height
    points: np.ndarray  # (P, 3)
    colors: np.ndarray  # (P, 3) uint8
    uv: np.ndarray  # (N, P, 2) pixels; NaN where a point was not observed
    error_px: np.ndarray  # (P,) mean reprojection error


def write_sparse_model(folder: Path, model: SparseModel) -> None:
    """Write cameras.bin, images.bin and points3D.bin into `folder`.

    Points seen by fewer than two photos are left out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    seen = np.isfinite(model.uv[..., 0])
    tracked = np.flatnonzero(seen.sum(0) >= 2)
    seen, uv = seen[:, tracked], model.uv[:, tracked]
    # index of a point among the observations of one photo
    observation = np.cumsum(seen, 1) - 1
    for name, data in (
        ("cameras.bin", _cameras(model)),
        ("images.bin", _images(model, seen, uv)),
        ("points3D.bin", _points(model, tracked, seen, observation)),
    ):
        temporary = folder / f".{name}"
        temporary.write_bytes(data)
        os.replace(temporary, folder / name)


def _cameras(model: SparseModel) -> bytes:
    rows = [
        struct.pack("<iiQQ4d", i, PINHOLE, *model.size, K[0, 0], K[1, 1], K[0, 2], K[1, 2])
        for i, K in enumerate(model.K, start=1)
    ]
    return struct.pack("<Q", len(rows)) + b"".join(rows)


def _images(model: SparseModel, seen: np.ndarray, uv: np.ndarray) -> bytes:
    quaternions = np.roll(
        Rotation.from_matrix(model.R).as_quat(), 1, axis=1
    )  # scipy's xyzw -> wxyz
    rows = [struct.pack("<Q", len(model.names))]
    for i, name in enumerate(model.names):
        observations = np.zeros(seen[i].sum(), _OBSERVATION)
        observations["xy"] = uv[i, seen[i]]
        observations["point"] = np.flatnonzero(seen[i]) + 1
        rows.append(
            struct.pack("<i7di", i + 1, *quaternions[i], *model.t[i], i + 1)
            + name.encode()
            + b"\0"
        )
        rows.append(struct.pack("<Q", len(observations)) + observations.tobytes())
    return b"".join(rows)


def _points(
    model: SparseModel, tracked: np.ndarray, seen: np.ndarray, observation: np.ndarray
) -> bytes:
    heads = np.zeros(len(tracked), _POINT)
    heads["id"] = np.arange(1, len(tracked) + 1)
    heads["xyz"] = model.points[tracked]
    heads["rgb"] = model.colors[tracked]
    heads["error"] = model.error_px[tracked]
    heads["length"] = seen.sum(0)
    point, photo = np.nonzero(seen.T)
    tracks = np.stack([photo + 1, observation[photo, point]], 1).astype("<i4")
    ends = np.cumsum(seen.sum(0))[:-1]
    rows = [
        head.tobytes() + track.tobytes()
        for head, track in zip(heads, np.split(tracks, ends), strict=True)
    ]
    return struct.pack("<Q", len(rows)) + b"".join(rows)
