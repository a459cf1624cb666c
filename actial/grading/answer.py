"""An answer as the rules of the reader look at it, and what a rule decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from actial.core.multiple_choice_format import LETTERS
from actial.grading.answer_phrases import ASKED_AND_ANSWERED, NOT_APPLICABLE, UNDERSCORED
from actial.grading.answer_text import normalized
from actial.grading.mention import Group, Mention
from actial.grading.option_mentions import option_groups
from actial.grading.option_texts import plain, plain_option


class Answer:
    """An answer with what the rules look at, computed when a rule needs it."""

    def __init__(self, text: str, options: Sequence[str]) -> None:
        plain_words = NOT_APPLICABLE.sub("none", normalized(text))
        plain_words = ASKED_AND_ANSWERED.sub(r"\1Answer:", plain_words)
        self.text = UNDERSCORED.sub(r"*\1*", plain_words)
        self.options = options
        self.letters = LETTERS[: len(options)]

    @cached_property
    def plain(self) -> str:
        """The text as option texts are compared."""
        return plain(self.text)

    @cached_property
    def plain_options(self) -> tuple[str, ...]:
        return tuple(plain_option(option) for option in self.options)

    @cached_property
    def groups(self) -> list[Group]:
        """The options mentioned in the text, by letter or by text."""
        return option_groups(self.text, self.plain_options)

    @property
    def standing(self) -> list[Mention]:
        """The mentions that are neither rejected nor asides."""
        return [m for group in self.groups for m in group.mentions if m.standing]


@dataclass(slots=True, frozen=True)
class Decision:
    """What a rule makes of an answer: a letter, or the end of the search (None)."""

    letter: str | None
