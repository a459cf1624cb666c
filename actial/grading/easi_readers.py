"""The answer readers of EASI-8's harness, imitated so that its scores can be had a second time.

EASI (arXiv 2508.13142) runs VLMEvalKit without a judge. Six of its eight sets
are read by `read_easi` and `easi_number`, BLINK and 3DSRBench by
`read_vlmeval_2026`. They credit answers that our own reader calls unparsed;
docs/benchmarks.md names where.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Sequence

from actial.core.multiple_choice_format import LETTERS
from actial.grading.published_readers import REFUSALS, Reading

# Full-width and Chinese signs are written as escapes: brackets, stops, "option", "answer", "so".
ZERO_WIDTH = re.compile("[\u200b\u200c\u200d\ufeff]")
TAIL = 800  # characters at the end in which a letter before a closing tag counts
LINES = 6  # lines at the end that are searched
OPENED_ANSWER = re.compile(r"<\s*answer\b[^<>]*>\s*([A-J])", re.IGNORECASE)
CLOSED_ANSWER = re.compile(r"<\s*/\s*answer\s*>", re.IGNORECASE)
CLOSED_THINK = re.compile(r"</\s*think\s*>", re.IGNORECASE)
OPENED_THINK = re.compile(r"<\s*think\s*>", re.IGNORECASE)
BEFORE_TAGS = tuple(
    re.compile(
        rf"(?<![A-Za-z])([A-F])\s*(?:[\)\]\}}\uff09\u3011]\s*)?</\s*{name}\s*>",
        re.IGNORECASE,
    )
    for name in ("answer", "think")
)
LABELED_OPTION = re.compile(
    r"[*_>\-\s]*(?:option|\u9009\u9879)\s+[A-J]\s*[:\uff1a]", re.IGNORECASE
)
MARKS = r"*_`\uff08\uff09\[\]\u3010\u3011()"
LETTER_LINE = re.compile(rf"[>{MARKS}]*\s*([A-Fa-f])\s*[{MARKS}]*")
LETTERED_LINE = re.compile(r"([A-F])\s*[.\uff0e:\uff1a)\]\u3011\u3001-]\s+", re.IGNORECASE)
ENDS = r"\s.,:;!?)\]\u3011\u300b\u300d\u300f\uff0c\u3002\uff1b\u3001\uff1a\uff09"
LETTER_IN_LINE = re.compile(rf"(?<![A-Za-z])([A-F])(?=[*_`}}]*(?:$|[{ENDS}]))")
LETTER_ALONE = re.compile(r"(?<![A-Za-z])([A-F])(?![A-Za-z])")
STATED = re.compile(
    r"(?:answer(?:\s*is)?|\u7b54\u6848|\u7ed3\u8bba|\u6240\u4ee5|\u56e0\u6b64|\u9009\u62e9?)"
    r"\s*(?:[:\uff1a>\uff1d=]\s*)?(?:[(\[{\uff08\u3010]\s*)?([A-F])(?!\w)",
    re.IGNORECASE,
)


def read_easi(text: str, options: Sequence[str]) -> Reading:
    """Return the letter that EASI's rules read first, from the most to the least explicit.

    Letters A to J in an answer tag count, elsewhere A to F; one beyond the options is no answer.
    """
    letter, rule = _easi_letter(ZERO_WIDTH.sub("", text.strip()))
    if letter is None or letter.upper() not in LETTERS[: len(options)]:
        return None, "none"
    return letter.upper(), rule


def _easi_letter(text: str) -> tuple[str | None, str]:
    tag = OPENED_ANSWER.search(text)
    if tag and CLOSED_ANSWER.search(text, tag.end()):
        return tag[1], "easi_tag"
    for pattern in BEFORE_TAGS:
        if before := pattern.search(text[-TAIL:]):
            return before[1], "easi_before_tag"
    for passage in (behind_thoughts(text), text[-TAIL:]):
        if letter := _from_lines(passage.splitlines()[-LINES:]):
            return letter, "easi_line"
    if stated := STATED.search(text):
        return stated[1], "easi_stated"
    lines = [line for line in text.splitlines() if not LABELED_OPTION.match(line)]
    return _only(LETTER_ALONE.findall("\n".join(lines))), "easi_alone"


def _from_lines(lines: Sequence[str]) -> str | None:
    """Return the letter of the last line that has a single one."""
    for line in reversed([line.strip() for line in lines]):
        if LABELED_OPTION.match(line):
            continue
        if line_of_letter := LETTER_LINE.fullmatch(line) or LETTERED_LINE.match(line):
            return line_of_letter[1]
        if letter := _only(LETTER_IN_LINE.findall(line)):
            return letter
    return None


def _only(letters: Iterable[str]) -> str | None:
    distinct = set(letters)
    return distinct.pop() if len(distinct) == 1 else None


def behind_thoughts(text: str) -> str:
    """Return what follows the last closing think tag, else the last opening one, else all."""
    for tag in (CLOSED_THINK, OPENED_THINK):
        ends = [match.end() for match in tag.finditer(text)]
        if ends:
            return text[ends[-1] :].strip()
    return text


# ---------------------------------------------------------------- numbers

NUMBER = r"[-+]?(?:\d*\.\d+|\d+)(?:[eE][-+]?\d+)?"
ANY_NUMBER = re.compile(NUMBER)
TAGGED_NUMBER = re.compile(
    rf"<\s*answer\b[^<>]*>\s*({NUMBER})(?:[^\d<][^<]*)?<\s*/\s*answer\s*>", re.IGNORECASE
)
NUMBER_WORDS = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
]
NUMBER_WORD = re.compile(rf"\b({'|'.join(NUMBER_WORDS)})\b", re.IGNORECASE)


def easi_number(text: str) -> str | None:
    """Return the number that EASI reads: that of an answer tag, else the last one behind thoughts.

    Words from zero to twenty count as numbers. A Python list stands for its first entry; text in
    square brackets that is none has no number.
    """
    if text.strip().startswith("[") and text.strip().endswith("]"):
        try:
            entries = ast.literal_eval(text)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            return None
        text = str(entries[0]) if isinstance(entries, list) and entries else text
    text = ZERO_WIDTH.sub("", text.strip())
    text = NUMBER_WORD.sub(lambda word: str(NUMBER_WORDS.index(word[1].lower())), text)
    if tag := TAGGED_NUMBER.search(text):
        return tag[1]
    numbers = ANY_NUMBER.findall(behind_thoughts(text)) or ANY_NUMBER.findall(text)
    return numbers[-1] if numbers else None


# ---------------------------------------------------------------- VLMEvalKit's own matching

PUNCTUATION = str.maketrans(".()[],:;!*#{}", " " * 13)
VERBOSE = re.compile(r"answer\s+is\s+\**([ABCD])", re.IGNORECASE)
LAST_WORDS = 4  # a lone letter counts among so many words at the end


def read_vlmeval_2026(text: str, options: Sequence[str]) -> Reading:
    """Return what VLMEvalKit's exact matching reads since 2026 (`vlmeval_exact` is the older form).

    The only option letter among the words counts if it is near the end, then "answer is
    X", then the only option text contained in an answer of at most twice the options'
    length.
    """
    refused = [refusal for refusal in REFUSALS if refusal in text]
    if refused and REFUSALS[-1] not in refused:
        return None, "none"
    if not refused:
        words = text.translate(PUNCTUATION).split()
        letters = [letter for letter in LETTERS[: len(options)] if letter in words]
        if len(letters) == 1 and words.index(letters[0]) >= len(words) - LAST_WORDS:
            return letters[0], "vlmeval_option"
        if not letters and "Z" in words:
            return None, "none"
        stated = VERBOSE.search(text)
        if stated and stated[1].upper() in LETTERS[: len(options)]:
            return stated[1].upper(), "vlmeval_stated"
    lowered = text.lower()
    if len(lowered) > 2 * sum(len(option) for option in options):
        return None, "none"
    contained = [i for i, option in enumerate(options) if option.lower() in lowered]
    if len(contained) == 1:
        return LETTERS[contained[0]], "vlmeval_text"
    return None, "none"


EASI_READERS = {"easi": read_easi, "vlmeval_2026": read_vlmeval_2026}
