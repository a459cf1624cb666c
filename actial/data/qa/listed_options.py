"""One question of a published set, whose options may stand in a column of their own.

Such a column holds a list, a mapping of letters, or the text of either. Its texts are taken as
they are: written into the question and read again, an option such as "go to B. then" would fall
apart.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from actial.core.multiple_choice_format import LETTERS, clean_options, inline_options
from actial.data.qa.sat_rows import Unusable

Split = Callable[[str], tuple[str, tuple[str, ...]]]  # text -> question, options


class Turn(NamedTuple):
    """A question and its answer."""

    question: str
    answer: str
    options: tuple[str, ...] = ()  # of a column; without one they stand in the question

    @property
    def text(self) -> str:
        """Return the question with the options behind it, however the set keeps them."""
        lettered = zip(LETTERS, self.options, strict=False)
        listed = " ".join(f"{letter}: {text}" for letter, text in lettered)
        return f"{self.question} Options: {listed}" if listed else self.question

    def split(self, split: Split) -> tuple[str, tuple[str, ...]]:
        """Return the question without options, and the options; `split` reads those in a text.

        A question may repeat the options of the column. They are taken out of
        it: the options are shuffled later, and would stand there under other
        letters.
        """
        stem, inline = split(self.question)
        if not self.options:
            return stem, inline
        repeated = [_folded(text) for text in inline] == [
            _folded(text) for text in self.options
        ]
        return stem if repeated else self.question, self.options


def with_options(question: str, answer: str, column: Any) -> Turn:
    """Return the turn of a row with a column of options, which may be empty.

    A text that cannot be divided goes behind the question, where the answer decides what it is.
    """
    options = listed_options(column)
    if isinstance(column, str) and not options:
        question = f"{question} Options: {column}"
    return Turn(question, answer, options)


def _folded(option: str) -> str:
    return option.casefold().strip(" .,;")


def listed_options(column: Any) -> tuple[str, ...]:
    """Return the options of a column, none where it is empty or its text cannot be divided.

    Raises Unusable where one is missing between the others: it is not known which letter is whose.
    """
    if isinstance(column, str):
        return _written_options(column)
    if isinstance(column, Mapping):
        column = _by_letter(column)
    options = clean_options(column or ())
    if len(options) > 1 and not all(options):
        raise Unusable("an option is missing")
    own = [re.fullmatch(r"\(?([A-Z])[.:)]+\s*(.+)", text, re.DOTALL) for text in options]
    letters = [match[1] if match else "" for match in own]
    if letters == list(LETTERS[: len(options)]):
        return tuple(match[2].strip() for match in own if match)
    return options


def _written_options(text: str) -> tuple[str, ...]:
    if text.lstrip()[:1] in ("[", "{"):
        try:
            return listed_options(json.loads(text))
        except json.JSONDecodeError:
            return ()
    return inline_options(text)[1]


def _by_letter(column: Mapping[str, Any]) -> list[Any]:
    """Return the options of {"A": .., "B": ..} in the order of their letters."""
    cells = {str(key).strip().upper(): text for key, text in column.items()}
    letters = list(LETTERS[: len(cells)])
    if sorted(cells) != letters:
        raise Unusable("options are not lettered from A")
    return [cells[letter] for letter in letters]
