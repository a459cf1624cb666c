"""Read lists and tables that give each option a verdict: "| A | wrong |", "B: \N{CHECK MARK}"."""

from __future__ import annotations

import re
from collections.abc import Sequence

from actial.core.multiple_choice_format import LETTERS

ACCEPTED = "\u2705\u2713\u2714\u2611"
REJECTED = "\u274c\u2717\u2718\u2716\u2612"
POSITIVE = {
    "yes",
    "correct",
    "true",
    "matches",
    "match",
    "consistent",
    "holds",
    "fits",
    "[x]",
    *ACCEPTED,
}
NEGATIVE = {"no", "incorrect", "wrong", "false", "no match", "inconsistent", *REJECTED}
NEGATIVE |= {
    "does not match",
    "doesn't match",
    "not correct",
    "ruled out",
    "impossible",
    "fails",
}
# "yes" under such a heading rejects
REJECTING_HEADING = re.compile(
    r"rul(?:e|ed|ing) out|eliminat|exclud|reject|discard|wrong|incorrect|contradict|impossible"
    r"|inconsistent|not\b|n't\b",
    re.IGNORECASE,
)
HEADING = 160  # characters before the first verdict

_WORDS = sorted(POSITIVE | NEGATIVE, key=len, reverse=True)
_VERDICT = rf"(?P<verdict>{'|'.join(map(re.escape, _WORDS))})\ufe0f?"
VERDICT_LINE = re.compile(
    rf"""^[\s|>*\u2022-]{{0,6}}(?:(?:option|choice)\s)?[*_`"'(\[]{{0,3}}(?P<letter>[A-Z])
    (?=[^A-Za-z\d])[*_`"')\].:]{{0,4}}(?:[^\n]{{0,300}}[|:(\u2013\u2014-]|\s?[|:(\u2013\u2014-]|\s)
    \s?[*_"']{{0,2}}{_VERDICT}[*_.!)"',]{{0,3}}[\s|]{{0,3}}$""",
    re.IGNORECASE | re.VERBOSE | re.MULTILINE,
)
VERDICT_ENTRY = re.compile(
    rf"""["'](?P<letter>[A-Z])["']\s?:\s?["']?{_VERDICT}["']?(?=\s?[,}}\n])""",
    re.IGNORECASE | re.VERBOSE,
)

# "\u2705 B" and "- [x] B. right", each on a line of its own
VERDICT_BEFORE = re.compile(
    rf"""^[\s>*\u2022-]{{0,6}}(?P<verdict>[{ACCEPTED}{REJECTED}\u2610]|\[[ xX]\])\ufe0f?\s?
    [*_("']{{0,3}}(?:(?:option|choice)\s)?(?P<letter>[A-Z])(?![A-Za-z\d'])""",
    re.VERBOSE | re.MULTILINE,
)


def accepted_letters(text: str, options: Sequence[str]) -> set[str] | None:
    """Return the letters that a list of verdicts accepts; None where there is no such list.

    Args:
        text: as from `answer_text.normalized`.
        options: as from `option_texts.plain_option`. "A. Yes" is an option and no verdict.
    """
    for pattern in (VERDICT_LINE, VERDICT_ENTRY, VERDICT_BEFORE):
        verdicts: dict[str, bool] = {}
        first = len(text)
        for match in pattern.finditer(text):
            letter, verdict = match["letter"].upper(), match["verdict"].lower()
            position = LETTERS.index(letter)
            if position >= len(options) or options[position] == verdict:
                continue
            positive = verdict in POSITIVE
            if verdicts.get(letter, positive) != positive:
                return set()
            verdicts[letter] = positive
            first = min(first, match.start())
        if len(verdicts) >= 2 and any(verdicts.values()):
            heading = text[max(0, first - HEADING) : first]
            if REJECTING_HEADING.search(heading):
                return set()
            return {letter for letter, positive in verdicts.items() if positive}
    return None
