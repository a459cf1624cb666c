"""What a source of captures provides, and how a photo file becomes RGB pixels."""

from __future__ import annotations

import os
import stat
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, UnidentifiedImageError

from actial.config import SourceConfig
from actial.core.errors import Rejected, UserError
from actial.core.image_codec import UNREADABLE, header_size, rgb
from actial.core.records import Capture, Frame
from actial.viewpoint.geometry import are_rotations

FORMATS = ("JPEG", "PNG", "WEBP")


SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


PIXELS_MAX = 2 * (Image.MAX_IMAGE_PIXELS or 0)  # Pillow's own limit for a decompression bomb


class Source(ABC):
    """`captures` is cheap; `read` touches poses and picture headers only; `pixels` decodes."""

    def __init__(self, config: SourceConfig) -> None:
        self.config = config
        self.root = Path(config.root)
        self._names: dict[str, str] | None = None
        if not self.root.is_dir():
            raise UserError(
                f"source.root={self.root} is not a folder: give the folder that holds the captures."
            )

    @abstractmethod
    def captures(self) -> list[str]:
        """References of all captures, sorted; raises UserError when there are none."""

    @abstractmethod
    def read(self, reference: str) -> tuple[Capture, Counter[str]]:
        """The capture with its usable frames, and how many frames were dropped by reason; raises Rejected."""

    @abstractmethod
    def pixels(self, reference: str, name: str) -> np.ndarray:
        """uint8 (H, W, 3) of one photo as stored: EXIF orientation is never applied (poses do not know of it); raises Rejected."""


def decode(path: Path) -> np.ndarray:
    """RGB pixels as stored; raises Rejected("frame_unreadable") for a broken or truncated file."""
    try:
        with _opened(path) as file, Image.open(file, formats=FORMATS) as image:
            return rgb(image)
    except UNREADABLE as error:
        raise Rejected("frame_unreadable", detail=f"{path}: {error}") from error


def _opened(path: Path, buffering: int = -1) -> IO[bytes]:
    """A regular file, opened; a pipe or device under a photo's name raises OSError instead of making the build wait forever."""
    file = open(  # noqa: SIM115 (returned open)
        path, "rb", buffering, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)
    )
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(f"{path} is no regular file")
    return file


def stored_size(path: Path) -> tuple[int, int]:
    """(width, height) from the header alone; raises Rejected("frame_missing" | "frame_unreadable")."""
    try:
        with _opened(path, buffering=0) as file:
            size = header_size(file)
            if size is None:
                with Image.open(file, formats=FORMATS) as image:
                    size = image.size
    except (FileNotFoundError, IsADirectoryError) as error:
        raise Rejected("frame_missing", detail=str(path)) from error
    except (*UNREADABLE, UnidentifiedImageError) as error:
        raise Rejected("frame_unreadable", detail=f"{path}: {error}") from error
    if size[0] * size[1] > PIXELS_MAX:
        raise Rejected("frame_unreadable", detail=f"{path}: {size[0]}x{size[1]} pixels")
    return size


def inside(folder: Path, name: str) -> Path:
    """folder / name, when name stays inside; raises Rejected("frame_name")."""
    if not name or name.startswith("/") or "\\" in name or "\0" in name or ".." in name.split("/"):
        raise Rejected("frame_name", detail=name)
    return folder / name


def usable_frames(
    candidates: Iterable[Frame], dropped: Counter[str], *, stored: bool = True
) -> list[Frame]:
    """The frames with a rotation as pose and, where `stored`, with a readable photo of the camera's size; the others are counted."""
    kept = []
    for frame in candidates:
        try:
            if (
                stored
                and frame.path is not None
                and stored_size(frame.path) != (frame.width, frame.height)
            ):
                raise Rejected(
                    "frame_size", detail=f"{frame.path} is not {frame.width}x{frame.height}"
                )
            kept.append(frame)
        except Rejected as rejected:
            dropped.update(rejected.reasons)
    if not kept:
        return []
    posed = are_rotations(np.stack([f.R for f in kept])) & np.isfinite([f.t for f in kept]).all(
        axis=1
    )
    if not posed.all():
        dropped["frame_pose"] += int((~posed).sum())
        kept = [frame for frame, ok in zip(kept, posed, strict=True) if ok]
    for i, frame in enumerate(kept):
        frame.time_index = i
    return kept
