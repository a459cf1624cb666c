"""Grounded chains of thought in the sections of the paper's template (paper 4), in our own words.

They go through both images, the change as the camera and as the object see it,
scale and background, every axis of movement and of turning, the path, and the
three answers. Each sentence follows from the pair's poses; what the poses of an
old data set do not tell is left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from actial.core.multiple_choice_format import LETTERS
from actial.core.records import Question
from actial.core.set_records import Motion, QuestionType, ViewPair
from actial.viewpoint.rationales import HOURS, conclusion, object_phrase, view_hours

LEVEL_DEG = 5.0  # of elevation, tilt or lean: less is called none
SMALL_MOVE = 0.05  # of the distance to the object: less is called none
CLEAR_MOVE = 0.2
OTHER_SIDE = {"left": "right", "right": "left", "none": "none"}
ABOUT = {  # what a question is about
    QuestionType.EGO_TRANSLATION: "the way as the camera sees it",
    QuestionType.OBJECT_TRANSLATION: "the way as the object sees it",
    QuestionType.EGO_ROTATION: "the turn of the camera",
    QuestionType.ROTATION_DEGREES: "the size of the turn",
    QuestionType.ROTATION_NUMBER: "the size of the turn",
    QuestionType.EGO_VERTICAL: "height",
    QuestionType.EGO_DEPTH: "forward and back",
}


@dataclass(slots=True, frozen=True)
class Displacement:
    """How the camera moved beside left and right; lengths over the first distance, or NaN."""

    rise: float  # along gravity
    forward: float  # along the first line of sight
    distance_ratio: float  # to the object, last over first

    @classmethod
    def of(cls, pair: ViewPair) -> Displacement:
        geometry = pair.geometry
        first, last = (math.radians(degrees) for degrees in geometry.elev_deg)
        rise = geometry.rho_ratio * math.tan(last) - math.tan(first)
        ratio = geometry.rho_ratio * math.cos(first) / math.cos(last)
        return cls(rise, geometry.t_rel[2], ratio)


def sections_rationale(pair: ViewPair, question: Question) -> str:
    """Return the rationale for one question of a pair, a line for each section."""
    lines = [_images(pair), *_photos(pair)]
    if pair.motion is Motion.HORIZONTAL:
        lines += _both_views(pair)
    lines += [*_scale(pair), *_movements(pair), *_turns(pair), _path(pair), _answers(pair)]
    return "\n".join([*lines, _closing(pair, question)])


def _thing(pair: ViewPair) -> str:
    return pair.class_name.lower()


def _images(pair: ViewPair) -> str:
    count = len(pair.frame_names)
    photos = "Photo 1 and photo 2" if count == 2 else f"Photos 1 to {count}"
    return (
        f"Images: {photos} show one {object_phrase(pair)}. It stands still, so all that differs "
        "is due to the camera."
    )


def _photos(pair: ViewPair) -> list[str]:
    """Return a line on the first and one on the last photo: from which height and hour."""
    hours = view_hours(pair)
    lines = []
    ends = ((1, 0), (len(pair.frame_names), 1))
    for (number, end), elevation in zip(ends, pair.geometry.elev_deg, strict=True):
        line = f"Photo {number}: the camera looks at the {_thing(pair)}"
        line += _elevation(elevation)
        if hours is not None:
            line += f", and stands at {HOURS[hours[end]]} o'clock of it"
        lines.append(f"{line}.")
    return lines


def _elevation(degrees: float) -> str:
    if math.isnan(degrees):
        return ""
    if abs(degrees) < LEVEL_DEG:
        return " from its own height"
    side = "above" if degrees > 0 else "below"
    return f" from about {round(abs(degrees) / 5) * 5} degrees {side} it"


def _both_views(pair: ViewPair) -> list[str]:
    """Return what a way around the object shows: to the camera, to the object, behind it."""
    side = pair.labels.ego_translation or "none"
    other, thing = OTHER_SIDE[side], _thing(pair)
    return [
        f"Seen from the camera: what the {side} edge of the {thing} hides in photo 1 comes into "
        f"view, and what shows at its {other} edge goes out of view, so the camera went to its "
        f"{side}.",
        f"Seen from the object: whoever stands at the {thing} and faces the camera of photo 1 "
        "has left and right the other way round, and the camera went to the "
        f"{pair.labels.object_translation}.",
        f"Background: the line of sight swings round by about {_degrees(pair)} degrees, so other "
        f"things stand behind the {thing}.",
    ]


def _degrees(pair: ViewPair) -> int:
    return round(abs(pair.geometry.alpha_deg) / 5) * 5


def _scale(pair: ViewPair) -> list[str]:
    ratio, thing = Displacement.of(pair).distance_ratio, _thing(pair)
    if math.isnan(ratio):
        return []
    if abs(ratio - 1) < SMALL_MOVE:
        return [f"Scale: the distance is the same, and the {thing} appears equally large."]
    size = "smaller" if ratio > 1 else "larger"
    return [f"Scale: the distance becomes {ratio:.1f} times as long, and the {thing} {size}."]


def _movements(pair: ViewPair) -> list[str]:
    """Return a line for each axis along which the camera can move."""
    moved = Displacement.of(pair)
    side = pair.labels.ego_translation
    lines = ["Left or right: the camera hardly leaves its line."]
    if side in ("left", "right"):
        lines = [f"Left or right: the camera moved to its {side}."]
    lines += _axis("Up or down", moved.rise, ("up", "down"), "keeps its height")
    lines += _axis(
        "Forward or back", moved.forward, ("forward", "backward"), "keeps its depth"
    )
    return lines


def _axis(name: str, length: float, words: tuple[str, str], none: str) -> list[str]:
    if math.isnan(length):
        return []
    if abs(length) < SMALL_MOVE:
        return [f"{name}: the camera {none}."]
    amount = "clearly" if abs(length) >= CLEAR_MOVE else "a little"
    return [f"{name}: the camera moved {words[0 if length > 0 else 1]} {amount}."]


def _turns(pair: ViewPair) -> list[str]:
    """Return a line for each axis about which the camera can turn: yaw, pitch, roll."""
    lines = [f"Yaw: {_turn(pair)}."]
    first, last = pair.geometry.elev_deg
    if not math.isnan(last - first):
        tilt = "the same tilt serves, as the height hardly changes"
        if abs(last - first) >= LEVEL_DEG:
            way = "down" if last > first else "up"
            tilt = f"from the new height the {_thing(pair)} is met by looking further {way}"
        lines.append(f"Pitch: {tilt}.")
    before, after = pair.geometry.roll_deg
    if not math.isnan(after - before):
        lean = "the photos lean alike"
        if abs(after - before) >= LEVEL_DEG:
            degrees = round(abs(after - before))
            lean = f"one photo leans about {degrees} degrees more than the other"
        lines.append(f"Roll: {lean}.")
    return lines


def _turn(pair: ViewPair) -> str:
    labels = pair.labels
    if labels.ego_rotation is None:
        return "the camera hardly turned"
    if labels.ego_rotation_deg is None:
        return conclusion(pair, QuestionType.EGO_ROTATION)
    return conclusion(pair, QuestionType.ROTATION_DEGREES)


def _path(pair: ViewPair) -> str:
    thing = _thing(pair)
    if pair.motion is Motion.STILL:
        return "Path: there is none, the photos are taken from one place."
    if pair.motion is not Motion.HORIZONTAL:
        return (
            f"Path: the camera stays on one side of the {thing} and changes its place there."
        )
    turn = "clockwise" if pair.geometry.alpha_deg < 0 else "counter-clockwise"
    rise = Displacement.of(pair).rise
    height = ""
    if abs(rise) >= SMALL_MOVE:
        height = ", rising" if rise > 0 else ", sinking"
    return (
        f"Path: the camera goes around the {thing}, {turn} as seen from above, by about "
        f"{_degrees(pair)} degrees{height}, and keeps looking at it."
    )


def _answers(pair: ViewPair) -> str:
    kinds = [QuestionType(kind) for kind in pair.labels.sides()]
    clauses = [
        _turn(pair) if kind is QuestionType.EGO_ROTATION else conclusion(pair, kind)
        for kind in kinds
    ]
    return "Answers: " + "; ".join(clauses) + "."


def _closing(pair: ViewPair, question: Question) -> str:
    kind = QuestionType(question.type)
    statement = f"The question is about {ABOUT[kind]}: {conclusion(pair, kind)}"
    if not question.options:
        return f"{statement}."
    index = question.answer_index
    return f"{statement}, which is {LETTERS[index]}: {question.options[index]}."
