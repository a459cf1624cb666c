"""Exercises that teach the tiny base model to see and to answer in form, and nothing about how a camera moves.

Like a real base model it names what each photo shows, knows a clock face in words, and follows the two answer forms; which way the camera
went between two photos is never asked or told (tests check that no exercise speaks of motion).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from actial.core.records import AnswerMode, Question
from actial.core.seeding import hash_choice, hash_int, hash_shuffle
from actial.viewpoint.questions import multiple_choice_text
from actial.viewpoint.rationales import (
    HOURS,
    clock_steps,
    clock_walk,
    describe_views,
    known_hours,
    object_phrase,
    think_target,
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
    return SIDES[round(azimuth_deg / 45.0) % 8]


def _free(uid: str, kind: str, text: str, target: str) -> Question:
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
    uid: str, kind: str, text: str, truth: str, others: Sequence[str], chain: str | None
) -> Question:
    """Three options around `truth`; answered by a chain and a tagged letter, or by the letter alone when `chain` is None."""
    options = tuple(hash_shuffle([truth, *hash_shuffle(others, "others", uid)[:2]], "order", uid))
    index = options.index(truth)
    mode = AnswerMode.DIRECT if chain is None else AnswerMode.THINK
    letter = "ABCDEF"[index]
    return Question(
        uid=uid,
        type=kind,
        text=multiple_choice_text(text, options, mode),
        options=options,
        answer_index=index,
        mode=mode,
        target=letter if chain is None else think_target(chain, letter, options),
    )


def photo_question(row: Mapping, kind: str, draw: str, names: Sequence[str]) -> Question:
    """One exercise on a pair row with known front: `draw` makes it one of many."""
    hours = known_hours(row)
    assert hours is not None, "perception exercises need procedural captures"
    uid = f"{row['uid']}/{kind}/{draw}"
    photo = hash_int("photo", uid) % 2
    p = photo + 1
    shown = side(row["views"][photo]["azimuth_deg"])
    thinks = hash_int("mode", uid) % 2 == 0
    views = describe_views(row)
    if kind == "hours":
        return _free(uid, kind, "From which hour is each photo taken?", views)
    if kind == "hour":
        return _free(
            uid, kind, f"From which hour is photo {p} taken?", f"{HOURS[hours[photo]]} o'clock"
        )
    if kind == "side":
        return _free(
            uid,
            kind,
            f"Which side of the object faces the camera in photo {p}?",
            f"the {shown} side",
        )
    if kind == "object":
        return _free(uid, kind, f"What does photo {p} show?", f"a {object_phrase(row)}")
    if kind == "hour_choice":
        truth = f"{HOURS[hours[photo]]} o'clock"
        others = [
            f"{h} o'clock" for i, h in enumerate(HOURS) if abs(clock_steps(hours[photo], i)) > 1
        ]
        chain = f"{views}\nSo photo {p} is taken from {truth}."
        return choice_question(
            uid,
            kind,
            f"From which hour is photo {p} taken?",
            truth,
            others,
            chain if thinks else None,
        )
    if kind == "side_choice":
        truth = f"the {shown} side"
        others = [f"the {s} side" for s in SIDES if s != shown]
        chain = f"{views}\nSo photo {p} shows {truth}."
        return choice_question(
            uid,
            kind,
            f"Which side of the object faces the camera in photo {p}?",
            truth,
            others,
            chain if thinks else None,
        )
    truth = f"a {object_phrase(row)}"
    others = [
        f"a {row['attributes']['body_colour']} {name}"
        for name in names
        if name != row["class_name"].lower()
    ]
    chain = f"{views}\nSo photo {p} shows {truth}."
    return choice_question(
        uid, kind, f"What does photo {p} show?", truth, others, chain if thinks else None
    )


def clock_question(draw: str) -> Question:
    """Text only: the order of the hours on a clock face, for hours up to four apart."""
    first = hash_int("first", draw) % 12
    steps = hash_choice((-4, -3, -2, -1, 1, 2, 3, 4), "steps", draw)
    second = (first + steps) % 12
    text = f"Which way round is it from {HOURS[first]} o'clock to {HOURS[second]} o'clock?"
    way = "clockwise" if steps > 0 else "counter-clockwise"
    return _free(
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
    """Three coloured objects, as scenes name them."""
    colors, names = hash_shuffle(list(PALETTE), "colours", draw), hash_shuffle(SEEN, "names", draw)
    return {
        phrase: phrase
        for phrase in (
            f"the {color} {name}" for color, name in zip(colors[:3], names, strict=False)
        )
    }


def pick_question(draw: str) -> Question:
    """Text only: which letter stands before the option with a given word."""
    words = (
        _things(draw)
        if hash_int("things", draw) % 4 == 0
        else hash_choice(OPTION_WORDS, "words", draw)
    )
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
    """Text only: the hours of a clock, or the letters of options."""
    return clock_question(draw) if hash_int("word", draw) % 3 == 0 else pick_question(draw)


def perception_questions(
    row: Mapping, draw: str, names: Sequence[str], count: int
) -> list[Question]:
    """`count` exercises of different kinds about one pair row, drawn by hash of (row, draw); the first names both hours."""
    kinds = ["hours", *hash_shuffle(KINDS[1:], "kinds", row["uid"], draw)]
    return [photo_question(row, kind, draw, names) for kind in kinds[:count]]
