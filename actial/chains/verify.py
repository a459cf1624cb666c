"""The verifier: every claim of a chain that the pair's geometry denies, without a model (paper 4.1)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from actial.chains.grounded import HOURS, known_hours
from actial.types import Question


@dataclass(slots=True, frozen=True)
class Contradiction:
    reason: str  # counted under this name
    claim: str


_SIDE = r"(left|right)"
_CLAIMS = {
    "ego_translation": re.compile(rf"camera (?:has )?(?:moved|moves|went|shifted) to its (?:own )?{_SIDE}"),
    "object_translation": re.compile(
        rf"(?:seen|viewed) from the \w+,? (?:the camera|it) (?:has )?(?:moved|moves|went|shifted) to (?:the|its) {_SIDE}"
    ),
    "ego_rotation": re.compile(rf"camera (?:has )?(?:turned|turns|rotated|rotates) to (?:the|its) {_SIDE}"),
}
_TURN = re.compile(r"\b(counter-clockwise|anti-clockwise|clockwise)\b")
_DEGREES = re.compile(r"(\d+(?:\.\d+)?)\s*(?:degrees|°)")
_HOURS = re.compile(rf"({'|'.join(HOURS)}) o'clock")


def contradictions(
    text: str, row: Mapping, letter: str | None = None, question: Question | None = None, *, degrees_tolerance: float = 15.0
) -> list[Contradiction]:
    """Every claim of a chain that the pair's geometry denies; an empty list accepts the chain.

    Side words are read per frame of reference (camera, object, rotation), every occurrence: a chain that derives "right" and closes with
    "left" contradicts the truth in one of the two places (the slips of paper 4.1). With `letter` and `question`, the closing letter must
    name the true option too.
    """
    found: list[Contradiction] = []
    low = text.lower()
    for label, pattern in _CLAIMS.items():
        for match in pattern.finditer(low):
            if match.group(1) != row["labels"][label]:
                found.append(Contradiction(label, match.group(0)))
    turn = "clockwise" if row["geom"]["alpha_deg"] < 0 else "counter-clockwise"
    for match in _TURN.finditer(low):
        if match.group(1).replace("anti", "counter") != turn:
            found.append(Contradiction("turn", match.group(0)))
    for match in _DEGREES.finditer(low):
        if abs(float(match.group(1)) - abs(row["geom"]["alpha_deg"])) > degrees_tolerance:
            found.append(Contradiction("degrees", match.group(0)))
    for said, true in zip(_HOURS.findall(low), known_hours(row) or (), strict=False):
        if said != HOURS[true]:
            found.append(Contradiction("hour", f"{said} o'clock"))
    if letter is not None and question is not None and letter != question.answer_letter:
        found.append(Contradiction("letter", letter))
    return found
