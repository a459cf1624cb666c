"""Words of options in another sense: "Right, let me look", "page 3", "see above", "South Korea"."""

from __future__ import annotations

import re

from actial.grading.mention import Mention

WINDOW = 40  # characters that are read before a mention
_THINGS = (
    "pages?|rooms?|chairs?|tables?|versions?|lines?|objects?|items?|doors?|box(?:es)?"
    "|sections?|chapters?|points?|levels?|rows?|columns?|cameras?|scenes?|cases?|examples?"
)
_TOLD = "see|as|described|mentioned|shown|stated|listed|noted|given|from the"
_SEE = r"(?:see|notice|spot|looking|(?<!we )look|there is|there are|there's)"


def _compiled(patterns: dict[str, str]) -> dict[str, re.Pattern[str]]:
    return {word: re.compile(pattern, re.IGNORECASE) for word, pattern in patterns.items()}


# By word: what before it, and what behind it, makes it another one. Each of the two suffices.
BEFORE = _compiled(
    {
        "left": rf"\b(?:i|we|you) (?:was|were|am|are) \Z|\b{_SEE} (?!at|that)(?:[a-z]+ ){{0,4}}\Z",
        "right": rf"\b{_SEE} (?!at|that)(?:[a-z]+ ){{0,4}}\Z",
        "back": r"\b(?:go|going|get|come|came|refer|think|step|look(?:ing)?) \Z|\w's \Z",
        "above": rf"\b(?:{_TOLD}) (?:the )?\Z",
        "below": rf"\b(?:{_TOLD}) (?:the )?\Z",
        "one": r"\b(?:the|this|that|which|each|every|any|another|other|last|first|only) \Z",
    }
)
BEHIND = _compiled(
    {
        "left": r" (?:with|behind|alone|over|unanswered|unclear|to say)\b",
        "right": r"\W{1,2}(?:then|so|now|okay|let(?:'s| me| us)|first|looking at|i'll|we'll"
        r"|(?:i|we) (?:see|look|have|need|should|must|can|will))\b",
        "back": r" to (?:the )?(?:image|photo|first|second|question|option|you\b|it\b)",
        "front": r" (?:doors?|row|view|page|yard|seats?|wheels?|desk|cover|legs?|wall)\b",
    }
    | dict.fromkeys(("north", "south", "east", "west"), r" (?-i:[A-Z])[a-z]")
)
NUMBER_BEFORE = re.compile(
    rf"\b(?:{_THINGS}) (?:no\. ?|number |#)?\Z|[A-Za-z]-\Z", re.IGNORECASE
)
NUMBER_BEHIND = re.compile(r"-?[dD]\b")
# "On the left we see a mug", "To the right, a lamp", "The door on the left is closed"
ON_SIDE = re.compile(r"\b(?:on|to|at) (?:the|your|my) \Z", re.IGNORECASE)
THING_ON_SIDE = re.compile(
    r"\b(?:the|an?) (?!camera|view|observer|one|answer|option)[a-z]{2,20} (?:on|at) the \Z",
    re.IGNORECASE,
)
SIDE_SEEN = re.compile(
    r"(?: side)?(?:,? (?:i|we|you|there)\b[^.!?\n]{0,12}\b(?:see|is|are|have|find)\b"
    r"|,? (?:the|an?) [a-z]{2,20}\W{0,2}\Z)",
    re.IGNORECASE,
)
_MOVES = "camera|view|observer|move|motion|shift|turn|step|pan|rotation|translation|way"
THING_TO_SIDE = re.compile(
    rf"\b(?:the|an?) (?!{_MOVES})[a-z]{{2,20}} to the \Z", re.IGNORECASE
)
IS = re.compile(r" (?:is|are|was|were|looks|seems|appears)\b", re.IGNORECASE)
IMAGE_OF_SIDE = re.compile(
    r"[- ]?(?:hand )?(?:side )?(?:photo|image|picture|view|frame)s?\b", re.I
)


def in_another_sense(text: str, mention: Mention, option: str, *, of_motion: bool) -> bool:
    """Return whether the words beside an option's text give it a sense that answers nothing.

    Args:
        text: normalized.
        mention: by text.
        option: plain.
        of_motion: the options are motions, so that a side on which a thing stands is none.
    """
    before = text[max(0, mention.start - WINDOW) : mention.start]
    if option.isdigit():
        behind = NUMBER_BEHIND.match(text, mention.end)
        return behind is not None or NUMBER_BEFORE.search(before) is not None
    if option in BEFORE and BEFORE[option].search(before):
        return option not in ("left", "right") or of_motion
    if option in BEHIND and BEHIND[option].match(text, mention.end):
        at_start = not before.strip("*\"'` ") or before.endswith("\n")
        return option != "right" or at_start
    if not of_motion or option not in ("left", "right"):
        return False
    if THING_ON_SIDE.search(before) or IMAGE_OF_SIDE.match(text, mention.end):
        return True
    if THING_TO_SIDE.search(before) and IS.match(text, mention.end):
        return True
    seen = ON_SIDE.search(before) and SIDE_SEEN.match(text, mention.end)
    return bool(seen)
