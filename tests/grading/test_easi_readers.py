"""EASI's readers: what they credit, also where our own reader calls an answer unparsed."""

import time

import pytest

from actial.core.records import Outcome
from actial.grading.easi_readers import easi_number, read_easi, read_vlmeval_2026
from actial.grading.multiple_choice import grade
from actial.grading.open_ended import grade_open

FOUR = ("left", "right", "up", "no movement")


@pytest.mark.parametrize(
    ("text", "letter", "rule"),
    [
        ("<think>A or C</think><answer>B</answer>", "B", "easi_tag"),
        ("<Answer> b. right </ANSWER>", "B", "easi_tag"),
        ("<answer>Because</answer>", "B", "easi_tag"),
        ("<answer>G</answer>", None, "none"),
        ("the letter (c)</answer>", "C", "easi_before_tag"),
        ("<think>so D</think>", "D", "easi_before_tag"),
        ("<think>B B B.</think>\nfirst A\nthen C\n\n", "C", "easi_line"),
        ("a. left because it is seen", "A", "easi_line"),
        ("**(b)**", "B", "easi_line"),
        ("A and B", None, "none"),
        ("A\nOption B: right", "A", "easi_line"),
        ("answer: (b) or C,", "C", "easi_line"),
        ("A, B: answer c\u00e9, answer d!", "D", "easi_stated"),
        ("\u6240\u4ee5c\u3001", "C", "easi_stated"),
        ("AB, answer D2 or C3", None, "none"),
        ("\u200bB\ufeff", "B", "easi_line"),
        ("no letter at all", None, "none"),
    ],
)
def test_letters_as_easi_reads_them(text, letter, rule):
    assert read_easi(text, FOUR) == (letter, rule)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("<answer>12.5 meters</answer> or 3", "12.5"),
        ("<think>4 chairs</think> there are five, no, six", "6"),
        ("<think>7", "7"),
        ("1,200", "200"),
        ("between 2 and -3e1 m", "-3e1"),
        ("['4', 5]", "4"),
        ("[chair]", None),
        ("no number", None),
    ],
)
def test_numbers_as_easi_reads_them(text, number):
    assert easi_number(text) == number


@pytest.mark.parametrize(
    ("text", "letter", "rule"),
    [
        ("The answer is B.", "B", "vlmeval_option"),
        ("B. It turned right, as far as I can see it in the image", None, "none"),
        ("The correct answer is **B**. I see the right wall and A", "B", "vlmeval_stated"),
        ("<answer>B</answer>", None, "none"),
        ("right", "B", "vlmeval_text"),
        ("left or right", None, "none"),
        ("Cannot determine the answer B", None, "none"),
        ("Failed to obtain answer via API, right", "B", "vlmeval_text"),
        ("Failed to obtain answer via API", None, "none"),
        ("Z right", None, "none"),
    ],
)
def test_letters_as_vlmevalkit_reads_them_now(text, letter, rule):
    assert read_vlmeval_2026(text, FOUR) == (letter, rule)


def test_modes_grade_with_these_readers():
    text = "<answer>Because I saw A or D</answer>"
    assert grade(text, FOUR, 2).outcome is Outcome.NO_ANSWER
    assert grade(text, FOUR, 2, compat="easi").letter == "B"
    assert grade(text, FOUR, 2, compat="vlmeval_2026").letter == "A"


def test_the_number_is_looked_for_in_the_whole_text():
    score, read = grade_open("<think>about 3 meters", "mra_easi", "3")
    assert (score.value, read) == (1.0, "3")
    assert (
        grade_open("<think>about 3 meters", "mra_token", "3")[0].outcome is Outcome.TRUNCATED
    )


@pytest.mark.parametrize(
    "text",
    [
        "<answer" * 20_000,
        "*" * 100_000,
        "answer" + " " * 100_000,
        "<answer>A" * 10_000,
        "(" * 100_000,
        "A " * 50_000,
        "9" * 100_000,
        "<answer>1" + " " * 100_000,
    ],
)
def test_long_answers_take_linear_time(text):
    start = time.process_time()
    read_easi(text, FOUR)
    read_vlmeval_2026(text, FOUR)
    easi_number(text)
    assert time.process_time() - start < 2
