"""A mention of an option in an answer, and mentions joined to a group."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Mention:
    """One option in the text."""

    letter: str  # upper case; may lie beyond the options
    start: int
    end: int  # behind the option's text, where it follows its letter
    by_text: bool = False  # by its text alone
    weak: bool = False  # a lower-case letter that may be something else
    stated: bool = False  # announced as the answer
    rejected: bool = False
    aside: bool = False  # neither the answer nor rejected
    marked: bool = False  # in backticks or bold
    doubtful: bool = False  # a number beside other numbers, "5 or 6 meters"

    @property
    def standing(self) -> bool:
        return not self.rejected and not self.aside


@dataclass(slots=True)
class Group:
    """Mentions that are joined by "or", "and", a comma or a slash."""

    mentions: list[Mention] = field(default_factory=list)

    @property
    def letters(self) -> set[str]:
        """Return the letters that the group leaves standing; "?" for a doubtful one."""
        letters = {m.letter for m in self.mentions if m.standing}
        doubtful = any(m.doubtful and m.standing for m in self.mentions)
        return letters | {"?"} if doubtful else letters

    @property
    def stated(self) -> bool:
        return any(m.stated and m.standing for m in self.mentions)

    @property
    def by_text(self) -> bool:
        """Return whether the group holds no letter that stands for itself."""
        return all(m.by_text or m.weak for m in self.mentions if m.standing)

    @property
    def start(self) -> int:
        return self.mentions[0].start
