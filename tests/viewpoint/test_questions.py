"""Questions, chains and the verifier, on hand-written rows."""

from dataclasses import replace

import pytest
from support.records import RIGHT, question_record, view_pair

from actial.core.records import AnswerMode
from actial.core.set_records import PAPER_QUESTIONS, Motion, MotionLabels, QuestionType
from actial.teacher.prompt import read_reply
from actial.viewpoint.perception_exercises import (
    KINDS,
    clock_question,
    perception_questions,
    photo_question,
    pick_question,
)
from actial.viewpoint.questions import (
    LETTER_ONLY,
    NUMBER_ONLY,
    qa_question,
    question_types,
    viewpoint_question,
)
from actial.viewpoint.rationale_verifier import contradictions
from actial.viewpoint.rationales import (
    HOURS,
    clock_steps,
    clock_walk,
    grounded_rationale,
    hour,
    think_target,
)


def test_hours_run_clockwise_from_the_front():
    assert [HOURS[hour(a)] for a in (0, 90, 180, 270, -30, 14, 16)] == [
        "twelve",
        "nine",
        "six",
        "three",
        "one",
        "twelve",
        "eleven",
    ]


@pytest.mark.parametrize(
    ("first", "second", "steps"), [(0, 3, 3), (11, 1, 2), (1, 11, -2), (4, 4, 0), (0, 6, 6)]
)
def test_clock_steps_take_the_shorter_way(first, second, steps):
    assert clock_steps(first, second) == steps


@pytest.mark.parametrize("kind", PAPER_QUESTIONS)
def test_the_answer_letter_names_the_true_option(kind):
    row = view_pair()
    letters = set()
    for epoch in range(30):
        question = viewpoint_question(row, kind, AnswerMode.DIRECT, epoch=epoch)
        assert row.labels.sides()[kind.value] in question.options[question.answer_index]
        assert (
            f"{question.answer_letter}: {question.options[question.answer_index]}"
            in question.text
        )
        assert question.text.endswith(LETTER_ONLY)
        letters.add(question.answer_letter)
    assert letters == {"A", "B", "C"}


@pytest.mark.parametrize("degrees", [21.0, 34.9, 35.1, 60.0, 99.0])
def test_a_choice_of_degrees_has_one_option_within_five(degrees):
    row = view_pair(degrees, labels=replace(RIGHT, ego_rotation_deg=degrees))
    question = viewpoint_question(row, QuestionType.ROTATION_DEGREES, AnswerMode.DIRECT)
    values = [int(option.split()[1]) for option in question.options]
    assert len(values) == 4
    assert min(abs(a - b) for i, a in enumerate(values) for b in values[:i]) >= 20
    assert abs(values[question.answer_index] - degrees) <= 5
    assert abs(values[question.answer_index] - degrees) == min(
        abs(v - degrees) for v in values
    )


def test_a_number_of_degrees_is_answered_by_the_number():
    row = view_pair(34.6, labels=replace(RIGHT, ego_rotation_deg=34.6))
    question = viewpoint_question(row, QuestionType.ROTATION_NUMBER, AnswerMode.DIRECT)
    assert (question.options, question.answer, question.number) == ((), "35", 34.6)
    assert question.text.endswith(NUMBER_ONLY)
    assert "A:" not in question.text
    chain = grounded_rationale(row, question)
    assert contradictions(think_target(chain, question.answer), row) == []


FURTHER = {
    "vertical": ({"ego_vertical": "down"}, "Move down", "the camera moved down"),
    "depth": ({"ego_depth": "backward"}, "Move backward", "the camera moved backward"),
    "still": ({"ego_rotation": "none"}, "No rotation", "the camera did not turn"),
}


@pytest.mark.parametrize("motion", FURTHER)
def test_further_motions_are_asked_and_told(motion):
    labels, option, conclusion = FURTHER[motion]
    (kind,) = labels
    row = view_pair(
        0.0,
        motion=Motion(motion),
        labels=MotionLabels(**labels),
        questions=(QuestionType(kind),),
        question_type=QuestionType(kind),
    )
    question = viewpoint_question(row, question_types(row, 3)[0], AnswerMode.THINK)
    assert question.options[question.answer_index] == option
    for told in (row, replace(row, views=())):  # of a known front, and of none
        chain = grounded_rationale(told, question)
        assert chain.endswith(f"So {conclusion}.")
        assert "different sides" not in chain


def test_more_photos_are_asked_about_from_the_first_to_the_last():
    row = view_pair(frame_names=("a", "b", "c"))
    for kind in PAPER_QUESTIONS:
        text = viewpoint_question(row, kind, AnswerMode.DIRECT).text
        assert "photo 3" in text
        assert "photo 2" not in text
    assert grounded_rationale(
        replace(row, views=()), viewpoint_question(row, kind, AnswerMode.THINK)
    ).startswith("All 3 photos show a red mug.\nThey ")


def test_a_row_is_asked_the_question_it_was_built_for_or_several():
    row = view_pair(question_type=QuestionType.EGO_ROTATION)
    assert question_types(row, 1) == (QuestionType.EGO_ROTATION,)
    assert question_types(row, 3) == PAPER_QUESTIONS
    two = {question_types(view_pair(uid=f"p{i}"), 2) for i in range(50)}
    assert two == {PAPER_QUESTIONS[:2], PAPER_QUESTIONS[1:], PAPER_QUESTIONS[::2]}


def test_qa_rows_keep_their_answer_through_the_shuffle():
    row = question_record()
    for epoch in range(20):
        question = qa_question(row, AnswerMode.THINK, epoch=epoch)
        assert question.options[question.answer_index] == "3"
        assert LETTER_ONLY not in question.text


@pytest.mark.parametrize("alpha", [-100.0, -20.0, 20.0, 100.0])
@pytest.mark.parametrize("kind", PAPER_QUESTIONS)
def test_grounded_rationales_pass_their_own_verifier_and_fail_the_opposite_truth(alpha, kind):
    row = view_pair(alpha, (15.0, 15.0 + alpha))
    question = viewpoint_question(row, kind, AnswerMode.THINK)
    text = think_target(
        grounded_rationale(row, question), question.answer_letter, question.options
    )
    assert text.count("is it.") == 1
    assert contradictions(text, row, question.answer_letter, question) == []
    opposite = view_pair(-alpha, (15.0, 15.0 - alpha))
    assert {kind.value, "turn", "hour"} <= {c.reason for c in contradictions(text, opposite)}


def test_the_slip_of_the_papers_template_is_caught():
    """Camera moved left; the text derives right from the object's view and closes with left."""
    text = "Seen from the object, the camera moved to the right, so seen from the object it moved to the left."
    assert [c.reason for c in contradictions(text, view_pair(-60.0))] == ["object_translation"]


def test_the_slip_of_figure_a2_is_caught():
    """Camera moved right; the derivation places it on the wrong side of the object before the right
    conclusion.
    """
    text = "Seen from the object it moved to the right. Therefore, seen from the object the camera moved to the left."
    assert [c.reason for c in contradictions(text, view_pair(60.0))] == ["object_translation"]


def test_wrong_degrees_hour_and_letter_are_named():
    row = view_pair(60.0, (0.0, 60.0))
    question = viewpoint_question(row, QuestionType.EGO_ROTATION, AnswerMode.THINK)
    wrong = "ABC"[(question.answer_index + 1) % 3]
    text = "Photo 1 is taken from twelve o'clock, photo 2 from two o'clock: about 90 degrees."
    assert {c.reason for c in contradictions(text, row, wrong, question)} == {
        "hour",
        "degrees",
        "letter",
    }


def test_a_capture_without_known_front_still_gets_a_chain():
    row = view_pair(40.0, azimuths=None)
    chain = grounded_rationale(
        row, viewpoint_question(row, QuestionType.EGO_TRANSLATION, AnswerMode.THINK)
    )
    assert "o'clock" not in chain
    assert "moved to its right" in chain


MOTION_WORDS = ("move", "moved", "rotate", "turned", "went", "camera went", "motion")


@pytest.mark.parametrize("kind", sorted(set(KINDS)))
def test_no_perception_exercise_speaks_of_motion_and_each_answer_is_true(kind):
    row = view_pair(60.0, (0.0, 60.0))
    for draw in range(8):
        question = photo_question(row, kind, str(draw), ["mug", "car", "chair", "duck"])
        assert question.target
        words = f"{question.text} {question.target}".lower().split()
        assert not any(word in words for word in MOTION_WORDS)
        if "photo 1" in question.target.lower():
            assert contradictions(question.target, row) == []
        if len(question.options) == 3:
            assert question.target.rstrip("</answer>").endswith(question.answer_letter)


def test_clock_exercises_are_right():
    for draw in range(200):
        question = clock_question(str(draw))
        first, second = (HOURS.index(word) for word in question.text.split() if word in HOURS)
        steps = clock_steps(first, second)
        assert question.target is not None
        assert (
            ("counter-clockwise" in question.target)
            == ("is not on this way" in question.target)
            == (steps < 0)
        )
        assert f"about {30 * abs(steps)} degrees" in question.target


def test_pick_exercises_weigh_the_options_up_to_the_right_one():
    for draw in range(200):
        question = pick_question(str(draw))
        assert question.target is not None
        right = f"{question.answer_letter}: {question.options[question.answer_index]}"
        if question.mode is AnswerMode.THINK:
            assert question.target.splitlines()[-3] == f"{right} is it."
            assert question.target.count("is not it.") == question.answer_index
        else:
            assert question.target == question.answer_letter
        assert right in question.text


def test_the_walk_lists_the_four_hours_that_follow():
    assert (
        clock_walk(10, 1)
        == "The clock from ten on: eleven, twelve, one, two. one is on this way."
    )
    assert clock_walk(1, 10).endswith("ten is not on this way.")


def test_perception_draws_differ_by_epoch():
    row = view_pair()
    names = ["mug", "car", "chair"]
    assert [q.uid for q in perception_questions(row, "0", names, 4)] != [
        q.uid for q in perception_questions(row, "1", names, 4)
    ]


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "text",
    [
        "7" * 300_000,
        "1." * 150_000,
        "it moved " * 50_000,
        "answer:" + ":" * 300_000,
        "\n" * 300_000,
    ],
)
def test_long_replies_are_read_in_linear_time(text):
    """A regular expression that is quadratic in the length takes many minutes here."""
    assert contradictions(text, view_pair()) == []
    assert read_reply(text)[1] is None
