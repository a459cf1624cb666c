"""How options are written and lettered."""

from __future__ import annotations

import math
import re
import string
from collections.abc import Iterable, Sequence
from typing import Any

from actial.core.errors import UserError


def clean_options(options: Iterable[Any]) -> tuple[str, ...]:
    """Option texts without trailing empty ones (None, NaN, "", "nan" fill unused columns)."""
    texts = [
        ""
        if option is None or (isinstance(option, float) and math.isnan(option))
        else str(option).strip()
        for option in options
    ]
    while texts and texts[-1].lower() in ("", "nan"):
        texts.pop()
    return tuple(texts)


def answer_position(answer: Any, options: Sequence[str], name: str) -> int:
    """0-based index of the right option from any published convention: 2, "C", "(C)", "C. left", or the option's text.

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
    hits = [i for i, option in enumerate(options) if option.strip().casefold() == text.casefold()]
    if len(hits) != 1:
        raise UserError(
            f"{name}: answer {text!r} names {len(hits)} of the options {list(options)}: the file is not the published one."
        )
    return hits[0]


def inline_options(text: str) -> tuple[str, tuple[str, ...]]:
    """Split "stem .. A: x, B: y .." or "A. x B. y" into the stem and the options; no options when the letters do not follow each other."""
    head, marked, tail = text.rpartition("Options:")
    body = tail if marked else text
    starts: list[tuple[int, int]] = []
    for letter in LETTERS:
        match = re.compile(rf"(?:(?<=\s)|(?<=,)|^)\(?{letter}[.:)]\s").search(
            body, starts[-1][1] if starts else 0
        )
        if match is None:
            break
        starts.append(match.span())
    if len(starts) < 2:
        return text, ()
    ends = [begin for begin, _ in starts[1:]] + [len(body)]
    options = tuple(
        body[begin:end].strip().rstrip(",;").strip()
        for (_, begin), end in zip(starts, ends, strict=True)
    )
    stem = head if marked else body[: starts[0][0]]
    return stem.strip(), options


LETTERS = string.ascii_uppercase
