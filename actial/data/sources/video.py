"""Frames of a video by time; the only file that imports pyav."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from actial.core.errors import Rejected


class VideoFrames:
    """Reads single frames; those asked for in order of time cost one pass through the video."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._container: Any = None
        self._shown: Any = None
        self._count = -1

    def read(self, path: Path, time_s: float | None, number: int) -> np.ndarray:
        """uint8 (H, W, 3) of the frame shown at `time_s`, or of frame `number` (from 0) where the time is unknown; raises Rejected."""
        import av

        try:
            if path != self._path or not self._ahead(time_s, number):
                self._open(path)
            while self._shown is None or self._ahead(time_s, number, strictly=True):
                self._shown, self._count = next(self._stream), self._count + 1
            return self._shown.to_ndarray(format="rgb24")
        except (av.FFmpegError, StopIteration, OSError) as error:
            self._path = None
            raise Rejected("frame_unreadable", detail=f"{path} at {number}: {error}") from error

    def _open(self, path: Path) -> None:
        import av

        if self._container is not None:
            self._container.close()
        container: Any = av.open(str(path))
        self._container, self._path, self._shown, self._count = container, path, None, -1
        self._stream = container.decode(video=0)
        rate = container.streams.video[0].average_rate
        self._half = 0.5 / float(rate) if rate else 0.0

    def _ahead(self, time_s: float | None, number: int, *, strictly: bool = False) -> bool:
        """Whether the wanted frame comes after the one shown (or, not strictly, is it)."""
        if self._shown is None:
            return True
        if time_s is None or self._shown.time is None:
            return number > self._count if strictly else number >= self._count
        return (
            time_s > self._shown.time + self._half
            if strictly
            else time_s > self._shown.time - self._half
        )
