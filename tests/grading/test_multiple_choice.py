"""The answer reader, string by string: letter, rule and outcome."""

import os
import time

import pytest
from support.answer_cases import FORMS, IN_DOUBT, OPTION_SETS, unanswered
from support.answers_as_written import ANSWERS
from support.answers_by_kind import ANSWERS_BY_KIND, UNFINISHED
from support.answers_in_doubt import ANSWERS_IN_DOUBT
from support.answers_of_senses import ANSWERS_OF_SENSES, CUT
from support.further_answers import FURTHER_ANSWERS
from support.later_answers import LATER_ANSWERS

from actial.core.errors import UserError
from actial.core.records import FinishReason, Outcome
from actial.grading import doubts
from actial.grading.multiple_choice import Compat, format_ok, grade

AB = ("left", "right")
ABC = ("Move to the left", "Move to the right", "No movement")
ABC_SHORT = ("left", "right", "no movement")

LADDER = [
    # benchmarks.md 6.5, with options A=left, B=right
    ("B", AB, "B", "whole"),
    ("(B)", AB, "B", "whole"),
    ("B. left", AB, "B", "leading"),
    ("<answer>B</answer>", AB, "B", "whole"),
    ("<answer>\nB\n</answer>", AB, "B", "whole"),
    ("The answer is B.", AB, "B", "answer_is"),
    ("The correct option is B", AB, "B", "answer_is"),
    ("Answer: B", AB, "B", "answer_is"),
    ("I think A is wrong so B", AB, "B", "sole_letter"),
    ("B. left of the chair because it is visible", AB, "B", "leading"),
    ("right", AB, "B", "option_text"),
    ("<answer>Between</answer>", AB, None, "none"),
    (
        "I put <think> reasoning process here </think> <answer> answer here </answer>",
        AB,
        None,
        "none",
    ),
    ("a chair, so B", AB, "B", "sole_letter"),
    # unwrapping
    ("<think>A or B? A.</think><answer>B</answer>", ABC, "B", "whole"),
    (
        "<think>it says <answer>answer here</answer></think> <answer>C</answer>",
        ABC,
        "C",
        "whole",
    ),
    ("<answer>A</answer> wait <answer>B</answer>", ABC, "B", "whole"),
    ("<THINK>x</THINK><ANSWER>c</ANSWER>", ABC, "C", "whole"),
    ("<think>A</think> so it is C", ABC, "C", "sole_letter"),
    ("<think>never closed <answer>B</answer>", ABC, "B", "whole"),
    # letters
    ("``C``", ABC, "C", "marked"),
    ("not `A` but `B. Move to the right`", ABC, "B", "marked"),
    (r"so \boxed{\text{A}}", ABC, "A", "marked"),
    (r"\boxed{left}", AB, "A", "marked"),
    ("**B**", ABC, "B", "whole"),
    ("**B.** it moved", ABC, "B", "leading"),
    ("a) because", ABC, "A", "leading"),
    ("The answer is A. Or rather, the answer is (C).", ABC, "C", "answer_is"),
    ("The answer is a chair", AB, None, "none"),
    ("Answer: A chair", AB, None, "none"),
    ("Answer: A because it turned", AB, "A", "answer_is"),
    ("comparing (A) with (B)", AB, None, "none"),
    ("A chair stands there, so C", ABC, "C", "sole_letter"),
    ("either A or B", AB, None, "none"),
    ("D", ABC, None, "none"),
    ("The answer is D", ABC, None, "none"),
    ("Isn't it? I can't tell", ABC, None, "none"),
    # option text
    ("it will move to the right.", ABC, "B", "option_text"),
    ("No movement", ABC, "C", "option_text"),
    ("no, it would stay", ("no", "no, it would stay"), "B", "option_text"),
    ("surely no, it would stay", ("no", "no, it would stay"), None, "none"),
    ("left", ("left", "left"), None, "none"),
    ("There are 3 chairs", ("2", "3", "13"), "B", "option_text"),
    ("", ABC, None, "none"),
]


@pytest.mark.parametrize(("text", "options", "letter", "rule"), LADDER)
def test_ladder(text, options, letter, rule):
    got = grade(text, options, 1)
    assert (got.letter, got.rule) == (letter, rule)
    assert got.correct == (letter == "B")
    assert got.outcome is (Outcome.PARSED if letter else Outcome.NO_ANSWER)


@pytest.mark.parametrize(
    ("text", "letter", "outcome"),
    [
        ("<think>the first photo shows A", None, Outcome.TRUNCATED),
        ("The left side (B) is visible and then", None, Outcome.TRUNCATED),
        (
            "The format is <think> </think> <answer> a letter </answer>. First I",
            None,
            Outcome.TRUNCATED,
        ),
        ("B. Move to the right, as the", "B", Outcome.PARSED),
        ("<think>x</think><answer>B</answer> and", "B", Outcome.PARSED),
    ],
)
def test_cut_output(text, letter, outcome):
    got = grade(text, ABC, 1, FinishReason.LENGTH)
    assert (got.letter, got.outcome) == (letter, outcome)


def test_unclosed_chain_is_truncated_even_without_finish_reason():
    assert grade("<think>so the answer is B", ABC, 1).outcome is Outcome.TRUNCATED


@pytest.mark.parametrize(
    ("text", "actial", "actial_eval", "vlmeval"),
    [
        ("<answer>B</answer>", "B", "B", None),
        ("<answer>\nB\n</answer>", "B", "B", "B"),
        ("<answer>B.</answer>", None, "B", None),
        ("<answer>b</answer>", None, None, None),
        ("<answer>A</answer><answer>B</answer>", "A", None, None),
        ("B. left of the chair because it is visible", None, "B", "B"),
        ("The answer is B.", None, "B", "B"),
        ("Answer: B", None, "B", "B"),
        ("I think A is wrong so B", None, None, None),
        ("right", None, "B", "B"),
        ("<answer>Between</answer>", None, None, None),
        ("Cannot determine the answer B", None, None, None),
        ("None", None, None, None),
    ],
)
def test_other_readers(text, actial, actial_eval, vlmeval):
    got = [
        grade(text, AB, 1, compat=mode).letter
        for mode in ("actial", "actial_eval", "vlmeval_exact")
    ]
    assert got == [actial, actial_eval, vlmeval]


@pytest.mark.parametrize(
    ("text", "actial_eval", "actial_mmsi"),
    [
        ("It is A, so ``B``", "A", "B"),
        ("A or `B`", "A", "B"),
        ("A house, then B", None, "B"),
        ("A, B", None, "A"),
        ("<answer>`B`</answer> A", None, "B"),
        ("<answer>A</answer><answer>`B`</answer>", None, "B"),
        ("<Answer>B</Answer>", None, "B"),
        ("<ANSWER>A</ANSWER>, right", "B", "A"),
        ("<answer>A<answer>B</answer>", None, "A"),
        ("`right`, B", "B", None),
        ("right", "B", None),
        ("b", None, None),
    ],
)
def test_the_releases_own_rule_for_mmsi(text, actial_eval, actial_mmsi):
    """Its tags are case-sensitive, and letters in backticks come first."""
    modes = ("actial_eval", "actial_mmsi")
    read = [grade(text, AB, 1, compat=mode).letter for mode in modes]
    assert read == [actial_eval, actial_mmsi]


@pytest.mark.parametrize(
    ("text", "ok"),
    [
        ("<think>x</think><answer>B</answer>", True),
        ("  <Think>\nx</Think>\n\n<ANSWER></ANSWER>\n", True),
        (
            "<think>a</think><answer>b</answer> <answer>c</answer>",
            True,
        ),  # bodies reach to the last closing tag
        ("<think>x</think> so <answer>B</answer>", False),
        ("<answer>B</answer>", False),
        ("<think>x</think><answer>B", False),
        ("ok <think>x</think><answer>B</answer>", False),
    ],
)
def test_format(text, ok):
    assert format_ok(text) is ok


def test_bad_arguments():
    with pytest.raises(UserError, match="answer_index=3"):
        grade("A", ABC, 3)
    with pytest.raises(UserError, match="compat=judge"):
        grade("A", ABC, 0, compat="judge")


@pytest.mark.parametrize(("text", "options", "letter"), [*ANSWERS, *FURTHER_ANSWERS])
def test_answers_are_read_as_a_person_reads_them(text, options, letter):
    assert grade(text, options, 0).letter == letter


def read_otherwise(answers, finish=None):
    readings = [
        (text, grade(text, options, 0, finish).letter, letter)
        for text, options, letter in answers
    ]
    return [reading for reading in readings if reading[1] != reading[2]]


def test_every_kind_of_answer_is_read_as_a_person_reads_it():
    assert len(ANSWERS_BY_KIND) > 900
    assert read_otherwise(ANSWERS_BY_KIND) == []


def test_later_answers_are_read_as_a_person_reads_them():
    assert len(LATER_ANSWERS) > 400
    assert read_otherwise(LATER_ANSWERS) == []


def test_answers_in_doubt_are_read_as_a_person_reads_them():
    assert len(ANSWERS_IN_DOUBT) > 1100
    assert read_otherwise(ANSWERS_IN_DOUBT) == []


MOTIONS = ("Move to the left", "Move to the right", "No movement")
NOUNS = ("no", "yes", "the chair", "30 degrees")


@pytest.mark.parametrize(
    ("doubt", "text", "options"),
    [
        ("only possible", "It could be right.", AB),
        ("only possible", "Perhaps B", AB),
        ("one of several", "One possible answer is B.", AB),
        ("one of several", "There is a chance that it is B.", AB),
        ("opinion of another", "The previous answer was B.", AB),
        ("no place of an answer", "Team B", AB),
        ("no place of an answer", "B lacks evidence.", AB),
        ("no place of an answer", "B有点问题", AB),
        ("conditional", "Had it moved, B would be the answer.", AB),
        ("left open", "The answer is B and", AB),
        ("left open", "B or something else", AB),
        ("explained", "B describes a shift, which we do not see.", AB),
        ("explained", "B implies a shift to the left", AB),
        ("opposed", "The chair is the farthest, not the closest.", NOUNS),
        ("another thing", "next to the chair", NOUNS),
        ("another thing", "the chair leg", NOUNS),
        ("side of the scene", "The objects shifted to the right.", ABC_SHORT),
        ("side of the scene", "The man's right hand", AB),
        ("motion of another", "The cup moved left.", MOTIONS),
        ("motion of another", "The camera moved left, then right.", MOTIONS),
    ],
)
def test_each_doubt_alone_leaves_an_answer_unread(doubt, text, options, monkeypatch):
    assert grade(text, options, 0).letter is None
    others = [entry for entry in doubts.DOUBTS if entry[0] != doubt]
    assert len(others) == len(doubts.DOUBTS) - 1
    monkeypatch.setattr(doubts, "DOUBTS", others)
    assert grade(text, options, 0).letter is not None


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("doubt", IN_DOUBT)
def test_a_doubt_holds_in_every_form_of_an_option(doubt, form):
    for options in OPTION_SETS:
        for letter, option in zip("ABCDEFGHIJ", options, strict=False):
            text = doubt.format(form.format(letter, option))
            assert grade(text, options, 0).letter is None, text


@pytest.mark.parametrize(
    ("text", "options", "letter"),
    [
        ("<answer>A</answer> or <answer>B</answer>", AB, None),
        ("<answer>A</answer><answer>B</answer>", AB, "B"),
        ("\\frac{1}{3}", ("1/2", "1/3"), "B"),
        ("60 seconds", ("30 seconds", "1 minute"), "B"),
        ("1,5 Meter", ("1.5 meters", "15 meters"), "A"),
        ("2 on the left and 3 on the right, so 5 in total.", ("2", "3", "5"), "C"),
        ("counter-clockwise", ("clockwise", "counterclockwise"), "B"),
        ("counter-clockwise", ("clockwise", "no rotation"), None),
        ("north-east", ("north", "east", "northeast"), "C"),
        ("It moved to the left because the objects shifted to the right.", AB, "A"),
        ("It did not move left because the objects shifted right.", AB, None),
        ("Since objects shift left, B is correct.", AB, "B"),
        ("5 m/s", ("5 meters", "6 meters"), None),
        ("The camera moved to the right.", MOTIONS, "B"),
        ("It moves right", MOTIONS, "B"),
        ("moving to the left", MOTIONS, "A"),
        (
            "The object shifted left in the second photo, so the camera moved right.",
            MOTIONS,
            "B",
        ),
        ("The camera rotated left", ("Rotate to the left", "Rotate to the right"), "A"),
        ("The camera did not move to the left", MOTIONS, None),
        ("It moved left or right", MOTIONS, None),
        ("Did the camera move right?", MOTIONS, None),
        ("Answer: A\nCorrection: B", AB, "B"),
    ],
)
def test_forms_that_the_reader_read_wrongly_or_not_at_all(text, options, letter):
    assert grade(text, options, 0).letter == letter


def test_words_in_another_sense_and_denied_options_are_read_as_a_person_reads_them():
    assert len(ANSWERS_OF_SENSES) > 200
    assert read_otherwise(ANSWERS_OF_SENSES) == []


@pytest.mark.parametrize("answers", [UNFINISHED, CUT])
def test_of_a_cut_answer_only_what_is_committed_is_read(answers):
    assert read_otherwise(answers, FinishReason.LENGTH) == []


def test_generated_answers_without_a_decision_credit_nothing():
    """ACTIAL_ANSWER_CASES=100000 reads more of them, ACTIAL_ANSWER_SEED=7 others."""
    count = int(os.environ.get("ACTIAL_ANSWER_CASES", "4000"))
    seed = int(os.environ.get("ACTIAL_ANSWER_SEED", "0"))
    credited = [
        (text, options, read.letter)
        for text, options in unanswered(count, seed)
        if (read := grade(text, options, 0)).letter
    ]
    assert credited == []


@pytest.mark.parametrize("size", [2, 3, 4, 6, 10])
def test_every_letter_is_read_in_every_form(size):
    options = [f"choice number {i}" for i in range(size)]
    forms = [
        "{}",
        "({})",
        "**{}**",
        "`{}`",
        "{}.",
        "Answer: {}",
        "The answer is {}.",
        "\\boxed{{{}}}",
    ]
    for index, letter in enumerate("ABCDEFGHIJ"[:size]):
        for form in forms:
            assert grade(form.format(letter), options, index).correct, (form, letter)


def test_the_text_of_every_option_is_read_and_no_other():
    options = ("1 m", "10 m", "100 m", "1,000 m", "0.1 m", "-1 m")
    for index, option in enumerate(options):
        for form in ("{}", "{}.", "The answer is {}", "It is {}.", "<answer>{}</answer>"):
            assert grade(form.format(option), options, index).correct, (form, option)


def test_degenerate_output_stays_cheap():
    repeats = [
        "<answer>",
        "<think>",
        "</think> <answer>",
        "</answer>",
        "`",
        " ",
        "(",
        "A ",
        "A or ",
        "(A)",
        "answer ",
        "the answer is ",
        "not ",
        "left or ",
        "1",
        "1,",
        "**",
        "\\boxed{",
        "\n",
        "A\n",
        ", ",
        "is ",
        "选",
    ]
    texts = ["</answer>" + unit * (100_000 // len(unit)) for unit in repeats]
    for text in texts:
        started = time.process_time()
        assert grade(text, ABC, 1).letter is None
        assert time.process_time() - started < 3, text[:20]
    started = time.process_time()
    for compat in Compat:
        grade("<answer>" * 12_500, ABC, 1, compat=compat)
    assert time.process_time() - started < 3
