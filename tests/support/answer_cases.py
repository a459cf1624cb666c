"""Generated answers that name no option: rejections, two options, questions, other numbers."""

from __future__ import annotations

import random
from collections.abc import Iterator

from actial.grading.option_texts import plain_option

OPTION_SETS = (
    ("left", "right", "no movement"),
    ("left", "right"),
    ("Move to the left", "Move to the right", "No movement"),
    ("front", "back", "left", "right"),
    ("1 chair", "2 chairs", "3 chairs", "4 chairs"),
    ("2.5 meters", "5 meters", "7.5 meters"),
    ("the red cup", "the blue cup", "the green cup", "the table", "the chair", "the lamp"),
    tuple(f"object {i}" for i in range(10)),
)
FORMS = (
    "{0}",
    "({0})",
    "**{0}**",
    "`{0}`",
    "[{0}]",
    '"{0}"',
    "option {0}",
    "Option {0}",
    "option ({0})",
    "{0}. {1}",
    "({0}) {1}",
    "{0} ({1})",
    "{0}: {1}",
    "{1}",
    "**{1}**",
)
REJECTIONS = (
    "Not {x}",
    "not {x}.",
    "It is not {x}.",
    "It's not {x}",
    "It isn't {x}.",
    "The answer is not {x}.",
    "The answer isn't {x}",
    "The correct answer is definitely not {x}.",
    "The answer cannot be {x}.",
    "The answer can't be {x}.",
    "I would not choose {x}.",
    "I wouldn't select {x}",
    "I do not think it is {x}.",
    "I don't believe that the answer is {x}.",
    "Definitely not {x}!",
    "{x} is wrong.",
    "{x} is incorrect.",
    "{x} is not correct.",
    "{x} isn't correct",
    "{x} is not the answer.",
    "{x} can be ruled out.",
    "{x} can safely be discarded.",
    "{x} is impossible.",
    "{x} cannot be correct",
    "{x} does not fit.",
    "{x} doesn't match the images.",
    "{x} contradicts the images.",
    "{x} makes no sense.",
    "{x} is unlikely.",
    "{x} has to be wrong.",
    "{x}? No.",
    "Rule out {x}.",
    "We can rule out {x}.",
    "Eliminate {x}.",
    "Anything but {x}.",
    "Everything except {x}.",
    "The wrong answer is {x}.",
    "The incorrect option is {x}",
    "Wrong: {x}",
    "The answer is anything but {x}.",
    "Never {x}",
    "By no means {x}.",
    "Hardly {x}.",
    "It must not be {x}.",
    "答案不是{x}",
    "不选{x}",
    "{x}不对",
    "Do not pick {x}.",
    "It is false that the answer is {x}.",
    "I doubt that it is {x}.",
    "{x} would be wrong.",
    "{x} has been ruled out.",
    "{x} is the wrong answer.",
    "Answer: not {x}",
    "<answer>not {x}</answer>",
    "<think>a</think><answer>It is not {x}</answer>",
    "It would be wrong to say {x}.",
    "{x} doesn't seem right.",
    "I can exclude {x}.",
    "No way it is {x}.",
    "{x} does not apply.",
    "I would rule {x} out.",
    "{x}: no",
    "❌ {x}",
    "Nothing suggests {x}.",
    "There is no evidence for {x}.",
    "I disagree with {x}.",
    "The answer is neither of these: {x}",
    "{x} 是错的",
    "不能选{x}",
    "{x}ではありません",
    "{x}가 아닙니다",
    "{x} ist falsch.",
    "No es {x}.",
)
PAIRS = (
    "{x} or {y}",
    "Either {x} or {y}",
    "{x} and {y}",
    "Both {x} and {y} are correct.",
    "{x}, {y}",
    "{x} / {y}",
    "{x} & {y}",
    "The answer is {x} or {y}.",
    "The answer is either {x} or {y}.",
    "The answer is {x} and {y}.",
    "Answer: {x} or {y}",
    "Answer: {x}, {y}",
    "Answer: {x}; {y}",
    "The correct answer is {x} or maybe {y}.",
    "The answer is {x}, or possibly {y}.",
    "I would choose {x} or {y}.",
    "It is {x} or {y}.",
    "Maybe {x}, maybe {y}.",
    "It could be {x}, it could be {y}.",
    "Between {x} and {y}.",
    "I am torn between {x} and {y}.",
    "{x} as well as {y}",
    "{x} or else {y}",
    "{x}或{y}",
    "答案是{x}或{y}",
    "<answer>{x} or {y}</answer>",
    "<answer>{x}, {y}</answer>",
    "{x} is correct. {y} is correct.",
    "Comparing {x} with {y}.",
    "{x} versus {y}",
    "{x}; {y}",
    "- {x}\n- {y}",
    "One of {x} and {y}.",
    "The answer is {x} (or {y}).",
    "Could be {x}. Could be {y}.",
    "{x} if the camera moved, {y} otherwise",
    "Both {x} and {y} could be right.",
    "{x} and {y} are equally likely.",
    "50/50 between {x} and {y}",
    "I'd say {x}, but {y} is just as likely.",
    "{x}\n{y}",
    "Answer: {x}\nAnswer: {y}",
    "{x} is possible and so is {y}.",
    "{x}; maybe {y}",
    "{x} vs. {y}",
    "{x}、{y}",
    "{x} 또는 {y}",
    "{x} oder {y}",
    "<answer>{x}\n{y}</answer>",
)
IN_DOUBT = (
    "It could be {}.",
    "It might be {}.",
    "Possibly {}",
    "Perhaps it is {}.",
    "There is a chance that it is {}.",
    "One possible answer is {}.",
    "My friend says {}.",
    "{} or something else",
    "I have doubts about {}.",
    "The previous answer was {}.",
    "There is little evidence for {}.",
    "I would have said {} before.",
    "The distractor is {}.",
    "Had it moved, {} would be the answer.",
    "{} could be right.",
    "{} is one possibility.",
    "According to the caption, {}.",
    "Let's check {}:",
    "The answer is {} or",
    "{}可能对",
    "可能是{}",
    "{}かもしれない",
    "Vielleicht {}",
    "Peut-être {}.",
)
QUESTIONS = ("Is it {x}?", "Is the answer {x}?", "Could the answer be {x}?")
NUMBER_FORMS = ("{}", "about {}", "The distance is {}.", "The answer is {}.", "Answer: {}")
UNITS = ("", " meters", " m", "°", " degrees", " chairs", "%")


def unanswered(count: int, seed: int = 0) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield (text, options) of answers in which a person reads no option."""
    draw = random.Random(seed)
    made = 0
    while made < count:
        case = _number_case(draw) if draw.random() < 0.2 else _option_case(draw)
        if case is not None:
            made += 1
            yield case


def _option_case(draw: random.Random) -> tuple[str, tuple[str, ...]]:
    options = draw.choice(OPTION_SETS)
    first, second = draw.sample(range(len(options)), 2)
    names = {"x": _name(draw, options, first), "y": _name(draw, options, second)}
    pattern = draw.choice(draw.choice((REJECTIONS, PAIRS, QUESTIONS)))
    return pattern.format(**names), options


def _name(draw: random.Random, options: tuple[str, ...], index: int) -> str:
    return draw.choice(FORMS).format("ABCDEFGHIJ"[index], options[index])


def _number_case(draw: random.Random) -> tuple[str, tuple[str, ...]] | None:
    number = draw.choice((1, 2, 3, 5, 12, 25, 30, 60, 200, 1200))
    unit = draw.choice(UNITS)
    options = (f"{number}{unit}", f"{draw.choice((7, 9, 11, 80))}{unit}")
    other = draw.choice(
        (
            f"1{number}",
            f"{number}.5",
            f"-{number}",
            f"{number}0",
            f"0.{number}",
            f".{number}",
            f"{number},000",
            f"1,{number:03d}",
            f"{number}/7",
            f"{number}.25",
            f"{number} or {number + 1}",
            f"{number}-{number + 4}",
            f"between {number} and {number + 3}",
        )
    )
    answer = f"{other}{unit}"
    if plain_option(answer) in map(plain_option, options):
        return None
    return draw.choice(NUMBER_FORMS).format(answer), options
