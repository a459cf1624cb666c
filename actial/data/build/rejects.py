"""What a build has seen, accepted and rejected, by reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from actial.core.errors import Rejected
from actial.data.sources.frame_counts import FrameCounts
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
        self.examples: dict[str, list[str]] = {}  # reason -> captures
        self.causes: dict[str, str] = {}  # reason -> first capture or photo, and what is wrong

    def reject(self, reference: str, rejected: Rejected) -> None:
        """Count a capture under every one of its reasons."""
        self.captures.update(rejected.reasons)
        for reason in rejected.reasons:
            named = self.examples.setdefault(reason, [])
            if len(named) < EXAMPLES:
                named.append(reference)
            self.causes.setdefault(reason, f"{reference}: {rejected.detail}".rstrip(": "))

    def add_frames(self, reference: str, counts: FrameCounts) -> None:
        """Add what happened to the frames of a capture."""
        self.frames.update(counts)
        for reason, example in counts.examples.items():
            self.causes.setdefault(reason, f"{reference}: {example}")

    def add(self, other: Mapping[str, Any]) -> None:
        """Add the counts of another task, in the form of `as_dict`."""
        for kind in NOT_REJECTED:
            getattr(self, kind).update(other[kind])
        for reason, named in other["examples"].items():
            self.examples[reason] = [*self.examples.get(reason, []), *named][:EXAMPLES]
        for reason, cause in other.get("causes", {}).items():
            self.causes.setdefault(reason, cause)

    def counts(self) -> dict[str, dict[str, int]]:
        return {kind: dict(sorted(getattr(self, kind).items())) for kind in NOT_REJECTED}

    def as_dict(self) -> dict[str, Any]:
        """Return the content of rejects.json."""
        return {
            **self.counts(),
            "examples": dict(sorted(self.examples.items())),
            "causes": dict(sorted(self.causes.items())),
        }

    def summary(self) -> str:
        """Return the most common reasons of captures, frames and pairs.

        Behind them stand the cause in one example of each, and what the user can do.
        """
        listed, remedies = [], []
        reasons_of: dict[str, list[str]] = {}  # cause of an example -> its reasons
        for kind in NOT_REJECTED:
            for reason, count in self._rejected(kind).most_common(3):
                listed.append(f"{reason} {count} times")
                if reason in REMEDIES:
                    remedies.append(REMEDIES[reason])
                if reason in self.causes:
                    reasons_of.setdefault(self.causes[reason], []).append(reason)
        causes = [f"{cause} ({', '.join(reasons)})" for cause, reasons in reasons_of.items()]
        examples = [f"for example {'; '.join(causes)}"] if causes else []
        return "; ".join([", ".join(listed), *examples, *remedies])

    def frame_notes(self) -> list[str]:
        """Return what was done to photos, and which were dropped, a line for each."""
        usable = self.frames["usable"]
        notes = [
            note.format(n=self.frames[name], usable=usable)
            for name, note in FRAME_NOTES.items()
            if self.frames[name] and note
        ]
        for reason, count in self._rejected("frames").most_common():
            example = f" (for example {self.causes[reason]})" if reason in self.causes else ""
            notes.append(f"{count} photos dropped: {REMEDIES.get(reason, reason)}{example}")
        return notes

    def _rejected(self, kind: str) -> Counter[str]:
        counts: Counter[str] = getattr(self, kind)
        rejected = Counter(counts)
        for name in NOT_REJECTED[kind]:
            del rejected[name]
        return +rejected  # without zeros
