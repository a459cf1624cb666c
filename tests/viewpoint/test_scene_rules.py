"""Text-only rule exercises follow from their facts and are worded as the scenes' questions."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from actial.core.records import AnswerMode, Question
from actial.synthetic.scene_questions import KINDS, ask
from actial.viewpoint.scene_rules import (
    RULES,
    describe_thing,
    fact_list,
    list_question,
    named_facts,
    named_lines,
    read_description,
    rule_question,
)

QUESTIONS = [rule_question(str(i)) for i in range(500)]
DESCRIPTION = "the red car 25 front.\nthe blue mug 63 back left.\nthe green dog 81 left."


def of_kind(kind: str) -> list[Question]:
    return [question for question in QUESTIONS if question.type == f"rule_{kind}"]


def right_answer(question: Question) -> str:
    return question.options[question.answer_index]


def scene_and_question(question: Question) -> tuple[str, str]:
    scene_text, text, *_ = question.text.split("\n")
    return scene_text, text


def pattern(text: str) -> str:
    return re.sub(r"the (?!camera|objects|left|right|photo)\w+ \w+", "THING", text)


def test_a_description_gives_column_distance_and_visible_side():
    assert describe_thing("the red car", -0.27, 3.75, 0.0) == "the red car 11 front."
    assert describe_thing("the red car", 0.27, 6.75, 90.0) == "the red car 87 left."
    assert describe_thing("the red car", 5.0, 99.0, 180.0) == "the red car 87 back."


def test_lines_and_facts_are_those_of_the_named_things_in_the_order_of_the_question():
    text = "is the green dog nearer than the red car?"
    assert [line.phrase for line in named_lines(DESCRIPTION, text)] == [
        "the green dog",
        "the red car",
    ]
    assert named_facts(DESCRIPTION, text) == (
        "the red car is to the left of the green dog.\nthe green dog is closer."
    )
    assert named_facts(DESCRIPTION, "face the blue mug") == "the blue mug is on the right."
    assert named_facts(DESCRIPTION, "how many objects are in the photo?") == ""
    assert (
        named_lines(DESCRIPTION, "the blue mug")[0].visible_side
        == "the blue mug shows the back left side."
    )


def test_a_list_of_facts_follows_the_order_in_which_the_question_names_the_things():
    assert fact_list(named_lines(DESCRIPTION, DESCRIPTION)[::-1]) == (
        "the blue mug is to the left of the green dog.\nthe green dog is closer.\n"
        "the red car is to the left of the blue mug.\nthe blue mug is closer.\n"
        "the green dog is to the right of the red car.\nthe green dog is closer.\n"
        "the green dog is on the right.\nthe blue mug is on the right.\n"
        "the red car is on the left."
    )
    listing = list_question("a scene", "photo 2", DESCRIPTION)
    order = [line.phrase for line in named_lines(DESCRIPTION, listing.text)]
    listed = re.findall(r"(the \w+ \w+) is on the", listing.target)
    assert listing.text.startswith("what is where in photo 2: ")
    assert listed == order


def test_two_things_in_one_column_are_not_told_apart_in_a_list():
    lines = read_description("the red car 25 front.\nthe blue mug 23 back left.")
    assert fact_list(lines) == "the red car is on the left.\nthe blue mug is on the left."


@pytest.mark.parametrize("kind", sorted(RULES))
def test_each_kind_is_drawn_and_each_letter_is_right_about_as_often(kind):
    drawn = of_kind(kind)
    assert len(drawn) > 60
    firsts = Counter(question.answer_index for question in drawn)
    assert 0.35 < firsts[0] / len(drawn) < 0.65


def test_rules_are_worded_as_the_questions_about_scenes():
    scenes = {
        pattern(item.question)
        for kind in KINDS
        for index in range(24)
        for item in ask(kind, ("wording", index), 96)
    }
    assert {pattern(scene_and_question(question)[1]) for question in QUESTIONS} <= scenes


def test_the_way_to_turn_is_the_half_on_which_the_goal_is():
    for question in of_kind("goal_aim"):
        scene_text, text = scene_and_question(question)
        goal = re.search(r"face (.*)\. which", text).group(1)
        assert (
            f"{goal} is on the {right_answer(question).removeprefix('turn ')}." in scene_text
        )


@pytest.mark.parametrize("kind", ["turn", "walk"])
def test_the_other_thing_is_on_the_side_on_which_the_photo_shows_it(kind):
    for question in of_kind(kind):
        scene_text, text = scene_and_question(question)
        a, b = re.search(r"(?:face|straight to) (.*), will (.*) be", text).groups()
        assert f"{b} is to the {right_answer(question)} of {a}." in scene_text


def test_a_step_towards_the_closer_thing_keeps_it_closer():
    checked = 0
    for question in of_kind("step"):
        scene_text, text = scene_and_question(question)
        way, a, b = re.search(r"to the (\w+), .*, (the .*) or (the .*)\?", text).groups()
        on_that_side = b if f"{b} is to the {way} of {a}." in scene_text else a
        if f"{on_that_side} is closer." in scene_text:
            assert right_answer(question) == on_that_side
            checked += 1
    assert checked > 20


def test_a_thing_that_shows_its_front_has_the_other_on_the_mirrored_side():
    agreeing = Counter()
    for question in of_kind("perspective"):
        scene_text, text = scene_and_question(question)
        a, b = re.search(r"for (.*), looking .*, is (the \w+ \w+) ", text).groups()
        in_photo = "left" if f"{b} is to the left of {a}." in scene_text else "right"
        for side_name in ("front", "back"):
            sides = right_answer(question) in ("left", "right")
            if sides and f"{a} shows the {side_name} side." in scene_text:
                agreeing[side_name, right_answer(question) == in_photo] += 1
    assert agreeing["front", False] > 4 * agreeing["front", True]
    assert agreeing["back", True] > 4 * agreeing["back", False]


def test_some_chains_begin_with_the_facts_about_the_named_things():
    thinking = [q for q in QUESTIONS if q.mode is AnswerMode.THINK]
    described = [q for q in thinking if not q.target.startswith("<think>\nSo ")]
    assert 0.25 < len(described) / len(thinking) < 0.45
    for question in described:
        chain = question.target.removeprefix("<think>\n").split("\nSo ")[0]
        scene_text, _ = scene_and_question(question)
        assert all(fact in scene_text for fact in chain.split("\n"))


def test_an_exercise_depends_on_its_draw_alone():
    assert rule_question("7") == rule_question("7")
    assert rule_question("7") != rule_question("8")
