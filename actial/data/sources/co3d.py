"""CO3D: PyTorch3D cameras in gzipped JSON."""

from __future__ import annotations

import gzip
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from actial.config import SourceConfig
from actial.core.errors import Rejected, UserError
from actial.core.json_stream import json_items
from actial.core.records import Capture, Frame, Lens
from actial.data.sources.base import inside
from actial.data.sources.frame_counts import FrameCounts
from actial.data.sources.photo_files import (
    ABSOLUTE,
    FILE_URL,
    existing,
    find_photo,
    readable_name,
)
from actial.data.sources.pose_files import (
    MALFORMED,
    Pose,
    PosedSource,
    make_frame,
    rotation_scale,
)
from actial.viewpoint import geometry as g

# one unit is half the width in x and half the height in y
BOUNDS_FORMAT = "ndc_norm_image_bounds"
UNREADABLE_CATEGORY = "?"  # in place of a sequence's name, of a category that cannot be read


def ndc_lens(
    size: tuple[int, int],
    focal: Sequence[float] | np.ndarray,
    principal: Sequence[float] | np.ndarray,
    form: str,
) -> Lens:
    """Return PyTorch3D's normalized intrinsics in pixels of a photo of `size` (width, height).

    They count x to the left and y upwards, from the middle; `form` names what one unit is.
    """
    width, height = size
    half = (width / 2, height / 2) if form == BOUNDS_FORMAT else (min(size) / 2,) * 2
    fx, fy = focal[0] * half[0], focal[1] * half[1]
    cx, cy = width / 2 - principal[0] * half[0], height / 2 - principal[1] * half[1]
    return "PINHOLE", (float(fx), float(fy), float(cx), float(cy))


def pytorch3d_pose(R: np.ndarray, T: np.ndarray, counts: FrameCounts) -> Pose:
    """Return PyTorch3D's R (3, 3) and T (3,) as a pose whose rotation has no scale; counts it."""
    scale = rotation_scale(R, counts)  # of the whole projection, so that the center stays
    return g.from_pytorch3d(R / scale, T / scale)


def json_array(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the items of a gzipped JSON array one at a time; raises UserError.

    A category's annotations are hundreds of megabytes.
    """
    try:
        with gzip.open(path, "rt", encoding="utf-8-sig") as file:
            yield from json_items(file, path)
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}): fetch it again.") from error


class Co3dFrame(NamedTuple):
    """What of a frame's annotation is held in memory."""

    number: int
    path: Any  # of the photo as it is written, below the root
    size: tuple[int, int]  # width, height
    view: tuple[Any, ...] | None  # R, T, focal length, principal point, format
    mask: Any  # path, or None


class Co3dSource(PosedSource):
    """ROOT/category/{frame,sequence}_annotations.jgz; photos are undistorted.

    One category's poses are held at a time. A category whose annotations cannot be read is
    counted as a rejected capture and does not stop the others.
    """

    layout = "CATEGORY/frame_annotations.jgz and CATEGORY/sequence_annotations.jgz"

    def __init__(self, config: SourceConfig) -> None:
        super().__init__(config)
        self._category = ""
        self._frames: dict[str, list[Co3dFrame]] = {}
        self._broken: Counter[str] = Counter()  # sequence -> entries that lack a field

    def references(self) -> Iterator[str]:
        errors: list[UserError] = []
        sequences = 0
        for path in sorted(self.root.glob("*/sequence_annotations.jgz")):
            try:
                names = self._sequences(path)
            except UserError as error:
                errors.append(error)
                yield f"{path.parent.name}/{UNREADABLE_CATEGORY}"
                continue
            sequences += len(names)
            yield from (f"{path.parent.name}/{name}" for name in names)
        if errors and not sequences:
            raise errors[0]

    def _sequences(self, path: Path) -> list[str]:
        try:
            return [
                str(sequence["sequence_name"])
                for sequence in json_array(path)
                if self._enough(sequence.get("viewpoint_quality_score"))
            ]
        except KeyError as error:
            raise UserError(f"{path}: a sequence has no {error}: fetch it again.") from error

    def read_fields(self, reference: str) -> tuple[Capture, FrameCounts]:
        category, name = reference.split("/")
        if name == UNREADABLE_CATEGORY:
            raise Rejected(
                "category_unreadable",
                detail=f"{self.root / category}/sequence_annotations.jgz: fetch it again",
            )
        if category != self._category:
            self._frames = self._read_category(category)
            self._category = category
        annotations = sorted(self._frames.get(name, []), key=lambda frame: frame.number)
        counts, frames = FrameCounts(), []
        for item in annotations:
            if item.view is None:
                counts.drop("frame_pose", f"{item.path}: no viewpoint")
                continue
            try:
                frames.append(self._frame(reference, item, counts))
            except Rejected as rejected:
                counts.reject(rejected)
            except MALFORMED as error:
                counts.drop("frame_entry", f"{item.path}: {error!r}")
        total = len(annotations) + self._broken[name]
        if self._broken[name]:
            counts.drop("frame_entry", f"{name}: entries lack a field", self._broken[name])
        return self.capture(category, name, frames, counts=counts, files_total=total)

    def _read_category(self, category: str) -> dict[str, list[Co3dFrame]]:
        frames: dict[str, list[Co3dFrame]] = {}
        self._broken.clear()
        try:
            for item in json_array(self.root / category / "frame_annotations.jgz"):
                name = str(item["sequence_name"])
                try:
                    frames.setdefault(name, []).append(_co3d_frame(item))
                except MALFORMED:
                    self._broken[name] += 1
        except UserError as error:
            raise Rejected("category_unreadable", detail=str(error)) from error
        return frames

    def _frame(self, reference: str, item: Co3dFrame, counts: FrameCounts) -> Frame:
        assert item.view is not None
        R, T, focal, principal, form = item.view
        lens = ndc_lens(item.size, focal, principal, form)
        pose = pytorch3d_pose(
            np.array(R, dtype=np.float64).reshape(3, 3),
            np.array(T, dtype=np.float64).reshape(3),
            counts,
        )
        path = self._file(reference, item.path)
        name = readable_name(os.path.relpath(path, self.root))
        mask = None
        if item.mask is not None:
            mask = self._mask(reference, item.mask)
            counts["mask_missing"] += mask is None
        return make_frame(name, path, item.size, lens, pose, mask)

    def _file(self, reference: str, written: Any) -> Path:
        """Return the file that an annotation names; raises Rejected("frame_name").

        An absolute path, of any machine, leads into the sequence's folder.
        """
        if not isinstance(written, str):
            raise Rejected("frame_name", detail=f"{reference}: path is {written!r}")
        text = written.replace("\\", "/")
        if ABSOLUTE.match(text) or FILE_URL.match(text):
            return find_photo(self.root / reference, text)
        return existing(self.root, str(inside(Path(), text)))

    def _mask(self, reference: str, written: Any) -> Path | None:
        try:
            mask = self._file(reference, written)
        except Rejected:
            return None
        return mask if os.path.isfile(mask) else None

    def photo_path(self, reference: str, name: str) -> Path:
        return existing(self.root, str(inside(Path(), name)))


def _co3d_frame(item: Mapping[str, Any]) -> Co3dFrame:
    height, width = item["image"]["size"]
    view = item.get("viewpoint")
    if view is not None:
        view = (
            np.array(view["R"]),
            np.array(view["T"]),
            tuple(view["focal_length"]),
            tuple(view["principal_point"]),
            view.get("intrinsics_format", BOUNDS_FORMAT),
        )
    mask = item.get("mask")
    if isinstance(mask, Mapping):
        mask = mask.get("path")
    size = (int(width), int(height))
    return Co3dFrame(int(item["frame_number"]), item["image"]["path"], size, view, mask)
