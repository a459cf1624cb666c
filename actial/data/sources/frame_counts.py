"""What happened to the frames of a capture, by name, with an example of each rejection."""

from __future__ import annotations

from collections import Counter

from actial.core.errors import Rejected


class FrameCounts(Counter[str]):
    """Counts of frames: dropped ones by their reason, and what was done to the others."""

    def __init__(self) -> None:
        super().__init__()
        self.examples: dict[str, str] = {}  # reason -> file and cause of the first frame

    def reject(self, rejected: Rejected) -> None:
        """Count a dropped frame under its reasons."""
        for reason in rejected.reasons:
            self.drop(reason, rejected.detail)

    def without_zeros(self) -> FrameCounts:
        """Remove the names that nothing was counted under; return the same counts."""
        for name in [name for name, count in self.items() if not count]:
            del self[name]
        return self

    def drop(self, reason: str, example: str, count: int = 1) -> None:
        """Count dropped frames; `example` names one of them and what is wrong with it."""
        self[reason] += count
        self.examples.setdefault(reason, example)
