"""uCO3D: PyTorch3D cameras in SQLite, frames in videos."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from actial.config import SourceConfig
from actial.core.errors import Rejected, UserError
from actial.core.records import Capture, Frame
from actial.data.sources.base import inside
from actial.data.sources.co3d import BOUNDS_FORMAT, ndc_lens, pytorch3d_pose
from actial.data.sources.frame_counts import FrameCounts
from actial.data.sources.pose_files import MALFORMED, PosedSource, make_frame
from actial.data.sources.video import VideoFrames

DATABASE = "metadata.sqlite"
FRAMES = """
SELECT frame_number, _image_size, _viewpoint_R, _viewpoint_T, _viewpoint_focal_length,
       _viewpoint_principal_point, _viewpoint_intrinsics_format
FROM frame_annots WHERE sequence_name = ? ORDER BY frame_number
"""
TIME = "SELECT frame_timestamp FROM frame_annots WHERE sequence_name = ? AND frame_number = ?"
SEQUENCE = (
    "SELECT category, super_category, _video_path FROM sequence_annots WHERE sequence_name = ?"
)
SEQUENCES = "SELECT sequence_name, _reconstruction_quality_viewpoint FROM sequence_annots"


class Uco3dSource(PosedSource):
    """ROOT/metadata.sqlite with tables frame_annots and sequence_annots.

    Arrays are packed as float32 and int32; the frames of a sequence lie in a video.
    """

    layout = DATABASE

    def __init__(self, config: SourceConfig) -> None:
        super().__init__(config)
        self._video = VideoFrames()
        path = self.root / DATABASE
        if not path.is_file():
            raise UserError(
                f"source.root={self.root} holds no capture: expected {self.layout} in it "
                f"(source={config.kind.value})."
            )
        self._database = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)

    def _rows(self, query: str, *values: str | int) -> list[tuple[Any, ...]]:
        try:
            return self._database.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise UserError(
                f"{self.root / DATABASE} cannot be read ({error}): fetch it again."
            ) from error

    def references(self) -> Iterator[str]:
        for name, score in self._rows(SEQUENCES):
            if self._enough(score):
                yield name

    def read_fields(self, reference: str) -> tuple[Capture, FrameCounts]:
        category, family, video = self._rows(SEQUENCE, reference)[0]
        if not os.path.isfile(inside(self.root, video or "")):
            raise Rejected("no_video", detail=f"{reference}: {video}")
        rows = self._rows(FRAMES, reference)
        counts, frames = FrameCounts(), []
        for row in rows:
            if None in row[2:6]:
                counts.drop("frame_pose", f"{reference}, frame {row[0]}: no viewpoint")
                continue
            try:
                frames.append(self._frame(counts, *row))
            except MALFORMED as error:
                counts.drop("frame_entry", f"{reference}, frame {row[0]}: {error!r}")
        return self.capture(
            f"{family}_{category}",
            reference,
            frames,
            stored=False,
            counts=counts,
            class_name=category,
            files_total=len(rows),
        )

    def _frame(
        self,
        counts: FrameCounts,
        number: int,
        size: bytes,
        R: bytes,
        T: bytes,
        focal: bytes,
        principal: bytes,
        form: str | None,
    ) -> Frame:
        height, width = (int(side) for side in np.frombuffer(size, "<i4"))
        # The distortion column is left out: it would serve mask rays, and masks lie in a second
        # video that is not read.
        lens = ndc_lens(
            (width, height), floats(focal, 2), floats(principal, 2), form or BOUNDS_FORMAT
        )
        pose = pytorch3d_pose(floats(R, 9).reshape(3, 3), floats(T, 3), counts)
        return make_frame(f"{number:06d}", None, (width, height), lens, pose)

    def photo_path(self, reference: str, name: str) -> Path:
        return inside(self.root, self._rows(SEQUENCE, reference)[0][2])

    def pixels(self, reference: str, name: str) -> np.ndarray:
        time = self._rows(TIME, reference, int(name))[0][0]
        return self._video.read(self.photo_path(reference, name), time, int(name))


def floats(packed: bytes, count: int) -> np.ndarray:
    """Return `count` float32 numbers as float64; raises ValueError for another count."""
    values = np.frombuffer(packed, "<f4").astype(np.float64)
    if values.shape != (count,):
        raise ValueError(f"{len(values)} numbers instead of {count}")
    return values
