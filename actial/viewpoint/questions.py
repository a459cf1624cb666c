"""Viewpoint questions: wording, options and their order, rendered from a pair's index row (paper 1.1).

The order of the options is a hash of (row, type, epoch), so it is the same for any worker count. "No movement" is a distractor in the
paper's data (every pair is at least 20 degrees apart): chance is 1/2 for a model that has learnt so, 1/3 for one that has not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from actial.core.records import AnswerMode, Question, QuestionType
from actial.core.seeding import hash_choice, hash_shuffle

TYPES = (
    QuestionType.EGO_TRANSLATION,
    QuestionType.OBJECT_TRANSLATION,
    QuestionType.EGO_ROTATION,
)  # the three of the paper

WORDING = {  # {last} is the number of the last photo
    QuestionType.EGO_TRANSLATION: "Seen from the camera, where did the camera move from photo 1 to photo {last}?",
    QuestionType.OBJECT_TRANSLATION: "Seen from the object, facing the camera of photo 1, where did the camera move{to_last}?",
    QuestionType.EGO_ROTATION: "How did the camera turn about its own vertical axis from photo 1 to photo {last}?",
    QuestionType.ROTATION_DEGREES: "By how many degrees did the camera turn about its own vertical axis from photo 1 to photo {last}?",
    QuestionType.ROTATION_NUMBER: "By how many degrees did the camera turn about its own vertical axis from photo 1 to photo {last}?",
    QuestionType.EGO_VERTICAL: "Did the camera move up or down from photo 1 to photo {last}?",
    QuestionType.EGO_DEPTH: "Seen from the camera, did the camera move forward or backward from photo 1 to photo {last}?",
}
MOVES = {"left": "Move to the left", "right": "Move to the right", "none": "No movement"}
OPTIONS = {
    QuestionType.EGO_TRANSLATION: MOVES,
    QuestionType.OBJECT_TRANSLATION: MOVES,
    QuestionType.EGO_ROTATION: {
        "left": "Rotate to the left",
        "right": "Rotate to the right",
        "none": "No rotation",
    },
    QuestionType.EGO_VERTICAL: {"up": "Move up", "down": "Move down", "none": "No movement"},
    QuestionType.EGO_DEPTH: {
        "forward": "Move forward",
        "backward": "Move backward",
        "none": "No movement",
    },
}
DEGREE_STEP = 20  # between the options of a question about degrees
DEGREE_RANGE = (20, 100)
LETTER_ONLY = "Reply with the option letter only."
NUMBER_ONLY = "Reply with the number of degrees only."


def options_line(options: Sequence[str]) -> str:
    return " ".join(f"{letter}: {text}" for letter, text in zip("ABCDEF", options, strict=False))


def multiple_choice_text(question: str, options: Sequence[str], mode: AnswerMode) -> str:
    """The user's text behind the images: question, options on one line, and in direct mode the request for a letter."""
    lines = [question, options_line(options)]
    if mode is AnswerMode.DIRECT:
        lines.append(LETTER_ONLY)
    return "\n".join(lines)


def askable(row: Mapping) -> tuple[QuestionType, ...]:
    """What the row's labels can answer, as its set was built."""
    return tuple(QuestionType(kind) for kind in row["questions"]) if "questions" in row else TYPES


def kinds_of(row: Mapping, count: int) -> tuple[QuestionType, ...]:
    """The `count` questions a row is asked, in a fixed order; one = the one it was built for (paper 2)."""
    kinds = askable(row)
    if count == 1:
        return (QuestionType(row.get("question_type") or hash_choice(kinds, "type", row["uid"])),)
    kept = hash_shuffle(kinds, "types", row["uid"])[:count]
    return tuple(kind for kind in kinds if kind in kept)


def viewpoint_question(
    row: Mapping, kind: QuestionType, mode: AnswerMode, *, epoch: int = 0
) -> Question:
    """One question of a pair row, without a supervised target; about its first and last photo."""
    last = len(row.get("frame_names", (1, 2)))
    asked = "The object did not move. " + WORDING[kind].format(
        last=last, to_last="" if last == 2 else f" up to photo {last}"
    )
    if kind is QuestionType.ROTATION_NUMBER:
        return _number_question(row, kind, mode, asked)
    if kind is QuestionType.ROTATION_DEGREES:
        named, truth = _degree_options(row)
    else:
        named, truth = OPTIONS[kind], row["labels"][kind.value]
    sides = hash_shuffle(list(named), "options", row["uid"], kind.value, epoch)
    options = tuple(named[side] for side in sides)
    return Question(
        uid=f"{row['uid']}/{kind.value}",
        type=kind.value,
        text=multiple_choice_text(asked, options, mode),
        options=options,
        answer_index=sides.index(truth),
        mode=mode,
    )


def _degree_options(row: Mapping) -> tuple[dict[str, str], str]:
    """Four numbers DEGREE_STEP apart, one of them the truth to the nearest ten."""
    low, high = DEGREE_RANGE
    truth = min(max(round(row["labels"]["ego_rotation_deg"] / 10) * 10, low), high)
    ladder = [
        value
        for value in range(low, high + 1, 10)
        if (value - truth) % DEGREE_STEP == 0 and value != truth
    ]
    drawn = hash_shuffle(ladder, "degrees", row["uid"])[:3]
    return {str(value): f"About {value} degrees" for value in sorted([truth, *drawn])}, str(truth)


def _number_question(row: Mapping, kind: QuestionType, mode: AnswerMode, asked: str) -> Question:
    return Question(
        uid=f"{row['uid']}/{kind.value}",
        type=kind.value,
        text=asked if mode is AnswerMode.THINK else f"{asked}\n{NUMBER_ONLY}",
        options=(),
        answer_index=-1,
        mode=mode,
        number=float(row["labels"]["ego_rotation_deg"]),
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
