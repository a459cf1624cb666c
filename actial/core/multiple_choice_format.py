"""How the options of multiple-choice questions are written and lettered."""

from __future__ import annotations

import math
import re
import string
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from actial.core.errors import UserError

LETTERS = string.ascii_uppercase


def clean_options(options: Iterable[Any]) -> tuple[str, ...]:
    """Return option texts without trailing empty ones.

    None, NaN, "" and "nan" fill unused columns of published files.
    """
    texts = ["" if _is_empty(option) else str(option).strip() for option in options]
    while texts and texts[-1].lower() in ("", "nan"):
        texts.pop()
    return tuple(texts)


def _is_empty(option: Any) -> bool:
    return option is None or (isinstance(option, float) and math.isnan(option))


def answer_position(answer: Any, options: Sequence[str], name: str) -> int:
    """Return the 0-based index of the right option from any published convention.

    Args:
        answer: 2, "C", "(c)", "C. left", or the option's text.
        name: of the question, for the message.

    Raises:
        UserError: no option or several match.
    """
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(options):
        return answer
    text = str(answer).strip()
    if match := re.fullmatch(r"\(?([A-Z])\)?[.):]?|([A-Z])[.):]\s.*", text, re.DOTALL):
        position = LETTERS.index(match[1] or match[2])
        if position < len(options):
            return position
    folded = [option.strip().casefold() for option in options]
    count = folded.count(text.casefold())
    if not count and (match := re.fullmatch(r"\(?([a-z])\)?[.):]?", text)):
        position = LETTERS.index(match[1].upper())
        if position < len(options):
            return position
    if count != 1:
        raise UserError(
            f"{name}: answer {text!r} names {count} of the options {list(options)}: "
            "the file is not the published one."
        )
    return folded.index(text.casefold())


# "A and C", "both A or B", "option B", "none of the above"; not "A is closer" or "above it".
OTHER_OPTIONS = re.compile(
    r"\b[A-Z]\)?\s*(?:,|&|/|\band\b|\bor\b|\bnor\b)\s*(?:and\s+|or\s+)?\(?[A-Z]\b"
    r"|\b(?:[Bb]oth|[Ee]ither|[Nn]either|[Oo]ptions?|[Cc]hoices?|[Aa]nswers?)\s+\(?[A-Z]\b"
    r"|(?i:\b(?:all|any|none|both|neither|either|one|two|some)\s+(?:of\s+)?(?:the\s+)?above\b)"
    r"|(?i:\bthe\s+above\s+(?:options?|choices?|answers?)\b)"
)


def names_other_options(options: Iterable[str]) -> bool:
    """Return whether an option speaks of others by letter or place: their order has to stay."""
    return any(OTHER_OPTIONS.search(option) for option in options)


class Mark(NamedTuple):
    """A letter that may begin an option: "A. ", "B: ", "(C) "."""

    letter: str
    start: int
    end: int
    separator: str  # LINE, LIST or SPACE


# What may stand before an option's letter: the line's start, a comma or semicolon, a space.
LINE, LIST, SPACE = "line", "list", "space"
COMMAS = ",;\uff0c\uff1b"
MARK = re.compile(
    rf"(?:(?P<{LINE}>\A\s*|\n[ \t]*)|(?P<{LIST}>[{COMMAS}][ \t]*)|(?P<{SPACE}>\s))"
    r"\(?(?P<letter>[A-Z])[.:)](?=\s)"
)
HEADING = re.compile(r"(?:Options|Choices):|\u9009\u9879[:\uff1a]")


def inline_options(text: str) -> tuple[str, tuple[str, ...]]:
    """Split "stem .. A: x, B: y .." or "A. x B. y" into the stem and the options.

    A letter may also end a sentence: markers at line starts or behind commas go before others, and
    the last list of options before earlier ones. There are no options when the letters do not
    follow each other.
    """
    headings = list(HEADING.finditer(text))
    head, body = "", text
    if headings:
        head, body = text[: headings[-1].start()], text[headings[-1].end() :]
    run = _options_run(_option_marks(body))
    if len(run) < 2:
        return text, ()
    ends = [mark.start for mark in run[1:]] + [len(body)]
    options = tuple(
        body[mark.end : end].strip().rstrip(COMMAS).strip()
        for mark, end in zip(run, ends, strict=True)
    )
    stem = head if headings else body[: run[0].start]
    return stem.strip(), options


def _option_marks(body: str) -> list[Mark]:
    """Return the markers of a text in order, without letters that end a sentence for certain."""
    marks = [
        Mark(match["letter"], match.start(), match.end(), _separator(match))
        for match in MARK.finditer(body)
    ]
    nexts = [*(mark.start for mark in marks), len(body)][1:]
    return [
        mark
        for mark, end in zip(marks, nexts, strict=True)
        if mark.separator != SPACE or body[mark.end : end].strip()
    ]


def _separator(match: re.Match[str]) -> str:
    return next(name for name in (LINE, LIST, SPACE) if match[name] is not None)


def _options_run(marks: Sequence[Mark]) -> list[Mark]:
    """Return the markers A, B, ... of the options; fewer than two where there are none."""
    firsts = [mark for mark in marks if mark.letter == "A"]
    firsts = [mark for mark in firsts if mark.separator == LINE] or firsts
    runs = [_run_from(first, marks) for first in firsts]
    return max(runs, key=lambda run: (len(run), run[0].start), default=[])


def _run_from(first: Mark, marks: Sequence[Mark]) -> list[Mark]:
    """Return A, B, ... from one A, by the strictest separators that make a list of two."""
    run = [first]
    for separators in ((LINE,), (LINE, LIST), (LINE, LIST, SPACE)):
        run = [first]
        for mark in marks:
            follows = mark.start > run[-1].start and mark.letter == LETTERS[len(run) :][:1]
            if follows and mark.separator in separators:
                run.append(mark)
        if len(run) > 1:
            break
    return run
