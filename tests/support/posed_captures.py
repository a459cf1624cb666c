"""Small posed captures on disk for the tests: cameras on an arc, under any similarity transform, in
COLMAP's triple packed by hand.
"""

import struct
from dataclasses import dataclass, field

import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation

from actial.viewpoint import geometry as g

SIZE = (96, 64)  # width, height
FOCAL = 90.0


@dataclass(kw_only=True)
class Rig:
    """Cameras (n,) around the origin before the similarity; degrees. `azimuth` grows to the
    camera's right.
    """

    azimuth: np.ndarray
    elevation: np.ndarray | float = 20.0
    rho: np.ndarray | float = 4.0
    roll: np.ndarray | float = 0.0
    turn: np.ndarray | float = 0.0  # heading error, to the right
    rotation: np.ndarray = field(default_factory=lambda: np.eye(3))
    scale: float = 1.0
    shift: np.ndarray = field(default_factory=lambda: np.zeros(3))
    # of the reconstruction: degrees of each rotation, percent of rho of each centre
    pose_noise: float = 0.0

    def poses(self) -> tuple[np.ndarray, np.ndarray]:
        """(R (n, 3, 3), t (n, 3)) world -> camera in the transformed world."""
        n = len(self.azimuth)
        elevation, rho, roll, turn = (
            np.broadcast_to(v, n) for v in (self.elevation, self.rho, self.roll, self.turn)
        )
        a = np.radians(self.azimuth)
        center = rho[:, None] * np.stack(
            [np.sin(a), -np.cos(a), np.tan(np.radians(elevation))], axis=1
        )
        forward = Rotation.from_rotvec(-np.radians(turn)[:, None] * [0, 0, 1.0]).apply(
            -center / np.linalg.norm(center, axis=1, keepdims=True)
        )
        right = np.cross(forward, [0, 0, 1.0])
        right /= np.linalg.norm(right, axis=1, keepdims=True)
        R = np.stack([right, np.cross(forward, right), forward], axis=1)
        R = (
            Rotation.from_euler("z", np.array(roll)[:, None], degrees=True)
            .as_matrix()
            .reshape(-1, 3, 3)
            @ R
        )
        if self.pose_noise:
            rng = np.random.default_rng(n)
            R = (
                Rotation.from_rotvec(
                    np.radians(self.pose_noise) * rng.normal(size=(n, 3))
                ).as_matrix()
                @ R
            )
            center = center + self.pose_noise / 100 * rho[:, None] * rng.normal(size=(n, 3))
        R = R @ self.rotation.T
        center = self.scale * center @ self.rotation.T + self.shift
        return R, -np.einsum("nij,nj->ni", R, center)


def random_similarity(rng: np.random.Generator) -> dict:
    return {
        "rotation": Rotation.random(rng=rng).as_matrix(),
        "scale": float(np.exp(rng.uniform(-2, 2))),
        "shift": rng.normal(0, 5, 3),
    }


def pack_triple(
    rig: Rig,
    names: list[str],
    *,
    points: int = 120,
    size: tuple[int, int] = SIZE,
    noise_px: float = 0.3,
) -> dict[str, bytes]:
    """cameras.bin, images.bin and points3D.bin: one SIMPLE_RADIAL camera, every point seen by every
    photo.
    """
    rng = np.random.default_rng(0)
    R, t = rig.poses()
    world = rig.scale * rng.uniform(-0.4, 0.4, (points, 3)) @ rig.rotation.T + rig.shift
    cameras = struct.pack("<QiiQQ4d", 1, 1, 2, *size, FOCAL, size[0] / 2, size[1] / 2, 0.0)
    quaternions = np.roll(Rotation.from_matrix(R).as_quat(), 1, axis=1)
    images = [struct.pack("<Q", len(names))]
    for i, name in enumerate(names):
        local = world @ R[i].T + t[i]
        pixels = (
            FOCAL * local[:, :2] / local[:, 2:]
            + np.array(size) / 2
            + rng.uniform(-noise_px, noise_px, (points, 2))
        )
        images.append(
            struct.pack("<i7di", i + 1, *quaternions[i], *t[i], 1)
            + name.encode()
            + b"\0"
            + struct.pack("<Q", points)
        )
        images += [struct.pack("<ddq", *pixels[k], k + 1) for k in range(points)]
    cloud = [struct.pack("<Q", points)]
    for k in range(points):
        cloud.append(struct.pack("<Q3d3BdQ", k + 1, *world[k], 90, 90, 90, 0.3, len(names)))
        cloud += [struct.pack("<ii", i + 1, k) for i in range(len(names))]
    return {
        "cameras.bin": cameras,
        "images.bin": b"".join(images),
        "points3D.bin": b"".join(cloud),
    }


def write_capture(
    folder,
    rig: Rig,
    *,
    size: tuple[int, int] = SIZE,
    points: int = 120,
    exif_orientation: int | None = None,
):
    """images/NNN.jpg and sparse/0 below `folder`; the photos are coloured noise that tells them
    apart.
    """
    n = len(rig.azimuth)
    names = [f"{i:03d}.jpg" for i in range(n)]
    (folder / "images").mkdir(parents=True)
    (folder / "sparse" / "0").mkdir(parents=True)
    exif = Image.Exif()
    if exif_orientation is not None:
        exif[0x0112] = exif_orientation
    for i, name in enumerate(names):
        pixels = np.random.default_rng(i).integers(
            0, 256, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8
        )
        Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST).save(
            folder / "images" / name, quality=90, exif=exif
        )
    for name, data in pack_triple(rig, names, points=points, size=size).items():
        (folder / "sparse" / "0" / name).write_bytes(data)
    return folder


def arc(n: int = 16, span: float = 150.0, **held) -> Rig:
    return Rig(azimuth=np.linspace(0, span, n), **held)


def to_pytorch3d(R: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """OpenCV (R, t) as PyTorch3D stores it: row vectors, x left, y up."""
    return np.swapaxes(g.PYTORCH3D_AXES @ R, -1, -2), t @ g.PYTORCH3D_AXES


def to_camera_to_world(
    R: np.ndarray, t: np.ndarray, axes: np.ndarray | None = None
) -> np.ndarray:
    """OpenCV (R, t) as a camera-to-world matrix (4, 4) whose camera axes are `axes`."""
    pose = np.eye(4)
    pose[:3, :3] = R.T @ (np.eye(3) if axes is None else axes)
    pose[:3, 3] = -R.T @ t
    return pose
