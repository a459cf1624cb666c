"""What a build has seen, accepted and rejected, by reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from actial.data.sources.reasons import FRAME_NOTES, REMEDIES

EXAMPLES = 5  # captures named per reason in rejects.json
NOT_REJECTED = {
    "captures": ("seen", "accepted"),
    "frames": tuple(FRAME_NOTES),
    "pairs": ("judged", "accepted", "chosen", "written"),
}


class Rejects:
    """Counts of captures, frames and pairs by reason, with examples."""

    def __init__(self) -> None:
        self.captures: Counter[str] = Counter()
        self.frames: Counter[str] = Counter()
        self.pairs: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = {}

    def reject(self, reference: str, reasons: Sequence[str]) -> None:
        """Count a capture under every one of its reasons."""
        self.captures.update(reasons)
        for reason in reasons:
            named = self.examples.setdefault(reason, [])
            if len(named) < EXAMPLES:
                named.append(reference)

    def add(self, other: Mapping[str, Any]) -> None:
        """Add the counts of another task, in the form of `as_dict`."""
        for kind in NOT_REJECTED:
            getattr(self, kind).update(other[kind])
        for reason, named in other["examples"].items():
            self.examples[reason] = [*self.examples.get(reason, []), *named][:EXAMPLES]

    def counts(self) -> dict[str, dict[str, int]]:
        return {kind: dict(sorted(getattr(self, kind).items())) for kind in NOT_REJECTED}

    def as_dict(self) -> dict[str, Any]:
        """Return the content of rejects.json."""
        return {**self.counts(), "examples": dict(sorted(self.examples.items()))}

    def summary(self) -> str:
        """Return the most common reasons of captures, frames and pairs, with their remedies."""
        reasons = []
        for kind in NOT_REJECTED:
            reasons += self._rejected(kind).most_common(3)
        listed = ", ".join(f"{reason} {count} times" for reason, count in reasons)
        remedies = [REMEDIES[reason] for reason, _ in reasons if reason in REMEDIES]
        return "; ".join([listed, *remedies])

    def frame_notes(self) -> list[str]:
        """Return what was done to photos, and which were dropped, a line for each."""
        usable = self.frames["usable"]
        notes = [
            note.format(n=self.frames[name], usable=usable)
            for name, note in FRAME_NOTES.items()
            if self.frames[name] and note
        ]
        for reason, count in self._rejected("frames").most_common():
            notes.append(f"{count} photos dropped: {REMEDIES.get(reason, reason)}")
        return notes

    def _rejected(self, kind: str) -> Counter[str]:
        counts: Counter[str] = getattr(self, kind)
        rejected = Counter(counts)
        for name in NOT_REJECTED[kind]:
            del rejected[name]
        return +rejected  # without zeros
