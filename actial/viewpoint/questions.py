"""Viewpoint questions: wording, options and their order, rendered from a ViewPair (paper 1.1).

The order of the options is a hash of (pair, type, epoch), so it is the same for
any number of workers. "No movement" is a distractor in the paper's data (every
pair is at least 20 degrees apart): chance is 1/2 for a model that has learned
so, 1/3 for one that has not.
"""

from __future__ import annotations

from collections.abc import Sequence

from actial.core.multiple_choice_format import LETTERS
from actial.core.records import AnswerMode, Question
from actial.core.seeding import hash_choice, hash_shuffle
from actial.core.set_records import QuestionRecord, QuestionType, ViewPair
from actial.viewpoint.wording import Wording

FIXED_OBJECT = "The object did not move. "
FROM_FIRST_TO_LAST = "from photo 1 to photo {last}?"
ABOUT_DEGREES = (
    "By how many degrees did the camera turn about its own vertical axis " + FROM_FIRST_TO_LAST
)
WORDING = {  # {last} is the number of the last photo
    QuestionType.EGO_TRANSLATION: (
        "Seen from the camera, where did the camera move " + FROM_FIRST_TO_LAST
    ),
    QuestionType.OBJECT_TRANSLATION: (
        "Seen from the object, facing the camera of photo 1, where did the camera move{to_last}?"
    ),
    QuestionType.EGO_ROTATION: (
        "How did the camera turn about its own vertical axis " + FROM_FIRST_TO_LAST
    ),
    QuestionType.ROTATION_DEGREES: ABOUT_DEGREES,
    QuestionType.ROTATION_NUMBER: ABOUT_DEGREES,
    QuestionType.EGO_VERTICAL: "Did the camera move up or down " + FROM_FIRST_TO_LAST,
    QuestionType.EGO_DEPTH: (
        "Seen from the camera, did the camera move forward or backward " + FROM_FIRST_TO_LAST
    ),
}
MOVES = {"left": "Move to the left", "right": "Move to the right", "none": "No movement"}
TURNS = {"left": "Rotate to the left", "right": "Rotate to the right", "none": "No rotation"}
OPTIONS = {  # side word of the labels -> text of the option
    QuestionType.EGO_TRANSLATION: MOVES,
    QuestionType.OBJECT_TRANSLATION: MOVES,
    QuestionType.EGO_ROTATION: TURNS,
    QuestionType.EGO_VERTICAL: {"up": "Move up", "down": "Move down", "none": "No movement"},
    QuestionType.EGO_DEPTH: {
        "forward": "Move forward",
        "backward": "Move backward",
        "none": "No movement",
    },
}
VIEWPOINT_TYPES = frozenset(kind.value for kind in QuestionType)
DEGREE_STEP = 20  # between the options of a question about degrees
DEGREE_RANGE = (20, 100)
LETTER_ONLY = "Reply with the option letter only."
NUMBER_ONLY = "Reply with the number of degrees only."
ANY_NUMBER_ONLY = "Reply with the number only."


def options_line(options: Sequence[str]) -> str:
    """Return "A: first B: second ..."."""
    return " ".join(
        f"{letter}: {text}" for letter, text in zip(LETTERS, options, strict=False)
    )


def multiple_choice_text(question: str, options: Sequence[str], mode: AnswerMode) -> str:
    """Return the user's text behind the images: question, options, and how to answer directly."""
    lines = [question, options_line(options)]
    if mode is AnswerMode.DIRECT:
        lines.append(LETTER_ONLY)
    return "\n".join(lines)


def question_types(pair: ViewPair, count: int) -> tuple[QuestionType, ...]:
    """Return the `count` questions that a pair is asked, in the order of its set.

    One question is the one the pair was built for (paper 2); more are drawn by hash.
    """
    if count == 1:
        drawn = pair.question_type or hash_choice(pair.questions, "type", pair.uid)
        return (drawn,)
    several = hash_shuffle(pair.questions, "types", pair.uid)[:count]
    return tuple(kind for kind in pair.questions if kind in several)


def viewpoint_question(
    pair: ViewPair,
    kind: QuestionType,
    mode: AnswerMode,
    *,
    epoch: int = 0,
    wording: Wording | None = None,
) -> Question:
    """Return one question about the first and the last image of a pair, without a target.

    `wording` replaces texts of ours.
    """
    last = len(pair.frame_names)
    to_last = "" if last == 2 else f" up to photo {last}"
    ours = FIXED_OBJECT + WORDING[kind]
    form = ours if wording is None else wording.questions.get(kind, ours)
    asked_text = form.format(last=last, to_last=to_last)
    if kind is QuestionType.ROTATION_NUMBER:
        return _number_question(pair, mode, asked_text)
    if kind is QuestionType.ROTATION_DEGREES:
        texts, truth = _degree_options(pair)
    else:
        texts, truth = OPTIONS[kind], pair.labels.sides()[kind.value]
        if wording is not None:
            texts = dict(wording.options.get(kind, texts))
    answers = hash_shuffle(list(texts), "options", pair.uid, kind.value, epoch)
    options = tuple(texts[answer] for answer in answers)
    return Question(
        uid=f"{pair.uid}/{kind.value}",
        type=kind.value,
        text=(
            multiple_choice_text(asked_text, options, mode)
            if wording is None
            else wording.text(asked_text, options_line(options), mode, LETTER_ONLY)
        ),
        options=options,
        answer_index=answers.index(truth),
        mode=mode,
    )


def _degree_options(pair: ViewPair) -> tuple[dict[str, str], str]:
    """Return four numbers DEGREE_STEP apart with their texts, and the truth to the nearest ten."""
    low, high = DEGREE_RANGE
    truth = min(max(round(_degrees(pair) / 10) * 10, low), high)
    others = [
        value
        for value in range(low, high + 1, 10)
        if (value - truth) % DEGREE_STEP == 0 and value != truth
    ]
    drawn = hash_shuffle(others, "degrees", pair.uid)[:3]
    return {str(value): f"About {value} degrees" for value in sorted([truth, *drawn])}, str(
        truth
    )


def _number_question(pair: ViewPair, mode: AnswerMode, wording: str) -> Question:
    kind = QuestionType.ROTATION_NUMBER.value
    return Question(
        uid=f"{pair.uid}/{kind}",
        type=kind,
        text=wording if mode is AnswerMode.THINK else f"{wording}\n{NUMBER_ONLY}",
        options=(),
        answer_index=-1,
        mode=mode,
        number=_degrees(pair),
    )


def _degrees(pair: ViewPair) -> float:
    degrees = pair.labels.ego_rotation_deg
    if degrees is None:
        raise ValueError(f"pair {pair.uid} has no label in degrees")
    return float(degrees)


def qa_question(
    record: QuestionRecord,
    mode: AnswerMode,
    *,
    epoch: int = 0,
    wording: Wording | None = None,
    shuffled: bool = True,
) -> Question:
    """Return a question of a question set, without a target.

    Args:
        epoch: the options are shuffled by hash of (uid, epoch).
        wording: lays out text and options of viewpoint questions in place of ours.
        shuffled: False leaves the options in the set's order, which a stored chain of thought
            refers to.
    """
    if record.number is not None:
        return _number_record_question(record, mode)
    order = list(range(len(record.options)))
    if shuffled:
        order = hash_shuffle(order, "options", record.uid, epoch)
    options = tuple(record.options[i] for i in order)
    text = multiple_choice_text(record.question, options, mode)
    if wording is not None and record.type in VIEWPOINT_TYPES:
        text = wording.text(record.question, options_line(options), mode, LETTER_ONLY)
    return Question(
        uid=record.uid,
        type=record.type,
        text=text,
        options=options,
        answer_index=order.index(record.answer_index),
        mode=mode,
    )


def _number_record_question(record: QuestionRecord, mode: AnswerMode) -> Question:
    text = record.question
    return Question(
        uid=record.uid,
        type=record.type,
        text=text if mode is AnswerMode.THINK else f"{text}\n{ANY_NUMBER_ONLY}",
        options=(),
        answer_index=-1,
        mode=mode,
        number=record.number,
    )
