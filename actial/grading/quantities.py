"""Write the quantities of an answer as its options have them: "150 cm", "three", "45 deg".

Only equal values are exchanged: "150 cm" is "1.5 meters", "forty-five degrees" is "45 degrees" and
"three" is "3", but "5 feet" is not "1.5 meters".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from actial.core.multiple_choice_format import LETTERS
from actial.grading.easi_readers import NUMBER_WORDS

UNITS: dict[str, tuple[str, Fraction]] = {}  # name -> (dimension, size in its base unit)
for _dimension, _sizes in {
    "length": {
        Fraction(1, 1000): "mm millimeter millimetre",
        Fraction(1, 100): "cm centimeter centimetre",
        Fraction(1): "m meter metre",
        Fraction(1000): "km kilometer kilometre",
        Fraction(254, 10_000): "in inch inche",
        Fraction(3048, 10_000): "ft foot feet",
    },
    "time": {
        Fraction(1): "s sec second",
        Fraction(60): "min minute",
        Fraction(3600): "h hr hour",
    },
    "angle": {Fraction(1): "\N{DEGREE SIGN} deg degree"},
    "share": {Fraction(1): "% percent"},
}.items():
    for _size, _names in _sizes.items():
        UNITS |= dict.fromkeys(_names.split(), (_dimension, _size))

TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
ONES = NUMBER_WORDS[:20]
WORD_VALUES = {word: i for i, word in enumerate(ONES)}
WORD_VALUES |= {word: 10 * i for i, word in enumerate(TENS, 2)}

_ONE, _TEN = "|".join(ONES), "|".join(TENS)
_BELOW_100 = rf"(?:(?:{_TEN})(?:[\s-](?:{_ONE}))?|{_ONE})"
_WORDS = rf"(?:(?:{_ONE})\shundred(?:\s(?:and\s)?{_BELOW_100})?|{_BELOW_100})"
_DIGITS = r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d{1,30})(?:\.\d{1,30})?"
_UNIT = (
    r"(?:(?:milli|centi|kilo)?met(?:er|re)s?|mm|cm|km|m|inch(?:es)?|in(?=\.|\s?\Z)|feet|foot|ft"
    r"|degrees?|deg|\N{DEGREE SIGN}|%|per\s?cent|seconds?|secs?|s|minutes?|mins?|hours?|hrs?|h)"
)
QUANTITY = re.compile(
    rf"(?<![\w.,/$-])(?:(?P<digits>{_DIGITS})|(?P<words>{_WORDS}))"
    rf"(?:[\s-]?(?P<unit>{_UNIT})(?![A-Za-z\d]))?(?![\w/]|[.,]\d|-[A-Za-z])",
    re.IGNORECASE,
)
# "2 on the left and 3 on the right, so 5 in total" and "1,5 Meter" have one number each
TOTAL = re.compile(
    r"\b(?:(?:so|giving|making|thus|hence|therefore)\s(?:there\sare\s|that(?:'s|\sis)\s)?"
    r"(?P<first>\d{1,7})(?:\s[a-z]{2,20})?\s(?:in\stotal|altogether)"
    r"|(?:for|giving|making|so)\sa\stotal\sof\s(?P<last>\d{1,7})(?:\s[a-z]{2,20})?)[.!]?\Z",
    re.IGNORECASE,
)
DECIMAL_COMMA = re.compile(
    r"(?<![\w.,-])(\d{1,4})(?:,(\d{1,2}))?\s?(?:(?-i:Meter)n?|metros?|m\u00e8tres?|metri)\b",
    re.IGNORECASE,
)
# "two and a half" and "two thirds" are no whole numbers
FRACTION = re.compile(r"\b(?:half|halves|thirds?|quarters?|dozens?|couple)\b", re.IGNORECASE)
# "the two images" counts no answer, and "the one on the left" is a pronoun
OF_IMAGES = re.compile(
    r"\s(?:images?|photos?|pictures?|views?|frames?|figures?|options?|choices?|questions?)\b",
    re.IGNORECASE,
)
COUNTED_ONE = re.compile(
    r"(?:\A|\b(?:only|just|exactly|there(?:'s|\sis)|answer\sis|count\sis|total\sis|see|count)\s"
    r"|[:=]\s)[\W]{0,3}\Z",
    re.IGNORECASE,
)
# "the second option"
POSITIONS = ["first", "second", "third", "fourth", "fifth", "sixth"]
POSITIONS_JOINED = re.compile(
    rf"\b(?:{'|'.join(POSITIONS)})\s?(?:,|/|or\b|and\b)", re.IGNORECASE
)
POSITION = re.compile(
    rf"\b(?:the )?(?P<word>{'|'.join(POSITIONS)}) (?:option|choice|answer choice)\b"
    r"|第(?P<digit>[一二三四五六])个?(?:选项|选择)",
    re.IGNORECASE,
)
ONE_OF = re.compile(r"\s(?:of|on|in|at|to|that|which|who|with|from|is|more|another)\b")


@dataclass(slots=True, frozen=True)
class Quantity:
    """A value with its dimension: "length" in meters, "angle" in degrees, "share" in percent."""

    value: Fraction
    dimension: str = ""  # "" for a bare number


def quantities_as_options(text: str, options: Sequence[str]) -> str:
    """Return a text in which quantities equal to one option's are written as that option.

    Other numbers in words become digits, so that "ninety" can be compared with "90 degrees".

    Args:
        text: as from `answer_text.normalized`.
        options: as displayed. Options that are no quantities are compared with none.
    """
    text = _single_numbers(text)
    if FRACTION.search(text):
        return text
    texts_of: dict[Quantity, set[str]] = {}
    for option in options:
        match = QUANTITY.fullmatch(option.strip().rstrip("."))
        if match is not None:
            texts_of.setdefault(_quantity(match), set()).add(option.strip())

    def written(match: re.Match[str]) -> str:
        quantity = _quantity(match)
        same = texts_of.get(quantity, set())
        if not _counts(match):
            return match[0]
        if len(same) == 1:
            return next(iter(same))
        bare_words = match["words"] and not match["unit"]
        return str(quantity.value) if bare_words else match[0]

    return QUANTITY.sub(written, text) if texts_of else text


def _single_numbers(text: str) -> str:
    """Return a text's total where it ends with one, and decimal commas as points."""
    total = TOTAL.search(text)
    if total is not None:
        return total["first"] or total["last"]
    return DECIMAL_COMMA.sub(lambda match: f"{match[1]}.{match[2] or 0} meters", text)


def positions_as_letters(text: str, count: int) -> str:
    """Return a text in which "the second option" is written as "option B".

    Args:
        text: as from `answer_text.normalized`.
        count: number of options; a position beyond it stays.
    """

    def written(match: re.Match[str]) -> str:
        if match["word"]:
            position = POSITIONS.index(match["word"].lower())
        else:
            position = "一二三四五六".index(match["digit"])
        return f"option {LETTERS[position]}" if position < count else match[0]

    return text if POSITIONS_JOINED.search(text) else POSITION.sub(written, text)


def _quantity(match: re.Match[str]) -> Quantity:
    digits, words = match["digits"], match["words"]
    value = Fraction(digits.replace(",", "")) if digits else Fraction(_value_of(words))
    name = re.sub(r"\s", "", match["unit"] or "").lower()
    if not name:
        return Quantity(value)
    dimension, size = UNITS[name] if name in UNITS else UNITS[name.removesuffix("s")]
    return Quantity(value * size, dimension)


def _value_of(words: str) -> int:
    """Return the value of number words: "one hundred and eighty" is 180."""
    total = 0
    for word in re.split(r"[\s-]", words.lower()):
        if word == "hundred":
            total *= 100
        elif word != "and":
            total += WORD_VALUES[word]
    return total


def _counts(match: re.Match[str]) -> bool:
    """Return whether a quantity may be an answer: no number of images, no pronoun "one"."""
    behind = match.string[match.end() : match.end() + 20]
    if OF_IMAGES.match(behind):
        return False
    if (match["words"] or "").lower() != "one" or match["unit"]:
        return True
    before = match.string[max(0, match.start() - 20) : match.start()]
    return COUNTED_ONE.search(before) is not None and ONE_OF.match(behind) is None
