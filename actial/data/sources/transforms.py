"""nerfstudio, instant-ngp and Blender captures (transforms.json), and LLFF's poses_bounds.npy."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from actial.config import CameraAxes, ExifRule
from actial.core.errors import Rejected
from actial.core.records import Capture, Frame, Lens
from actial.data.photos import read_header
from actial.data.sources import orientation
from actial.data.sources.base import MAX_LENGTH
from actial.data.sources.colmap_layouts import (
    MAX_DEPTH,
    PARTS,
    subfolder_names,
)
from actial.data.sources.frame_counts import FrameCounts
from actial.data.sources.llff import POSES_BOUNDS, llff_frames
from actial.data.sources.photo_files import (
    UNDISTORTED,
    MaskFiles,
    existing,
    find_photo,
    readable_name,
)
from actial.data.sources.pose_files import (
    MALFORMED,
    Pose,
    PosedSource,
    make_frame,
    without_scale,
)
from actial.viewpoint import geometry as g

SHOWN_ENTRY = 120  # characters of an entry that cannot be read
BEHIND_SHARE = 0.05  # of cameras that have the object ahead, if the axes are the other ones
MAX_RESIDUAL = 0.12  # of the optical axes about one point, in distances of the cameras
AXES = {
    CameraAxes.opengl: g.OPENGL_AXES,
    CameraAxes.opencv: None,
    CameraAxes.pytorch3d: g.PYTORCH3D_AXES,
}
AXES_IN_WORDS = {
    CameraAxes.opengl: "x right, y up, z back (OpenGL)",
    CameraAxes.opencv: "x right, y down, z forward (OpenCV)",
    CameraAxes.pytorch3d: "x left, y up, z forward (PyTorch3D)",
}
FISHEYE_MODELS = {"OPENCV_FISHEYE", "FISHEYE"}
PERSPECTIVE_MODELS = {
    *("", "PERSPECTIVE", "PINHOLE", "SIMPLE_PINHOLE"),
    *("SIMPLE_RADIAL", "RADIAL", "OPENCV"),
}


class TransformsSource(PosedSource):
    """Folders with transforms.json (nerfstudio, instant-ngp) or transforms_train.json (Blender).

    Or with poses_bounds.npy (LLFF). They lie at any depth below ROOT, or are
    ROOT itself. Poses are camera-to-world in OpenGL axes, or in those that
    source.axes names.
    """

    layout = f"NAME/transforms.json, NAME/transforms_train.json or NAME/{POSES_BOUNDS}"
    takes_mask_root = True
    FILES = ("transforms.json", "transforms_train.json", POSES_BOUNDS)

    def references(self) -> Iterator[str]:
        for folder in self._folders(self.root, MAX_DEPTH):
            yield readable_name(os.path.relpath(folder, self.root))

    def _folders(self, folder: Path, depth: int) -> Iterator[Path]:
        if any((folder / name).is_file() for name in self.FILES):
            yield folder
        elif depth > 0:
            for name in subfolder_names(folder):
                yield from self._folders(folder / name, depth - 1)

    def _captures_below(self, folder: Path) -> int:
        """Return how many captures lie in a capture's folder and are not read."""
        names = set(subfolder_names(folder)) - PARTS - {UNDISTORTED}
        return sum(1 for name in names for _ in self._folders(folder / name, MAX_DEPTH))

    def read_fields(self, reference: str) -> tuple[Capture, FrameCounts]:
        folder = existing(self.root, reference)
        file = next(folder / name for name in self.FILES if (folder / name).is_file())
        counts = FrameCounts()
        counts["captures_below"] += self._captures_below(folder)
        if file.name == POSES_BOUNDS:
            frames = llff_frames(folder, counts)
            total = len(frames) + counts["frame_pose"]
        else:
            shared = json.loads(file.read_bytes())
            rule = self.config.exif
            frames = list(self._frames(folder, shared, counts, rule))
            if rule is ExifRule.auto and orientation.lie_on_side(frames):
                # Sizes that the file leaves out are those of the stored pixels.
                counts = FrameCounts()
                frames = list(self._frames(folder, shared, counts, ExifRule.both))
            total = len(shared["frames"])
            self._check_axes(file, frames)
        label = self.root.resolve().name if reference == "." else reference
        frames.sort(key=lambda frame: frame.name)
        names = [frame.name for frame in frames]
        masks = MaskFiles.of_source(folder, reference, names, self.config.mask_root)
        for frame in frames:
            frame.mask_path = frame.mask_path or masks.path(frame.name)
        capture, counts = self.capture(
            label,
            label,
            frames,
            counts=counts,
            expects_masks=masks.expected,
            files_total=total,
        )
        if file.name != POSES_BOUNDS:
            self._check_upside_down(file, capture.frames, counts)
        return capture, counts.without_zeros()

    def _frames(
        self, folder: Path, shared: Mapping[str, Any], counts: FrameCounts, exif: ExifRule
    ) -> Iterator[Frame]:
        for entry in shared["frames"]:
            try:
                yield self._frame(folder, {**shared, **entry}, counts, exif)
            except Rejected as rejected:
                counts.reject(rejected)
            except MALFORMED as error:
                excerpt = json.dumps(entry)[:SHOWN_ENTRY]
                counts.drop("frame_entry", f"{folder}: {error!r} in {excerpt}")

    def _frame(
        self, folder: Path, fields: Mapping[str, Any], counts: FrameCounts, exif: ExifRule
    ) -> Frame:
        if not isinstance(fields["file_path"], str):
            raise Rejected("frame_name", detail=f"file_path is {fields['file_path']!r}")
        path = find_photo(folder, fields["file_path"])
        size = _size(fields, path, exif)
        lens = transforms_lens(fields, size)
        pose = self._pose(fields.get("transform_matrix"), counts)
        mask = None
        if fields.get("mask_path"):
            mask = _mask(folder, fields["mask_path"])
            counts["mask_missing"] += mask is None
        name = readable_name(os.path.relpath(path, folder))
        return make_frame(name, path, size, lens, pose, mask)

    def _pose(self, value: Any, counts: FrameCounts) -> Pose:
        """Return R and t of a camera-to-world matrix, without its scale; raises Rejected."""
        try:
            matrix = np.array(value, dtype=np.float64)
            matrix = matrix.reshape((3, 4) if matrix.size == 12 else (4, 4))
            last = matrix[3:, :3]
            matrix = matrix[:3].copy()
        except MALFORMED as error:
            raise Rejected("frame_pose", detail=f"transform_matrix is {value!r}") from error
        if not (np.abs(matrix) < MAX_LENGTH).all():
            raise Rejected(
                "frame_pose",
                detail=f"transform_matrix holds NaN or a number above {MAX_LENGTH:g}: {value!r}",
            )
        if last.any() and not matrix[:, 3].any():
            raise Rejected("frame_pose", detail=f"transform_matrix is transposed: {value!r}")
        matrix = without_scale(matrix, counts)
        whole = np.concatenate([matrix, [[0, 0, 0, 1]]])
        return g.from_camera_to_world(whole, AXES[self.config.axes])

    def _check_axes(self, file: Path, frames: list[Frame]) -> None:
        """Raise Rejected where every camera has the object behind it.

        Reading OpenCV axes as OpenGL's turns each camera about its own right axis by 180 degrees:
        the optical axes still meet in one point, but behind the cameras.
        """
        posed = [frame for frame in frames if g.are_rotations(frame.R[None])[0]]
        posed = [frame for frame in posed if (np.abs(frame.t) < MAX_LENGTH).all()]
        if len(posed) < 3:
            return
        centers = np.stack([frame.center for frame in posed])
        if np.allclose(centers, centers[0]):
            return  # cameras that stand still have the object nowhere
        focus = g.focus_of_rays(centers, np.stack([frame.R[2] for frame in posed]))
        if focus.in_front <= BEHIND_SHARE and focus.residual <= MAX_RESIDUAL:
            others = [CameraAxes.opengl]
            if self.config.axes is CameraAxes.opengl:
                others = [CameraAxes.opencv, CameraAxes.pytorch3d]
            raise Rejected(
                f"axes_look_{others[0].value}",
                detail=f"{file}: every camera has the object behind it: {_if_axes(others)}",
            )

    def _check_upside_down(
        self, file: Path, frames: Sequence[Frame], counts: FrameCounts
    ) -> None:
        """Raise Rejected where every camera looks up at the object; count level cameras.

        OpenCV's and PyTorch3D's axes differ by half a turn about the optical axis:
        read as the other, cameras above the object seem to be below it, upside
        down.
        """
        others = {
            CameraAxes.opencv: CameraAxes.pytorch3d,
            CameraAxes.pytorch3d: CameraAxes.opencv,
        }
        other = others.get(self.config.axes)
        if other is None:
            return
        looking_down = orientation.look_down(frames)
        counts["axes_unsure"] += len(frames) if looking_down is None else 0
        if looking_down is False:
            raise Rejected(
                "axes_upside_down",
                detail=f"{file}: every camera seems to look up at the object, upside down: "
                f"{_if_axes([other])}",
            )


def _if_axes(candidates: Sequence[CameraAxes]) -> str:
    return "; ".join(
        f"if its cameras' axes are {AXES_IN_WORDS[axes]}, set source.axes={axes.value}"
        for axes in candidates
    )


def _mask(folder: Path, written: Any) -> Path | None:
    """Return the mask that an entry names, or None where it is not in the capture's folder."""
    try:
        mask = find_photo(folder, str(written))
    except Rejected:
        return None
    return mask if os.path.isfile(mask) else None


def _size(fields: Mapping[str, Any], path: Path, exif: ExifRule) -> tuple[int, int]:
    """Return the size of the pixels that a pose belongs to: as written, else the photo's.

    Whoever left it out measured the photo as programs show it, unless the optical center or
    `exif` tells otherwise.
    """
    try:
        if fields.get("w") is not None and fields.get("h") is not None:
            return int(float(fields["w"])), int(float(fields["h"]))
        center = [float(fields.get(name) or 0) for name in ("cx", "cy")]
    except MALFORMED as error:
        raise Rejected(
            "frame_lens", detail=f"{path}: w, h, cx or cy is not a number"
        ) from error
    header = read_header(path)
    stored = (header.width, header.height)
    if header.orientation <= 4 or exif in (ExifRule.stored, ExifRule.both):
        return stored
    turned = stored[::-1]
    if exif is ExifRule.auto and all(center):
        return min((turned, stored), key=lambda size: abs(size[0] - 2 * center[0]))
    return turned


def transforms_lens(fields: Mapping[str, Any], size: tuple[int, int]) -> Lens:
    """Return the lens of one frame's fields; raises Rejected("frame_lens")."""
    model = str(fields.get("camera_model") or "").upper()
    fisheye = model in FISHEYE_MODELS or bool(fields.get("is_fisheye"))
    if not fisheye and model not in PERSPECTIVE_MODELS:
        raise Rejected("frame_lens", detail=f"camera_model={model} is not a photo's lens")
    try:
        focal = _focal(fields, size)
        names = ("k1", "k2", "k3", "k4") if fisheye else ("k1", "k2", "p1", "p2")
        distortion = tuple(float(fields.get(name) or 0.0) for name in names)
    except MALFORMED as error:
        raise Rejected("frame_lens", detail=f"no focal length: {error!r}") from error
    if fisheye:
        return "OPENCV_FISHEYE", (*focal, *distortion)
    return ("OPENCV", (*focal, *distortion)) if any(distortion) else ("PINHOLE", focal)


def _focal(
    fields: Mapping[str, Any], size: tuple[int, int]
) -> tuple[float, float, float, float]:
    """Return (fx, fy, cx, cy); a missing fy is fx, a missing center is the photo's."""
    width, height = size
    if fields.get("fl_x") is not None:
        fx = float(fields["fl_x"])
    else:
        angle = float(fields["camera_angle_x"])
        if not 0 < angle < math.pi:
            raise ValueError(f"camera_angle_x={angle:g} is no angle of view in radians")
        fx = width / 2 / math.tan(angle / 2)
    values = (fields.get("fl_y"), fields.get("cx"), fields.get("cy"))
    defaults = (fx, width / 2, height / 2)
    fy, cx, cy = (
        default if value is None else float(value)
        for value, default in zip(values, defaults, strict=True)
    )
    return fx, fy, cx, cy
