"""How the options of multiple-choice questions are written and lettered."""

from __future__ import annotations

import math
import re
import string
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

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


def inline_options(text: str) -> tuple[str, tuple[str, ...]]:
    """Split "stem .. A: x, B: y .." or "A. x B. y" into the stem and the options.

    There are no options when the letters do not follow each other.
    """
    head, marked, tail = text.rpartition("Options:")
    body = tail if marked else text
    letters: list[tuple[int, int]] = []  # (start, end) of "A: ", "B: ", ... in the body
    for letter in LETTERS:
        pattern = re.compile(rf"(?:(?<=\s)|(?<=,)|^)\(?{letter}[.:)]\s")
        match = pattern.search(body, letters[-1][1] if letters else 0)
        if match is None:
            break
        letters.append(match.span())
    if len(letters) < 2:
        return text, ()
    end_of_text = (len(body), len(body))
    options = tuple(
        body[start:end].strip().rstrip(",;").strip()
        for (_, start), (end, _) in pairwise([*letters, end_of_text])
    )
    stem = head if marked else body[: letters[0][0]]
    return stem.strip(), options
