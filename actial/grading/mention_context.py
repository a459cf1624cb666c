"""What the words around a mention make of it: bounds of numbers, determiners, arrows."""

from __future__ import annotations

import re
from collections.abc import Container, Sequence
from itertools import pairwise

from actial.grading.correction_phrases import CONTRASTED
from actial.grading.mention import Mention

# "X, but Y is just as likely", "X is possible and so is Y"
EQUAL = re.compile(
    r"\b(?:just as|equally|as) (?:likely|plausible|possible|good|probable|well)\b"
    r"|\bso (?:is|does|do|are|could|might|would)\b",
    re.IGNORECASE,
)
FROM = re.compile(r"\bfrom (?:the )?[\"'`*(\[]{0,3}\Z", re.IGNORECASE)
ARROW = re.compile(
    r"[\])}\"'`*_.]{0,4}\s?(?:[-=]>|\u2192)\s?(?:(?:option|choice)\s)?[\[\"'`*(]{0,3}\Z"
)
# "could be right" calls an answer correct
CALLED_RIGHT = re.compile(
    r"(?<![Ii]t )\b(?:could|might|may|would|must|can|should) (?:both |all |also )?be \Z"
)
BOUND_BEFORE = re.compile(
    r"(?:\b(?:more|less|greater|fewer|larger|smaller|longer|shorter|further|farther|higher|lower)"
    r"\sthan|\b(?:over|under|above|below|beyond|at least|at most|up to|within|exceed\w{0,4}"
    r"|a maximum of|a minimum of|at minimum|at maximum|min(?:imum)?|max(?:imum)?"
    r"|twice|thrice|double|half of"
    r"|half|times)|[<>\u2264\u2265\u00b1])\s?\Z",
    re.IGNORECASE,
)
BOUND_AFTER = re.compile(
    r"\s?(?:\+|\u00b1|/\s?(?=[A-Za-z])|(?<=\u00b0)[CF]\b)"
    r"|\s(?:(?:or|and) (?:more|less|fewer|above|below|over|under|up)"
    r"|squared|cubed|per|celsius|fahrenheit|maximum|max)\b"
    r"|,?\sat (?:the )?(?:very )?(?:most|least|minimum|maximum)\b",
    re.IGNORECASE,
)
# "image 2", "step 2", "2 images"
NUMBERED = re.compile(
    r"\b(?:images?|photos?|pictures?|views?|frames?|figures?|steps?|questions?) #?\Z",
    re.IGNORECASE,
)
COUNTS_IMAGES = re.compile(
    r"\s(?:images|photos|pictures|views|frames|figures)\b", re.IGNORECASE
)
# "that's right!", "right in front of it", "left the room", "the left wall", "what's left"
SIDE_BEFORE = re.compile(
    r"(?:\b(?:you're|you are|that's|that is|all"
    r"|(?-i:[A-Z]) (?:looks|seems|sounds|appears)) |\b(?:what's|what is|nothing|time) )\Z",
    re.IGNORECASE,
)
RIGHT_AFTER = re.compile(
    r"\s(?:in front|behind|above|below|beneath|beside|next|near|away|now|there|here|angles?)\b",
    re.IGNORECASE,
)
LEFT_AFTER = re.compile(
    r"\s(?:the (?!side|hand|direction|most)|it\b|them\b|out\b|over\b|unanswered|blank|unchanged)",
    re.IGNORECASE,
)
SIDE_OF_SCENE = re.compile(r"(?:\A|[.!?\n]\s?)(?:on|at|to|in) the \Z", re.IGNORECASE)
SEEN_THERE = re.compile(
    r"(?: side)?(?: of the (?:image|photo|picture|frame|room|scene))?,? (?:there (?:is|are)"
    r"|(?:i|we|you) (?:can )?see)\b",
    re.IGNORECASE,
)
SIDE_NOUN = re.compile(
    r"\s(?:walls?|doors?|windows?|images?|photos?|pictures?|frames?|views?"
    r"|edge|corner|half|part)\b",
    re.IGNORECASE,
)
# "no chair", but not "no it is not"
NO_NOUN = re.compile(
    r"\s(?!(?:it|they|the|this|that|there|these|those|he|she|i|we|you|because|since|as|is|was)\b)"
    r"[a-z]",
    re.IGNORECASE,
)
# "If the camera moved, then B"
IF_THEN = re.compile(
    r"(?:\bif\b[^.!?\n]{0,80}\sthen\b|(?:如果|假如|若)[^.!?\n。]{0,60}(?:则|那么|就))"
    r"(?:\W{1,2}(?:the\s)?(?:correct\s)?(?:answer|it)\s(?:is|would\sbe|must\sbe|should\sbe)"
    r"|\W{1,2}(?:choose|select|pick|option)|应?选|答案是)?[\s\"'`*(\[]{0,4}\Z",
    re.IGNORECASE,
)

# "It moved left because the objects shifted to the right": the reason names no option
REASON = re.compile(
    r"(?:\b(?:because|since)|,\s(?:as|for))\s(?!(?:the\s)?(?:camera|it|view\w*)\b)"
    r"(?![^\n]*\b(?:or|so|then|hence)\b)[^.,;:!?\n]{1,80}\Z",
    re.IGNORECASE,
)


def determines(text: str, mention: Mention) -> bool:
    """Return whether "no" only determines a noun, or "right" means correct: "could be right"."""
    if not mention.by_text:
        return False
    word = text[mention.start : mention.end].lower()
    before = text[max(0, mention.start - 24) : mention.start]
    if word.isdigit():
        numbered = NUMBERED.search(before) or COUNTS_IMAGES.match(text, mention.end)
        return numbered is not None
    if word in ("left", "right") and _is_no_side(text, mention, before, word):
        return True
    if word == "right":
        return CALLED_RIGHT.search(before) is not None
    return word == "no" and NO_NOUN.match(text, mention.end) is not None


def _is_no_side(text: str, mention: Mention, before: str, word: str) -> bool:
    """Return whether "left" or "right" names no motion: "the left wall", "that's right"."""
    if SIDE_BEFORE.search(before):
        return True
    if SIDE_OF_SCENE.search(before) and SEEN_THERE.match(text, mention.end):
        return True
    if before.lower().endswith("the "):
        opens = re.search(r"(?:\A|[.!?\n]\s?)the \Z", before, re.IGNORECASE)
        return opens is not None and SIDE_NOUN.match(text, mention.end) is not None
    after = RIGHT_AFTER if word == "right" else LEFT_AFTER
    return after.match(text, mention.end) is not None


def bounds(text: str, mention: Mention) -> bool:
    """Return whether a number is a bound or has another unit: "more than 3", "3+", "3 km per h"."""
    before = text[max(0, mention.start - 24) : mention.start]
    return BOUND_BEFORE.search(before) is not None or bool(
        BOUND_AFTER.match(text, mention.end)
    )


def rejects_another(text: str, after: re.Match[str], starts: Container[int]) -> bool:
    """Return whether a "not" behind a mention belongs to the next one: "right (not left)"."""
    end = after.end() + (text[after.end() : after.end() + 1] == " ")
    return after[0].endswith("not") and end in starts


def points_to(text: str, previous: Mention, mention: Mention) -> bool:
    """Return whether an arrow leads from one option to another, "A -> B", and not to the answer."""
    if mention.stated or ARROW.match(text[previous.end : mention.start]) is None:
        return False
    return not previous.by_text or not text[: previous.start].strip(" *\"'`([")


def gives_reason(text: str, mention: Mention, mentions: Sequence[Mention]) -> bool:
    """Return whether an option's text only belongs to the reason for one that stands before it."""
    if not mention.by_text:
        return False
    start = max(0, mention.start - 120)
    reason = REASON.search(text[start : mention.start])
    if reason is None:
        return False
    head = text[start : start + reason.start()]
    sentence = start + max(map(head.rfind, ".!?\n")) + 1
    return any(m.standing and sentence <= m.start < start + reason.start() for m in mentions)


def contrasted(text: str, mentions: Sequence[Mention]) -> list[Mention]:
    """Return the mentions that only deny another option behind the answer: "right, not left"."""
    ordered = sorted(mentions, key=lambda m: m.start)
    return [
        mention
        for previous, mention in pairwise(ordered)
        if mention.by_text
        and mention.rejected
        and previous.standing
        and CONTRASTED.fullmatch(text, previous.end, mention.start)
    ]
