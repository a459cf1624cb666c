"""Grounded chains of thought for the hybrid cold start, true by construction (paper 4).

A chain of thought follows the paper's stages: identify the object in both
photos, compare the views, derive the movement, state it from the camera and
from the object, then answer. Where the object's front is known, a view is named
by the hour at which the camera stands when the object faces 12 o'clock, seen
from above; without a known front the views are compared by their angle alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from actial.core.multiple_choice_format import LETTERS
from actial.core.records import Question
from actial.core.set_records import Motion, QuestionType, ViewPair

THINK = "<think>\n{chain}\n</think>\n<answer>{letter}</answer>"
HOURS = (
    "twelve",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
)  # by index, clockwise


def hour(azimuth_deg: float) -> int:
    """Return the clock hour 0..11 (0 = twelve) of a camera.

    `azimuth_deg` runs counter-clockwise from the object's front: 90, its own left, is hour 9.
    """
    return int(-round(azimuth_deg / 30.0)) % 12


def clock_steps(first: int, second: int) -> int:
    """Return the signed steps from hour to hour by the shorter way, clockwise positive, -5..6."""
    return (second - first + 5) % 12 - 5


def think_target(rationale: str, letter: str, options: Sequence[str] = ()) -> str:
    """Return the supervised text: rationale, the options up to the right one, the letter's tag.

    Weighing ("A: Move to the left is not it.") turns the choice of a letter, which a small model
    does not learn, into a comparison that it does.
    """
    weighed = ""
    for name, option in zip(LETTERS, options, strict=False):
        weighed += f"\n{name}: {option} {'is it' if name == letter else 'is not it'}."
        if name == letter:
            break
    return THINK.format(chain=rationale + weighed, letter=letter)


def view_hours(pair: ViewPair) -> tuple[int, int] | None:
    """Return the hours of both images, or None where the object's front is not known.

    None also for more than two images: their rationale tells the motion alone.
    """
    azimuths = [view.azimuth_deg for view in pair.views if view.azimuth_deg is not None]
    if len(pair.views) != 2 or len(azimuths) != 2:
        return None
    return hour(azimuths[0]), hour(azimuths[1])


def object_phrase(pair: ViewPair) -> str:
    """Return "red mug", or "mug" where the color is not known."""
    name = pair.class_name.lower()
    color = pair.attributes.get("body_colour")
    return f"{color} {name}" if color else name


def describe_views(pair: ViewPair) -> str:
    """Return the first stages of a rationale: what both photos show, and from where."""
    count = len(pair.frame_names)
    photos = "Both" if count == 2 else f"All {count}"
    what = f"{photos} photos show a {object_phrase(pair)}."
    hours = view_hours(pair)
    if hours is not None:
        first, second = (HOURS[h] for h in hours)
        return f"{what}\nPhoto 1 is taken from {first} o'clock, photo 2 from {second} o'clock."
    if pair.motion is not Motion.HORIZONTAL:
        return what
    return f"{what}\nThey show different sides of it."


def clock_walk(first: int, second: int) -> str:
    """Return the four hours behind the first, and whether the second is among them."""
    following = ", ".join(HOURS[(first + step) % 12] for step in range(1, 5))
    verb = "is" if 1 <= clock_steps(first, second) <= 4 else "is not"
    return (
        f"The clock from {HOURS[first]} on: {following}. {HOURS[second]} {verb} on this way."
    )


def grounded_rationale(pair: ViewPair, question: Question) -> str:
    """Return the rationale for one question of a pair, written from its labels and geometry."""
    kind = QuestionType(question.type)
    return f"{describe_views(pair)}\n{_movement(pair)}\nSo {conclusion(pair, kind)}."


def _movement(pair: ViewPair) -> str:
    if pair.motion is Motion.STILL:
        return (
            "The object stands the same way in both photos, "
            "from the same side, height and distance."
        )
    if pair.motion is Motion.VERTICAL:
        height = pair.labels.ego_vertical
        return f"The second photo shows it from the same side, from further {height}."
    if pair.motion is Motion.DEPTH:
        distance = "nearer" if pair.labels.ego_depth == "forward" else "further away"
        return f"The second photo shows it from the same side, from {distance}."
    alpha = pair.geometry.alpha_deg
    turn = "clockwise" if alpha < 0 else "counter-clockwise"
    degrees = round(abs(alpha) / 10) * 10
    walk = f"From above the camera went {turn} around it, about {degrees} degrees."
    hours = view_hours(pair)
    return walk if hours is None else f"{clock_walk(*hours)}\n{walk}"


def conclusion(pair: ViewPair, kind: QuestionType) -> str:
    """Return the answer to a question of this kind, as a clause without a subject in front."""
    if kind in (QuestionType.ROTATION_DEGREES, QuestionType.ROTATION_NUMBER):
        degrees = round((pair.labels.ego_rotation_deg or 0.0) / 10) * 10
        return (
            f"the camera turned to the {pair.labels.ego_rotation} by about {degrees} degrees"
        )
    side = pair.labels.sides()[kind.value]
    if side == "none":
        verb = "turn" if kind is QuestionType.EGO_ROTATION else "move"
        return f"the camera did not {verb}"
    return {
        QuestionType.EGO_TRANSLATION: f"the camera moved to its {side}",
        QuestionType.OBJECT_TRANSLATION: f"seen from the object it moved to the {side}",
        QuestionType.EGO_ROTATION: f"the camera turned to the {side}",
        QuestionType.EGO_VERTICAL: f"the camera moved {side}",
        QuestionType.EGO_DEPTH: f"the camera moved {side}",
    }[kind]
