"""What readers of posed captures with their own pose files share; and WildRGB-D.

Each reader hands over OpenCV cameras, so the same cameras give the same labels whatever axes the
files are written in.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from actial.core.errors import Rejected, UserError
from actial.core.records import Capture, Frame, Lens
from actial.data.photos import SUFFIXES
from actial.data.sources.base import MAX_LENGTH, Source, inside, usable_frames
from actial.data.sources.frame_counts import FrameCounts
from actial.data.sources.photo_files import existing
from actial.viewpoint import geometry as g
from actial.viewpoint.lens import calibration

Pose = tuple[np.ndarray, np.ndarray]  # R, t
SCALE_TOLERANCE = 7e-4  # of a rotation's scale, before it is divided out: rounding has less
# what malformed files make the standard library and numpy raise
MALFORMED = (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError)


def make_frame(
    name: str,
    path: Path | None,
    size: tuple[int, int],
    lens: Lens,
    pose: Pose,
    mask: Path | None = None,
) -> Frame:
    """Return a frame of `size` (width, height); its place in time is given later."""
    width, height = size
    return Frame(
        name=name,
        path=path,
        width=width,
        height=height,
        K=calibration(lens),
        distortion=lens,
        R=pose[0],
        t=pose[1],
        time_index=0,
        mask_path=mask,
    )


def rotation_scale(R: np.ndarray, counts: FrameCounts) -> float:
    """Return the scale in a rotation (3, 3), counted; 1 where it has none or is no rotation."""
    with np.errstate(invalid="ignore", over="ignore"):
        determinant = np.linalg.det(R)
    if not 0 < determinant < np.inf or abs(np.cbrt(determinant) - 1) <= SCALE_TOLERANCE:
        return 1.0
    counts["rotation_scaled"] += 1
    return float(np.cbrt(determinant))


def without_scale(matrix: np.ndarray, counts: FrameCounts) -> np.ndarray:
    """Return a camera-to-world matrix (3 or 4, 4) whose rotation has no scale; counts it."""
    unscaled = matrix.copy()
    unscaled[:3, :3] /= rotation_scale(matrix[:3, :3], counts)
    return unscaled


class PosedSource(Source):
    """A source whose missing or malformed fields are counted rejections of one capture."""

    layout: str  # what is expected below the root

    def captures(self) -> list[str]:
        references = sorted(set(self.references()))
        if not references:
            raise UserError(
                f"source.root={self.root} holds no capture: expected {self.layout} below it "
                f"(source={self.config.kind.value})."
            )
        return references

    @abstractmethod
    def references(self) -> Iterator[str]:
        """Yield the references of all captures, in any order."""

    def read(self, reference: str) -> tuple[Capture, FrameCounts]:
        try:
            return self.read_fields(reference)
        except FileNotFoundError as error:
            raise Rejected("no_poses", detail=str(error)) from error
        except MALFORMED as error:
            cause = str(error) if isinstance(error, UnicodeError) else repr(error)
            raise Rejected("poses_corrupt", detail=f"{reference}: {cause}") from error

    @abstractmethod
    def read_fields(self, reference: str) -> tuple[Capture, FrameCounts]:
        """Read a capture as `read` does; may raise what malformed files make Python raise."""

    def photo_path(self, reference: str, name: str) -> Path:
        folder = existing(self.root, reference)
        inside(folder, name)
        return existing(folder, name)

    def capture(
        self,
        class_id: str,
        object_id: str,
        candidates: list[Frame],
        *,
        stored: bool = True,
        expects_masks: bool = False,
        counts: FrameCounts | None = None,
        **fields: Any,
    ) -> tuple[Capture, FrameCounts]:
        """Return the capture of the usable candidates, and the counts of its frames.

        `fields` are further fields of Capture. `stored=False`: the photos are not files.
        `expects_masks`: photos without a mask are counted too.
        """
        counts = FrameCounts() if counts is None else counts
        frames = usable_frames(candidates, counts, exif=self.config.exif, stored=stored)
        with_mask = sum(frame.mask_path is not None for frame in frames)
        counts["with_mask"] += with_mask
        if expects_masks:
            counts["without_mask"] += len(frames) - with_mask
        defaults = {"class_name": class_id.replace("_", " "), "files_total": len(candidates)}
        capture = Capture(
            source=self.config.kind.value,
            class_id=class_id,
            object_id=object_id,
            group_id=f"{class_id}/{object_id}",
            frames=frames,
            license=self.config.license,
            **{**defaults, **fields},
        )
        return capture, counts.without_zeros()

    def _enough(self, score: Any) -> bool:
        if self.config.min_quality is None:
            return True
        return isinstance(score, (int, float)) and score >= self.config.min_quality


# ---------------------------------------------------------------- WildRGB-D


class WildRgbdSource(PosedSource):
    """ROOT/category/scenes/SCENE/{rgb,masks}/NNNNN.png, cam_poses.txt, metadata.

    Only scenes of one object, which CATEGORY/types.json names.
    """

    layout = "CATEGORY/scenes/SCENE/rgb and CATEGORY/scenes/SCENE/cam_poses.txt"

    def references(self) -> Iterator[str]:
        for scenes in self.root.glob("*/scenes"):
            single = _single_scenes(scenes.parent / "types.json")
            for folder in scenes.iterdir():
                if (folder / "rgb").is_dir() and (single is None or folder.name in single):
                    yield f"{scenes.parent.name}/scenes/{folder.name}"

    def read_fields(self, reference: str) -> tuple[Capture, FrameCounts]:
        folder = self.root / reference
        metadata = json.loads((folder / "metadata").read_bytes())
        size = (int(metadata["w"]), int(metadata["h"]))
        K = metadata["K"]  # written column by column
        lens: Lens = ("PINHOLE", (float(K[0]), float(K[4]), float(K[6]), float(K[7])))
        photos = _by_number(folder / "rgb")
        masks = _by_number(folder / "masks") if (folder / "masks").is_dir() else {}
        frames = []
        counts = FrameCounts()
        for number, matrix in _pose_lines(folder / "cam_poses.txt", counts):
            path = photos.get(number, folder / "rgb" / f"{number:05d}.png")
            pose = g.from_camera_to_world(without_scale(matrix, counts))
            name = f"rgb/{path.name}"
            frames.append(make_frame(name, path, size, lens, pose, masks.get(number)))
        category, _, scene = reference.split("/")
        return self.capture(category, scene, frames, counts=counts, files_total=len(photos))


def _pose_lines(path: Path, counts: FrameCounts) -> list[tuple[int, np.ndarray]]:
    """Return (frame number, camera-to-world (4, 4)) of each line, in order of the numbers.

    A line that holds something else is a dropped frame.
    """
    poses = []
    for line in path.read_text(encoding="utf-8-sig").splitlines():
        fields = line.split()
        if not fields or fields[0].startswith("#"):
            continue
        try:
            matrix = np.array(fields[1:], dtype=np.float64).reshape(4, 4)
            if not (np.abs(matrix) < MAX_LENGTH).all():
                raise ValueError("NaN or an impossible distance")
            poses.append((int(float(fields[0])), matrix))
        except MALFORMED:
            counts.drop("frame_pose", f"{path}: {line[:80]!r} is no number and matrix")
    return sorted(poses, key=lambda pose: pose[0])


def _by_number(folder: Path) -> dict[int, Path]:
    return {
        int(path.stem): path
        for path in folder.iterdir()
        if path.stem.isdigit() and path.suffix.lower() in SUFFIXES
    }


def _single_scenes(path: Path) -> set[str] | None:
    """Return the scenes of one object, or None where the list is missing.

    The list is written either way round: scene -> type, or type -> scenes.
    """
    if not path.is_file():
        return None
    try:
        types = json.loads(path.read_bytes())
        if "single" in types:
            return set(types["single"])
        return {scene for scene, kind in types.items() if kind == "single"}
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is no JSON object of scenes and types ({error}): fetch it again."
        ) from error
