"""Cameras around an object, and the photographs that they take with the rasterizer."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from actial.core.seeding import Draw
from actial.synthetic.objects import ObjectSpec
from actial.synthetic.rasterizer import EMPTY, visible_faces

SAMPLES = 2  # per pixel and axis
FOCAL = 2.2  # focal length over image size
SPREAD = 0.11  # of the silhouette's centroid about the middle of the frame, either way
# from an object of bounding radius 1, whose sphere then spans 0.38 to 0.5 of the frame
DISTANCE = 4.6


@dataclass(slots=True, frozen=True)
class Cameras:
    """N pinhole cameras in OpenCV axes (x right, y down, z forward), pixel centers at +0.5.

    A world point x is R x + t in the camera's axes.
    """

    R: np.ndarray  # (N, 3, 3)
    t: np.ndarray  # (N, 3)
    K: np.ndarray  # (N, 3, 3)
    azimuth_deg: (
        np.ndarray
    )  # (N,) about the object's front, counter-clockwise seen from above, in [0, 360)
    elevation_deg: np.ndarray  # (N,)

    def __len__(self) -> int:
        return len(self.t)

    def centers(self) -> np.ndarray:
        return -np.einsum("nji,nj->ni", self.R, self.t)


def look_at(
    center: np.ndarray, target: np.ndarray, roll_deg: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Return R, t of a camera at `center` aimed at `target`, upright along z but for a roll."""
    x, y, z = (target - center) / np.linalg.norm(target - center)
    r = np.hypot(x, y)
    forward, right = np.array([x, y, z]), np.array([y / r, -x / r, 0.0])
    down = np.array(
        [x * z / r, y * z / r, -r]
    )  # forward x right, written out: np.cross is slow on three numbers
    c, s = np.cos(np.radians(roll_deg)), np.sin(np.radians(roll_deg))
    R = np.stack([c * right + s * down, c * down - s * right, forward])
    return R, -R @ center


def pinhole(size: int, focal: float = FOCAL) -> np.ndarray:
    return np.array([[focal * size, 0, size / 2], [0, focal * size, size / 2], [0, 0, 1.0]])


def orbit_cameras(azimuths_deg: np.ndarray, size: int, draw: Draw) -> Cameras:
    """Return cameras around the origin, with jitter in height, distance, aim and roll."""
    base = draw.uniform(8.0, 32.0)
    poses, elevations = [], []
    for azimuth in np.radians(azimuths_deg):
        elevation = float(np.clip(base + draw.uniform(-6.0, 6.0), 5.0, 35.0))
        e, distance = np.radians(elevation), DISTANCE * draw.uniform(0.96, 1.25)
        center = distance * np.array(
            [np.cos(e) * np.cos(azimuth), np.cos(e) * np.sin(azimuth), np.sin(e)]
        )
        poses.append(look_at(center, draw.uniforms(-0.25, 0.25, 3), draw.uniform(-4.0, 4.0)))
        elevations.append(elevation)
    R, t = (np.stack(a) for a in zip(*poses, strict=True))
    return Cameras(
        R,
        t,
        np.tile(pinhole(size), (len(t), 1, 1)),
        np.mod(azimuths_deg, 360.0),
        np.array(elevations),
    )


def render_views(
    spec: ObjectSpec, cameras: Cameras, size: int, seed: int
) -> tuple[np.ndarray, Cameras]:
    """Return photographs of one object, uint8 (N, size, size, 3), and the cameras of their crops.

    Every photo is cropped so that the silhouette's centroid falls on a point drawn for that photo
    alone: where the object stands in the frame says nothing about how the camera moved. Light and
    background are drawn per photo too.
    """
    draw = Draw("photo", spec.category, spec.seed, seed)
    raster = size * SAMPLES
    K = cameras.K.copy()
    ahead = cameras.t[:, :2] / cameras.t[:, 2:]
    # the origin in the middle, so that nothing is cut before the crop
    K[:, :2, 2] = size / 2 - K[:, (0, 1), (0, 1)] * ahead
    seen = visible_faces(
        to_camera(spec.mesh.vertices, cameras), spec.mesh.faces, scaled(K), raster, raster
    )
    normals = spec.mesh.normals()
    images = np.empty((len(cameras), size, size, 3), np.uint8)
    for i, faces in enumerate(seen):
        rows, columns = np.nonzero(faces != EMPTY)
        goal = draw.uniforms(0.5 - SPREAD, 0.5 + SPREAD, 2) * raster
        dx, dy = round(goal[0] - columns.mean() - 0.5), round(goal[1] - rows.mean() - 0.5)
        K[i, :2, 2] += (dx / SAMPLES, dy / SAMPLES)
        # above and behind the photographer
        lamp = (
            np.array([draw.uniform(-0.9, 0.9), draw.uniform(-1.0, -0.4), -1.0]) @ cameras.R[i]
        )
        shading = shaded(spec.mesh.colors, normals, lamp, draw.uniform(0.45, 0.65))
        images[i] = develop(shifted(faces, dx, dy), shading, backdrop(size, draw))
    return images, replace(cameras, K=K)


def to_camera(points: np.ndarray, cameras: Cameras) -> np.ndarray:
    """Return world points (V, 3) in the axes of each camera (N, V, 3)."""
    return np.einsum("nij,vj->nvi", cameras.R, points) + cameras.t[:, None]


def scaled(K: np.ndarray) -> np.ndarray:
    """Return the intrinsics of the oversampled raster."""
    return K * np.array([[SAMPLES], [SAMPLES], [1.0]])


def shifted(faces: np.ndarray, dx: int, dy: int) -> np.ndarray:
    """Return the image moved by whole samples; what leaves the frame is cut."""
    height, width = faces.shape
    out = np.full_like(faces, EMPTY)
    out[max(dy, 0) : height + min(dy, 0), max(dx, 0) : width + min(dx, 0)] = faces[
        max(-dy, 0) : height + min(-dy, 0), max(-dx, 0) : width + min(-dx, 0)
    ]
    return out


def shaded(
    colors: np.ndarray, normals: np.ndarray, lamp: np.ndarray, ambient: float
) -> np.ndarray:
    """Return the color (M, 3) of every face under one far lamp in direction `lamp` (3,).

    `ambient` is the light of a face that is turned away.
    """
    light = ambient + (1.12 - ambient) * np.clip(
        normals @ lamp / np.linalg.norm(lamp), 0.0, None
    )
    return colors * light[:, None]


def backdrop(size: int, draw: Draw) -> np.ndarray:
    """Return a plain, graded or blotchy background, float (size, size, 3).

    It may be pale or dark but is never saturated.
    """
    kind = draw.pick(("plain", "graded", "blotchy"))
    base = draw.uniform(90.0, 215.0) + draw.uniforms(-14.0, 14.0, 3)
    if kind == "plain":
        return np.broadcast_to(base, (size, size, 3))
    cells = 2 if kind == "graded" else 5
    grid = (
        base
        + draw.uniforms(-30.0, 30.0, cells, cells)[..., None]
        + draw.uniforms(-8.0, 8.0, cells, cells, 3)
    )
    weights = _bilinear(cells, size)
    return np.tensordot(weights, np.tensordot(weights, grid, (1, 1)), (1, 1))


def _bilinear(cells: int, size: int) -> np.ndarray:
    at = np.linspace(0.0, cells - 1.0, size)
    return np.clip(1.0 - np.abs(at[:, None] - np.arange(cells)), 0.0, None)


def develop(faces: np.ndarray, colors: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Return the image, uint8 (height, width, 3), of oversampled face indices.

    `background` (height, width, 3) shows where no face is.
    """
    palette = np.concatenate([np.clip(colors, 0, 255), np.zeros((1, 3))]).astype(
        np.float32
    )  # EMPTY indexes the last row
    empty = (faces == EMPTY).astype(np.float32)[..., None]
    return (
        (_pooled(palette[faces]) + _pooled(empty) * background.astype(np.float32) + 0.5)
        .clip(0, 255)
        .astype(np.uint8)
    )


def _pooled(samples: np.ndarray) -> np.ndarray:
    """Return the mean of each pixel's samples."""
    total = samples[::SAMPLES, ::SAMPLES].copy()
    for i, j in np.ndindex(SAMPLES, SAMPLES):
        if i or j:
            total += samples[i::SAMPLES, j::SAMPLES]
    return total / np.float32(SAMPLES**2)
