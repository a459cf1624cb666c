"""Viewpoint questions: wording, options and their order, rendered from a pair's index row (paper 1.1).

The order of the options is a hash of (row, type, epoch), so it is the same for any worker count. "No movement" is a distractor in the
paper's data (every pair is at least 20 degrees apart): chance is 1/2 for a model that has learnt so, 1/3 for one that has not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from actial.hashing import hash_shuffle
from actial.types import AnswerMode, Question, QuestionType

TYPES = tuple(QuestionType)

WORDING = {
    QuestionType.EGO_TRANSLATION: "The object did not move. Seen from the camera, where did the camera move from photo 1 to photo 2?",
    QuestionType.OBJECT_TRANSLATION: "The object did not move. Seen from the object, facing the camera of photo 1, where did the camera move?",
    QuestionType.EGO_ROTATION: "The object did not move. How did the camera turn about its own vertical axis from photo 1 to photo 2?",
}
OPTIONS = {
    QuestionType.EGO_TRANSLATION: {"left": "Move to the left", "right": "Move to the right", "none": "No movement"},
    QuestionType.OBJECT_TRANSLATION: {"left": "Move to the left", "right": "Move to the right", "none": "No movement"},
    QuestionType.EGO_ROTATION: {"left": "Rotate to the left", "right": "Rotate to the right", "none": "No rotation"},
}
LETTER_ONLY = "Reply with the option letter only."


def options_line(options: Sequence[str]) -> str:
    return " ".join(f"{letter}: {text}" for letter, text in zip("ABCDEF", options, strict=False))


def multiple_choice_text(question: str, options: Sequence[str], mode: AnswerMode) -> str:
    """The user's text behind the images: question, options on one line, and in direct mode the request for a letter."""
    lines = [question, options_line(options)]
    if mode is AnswerMode.DIRECT:
        lines.append(LETTER_ONLY)
    return "\n".join(lines)


def viewpoint_question(row: Mapping, kind: QuestionType, mode: AnswerMode, *, epoch: int = 0) -> Question:
    """One of the three questions of a pair, without a supervised target."""
    truth = row["labels"][kind.value]
    sides = hash_shuffle(list(OPTIONS[kind]), "options", row["uid"], kind.value, epoch)
    options = tuple(OPTIONS[kind][side] for side in sides)
    return Question(
        uid=f"{row['uid']}/{kind.value}",
        type=kind.value,
        text=multiple_choice_text(WORDING[kind], options, mode),
        options=options,
        answer_index=sides.index(truth),
        mode=mode,
    )


def qa_question(row: Mapping, mode: AnswerMode, *, epoch: int = 0) -> Question:
    """A multiple-choice row of kind "qa" (SAT and its like) with deterministically shuffled options."""
    order = hash_shuffle(range(len(row["options"])), "options", row["uid"], epoch)
    options = tuple(row["options"][i] for i in order)
    return Question(
        uid=str(row["uid"]),
        type=row["type"],
        text=multiple_choice_text(row["question"], options, mode),
        options=options,
        answer_index=order.index(row["answer_index"]),
        mode=mode,
    )
