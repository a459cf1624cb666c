"""CO3D and uCO3D: PyTorch3D cameras in gzipped JSON and in SQLite; uCO3D's frames lie in videos."""

from __future__ import annotations

import gzip
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from actial.config import SourceConfig
from actial.core.errors import Rejected, UserError
from actial.core.json_stream import json_items
from actial.core.records import Capture, Frame, Lens
from actial.data.sources.base import decode, inside
from actial.data.sources.pose_files import PosedSource, make_frame
from actial.data.sources.video import VideoFrames
from actial.viewpoint import geometry as g


def ndc_lens(
    size: tuple[int, int],
    focal: Sequence[float] | np.ndarray,
    principal: Sequence[float] | np.ndarray,
    form: str,
) -> Lens:
    """PyTorch3D's normalised intrinsics (x left, y up, from the middle) -> pixels; `form` names what one unit is."""
    width, height = size
    half = (width / 2, height / 2) if form == "ndc_norm_image_bounds" else (min(size) / 2,) * 2
    fx, fy = focal[0] * half[0], focal[1] * half[1]
    return "PINHOLE", tuple(
        float(v)
        for v in (fx, fy, width / 2 - principal[0] * half[0], height / 2 - principal[1] * half[1])
    )


def json_array(path: Path) -> Iterator[dict]:
    """Items of a gzipped JSON array, one at a time: a category's annotations are hundreds of megabytes."""
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            yield from json_items(file, path)
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}): fetch it again.") from error


class Co3dSource(PosedSource):
    """ROOT/category/{frame,sequence}_annotations.jgz; photos are undistorted. One category's poses are held at a time."""

    layout = "CATEGORY/frame_annotations.jgz and CATEGORY/sequence_annotations.jgz"

    def __init__(self, config: SourceConfig) -> None:
        super().__init__(config)
        self._category, self._frames = "", {}  # type: str, dict[str, list[tuple]]

    def references(self) -> Iterator[str]:
        for path in self.root.glob("*/sequence_annotations.jgz"):
            for sequence in json_array(path):
                if self._enough(sequence.get("viewpoint_quality_score")):
                    yield f"{path.parent.name}/{sequence['sequence_name']}"

    def read_fields(self, reference: str) -> tuple[Capture, Counter[str]]:
        category, name = reference.split("/")
        if category != self._category:
            self._frames = {}
            for item in json_array(self.root / category / "frame_annotations.jgz"):
                self._frames.setdefault(item["sequence_name"], []).append(_co3d_fields(item))
            self._category = category
        rows = sorted(self._frames.get(name, []), key=lambda row: row[0])
        frames = [self._frame(*row[1:]) for row in rows if row[3] is not None]
        return self.capture(category, name, frames, files_total=len(rows))

    def _frame(self, path: str, size: tuple[int, int], view: Sequence, mask: str | None) -> Frame:
        R, T, focal, principal, form = view
        lens = ndc_lens(size, focal, principal, form)
        pose = g.from_pytorch3d(
            np.array(R, dtype=np.float64).reshape(3, 3), np.array(T, dtype=np.float64).reshape(3)
        )
        found = None if mask is None else inside(self.root, mask)
        return make_frame(
            path,
            inside(self.root, path),
            size,
            lens,
            pose,
            found if found is not None and found.is_file() else None,
        )

    def pixels(self, reference: str, name: str) -> np.ndarray:
        return decode(inside(self.root, name))


def _co3d_fields(item: Mapping) -> tuple:
    """(frame number, path, (width, height), view or None, mask path): what of an annotation is kept."""
    height, width = item["image"]["size"]
    view = item.get("viewpoint")
    if view is not None:
        form = view.get("intrinsics_format", "ndc_norm_image_bounds")
        view = (
            np.array(view["R"]),
            np.array(view["T"]),
            tuple(view["focal_length"]),
            tuple(view["principal_point"]),
            form,
        )
    return (
        item["frame_number"],
        item["image"]["path"],
        (width, height),
        view,
        (item.get("mask") or {}).get("path"),
    )


# ---------------------------------------------------------------- uCO3D


class Uco3dSource(PosedSource):
    """ROOT/metadata.sqlite with tables frame_annots and sequence_annots; arrays are packed as float32 and int32; frames lie in a video."""

    layout = "metadata.sqlite"
    FRAMES = (
        "SELECT frame_number, _image_size, _viewpoint_R, _viewpoint_T, _viewpoint_focal_length, _viewpoint_principal_point,"
        " _viewpoint_intrinsics_format FROM frame_annots WHERE sequence_name = ? ORDER BY frame_number"
    )
    TIME = "SELECT frame_timestamp FROM frame_annots WHERE sequence_name = ? AND frame_number = ?"
    SEQUENCE = (
        "SELECT category, super_category, _video_path FROM sequence_annots WHERE sequence_name = ?"
    )

    def __init__(self, config: SourceConfig) -> None:
        super().__init__(config)
        self._video = VideoFrames()
        if not (self.root / "metadata.sqlite").is_file():
            raise UserError(
                f"source.root={self.root} holds no capture: expected {self.layout} in it (source={config.kind.value})."
            )
        self._base = sqlite3.connect(f"file:{self.root / 'metadata.sqlite'}?mode=ro", uri=True)

    def _rows(self, query: str, *values: str | int) -> list[tuple]:
        try:
            return self._base.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise UserError(
                f"{self.root / 'metadata.sqlite'} cannot be read ({error}): fetch it again."
            ) from error

    def references(self) -> Iterator[str]:
        for name, score in self._rows(
            "SELECT sequence_name, _reconstruction_quality_viewpoint FROM sequence_annots"
        ):
            if self._enough(score):
                yield name

    def read_fields(self, reference: str) -> tuple[Capture, Counter[str]]:
        category, family, video = self._rows(self.SEQUENCE, reference)[0]
        if not inside(self.root, video or "").is_file():
            raise Rejected("no_video", detail=f"{reference}: {video}")
        rows = self._rows(self.FRAMES, reference)
        frames = [self._frame(*row) for row in rows if None not in row[1:6]]
        return self.capture(
            f"{family}_{category}",
            reference,
            frames,
            stored=False,
            class_name=category,
            files_total=len(rows),
        )

    def _frame(
        self,
        number: int,
        size: bytes,
        R: bytes,
        T: bytes,
        focal: bytes,
        principal: bytes,
        form: str | None,
    ) -> Frame:
        height, width = (int(side) for side in np.frombuffer(size, "<i4"))
        # the distortion column is left out: what it is for needs mask rays, and masks lie in a second video
        lens = ndc_lens(
            (width, height), floats(focal, 2), floats(principal, 2), form or "ndc_norm_image_bounds"
        )
        pose = g.from_pytorch3d(floats(R, 9).reshape(3, 3), floats(T, 3))
        return make_frame(f"{number:06d}", None, (width, height), lens, pose)

    def pixels(self, reference: str, name: str) -> np.ndarray:
        video = self._rows(self.SEQUENCE, reference)[0][2]
        time = self._rows(self.TIME, reference, int(name))[0][0]
        return self._video.read(inside(self.root, video), time, int(name))


def floats(packed: bytes, count: int) -> np.ndarray:
    values = np.frombuffer(packed, "<f4").astype(np.float64)
    if values.shape != (count,):
        raise ValueError(f"{len(values)} numbers instead of {count}")
    return values
