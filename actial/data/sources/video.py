"""Frames of a video by time; the only file that imports pyav."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from actial.core.errors import Rejected


class VideoFrames:
    """Reads single frames; frames requested in order of time cost one pass through the video."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._container: Any = None
        self._current: Any = None
        self._number = -1  # of the current frame
        self._half_interval = 0.0  # seconds

    def read(self, path: Path, time_s: float | None, number: int) -> np.ndarray:
        """Return uint8 (H, W, 3) of the frame at `time_s`; raises Rejected("frame_unreadable").

        Where the time is None, frame `number` counts, from 0.
        """
        import av

        try:
            if path != self._path or not self._is_ahead(time_s, number, or_current=True):
                self._open(path)
            while self._current is None or self._is_ahead(time_s, number):
                self._current, self._number = next(self._stream), self._number + 1
            pixels: np.ndarray = self._current.to_ndarray(format="rgb24")
            return pixels
        except (av.FFmpegError, StopIteration, OSError) as error:
            self._path = None
            raise Rejected(
                "frame_unreadable", detail=f"{path} at {number}: {error}"
            ) from error

    def _open(self, path: Path) -> None:
        import av

        if self._container is not None:
            self._container.close()
        container: Any = av.open(str(path))
        self._container, self._path = container, path
        self._current, self._number = None, -1
        self._stream = container.decode(video=0)
        rate = container.streams.video[0].average_rate
        self._half_interval = 0.5 / float(rate) if rate else 0.0

    def _is_ahead(
        self, time_s: float | None, number: int, *, or_current: bool = False
    ) -> bool:
        """Return whether the requested frame comes after the current one (or is it)."""
        if self._current is None:
            return True
        if time_s is None or self._current.time is None:
            return number >= self._number if or_current else number > self._number
        margin = -self._half_interval if or_current else self._half_interval
        return bool(time_s > self._current.time + margin)
