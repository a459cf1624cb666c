"""The verifier: every claim of a chain that the pair's geometry denies, without a model (paper 4.1)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from actial.core.records import Question
from actial.viewpoint.rationales import HOURS, known_hours


@dataclass(slots=True, frozen=True)
class Claim:
    """Words of a chain that the pair's geometry confirms or denies."""

    reason: str  # what they are about; a denied one is counted under this name
    claim: str
    holds: bool


@dataclass(slots=True, frozen=True)
class Contradiction:
    reason: str  # counted under this name
    claim: str


_SIDE = r"(?:(?:to|towards?) )?(?:(?:the|its|their)(?: own)? )?(left|right)(?:wards?)?\b"
_SUBJECT = r"(?:camera|photographer|viewpoint|it)"
_WORDS = r"(?:[\w-]+ ){0,3}?"  # "has clearly", "around the object"
_MOVED = r"(?:mov(?:ed?|es|ing)|went|goes|shift(?:ed|s)?|translat(?:ed|es)|travel(?:led|ed|s)|slid(?:es)?|stepped|circled|orbit(?:ed|s))"
_TURNED = (
    r"(?:turn(?:ed|s|ing)?|rotat(?:ed?|es|ing)|pann?(?:ed|s)|yaw(?:ed|s)?|swung|pivot(?:ed|s)?)"
)
_MOVE_CLAIM = re.compile(rf"\b{_SUBJECT} {_WORDS}{_MOVED} {_WORDS}{_SIDE}")
_TURN_CLAIM = re.compile(rf"\b{_SUBJECT} {_WORDS}{_TURNED} {_WORDS}{_SIDE}")
_DENIED = re.compile(r"\b(?:not|never|neither|rather than|instead of)\b")
_VIEW = r"(?:view|perspective|point of view)"
_CAMERA_VIEW = re.compile(
    rf"\b(?:from|in) (?:the )?(?:camera|photographer)|camera's (?:own )?{_VIEW}|\bits own\b"
)
_SENTENCE = re.compile(r"(?<=[.!?;\n])\s+|\n+")
_AROUND = re.compile(r"\b(counter-?clockwise|anti-?clockwise|clockwise)\b")
_DEGREES = re.compile(r"(\d+(?:\.\d+)?)\s*(?:degrees|°)")
_OTHER_ANGLE = re.compile(
    r"\b(?:elevat|pitch|tilt|roll|height|higher|lower|above|below|upward|downward)"
)
_HOURS = re.compile(rf"({'|'.join(HOURS)}) o'clock")


def contradictions(
    text: str,
    row: Mapping,
    letter: str | None = None,
    question: Question | None = None,
    *,
    degrees_tolerance: float = 15.0,
) -> list[Contradiction]:
    """Every claim of a chain that the pair's geometry denies; an empty list accepts the chain.

    Side words are read per frame of reference (camera, object, rotation), every occurrence: a chain that derives "right" and closes with
    "left" contradicts the truth in one of the two places (the slips of paper 4.1). With `letter` and `question`, the closing letter must
    name the true option too.
    """
    denied = [
        claim for claim in claims(text, row, degrees_tolerance=degrees_tolerance) if not claim.holds
    ]
    found = [Contradiction(claim.reason, claim.claim) for claim in denied]
    if letter is not None and question is not None and letter != question.answer:
        found.append(Contradiction("letter", letter))
    return found


def claims(text: str, row: Mapping, *, degrees_tolerance: float = 15.0) -> Iterator[Claim]:
    """Every statement of a chain about the sides, the degrees, the turn and the hours of a pair, in that order within the text."""
    low = text.lower().replace("\u2019", "'")
    labels, alpha = row["labels"], row["geom"]["alpha_deg"]
    for sentence in _SENTENCE.split(low):
        for label, claim, side in _sides(sentence, row):
            if labels.get(label) is not None:
                yield Claim(label, claim, side == labels[label])
        for match in _DEGREES.finditer(sentence):
            if not _OTHER_ANGLE.search(sentence):
                yield Claim(
                    "degrees",
                    match.group(0),
                    abs(float(match.group(1)) - abs(alpha)) <= degrees_tolerance,
                )
    turn = "clockwise" if alpha < 0 else "counterclockwise"
    for match in _AROUND.finditer(low):
        yield Claim(
            "turn",
            match.group(0),
            match.group(1).replace("anti", "counter").replace("-", "") == turn,
        )
    for said, true in zip(_HOURS.findall(low), known_hours(row) or (), strict=False):
        yield Claim("hour", f"{said} o'clock", said == HOURS[true])


def _sides(sentence: str, row: Mapping) -> Iterator[tuple[str, str, str]]:
    """(label, words, side) of every side the sentence gives the camera's motion or turn."""
    names = sorted({"object", *str(row.get("class_name", "object")).lower().split()})
    noun = "(?:" + "|".join(map(re.escape, names)) + ")"
    object_view = re.compile(
        rf"\b(?:seen|viewed) from (?:the )?(?!camera|photographer)\w+"
        rf"|(?<!away )\bfrom (?:the )?{noun}\b|\b(?:perspective|view|viewpoint) of (?:the )?{noun}\b"
        rf"|\b{noun}'s (?:own )?{_VIEW}"
    )
    for match in _MOVE_CLAIM.finditer(sentence):
        if _DENIED.search(match.group(0)):
            continue
        seen_by_object = max(
            (m.start() for m in object_view.finditer(sentence, 0, match.end())), default=-1
        )
        seen_by_camera = max(
            (m.start() for m in _CAMERA_VIEW.finditer(sentence, 0, match.end())), default=-1
        )
        yield (
            "object_translation" if seen_by_object > seen_by_camera else "ego_translation",
            match.group(0),
            match.group(1),
        )
    for match in _TURN_CLAIM.finditer(sentence):
        if not _DENIED.search(match.group(0)):
            yield "ego_rotation", match.group(0), match.group(1)
    passed = re.search(
        rf"\b{noun}'s (?:own )?(left|right)\b.{{0,80}}?\b(?:its|{noun}'s) (?:own )?(left|right)\b",
        sentence,
    )
    if passed and passed.group(1) != passed.group(2):  # from one side of the object to the other
        yield "object_translation", passed.group(0), passed.group(2)
