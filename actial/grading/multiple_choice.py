"""Text -> Grade: the one reader of model answers, shared by rewards, evaluation and re-scoring.

`grade` walks a ladder of rules from the most to the least explicit way of naming an option and reports which one fired.
Three further modes imitate other readers, for comparison only: the Actial release's reward (`actial`), its evaluation client
(`actial_eval`), and VLMEvalKit's exact matching (`vlmeval_exact`; Duan et al., arXiv 2407.11691).
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Sequence
from enum import StrEnum

from actial.core.errors import UserError
from actial.core.multiple_choice_format import LETTERS
from actial.core.records import FinishReason, Grade, Outcome


class Compat(StrEnum):
    LADDER = "ladder"  # ours
    ACTIAL = "actial"  # release reward: body of the first answer tag equals the letter, character by character
    ACTIAL_EVAL = "actial_eval"  # release evaluation: unwrap a sole answer tag, then vlmeval_exact
    VLMEVAL_EXACT = "vlmeval_exact"  # VLMEvalKit without a judge, as the release froze it


# Each pattern is linear in the text: a model that repeats one tag for 100,000 characters must not stall the run.
ANSWER_TAG = re.compile(r"<(/?)answer>", re.IGNORECASE)
FIRST_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
THINK_OPEN = re.compile(r"<think>", re.IGNORECASE)
THINK_CLOSE = re.compile(r"</think>", re.IGNORECASE)
THINK_THEN_ANSWER = re.compile(r"</think>\s*<answer>", re.IGNORECASE)


def format_ok(text: str) -> bool:
    """Whether the stripped output is one think block followed by one answer block.

    Same reach as the release's check (paper repository, reward_custom.py): tags in any case, bodies may hold anything, so further
    tags inside a body pass.
    """
    whole = text.strip().lower()
    return (
        whole.startswith("<think>")
        and whole.endswith("</answer>")
        and THINK_THEN_ANSWER.search(whole, len("<think>")) is not None
    )


def answer_bodies(text: str) -> list[str]:
    """Texts between an answer tag and the next closing one, in order."""
    bodies, start = [], None
    for tag in ANSWER_TAG.finditer(text):
        if not tag[1]:
            start = tag.end()
        elif start is not None:
            bodies.append(text[start : tag.start()])
            start = None
    return bodies


def grade(
    text: str,
    options: Sequence[str],
    answer_index: int,
    finish: FinishReason | None = None,
    compat: Compat | str = Compat.LADDER,
) -> Grade:
    """Read which of `options` the output names and compare it with `options[answer_index]`.

    Args:
        text: decoded completion without the end-of-turn token.
        options: displayed option texts in order; option i has letter "ABC.."[i]. 1 to 26 of them.
        answer_index: position of the right option.
        finish: why sampling stopped. LENGTH turns an unread answer into TRUNCATED, and a guess from an unfinished chain is not taken.
        compat: a `Compat` value.

    Returns:
        Grade; an answer that cannot be read is wrong.

    Raises:
        UserError: answer_index outside the options, or an unknown compat mode.
    """
    if not 0 <= answer_index < len(options) <= len(LETTERS):
        raise UserError(
            f"answer_index={answer_index} does not fit {len(options)} options: give the 0-based position of the right one."
        )
    try:
        mode = Compat(compat)
    except ValueError:
        raise UserError(
            f"compat={compat} is unknown: use one of {', '.join(m.value for m in Compat)}."
        ) from None
    letter, rule, cut = _READERS[mode](text, options, finish)
    outcome = (
        Outcome.PARSED
        if letter
        else Outcome.TRUNCATED
        if cut or finish is FinishReason.LENGTH
        else Outcome.NO_ANSWER
    )
    return Grade(
        letter=letter,
        rule=rule,
        outcome=outcome,
        value=float(letter == LETTERS[answer_index]),
        format_ok=format_ok(text),
    )


# ---------------------------------------------------------------- the ladder

Read = tuple[str | None, str, bool]  # letter, rule, cut before the answer


def _read_ladder(text: str, options: Sequence[str], finish: FinishReason | None) -> Read:
    closes = list(THINK_CLOSE.finditer(text))
    tail = text[closes[-1].end() :] if closes else text
    answers = answer_bodies(tail)
    if THINK_OPEN.search(tail) and not answers:
        return None, "none", True  # letters inside a chain are not yet an answer
    body = answers[-1] if answers else tail
    finished = bool(answers) or finish is not FinishReason.LENGTH
    for rule, read, committed in _RULES:
        if (finished or committed) and (letter := read(body.strip(), options)):
            return letter, rule, False
    return None, "none", False


def _letter_class(options: Sequence[str]) -> str:
    """Regex of the letters that exist here. An upper-case A before a lower-case word is the article, unless a reason follows."""
    last = LETTERS[len(options) - 1]
    article = r"A(?!\s+(?!(?:because|since|as|and|or)\b)[a-z])"
    return article if last == "A" else rf"(?:{article}|[B-{last}])"


def _whole(body: str, options: Sequence[str]) -> str | None:
    bare = body.strip(string.whitespace + "()[]{}<>.,:;!*_\"'`$")
    return bare.upper() if len(bare) == 1 and bare.upper() in LETTERS[: len(options)] else None


def _leading(body: str, options: Sequence[str]) -> str | None:
    match = re.match(r"[\s*_\"'(\[]*([A-Za-z])(?:\*\*)?[.):\]](?!\w)", body)
    return _whole(match[1], options) if match else None


def _marked(body: str, options: Sequence[str]) -> str | None:
    """A letter set apart in backticks (MMSI-Bench's request) or in a LaTeX box; the last one counts."""
    spans = re.findall(r"``([^`]+)``|`([^`]+)`|\\boxed\{(?:\\text\{)?([^{}]+)\}", body)
    for span in reversed([next(filter(None, groups)) for groups in spans]):
        if letter := _whole(span, options) or _leading(span, options):
            return letter
    return None


def _answer_is(body: str, options: Sequence[str]) -> str | None:
    pattern = rf"(?i:\b(?:answer|option|choice)(?:\s+is\b\s*:?|\s*:))[\s*_]*[(\[\"'`]*({_letter_class(options)})(?!\w)"
    found = re.findall(pattern, body)
    return found[-1] if found else None


def _bracketed(body: str, options: Sequence[str]) -> str | None:
    found = re.findall(rf"\(([A-{LETTERS[len(options) - 1]}])\)", body)
    return found[-1] if found else None


def _sole_letter(body: str, options: Sequence[str]) -> str | None:
    found = set(re.findall(rf"(?<![\w'])({_letter_class(options)})(?![\w'])", body))
    return found.pop() if len(found) == 1 else None


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).strip(" .,:;!\"'`*()")


def _option_text(body: str, options: Sequence[str]) -> str | None:
    said, texts = _plain(body), [_plain(option) for option in options]
    exact = [i for i, option in enumerate(texts) if option == said]
    inside = [
        i
        for i, option in enumerate(texts)
        if option and re.search(rf"(?<!\w){re.escape(option)}(?!\w)", said)
    ]
    hits = exact or inside
    return LETTERS[hits[0]] if len(hits) == 1 else None


# (rule name, reader, whether the writer has committed even if the output was cut later)
_RULES: list[tuple[str, Callable[[str, Sequence[str]], str | None], bool]] = [
    ("marked", _marked, True),
    ("whole", _whole, True),
    ("leading", _leading, True),
    ("answer_is", _answer_is, True),
    ("bracketed", _bracketed, False),
    ("sole_letter", _sole_letter, False),
    ("option_text", _option_text, False),
]


# ---------------------------------------------------------------- other readers


def _read_actial(text: str, options: Sequence[str], finish: FinishReason | None) -> Read:
    """The release compares the stripped first tag body with the letter; without a tag it compares the text "None"."""
    match = FIRST_ANSWER.search(text)
    body = match[1].strip() if match else ""
    return (
        (body, "first_tag", False)
        if len(body) == 1 and body in LETTERS[: len(options)]
        else (None, "none", False)
    )


def _read_actial_eval(text: str, options: Sequence[str], finish: FinishReason | None) -> Read:
    answers = answer_bodies(text)
    return _read_vlmeval(answers[0].strip() if len(answers) == 1 else text, options, finish)


REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
    "Failed to obtain answer via API",
)


def _read_vlmeval(text: str, options: Sequence[str], finish: FinishReason | None) -> Read:
    """One distinct option letter among the space-separated words; else one option text contained in the lower-cased output."""
    if any(refusal in text for refusal in REFUSALS):
        return None, "none", False
    words = set(text.translate(str.maketrans(".()[],:;!*#{}", " " * 13)).split())
    letters = [letter for letter in LETTERS[: len(options)] if letter in words]
    if len(letters) == 1:
        return letters[0], "vlmeval_option", False
    texts = [i for i, option in enumerate(options) if str(option).lower() in text.lower()]
    if len(texts) == 1 and not (not letters and "Z" in words):
        return LETTERS[texts[0]], "vlmeval_text", False
    return None, "none", False


_READERS: dict[Compat, Callable[[str, Sequence[str], FinishReason | None], Read]] = {
    Compat.LADDER: _read_ladder,
    Compat.ACTIAL: _read_actial,
    Compat.ACTIAL_EVAL: _read_actial_eval,
    Compat.VLMEVAL_EXACT: _read_vlmeval,
}
