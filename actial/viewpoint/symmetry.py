"""How answers change when the images of a pair are swapped or mirrored, or options are rotated."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from actial.core.multiple_choice_format import LETTERS, names_other_options
from actial.core.records import Example, Question
from actial.core.set_records import MotionLabels, QuestionType, ViewPair

SIGN = {  # of the answer "right", as a camera motion to its own right
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
# How options stand in a question's text: one option, and what is between two.
# (ours; CV-Bench and BLINK; VLMEvalKit's; MMSI-Bench)
LAYOUTS = (("{}: {}", " "), ("({}) {}", "\n"), ("{}. {}", "\n"), ("{}: {}", ", "))
# Question types about motion from the first image to the last, which swapping reverses
# (SAT's and BLINK's beside our own).
MOTION_TYPES = (*SIGN, "ego_motion", "obj_motion", "Multi-view_Reasoning")


def opposite(text: str) -> str:
    """Return the text with left and right exchanged."""
    return re.sub(r"\b([Ll]eft|[Rr]ight)\b", lambda m: SIDES[m[0]], text)


def option_layout(question: Question) -> tuple[str, str] | None:
    """Return the one of LAYOUTS in which the question's text shows its options, else None."""
    fitting = (
        layout for layout in LAYOUTS if _lettered(question.options, layout) in question.text
    )
    return next(fitting, None)


def _lettered(options: Sequence[str], layout: tuple[str, str]) -> str:
    form, between = layout
    lettered = zip(LETTERS, options, strict=False)
    return between.join(form.format(letter, text) for letter, text in lettered)


def answer_turns(question: Question) -> bool:
    """Tell whether swapping or mirroring the images turns the answer.

    It does where the question is about motion, every option's mirror image is among the
    options, some differ from theirs, and the wording itself favors no side ("left or
    right?" is even).
    """
    layout = option_layout(question) if len(question.options) > 1 else None
    if question.type not in MOTION_TYPES or layout is None:
        return False
    wording = question.text.replace(_lettered(question.options, layout), "").lower()
    lefts, rights = (len(re.findall(rf"\b{side}\b", wording)) for side in ("left", "right"))
    mirrored = [opposite(option) for option in question.options]
    if lefts != rights or set(mirrored) != set(question.options):
        return False
    return mirrored != list(question.options)


def swap_views(example: Example) -> Example:
    """Return the example with its images in reverse order, and its record of them too."""
    swapped = _turned(example, "swap", example.images[::-1])
    if not isinstance(example.record, ViewPair):
        return swapped
    return replace(swapped, record=swapped_pair(example.record))


def swapped_pair(pair: ViewPair) -> ViewPair:
    """Return the pair with its images in reverse order.

    Labels turn, alpha changes its sign, the views change places; the other measurements stay
    those of the pair as it is stored.
    """
    sides = {kind: REVERSED.get(side, side) for kind, side in pair.labels.sides().items()}
    return replace(
        pair,
        labels=MotionLabels(**sides, ego_rotation_deg=pair.labels.ego_rotation_deg),
        geometry=replace(pair.geometry, alpha_deg=-pair.geometry.alpha_deg),
        views=pair.views[::-1],
    )


def mirror_views(example: Example) -> Example:
    """Return the example with every image flipped left to right."""
    flipped = [np.ascontiguousarray(image[:, ::-1]) for image in example.images]
    return _turned(example, "mirror", flipped)


def rotate_options(example: Example, shift: int) -> Example:
    """Return the example with option i at place i + shift; options must stand in a known layout.

    Options that name others, such as "Both A and B", keep their order.
    """
    rotated = [_rotated(question, shift) for question in example.questions]
    return variant(example, f"options{shift}", example.images, rotated)


def _rotated(question: Question, shift: int) -> Question:
    if names_other_options(question.options):
        return question
    layout = option_layout(question)
    assert layout is not None, question.text
    count = len(question.options)
    options = tuple(question.options[(i - shift) % count] for i in range(count))
    before, after = _lettered(question.options, layout), _lettered(options, layout)
    return replace(
        question,
        options=options,
        text=question.text.replace(before, after),
        answer_index=(question.answer_index + shift) % count,
    )


def _turned(example: Example, name: str, images: list[np.ndarray]) -> Example:
    turned = []
    for question in example.questions:
        answer = opposite(question.options[question.answer_index])
        turned.append(replace(question, answer_index=question.options.index(answer)))
    return variant(example, name, images, turned)


def variant(
    example: Example, name: str, images: list[np.ndarray], questions: Sequence[Question]
) -> Example:
    """Return the example with other images and questions, their ids marked by #name."""
    renamed = [replace(q, uid=f"{q.uid}#{name}") for q in questions]
    return replace(example, uid=f"{example.uid}#{name}", images=images, questions=renamed)


def implied_motion(kind: str, option: str) -> int:
    """Return what an answer to a question of `SIGN` says of the camera's own motion.

    +1 right, -1 left, 0 none.
    """
    words = option.lower().split()
    return SIGN[kind] * (("right" in words) - ("left" in words))
