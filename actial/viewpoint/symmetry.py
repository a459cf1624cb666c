"""How answers change when the photos of a pair are swapped or mirrored, or the options are rotated."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from actial.core.multiple_choice_format import LETTERS
from actial.core.records import Example, Question, QuestionType

SIGN = {
    QuestionType.EGO_TRANSLATION.value: 1,
    QuestionType.OBJECT_TRANSLATION.value: -1,
    QuestionType.EGO_ROTATION.value: -1,
}


REVERSED = {
    "left": "right",
    "right": "left",
    "up": "down",
    "down": "up",
    "forward": "backward",
    "backward": "forward",
}


SIDES = {"left": "right", "right": "left", "Left": "Right", "Right": "Left"}


# how options stand in a question's text: one option, and what is between two (ours; CV-Bench and BLINK; VLMEvalKit's; MMSI-Bench)
LAYOUTS = (("{}: {}", " "), ("({}) {}", "\n"), ("{}. {}", "\n"), ("{}: {}", ", "))


# question types about motion from the first photo to the last, which swapping reverses (SAT's and BLINK's beside our own)
MOTION_TYPES = (*SIGN, "ego_motion", "obj_motion", "Multi-view_Reasoning")


def opposite(text: str) -> str:
    """The text with left and right exchanged."""
    return re.sub(r"\b([Ll]eft|[Rr]ight)\b", lambda m: SIDES[m[0]], text)


def laid_out(question: Question) -> tuple[str, str] | None:
    """The layout in which the question's text shows its options; None for another than the known ones."""
    return next(
        (layout for layout in LAYOUTS if _lettered(question.options, layout) in question.text), None
    )


def _lettered(options: Sequence[str], layout: tuple[str, str]) -> str:
    form, between = layout
    return between.join(
        form.format(letter, text) for letter, text in zip(LETTERS, options, strict=False)
    )


def turns(question: Question) -> bool:
    """Whether swapping or mirroring the photos turns the answer: about motion, every option's mirror image is among the options, some
    differ from theirs, and the wording itself favours no side (it may offer both: "left or right?").
    """
    layout = laid_out(question) if len(question.options) > 1 else None
    if question.type not in MOTION_TYPES or layout is None:
        return False
    wording = question.text.replace(_lettered(question.options, layout), "").lower()
    turned = {opposite(option) for option in question.options}
    even = len(re.findall(r"\bleft\b", wording)) == len(re.findall(r"\bright\b", wording))
    return (
        even and turned == set(question.options) and any(opposite(o) != o for o in question.options)
    )


def swap_views(example: Example) -> Example:
    """The photos in reverse order, what the row says of them too."""
    return replace(_turned(example, "swap", example.images[::-1]), row=swapped_row(example.row))


def swapped_row(row: dict) -> dict:
    """A pair's row with the photos in reverse order: labels turn, the angle changes sign, views change places; other rows as they are."""
    if "labels" not in row:
        return row
    labels = {name: REVERSED.get(value, value) for name, value in row["labels"].items()}
    turned = row | {
        "labels": labels,
        "geom": row["geom"] | {"alpha_deg": -row["geom"]["alpha_deg"]},
    }
    return turned | {"views": row["views"][::-1]} if "views" in row else turned


def mirror_views(example: Example) -> Example:
    """Every photo flipped left to right."""
    return _turned(
        example, "mirror", [np.ascontiguousarray(image[:, ::-1]) for image in example.images]
    )


def rotate_options(example: Example, shift: int) -> Example:
    """Option i moves to place i + shift. Each question's options must stand in its text in one of LAYOUTS."""

    def rotated(question: Question) -> Question:
        layout = laid_out(question)
        assert layout is not None, question.text
        k = len(question.options)
        options = tuple(question.options[(i - shift) % k] for i in range(k))
        text = question.text.replace(
            _lettered(question.options, layout), _lettered(options, layout)
        )
        return replace(
            question, options=options, text=text, answer_index=(question.answer_index + shift) % k
        )

    return _variant(
        example, f"options{shift}", example.images, [rotated(q) for q in example.questions]
    )


def _turned(example: Example, name: str, images: list[np.ndarray]) -> Example:
    def turned(question: Question) -> Question:
        return replace(
            question,
            answer_index=question.options.index(opposite(question.options[question.answer_index])),
        )

    return _variant(example, name, images, [turned(q) for q in example.questions])


def _variant(
    example: Example, name: str, images: list[np.ndarray], questions: Sequence[Question]
) -> Example:
    renamed = [replace(q, uid=f"{q.uid}#{name}") for q in questions]
    return replace(example, uid=f"{example.uid}#{name}", images=images, questions=renamed)


def implied_motion(kind: str, option: str) -> int:
    """+1 when this answer to a question of `SIGN` implies that the camera went to its right, -1 left, 0 no motion."""
    words = option.lower().split()
    return SIGN[kind] * (("right" in words) - ("left" in words))
