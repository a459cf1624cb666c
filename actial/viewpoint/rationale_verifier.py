"""The verifier: checks the claims of a rationale against a pair's geometry (paper 4.1)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from actial.core.records import Question
from actial.core.set_records import QuestionType, ViewPair
from actial.viewpoint.rationales import HOURS, view_hours
from actial.viewpoint.section_rationales import Displacement


@dataclass(slots=True, frozen=True)
class Claim:
    """Words of a rationale that the pair's geometry confirms or denies."""

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
_MOVED = (
    r"(?:mov(?:ed?|es|ing)|went|goes|shift(?:ed|s)?|translat(?:ed|es)|travel(?:led|ed|s)"
    r"|slid(?:es)?|stepped|circled|orbit(?:ed|s))"
)
_TURNED = (
    r"(?:turn(?:ed|s|ing)?|rotat(?:ed?|es|ing)|pann?(?:ed|s)"
    r"|yaw(?:ed|s)?|swung|pivot(?:ed|s)?)"
)
_MOVE_CLAIM = re.compile(rf"\b{_SUBJECT} {_WORDS}{_MOVED} {_WORDS}{_SIDE}")
_TURN_CLAIM = re.compile(rf"\b{_SUBJECT} {_WORDS}{_TURNED} {_WORDS}{_SIDE}")
# A second verb of the same subject: "the camera moved to its left and turned to its right".
_JOINED = rf"\b{_SUBJECT} [^;:]{{0,80}}?\b(?:and|then) (?:then |also |clearly )?"
_JOINED_MOVE = re.compile(rf"{_JOINED}{_MOVED} {_WORDS}{_SIDE}")
_JOINED_TURN = re.compile(rf"{_JOINED}{_TURNED} {_WORDS}{_SIDE}")
_AXIS_CLAIM = re.compile(
    rf"\b{_SUBJECT} {_WORDS}{_MOVED} {_WORDS}"
    r"(up|down|forward|backward|closer|nearer|further|farther)(?:wards?|s)?\b(?! or\b)"
)
# word -> (what it is about, whether the measured value must be positive)
_AXES = {
    "up": ("rise", True),
    "down": ("rise", False),
    "forward": ("forward", True),
    "backward": ("forward", False),
    "closer": ("distance", False),
    "nearer": ("distance", False),
    "further": ("distance", True),
    "farther": ("distance", True),
}
_CLEAR = 0.1  # of the first distance: a smaller movement denies no claim
_HARDLY = re.compile(r"\b(?:hardly|barely|scarcely|no longer)\b")
_DENIED = re.compile(r"\b(?:not|never|neither|rather than|instead of)\b")
_VIEW = r"(?:view|perspective|point of view)"
_CAMERA_VIEW = re.compile(
    rf"\b(?:from|in) (?:the )?(?:camera|photographer)|camera's (?:own )?{_VIEW}|\bits own\b"
)
_SENTENCE = re.compile(r"(?<=[.!?;\n])\s+|\n+")
_AROUND = re.compile(r"\b(counter-?clockwise|anti-?clockwise|clockwise)\b")
# A number is read from its first digit only: a match from every digit is quadratic in its length.
_DEGREES = re.compile(r"(?<!\d)(\d+(?:\.\d+)?)\s*(?:degrees|°)")
_OTHER_ANGLE = re.compile(
    r"\b(?:elevat|pitch|tilt|roll|height|higher|lower|above|below|upward|downward)"
)
_HOURS = re.compile(rf"({'|'.join(HOURS)}) o'clock")


def contradictions(
    text: str,
    pair: ViewPair,
    letter: str | None = None,
    question: Question | None = None,
    *,
    degrees_tolerance: float = 15.0,
    all_axes: bool = False,
) -> list[Contradiction]:
    """Return every claim of a rationale that the pair's geometry denies; none accepts it.

    Side words are read per frame of reference (camera, object, rotation), every
    occurrence: a rationale that derives "right" and closes with "left" contradicts the
    truth in one of the two places (the slips of paper 4.1). With `letter` and
    `question`, the closing letter must name the true option too. `all_axes` also reads
    up and down, forward and backward, nearer and further, where the pair's poses tell
    them clearly, and second verbs of one subject.
    """
    read = list(claims(text, pair, degrees_tolerance=degrees_tolerance, second_verbs=all_axes))
    if all_axes:
        read += axis_claims(text, pair)
    denied = [Contradiction(claim.reason, claim.claim) for claim in read if not claim.holds]
    if letter is not None and question is not None and letter != question.answer:
        denied.append(Contradiction("letter", letter))
    return denied


def claims(
    text: str,
    pair: ViewPair,
    *,
    degrees_tolerance: float = 15.0,
    second_verbs: bool = False,
) -> Iterator[Claim]:
    """Yield the statements of a rationale about sides, degrees, turn and hours of a pair.

    Sides and degrees come sentence by sentence, then the turns, then the hours.
    """
    low = text.lower().replace("\u2019", "'")
    alpha = pair.geometry.alpha_deg
    for sentence in _SENTENCE.split(low):
        for kind, words, side in _sides(sentence, pair, second_verbs=second_verbs):
            truth = pair.labels.side(kind)
            if truth is not None:
                yield Claim(kind.value, words, side == truth)
        if not _OTHER_ANGLE.search(sentence):
            yield from _degree_claims(sentence, abs(alpha), degrees_tolerance)
    turn = "clockwise" if alpha < 0 else "counterclockwise"
    for match in _AROUND.finditer(low):
        direction = match.group(1).replace("anti", "counter").replace("-", "")
        yield Claim("turn", match.group(0), direction == turn)
    hours = view_hours(pair) or ()
    for claimed, true in zip(_HOURS.findall(low), hours, strict=False):
        yield Claim("hour", f"{claimed} o'clock", claimed == HOURS[true])


def axis_claims(text: str, pair: ViewPair) -> Iterator[Claim]:
    """Yield the statements that the camera moved up, down, forward, backward, nearer or further.

    One holds unless the poses show a clear movement the other way.
    """
    moved = Displacement.of(pair)
    nearer = 1 - moved.distance_ratio
    # "Forward" is said of the first line of sight and of coming nearer: one of them is enough.
    measured = {
        "rise": (moved.rise, moved.rise),
        "forward": (moved.forward, nearer),
        "distance": (-nearer, -nearer),
    }
    for match in _AXIS_CLAIM.finditer(text.lower()):
        if _DENIED.search(match.group(0)) or _HARDLY.search(match.group(0)):
            continue
        axis, positive = _AXES[match.group(1)]
        lengths = [length if positive else -length for length in measured[axis]]
        opposite = all(length < -_CLEAR for length in lengths)  # NaN denies nothing
        yield Claim(axis, match.group(0), not opposite)


def _degree_claims(sentence: str, truth: float, tolerance: float) -> Iterator[Claim]:
    for match in _DEGREES.finditer(sentence):
        yield Claim("degrees", match.group(0), abs(float(match.group(1)) - truth) <= tolerance)


def _sides(
    sentence: str, pair: ViewPair, *, second_verbs: bool
) -> Iterator[tuple[QuestionType, str, str]]:
    """Yield (frame of reference, words, side) of every side given to the camera's motion or turn.

    A move belongs to the frame of reference that was named last before it, else to the camera.
    """
    names = sorted({"object", *pair.class_name.lower().split()})
    noun = "(?:" + "|".join(map(re.escape, names)) + ")"
    object_view = re.compile(
        rf"\b(?:seen|viewed) from (?:the )?(?!camera|photographer)\w+"
        rf"|(?<!away )\bfrom (?:the )?{noun}\b"
        rf"|\b(?:perspective|view|viewpoint) of (?:the )?{noun}\b"
        rf"|\b{noun}'s (?:own )?{_VIEW}"
    )
    moves, turns = list(_MOVE_CLAIM.finditer(sentence)), list(_TURN_CLAIM.finditer(sentence))
    if second_verbs:
        moves += _JOINED_MOVE.finditer(sentence)
        turns += _JOINED_TURN.finditer(sentence)
    for match in moves:
        if _DENIED.search(match.group(0)):
            continue
        seen_by_object = _last_start(object_view, sentence, match.end())
        seen_by_camera = _last_start(_CAMERA_VIEW, sentence, match.end())
        kind = QuestionType.EGO_TRANSLATION
        if seen_by_object > seen_by_camera:
            kind = QuestionType.OBJECT_TRANSLATION
        yield kind, match.group(0), match.group(1)
    for match in turns:
        if not _DENIED.search(match.group(0)):
            yield QuestionType.EGO_ROTATION, match.group(0), match.group(1)
    passed = re.search(
        rf"\b{noun}'s (?:own )?(left|right)\b.{{0,80}}?"
        rf"\b(?:its|{noun}'s) (?:own )?(left|right)\b",
        sentence,
    )
    if passed and passed.group(1) != passed.group(
        2
    ):  # from one side of the object to the other
        yield QuestionType.OBJECT_TRANSLATION, passed.group(0), passed.group(2)


def _last_start(pattern: re.Pattern[str], sentence: str, end: int) -> int:
    """Return where the last match before `end` starts, -1 without one."""
    return max((match.start() for match in pattern.finditer(sentence, 0, end)), default=-1)
