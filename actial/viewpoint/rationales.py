"""Grounded chains of thought for the hybrid cold start, true by construction (paper 4).

A chain follows the paper's stages: identify the object in both photos, compare the views, derive the movement, state it from the camera
and from the object, then answer. Where the object's front is known, a view is named by the hour at which the camera stands when the
object faces 12 o'clock, seen from above; on captures without a known front the views are compared by their angle alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from actial.core.records import Question, QuestionType

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
    """Clock hour 0..11 (0 = twelve) of a camera at `azimuth_deg`, counter-clockwise from the object's front: 90, its own left -> 9."""
    return int(-round(azimuth_deg / 30.0)) % 12


def clock_steps(first: int, second: int) -> int:
    """Signed steps from hour to hour by the shorter way, clockwise positive, in -5..6."""
    return (second - first + 5) % 12 - 5


def think_target(chain: str, letter: str, options: Sequence[str] = ()) -> str:
    """The supervised text: the chain, the options weighed up to the right one, the letter in its tag.

    Weighing ("A: Move to the left is not it.") turns the choice of a letter, which a small model does not learn, into a comparison it does.
    """
    weighed = ""
    for name, option in zip("ABCDEF", options, strict=False):
        weighed += f"\n{name}: {option} {'is it' if name == letter else 'is not it'}."
        if name == letter:
            break
    return THINK.format(chain=chain + weighed, letter=letter)


def known_hours(row: Mapping) -> tuple[int, int] | None:
    """Hours of both photos, or None where the object's front is not known (real captures)."""
    azimuths = [view.get("azimuth_deg") for view in row.get("views", [])]
    if len(azimuths) != 2 or None in azimuths:
        return None  # of more than two photos a chain tells the motion alone
    return hour(azimuths[0]), hour(azimuths[1])


def object_phrase(row: Mapping) -> str:
    name = row["class_name"].lower()
    color = row.get("attributes", {}).get("body_colour")
    return f"{color} {name}" if color else name


def describe_views(row: Mapping) -> str:
    """First stages of every chain: what both photos show, and from where each is taken."""
    count = len(row.get("frame_names", (1, 2)))
    shown = f"{'Both' if count == 2 else f'All {count}'} photos show a {object_phrase(row)}."
    hours = known_hours(row)
    if hours is None:
        return (
            shown
            if row.get("motion", "horizontal") != "horizontal"
            else f"{shown}\nThey show different sides of it."
        )
    first, second = (HOURS[h] for h in hours)
    return f"{shown}\nPhoto 1 is taken from {first} o'clock, photo 2 from {second} o'clock."


def clock_walk(first: int, second: int) -> str:
    """A comparison of two hours in small steps: the hours that follow the first, and whether the second is among them."""
    following = ", ".join(HOURS[(first + step) % 12] for step in range(1, 5))
    found = "is" if 1 <= clock_steps(first, second) <= 4 else "is not"
    return f"The clock from {HOURS[first]} on: {following}. {HOURS[second]} {found} on this way."


def grounded_chain(row: Mapping, question: Question) -> str:
    """The chain's text for one question of a pair row: true by construction."""
    kind = QuestionType(question.type)
    return f"{describe_views(row)}\n{_movement(row)}\nSo {_conclusion(row, kind)}."


def _movement(row: Mapping) -> str:
    motion = row.get("motion", "horizontal")
    if motion == "still":
        return "The object stands the same way in both photos, from the same side, height and distance."
    if motion == "vertical":
        return f"The second photo shows it from the same side, from further {row['labels']['ego_vertical']}."
    if motion == "depth":
        nearer = row["labels"]["ego_depth"] == "forward"
        return f"The second photo shows it from the same side, from {'nearer' if nearer else 'further away'}."
    alpha = row["geom"]["alpha_deg"]
    turn = "clockwise" if alpha < 0 else "counter-clockwise"
    went = (
        f"From above the camera went {turn} around it, about {round(abs(alpha) / 10) * 10} degrees."
    )
    hours = known_hours(row)
    return went if hours is None else f"{clock_walk(*hours)}\n{went}"


def _conclusion(row: Mapping, kind: QuestionType) -> str:
    labels = row["labels"]
    if labels.get(kind.value) == "none":
        return (
            "the camera did not turn"
            if kind is QuestionType.EGO_ROTATION
            else "the camera did not move"
        )
    if kind in (QuestionType.ROTATION_DEGREES, QuestionType.ROTATION_NUMBER):
        return f"the camera turned to the {labels['ego_rotation']} by about {round(labels['ego_rotation_deg'] / 10) * 10} degrees"
    side = labels[kind.value]
    return {
        QuestionType.EGO_TRANSLATION: f"the camera moved to its {side}",
        QuestionType.OBJECT_TRANSLATION: f"seen from the object it moved to the {side}",
        QuestionType.EGO_ROTATION: f"the camera turned to the {side}",
        QuestionType.EGO_VERTICAL: f"the camera moved {side}",
        QuestionType.EGO_DEPTH: f"the camera moved {side}",
    }[kind]
