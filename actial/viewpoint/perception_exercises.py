"""Exercises that teach the tiny base model to see and to answer in form, not how a camera moves.

Like a real base model it names what each photo shows, knows a clock face in
words, and follows the two answer forms; which way the camera went between two
photos is never asked or told (tests check that no exercise speaks of motion).
"""

from __future__ import annotations

from collections.abc import Sequence

from actial.core.multiple_choice_format import LETTERS
from actial.core.records import AnswerMode, Question
from actial.core.seeding import hash_choice, hash_int, hash_shuffle
from actial.core.set_records import ViewPair
from actial.viewpoint.questions import multiple_choice_text
from actial.viewpoint.rationales import (
    HOURS,
    clock_steps,
    clock_walk,
    describe_views,
    object_phrase,
    think_target,
    view_hours,
)
from actial.viewpoint.vocabulary import PALETTE, SEEN

SIDES = (
    "front",
    "front left",
    "left",
    "back left",
    "back",
    "back right",
    "right",
    "front right",
)  # by azimuth / 45
KINDS = ("hours", "hour", "side", "object", "hour_choice", "side_choice", "object_choice")


def side(azimuth_deg: float) -> str:
    """Return the side of the object that faces a camera at this azimuth."""
    return SIDES[round(azimuth_deg / 45.0) % 8]


def free_question(uid: str, kind: str, text: str, target: str) -> Question:
    """Return a question without options or tags, answered by `target`."""
    return Question(
        uid=uid,
        type=kind,
        text=text,
        options=(target,),
        answer_index=0,
        mode=AnswerMode.DIRECT,
        target=target,
    )


def choice_question(
    uid: str, kind: str, text: str, truth: str, others: Sequence[str], rationale: str | None
) -> Question:
    """Return a question with three options around `truth`.

    It is answered by a rationale and a tagged letter, or by the letter alone when `rationale` is
    None.
    """
    options = tuple(
        hash_shuffle([truth, *hash_shuffle(others, "others", uid)[:2]], "order", uid)
    )
    index = options.index(truth)
    mode = AnswerMode.DIRECT if rationale is None else AnswerMode.THINK
    letter = LETTERS[index]
    return Question(
        uid=uid,
        type=kind,
        text=multiple_choice_text(text, options, mode),
        options=options,
        answer_index=index,
        mode=mode,
        target=letter if rationale is None else think_target(rationale, letter, options),
    )


def photo_question(pair: ViewPair, kind: str, draw: str, names: Sequence[str]) -> Question:
    """Return one exercise on a pair whose front is known: `draw` makes it one of many."""
    hours = view_hours(pair)
    assert hours is not None, "perception exercises need procedural captures"
    uid = f"{pair.uid}/{kind}/{draw}"
    if kind == "hours":
        text = "From which hour is each photo taken?"
        return free_question(uid, kind, text, describe_views(pair))
    photo = hash_int("photo", uid) % 2
    azimuth = pair.views[photo].azimuth_deg
    assert azimuth is not None
    subject, _, form = kind.partition("_")
    if subject == "hour":
        text = f"From which hour is photo {photo + 1} taken?"
        truth = f"{HOURS[hours[photo]]} o'clock"
        conclusion = f"is taken from {truth}"
    elif subject == "side":
        text = f"Which side of the object faces the camera in photo {photo + 1}?"
        truth = f"the {side(azimuth)} side"
        conclusion = f"shows {truth}"
    else:
        text = f"What does photo {photo + 1} show?"
        truth = f"a {object_phrase(pair)}"
        conclusion = f"shows {truth}"
    if not form:
        return free_question(uid, kind, text, truth)
    others = _other_answers(subject, pair, hours[photo], azimuth, names)
    thinks = hash_int("mode", uid) % 2 == 0
    rationale = (
        f"{describe_views(pair)}\nSo photo {photo + 1} {conclusion}." if thinks else None
    )
    return choice_question(uid, kind, text, truth, others, rationale)


def _other_answers(
    subject: str, pair: ViewPair, true_hour: int, azimuth: float, names: Sequence[str]
) -> list[str]:
    """Return the wrong answers; an hour next to the right one is too near to be wrong."""
    if subject == "hour":
        far = [i for i in range(12) if abs(clock_steps(true_hour, i)) > 1]
        return [f"{HOURS[i]} o'clock" for i in far]
    if subject == "side":
        return [f"the {name} side" for name in SIDES if name != side(azimuth)]
    color = pair.attributes["body_colour"]
    return [f"a {color} {name}" for name in names if name != pair.class_name.lower()]


def clock_question(draw: str) -> Question:
    """Return a text-only exercise: the order of hours on a clock face, up to four apart."""
    first = hash_int("first", draw) % 12
    steps = hash_choice((-4, -3, -2, -1, 1, 2, 3, 4), "steps", draw)
    second = (first + steps) % 12
    text = f"Which way round is it from {HOURS[first]} o'clock to {HOURS[second]} o'clock?"
    way = "clockwise" if steps > 0 else "counter-clockwise"
    return free_question(
        f"clock/{draw}",
        "clock",
        text,
        f"{clock_walk(first, second)}\nFrom above {way}, about {abs(steps) * 30} degrees.",
    )


OPTION_WORDS = (  # keyword -> option; words only, no photo
    {"left": "Move to the left", "right": "Move to the right", "none": "No movement"},
    {"left": "Rotate to the left", "right": "Rotate to the right", "none": "No rotation"},
    {"left": "left", "right": "right"},
    {"left": "turn left", "right": "turn right"},
    {"2": "2", "3": "3", "4": "4"},
    {side_name: f"the {side_name} side" for side_name in ("front", "left", "back", "right")},
    {hour_name: f"{hour_name} o'clock" for hour_name in HOURS},
)


def _things(draw: str) -> dict[str, str]:
    """Return three colored objects, as scenes name them."""
    colors, names = (
        hash_shuffle(list(PALETTE), "colours", draw),
        hash_shuffle(SEEN, "names", draw),
    )
    phrases = [f"the {color} {name}" for color, name in zip(colors[:3], names, strict=False)]
    return dict(zip(phrases, phrases, strict=True))


def pick_question(draw: str) -> Question:
    """Return a text-only exercise: which letter stands before the option with a given word."""
    if hash_int("things", draw) % 4 == 0:
        words = _things(draw)
    else:
        words = hash_choice(OPTION_WORDS, "words", draw)
    key = hash_choice(list(words), "key", draw)
    others = [text for word, text in words.items() if word != key]
    thinks = hash_int("mode", draw) % 4 > 0
    return choice_question(
        f"pick/{draw}",
        "pick",
        f"Which option is {key}?",
        words[key],
        others,
        f"So {key}." if thinks else None,
    )


def word_question(draw: str) -> Question:
    """Return a text-only exercise: the hours of a clock, or the letters of options."""
    return clock_question(draw) if hash_int("word", draw) % 3 == 0 else pick_question(draw)


def perception_questions(
    pair: ViewPair, draw: str, names: Sequence[str], count: int
) -> list[Question]:
    """Return `count` exercises of different kinds about one pair; the first names both hours.

    They are drawn by hash of (pair, draw); `names` are all class names of the set, in lower case.
    """
    kinds = ["hours", *hash_shuffle(KINDS[1:], "kinds", pair.uid, draw)]
    return [photo_question(pair, kind, draw, names) for kind in kinds[:count]]
