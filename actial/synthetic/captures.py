"""Procedural object captures in MVImgNet's layout, read by the same code as real ones.

ROOT/categories.csv                       class_id,name
ROOT/<class_id>/<object_id>/images/NNN.jpg
                           /sparse/0/{cameras,images,points3D}.bin
                           /object.json   class_name, front, centre, left, up, attributes (world fra
"""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation

from actial.core.atomic_io import write_text
from actial.core.process import spawn_pool
from actial.core.seeding import Draw, hash_int
from actial.synthetic.colmap_writer import SparseModel, write_sparse_model
from actial.synthetic.objects import CATEGORIES, FRONT, LEFT, ObjectSpec, make_object
from actial.synthetic.render import Cameras, orbit_cameras, render_views, to_camera

Job = TypeVar("Job")
Result = TypeVar("Result")

CHUNK = 8  # jobs handed to a process at a time
POINTS = 240  # on the surface of each object
PIXEL_NOISE = 0.35  # standard deviation of an observed point


@dataclass(slots=True, frozen=True)
class CaptureJob:
    """One object to write; its bytes depend on these values alone."""

    category: str
    index: int
    frames: int
    size: int
    seed: int

    @property
    def object_id(self) -> str:
        return f"{hash_int('capture', self.seed, self.category, self.index) & 0xFFFFFFFF:08x}"

    def folder(self, root: Path) -> Path:
        return root / str(CATEGORIES[self.category].class_id) / self.object_id


def capture_jobs(
    n_objects: int, frames: int, size: int, seed: int, categories: Sequence[str]
) -> list[CaptureJob]:
    """Return jobs for `n_objects` objects, spread evenly over the categories."""
    return [
        CaptureJob(categories[i % len(categories)], i // len(categories), frames, size, seed)
        for i in range(n_objects)
    ]


def write_captures(root: Path, jobs: Sequence[CaptureJob], workers: int) -> Iterator[int]:
    """Write every job whose folder is not there yet; yield 1 as each is done, for a progress bar.

    The bytes are the same for any number of workers. A capture is written under a temporary name
    and renamed, so a killed run leaves none half written.
    """
    root.mkdir(parents=True, exist_ok=True)
    write_text(
        root / "categories.csv",
        "".join(f"{c.class_id},{c.name}\n" for c in CATEGORIES.values()),
    )
    return in_processes(partial(write_capture, root), jobs, workers)


def in_processes(
    function: Callable[[Job], Result], jobs: Sequence[Job], workers: int
) -> Iterator[Result]:
    """Yield results in the order of the jobs, from `workers` processes (0 = one per core)."""
    count = min(workers or os.cpu_count() or 1, -(-len(jobs) // CHUNK))
    if count <= 1:
        yield from map(function, jobs)
        return
    with spawn_pool(count) as pool:
        yield from pool.map(function, jobs, chunksize=CHUNK)


def write_capture(root: Path, job: CaptureJob) -> int:
    """Write one capture folder unless it is there; return 1."""
    folder = job.folder(root)
    if folder.exists():
        return 1
    temporary = folder.with_name(f".{folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    (temporary / "images").mkdir(parents=True)
    draw = Draw("capture", job.seed, job.category, job.index)
    spec = make_object(hash_int("shape", job.seed, job.category, job.index), job.category)
    images, cameras = render_views(
        spec, orbit_cameras(arc(job.frames, draw), job.size, draw), job.size, job.seed
    )
    names = [f"{i:03d}.jpg" for i in range(len(images))]
    for name, image in zip(names, images, strict=True):
        (temporary / "images" / name).write_bytes(jpeg(image))
    turn = Rotation.from_quat(np.array([_gaussian(draw) for _ in range(4)])).as_matrix()
    scale, origin = float(np.exp(draw.uniform(-1.5, 1.5))), draw.uniforms(-5.0, 5.0, 3)
    write_sparse_model(
        temporary / "sparse" / "0",
        sparse_model(spec, cameras, names, job.size, turn, scale, origin, draw),
    )
    sidecar = {
        "class_name": job.category,
        "front": (turn @ FRONT).tolist(),
        "left": (turn @ LEFT).tolist(),
        "up": turn[:, 2].tolist(),
        "centre": origin.tolist(),
        "attributes": spec.attributes,
    }
    (temporary / "object.json").write_text(json.dumps(sidecar, indent=1) + "\n")
    os.replace(temporary, folder)
    return 1


def arc(frames: int, draw: Draw) -> np.ndarray:
    """Return the azimuths (frames,) in degrees of one walk around the object.

    It starts anywhere, goes either way and up to a full round, in uneven steps of at most about 25
    degrees.
    """
    step = draw.pick((-1.0, 1.0)) * min(25.0 * draw.uniform(0.72, 0.88), 345.0 / (frames - 1))
    return draw.uniform(0.0, 360.0) + np.cumsum(step * draw.uniforms(0.8, 1.2, frames))


def sparse_model(
    spec: ObjectSpec,
    cameras: Cameras,
    names: list[str],
    size: int,
    turn: np.ndarray,
    scale: float,
    origin: np.ndarray,
    draw: Draw,
) -> SparseModel:
    """Return the reconstruction of the capture as COLMAP would have made it.

    Its world is turned by `turn` (3, 3), scaled by `scale`, and moved to `origin` (3,).
    """
    mesh = spec.mesh
    corners = mesh.vertices[mesh.faces]
    area = np.linalg.norm(
        np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1
    )
    u = draw.uniforms(0.0, 1.0, POINTS, 3)
    face = np.searchsorted(np.cumsum(area) / area.sum(), u[:, 0]).clip(max=len(area) - 1)
    a, b = np.where((u[:, 1] + u[:, 2] > 1)[:, None], 1 - u[:, 1:], u[:, 1:]).T
    points = (
        corners[face, 0]
        + a[:, None] * (corners[face, 1] - corners[face, 0])
        + b[:, None] * (corners[face, 2] - corners[face, 0])
    )

    local = to_camera(points, cameras)
    true = np.einsum("nij,npj->npi", cameras.K, local / local[..., 2:])[..., :2]
    noise = PIXEL_NOISE * np.sqrt(3.0) * draw.uniforms(-1.0, 1.0, len(cameras), POINTS, 2)
    outward = (cameras.centers()[:, None] - points) * mesh.normals()[face]
    visible = (outward.sum(-1) > 0) & ((true > 1) & (true < size - 1)).all(-1)
    uv = np.where(visible[..., None], true + noise, np.nan)
    distance = np.where(visible, np.linalg.norm(noise, axis=-1), 0.0)
    return SparseModel(
        names=names,
        R=cameras.R @ turn.T,
        t=scale * cameras.t - np.einsum("nij,j->ni", cameras.R @ turn.T, origin),
        K=cameras.K,
        size=(size, size),
        points=scale * points @ turn.T + origin,
        colors=mesh.colors[face].astype(np.uint8),
        uv=uv,
        error_px=distance.sum(0) / np.maximum(visible.sum(0), 1),
    )


def jpeg(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def _gaussian(draw: Draw) -> float:
    """Return a normal draw (Box-Muller); four of them, normalized, are a uniform rotation."""
    return float(
        np.sqrt(-2.0 * np.log(1.0 - draw.uniform())) * np.cos(2.0 * np.pi * draw.uniform())
    )
