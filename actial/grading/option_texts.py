"""Find which options' texts an answer names; numbers match only as a whole.

"12.5 meters" does not name "5 meters", "1,200" not "200", "-30" not "30", "upper right" not "right"
where both are options.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from actial.grading.answer_text import normalized

THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
TRAILING_ZEROS = re.compile(r"(?<=\d)(?:\.0+|(\.\d{0,8}[1-9])0+)(?![\d.])")
METERS = re.compile(r"(?<=\d )(?:m|meter|metres?)\b")
MINUS = re.compile(r"\b(?:minus|negative) (?=\d)")
NO_LEADING_ZERO = re.compile(r"(?<!\d)\.(?=\d)")
DIGIT_THEN_UNIT = re.compile(r"(?<=\d)(?=[a-z°%])")
DEGREES = re.compile(r" ?(?:°|\bdeg\b|\bdegree\b)")
HYPHEN = re.compile(r"(?<=[a-z])[-\u2010-\u2015](?=[a-z])")
NUMBER = re.compile(r"(?<![\w.,])[-+]?\d+(?:\.\d+)?")
IMAGE_NUMBER = re.compile(r"\b(image|photo|picture|view|frame|figure|step) \d+\b")
ARTICLE = re.compile(r"\A(?:the|an?) (?=\w)")
INTRODUCED = re.compile(r"\A(?:to )?(?:the )?")
# "north-east", "counter-clockwise"
COMPOUND = re.compile(r"\A(north|south)(?=east|west)")
ANTICLOCKWISE = re.compile(r"(?:counter|anti)clockwise")
DIRECTION = re.compile(r"left|right|up|down|north|south|east|west")  # "left" or "leftwards"
NO_MOTION = ("no movement", "no motion")
NO_CHINESE = re.compile(r"[不没沒非未别別]\Z")
# "counter-clockwise" is not "clockwise"; "B-right" is "right"
PREFIXED = re.compile(r"[A-Za-z]{2}[-\u2010\u2011]\Z")
SUFFIXED = re.compile(r"[-\u2010\u2011](?!hand|side|most\b|wards?\b)[a-z]{2}", re.IGNORECASE)
# Verbs of motion in all forms: "moved to the right" and "moves right" name "Move to the right"
MOTION_VERBS = (
    "mov(?:e[sd]?|ing)",
    "rotat(?:e[sd]?|ing)",
    "translat(?:e[sd]?|ing)",
    "turn(?:s|ed|ing)?",
    "shift(?:s|ed|ing)?",
    "pan(?:s|n(?:ed|ing))?",
)
MOTION_OPTION = re.compile(rf"({'|'.join(MOTION_VERBS)}) (?:to )?(?:the )?(left|right)")
NOT_MOVED = (
    r"no (?:camera )?mo(?:vement|tion)"
    r"|(?:(?:does|did|has|is)(?:n't| not)|never) mov(?:e|ed|ing)(?= at all|\s?[.,;!?)\n]|\Z)"
)
EDGES = " .,:;!\"'`*()[]{}\n"


@lru_cache(maxsize=4096)
def plain_option(text: str) -> str:
    """Return an option as it is compared."""
    return plain(normalized(text))


def plain(text: str) -> str:
    """Return a normalized text in the form that is compared: lower case, units apart, one space."""
    text = NO_LEADING_ZERO.sub("0.", text.casefold())
    text = MINUS.sub("-", THOUSANDS.sub("", text))
    text = TRAILING_ZEROS.sub(r"\1", text)
    text = DEGREES.sub(" degrees", DIGIT_THEN_UNIT.sub(" ", text))
    text = METERS.sub("meters", text)
    return " ".join(HYPHEN.sub(" ", text).split()).strip(EDGES)


def without_article(text: str) -> str:
    """Return a plain text without its leading article, where more follows."""
    return ARTICLE.sub("", text)


@dataclass(slots=True, frozen=True)
class Occurrence:
    """An option's text in an answer."""

    option: int
    start: int
    end: int


def occurrences(text: str, options: tuple[str, ...]) -> list[Occurrence]:
    """Return where option texts stand in a text; those inside a longer option's are left out.

    Args:
        text: as from `answer_text.normalized`.
        options: as from `plain_option`.
    """
    matches = []
    for i, pattern in enumerate(_patterns(options)):
        for match in pattern.finditer(text) if pattern else ():
            start, end = match.span()
            if _free_on_the_left(text, start) and _free_on_the_right(text, end):
                matches.append(Occurrence(i, start, end))
    return _outermost(matches, options)


@lru_cache(maxsize=4096)
def _patterns(options: tuple[str, ...]) -> tuple[re.Pattern[str] | None, ...]:
    return tuple(
        re.compile(_pattern(option), re.IGNORECASE) if option else None for option in options
    )


def _pattern(option: str) -> str:
    """Return a pattern of a plain option as it may be written: "1,200 m", "1200m", "front-left"."""
    if motion := MOTION_OPTION.fullmatch(option):
        (verb,) = [verb for verb in MOTION_VERBS if re.fullmatch(verb, motion[1])]
        return rf"{verb}\s(?:to\s)?(?:the\s)?{motion[2]}(?:wards?)?"
    if option in NO_MOTION:
        return NOT_MOVED
    tokens = without_article(option).split()
    pattern = r"(?:(?:the|an?)\s)?" if ARTICLE.match(option) else ""
    for i, token in enumerate(tokens):
        after_number = i > 0 and tokens[i - 1][-1].isdigit()
        if i:
            pattern += r"[\s-]?" if after_number else r"[\s\u2010-\u2015-]{1,2}"
        if token == "degrees":
            pattern += r"(?:°|degrees?|deg\b)"
        elif token == "meters" and after_number:
            pattern += r"m(?:eters?|etres?)?"
        elif NUMBER.fullmatch(token):
            pattern += _number_pattern(token)
        elif ANTICLOCKWISE.fullmatch(token):
            pattern += r"(?:counter|anti)[- ]?clockwise"
        else:
            pattern += COMPOUND.sub(r"\1[- ]?", re.escape(token))
            pattern += "(?:wards?)?" if DIRECTION.fullmatch(token) else ""
    return pattern


def _number_pattern(token: str) -> str:
    whole, point, decimals = token.partition(".")
    digits = whole.lstrip("+-")
    grouped = "".join(
        digit + (",?" if (rest := len(digits) - i - 1) > 0 and rest % 3 == 0 else "")
        for i, digit in enumerate(digits)
    )
    sign = re.escape(whole[0]) if whole[0] in "+-" else ""
    return sign + grouped + (rf"\.{decimals}0*" if point else r"(?:\.0+(?!\d))?")


def _free_on_the_left(text: str, start: int) -> bool:
    if start == 0:
        return True
    before, first = text[start - 1], text[start]
    if _is_word(before) and _is_word(first):
        return False
    if first.isdigit():
        if before in ".,/" and start > 1 and text[start - 2].isdigit():
            return False
        # A sign belongs to the number unless it joins two words or numbers.
        if before in "-+" and (start == 1 or not _is_word(text[start - 2])):
            return False
        if MINUS.search(text[max(0, start - 9) : start] + "0"):
            return False
        return not (before == "." and (start == 1 or text[start - 2] == " "))
    if NO_CHINESE.search(before) and not first.isascii():
        return False
    return PREFIXED.search(text[max(0, start - 3) : start]) is None


def _free_on_the_right(text: str, end: int) -> bool:
    if end == len(text):
        return True
    after, last = text[end], text[end - 1]
    if _is_word(after) and _is_word(last):
        return False
    if last.isdigit() and after in ".,/":
        return not (end + 1 < len(text) and text[end + 1].isdigit())
    return last.isdigit() or SUFFIXED.match(text, end) is None


def _is_word(sign: str) -> bool:
    # Chinese, Japanese and Korean write words without spaces between them.
    return (sign.isalnum() and sign < "\u2e80") or sign == "_"


def _outermost(matches: Sequence[Occurrence], options: Sequence[str]) -> list[Occurrence]:
    """Leave out occurrences inside a longer one, but not a clause that the longer starts with.

    "no" is the first clause of "no, it would stay": whoever writes the latter names both.
    """
    result: list[Occurrence] = []
    reach = -1
    longest_first = sorted(matches, key=lambda m: (m.start, -m.end))
    outer: Occurrence | None = None
    for match in longest_first:
        inside = outer is not None and match.end <= reach
        if inside and outer is not None:
            inner, whole = options[match.option], options[outer.option]
            first_clause = (
                match.start == outer.start and whole[len(inner) : len(inner) + 1] in ",;."
            )
            if inner != whole and not (first_clause and len(inner) < len(whole)):
                continue
        else:
            outer, reach = match, match.end
        result.append(match)
    return result


def foreign_numbers(text: str, option: str) -> bool:
    """Return whether a plain text holds numbers that an option with numbers does not have."""
    own = set(NUMBER.findall(option))
    if not own:
        return False
    return any(number not in own for number in NUMBER.findall(IMAGE_NUMBER.sub(" ", text)))


def bare_number(text: str, options: Sequence[str]) -> int | None:
    """Return the only option whose single number is the plain text, a bare number."""
    if not NUMBER.fullmatch(text):
        return None
    numbers = [NUMBER.findall(option) for option in options]
    matching = [i for i, own in enumerate(numbers) if own == [text]]
    return matching[0] if len(matching) == 1 else None


def names_another(text: str, own: int, options: Sequence[str]) -> bool:
    """Return whether a text is the text of an option other than the own one, "to the" left out."""
    bare = INTRODUCED.sub("", plain(text))
    return bare in options and bare != options[own]
