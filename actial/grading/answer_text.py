"""Cut a completion into its parts: chain of thought, answer tags, and the text that answers.

Every pattern takes time linear in the text: a model that repeats one tag for 100,000 characters
must not stall a training step.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

# Tags around a chain of thought, as models write them.
_THINK = (
    r"<\s?{0}\s?(?:think(?:ing)?|thoughts?|reasoning|seed:think)(?:\s[^<>\n]{{0,40}})?>"
    r"|<\|{0}think(?:ing)?\|>|◁{0}think▷|\[{0}think\]|<\|{1}_of_thought\|>"
    r"|<\|channel\|>{2}<\|message\|>|<unused9{3}>"
)
THINK_OPEN = re.compile(_THINK.format("", "begin", "analysis", "4"), re.IGNORECASE)
THINK_CLOSE = re.compile(_THINK.format("/", "end", "final", "5"), re.IGNORECASE)
# Tags around remarks, which may stand before or behind an answer.
REMARK = re.compile(
    r"<\s?(/?)\s?(reason|rationale|reflect(?:ion)?|analysis|scratch_?pad|cot|inner_thoughts?"
    r"|inner_monologue|explanation|justification|summary|caption)\s?>",
    re.IGNORECASE,
)
ANSWER_TAG = re.compile(r"<(/?)answer>|<\|(begin|end)_of_box\|>", re.IGNORECASE)
# "<answer>A</answer> or <answer>B</answer>" decides nothing
JOINED_TAGS = re.compile(
    r"</answer>\s*(?:or|and|and/or|/|,|&|或者?|和)\s*<answer>([^<>]*)</answer>\s*\Z",
    re.IGNORECASE,
)
FORMAT_JOINT = re.compile(r"</think>\s*<answer>", re.IGNORECASE)

INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060\ufeff]")
SPACES = re.compile(r"[^\S\n]+")
DEGREE_SIGN = re.compile(r"\^ ?(?:\\circ\b|\{\s?\\circ\s?\})|\\degree\b")
WIDE_TAGS = str.maketrans("\uff1c\uff1e\uff0f", "<>/")
LIKE_DEGREES = str.maketrans("\u00ba\u02da\u2218", "\u00b0" * 3)
RANGE_DASH = re.compile("(?<=\\d)\\s?[\u2010-\u2015]\\s?(?=\\d)")
MINUS_DASH = re.compile(r"(?<![^\s(\[])[\u2010-\u2015](?=\d)")
STRUCK = re.compile(r"~~[^~\n]{1,400}~~")  # taken back
LATEX_FRACTION = re.compile(r"\\[dt]?frac\s?\{(\d{1,9})\}\s?\{(\d{1,9})\}")
SNAKE_CASE = re.compile(r"(?<=[a-z])_(?=[a-z])")  # "final_answer" as people write it
LINE_BREAKS = re.compile(r"\s*\n\s*")


def format_ok(text: str) -> bool:
    """Return whether the stripped output is one think block followed by one answer block.

    As in the release's check (paper repository, reward_custom.py), tags may
    have any case and bodies may hold anything, so further tags inside a body
    pass.
    """
    whole = text.strip().lower()
    return (
        whole.startswith("<think>")
        and whole.endswith("</answer>")
        and FORMAT_JOINT.search(whole, len("<think>")) is not None
    )


def answer_bodies(text: str) -> list[str]:
    """Return the texts between an answer tag and the next closing one, in order."""
    bodies, _ = _answer_bodies(text)
    return bodies


def _answer_bodies(text: str) -> tuple[list[str], int | None]:
    """Return the bodies of complete answer tags, and where an unclosed last body starts."""
    bodies, start = [], None
    reopened = ""  # what an opening tag took for a closing one ends: "<answer>B<answer>"
    for tag in ANSWER_TAG.finditer(text):
        closing = tag[1] == "/" or (tag[2] or "").lower() == "end"
        if not closing:
            reopened = "" if start is None else text[start : tag.start()]
            start = tag.end()
        elif start is not None:
            bodies.append(text[start : tag.start()])
            start = None
    if start is not None and reopened.strip() and not text[start:].strip():
        return [*bodies, reopened], None
    return bodies, start


@dataclass(slots=True, frozen=True)
class AnswerRegion:
    """The part of a completion that answers."""

    text: str
    tagged: (
        bool  # it stands in answer tags, so it is complete even if the output was cut later
    )


def answer_region(text: str) -> AnswerRegion | None:
    """Return what follows the chain of thought: the last answer tag's body, else all of it.

    None: the chain of thought is not finished. An answer tag that is opened behind the chain and
    never closed is taken up to the end.
    """
    if not text.isascii():
        text = text.translate(WIDE_TAGS)
    closes = list(THINK_CLOSE.finditer(text))
    tail, unclosed_remark = without_remarks(text[closes[-1].end() :] if closes else text)
    bodies, unclosed = _answer_bodies(tail)
    joined = JOINED_TAGS.search(tail)
    if joined and len(bodies) > 1 and bodies[-1] == joined[1]:
        return AnswerRegion(f"{bodies[-2]} or {bodies[-1]}", tagged=True)
    if bodies:
        return AnswerRegion(bodies[-1], tagged=True)
    if THINK_OPEN.search(tail) or (unclosed_remark and not tail.strip()):
        return None
    return AnswerRegion(tail if unclosed is None else tail[unclosed:], tagged=False)


def without_remarks(text: str) -> tuple[str, bool]:
    """Return a text without its tagged remarks, and whether the last one is not closed."""
    parts: list[str] = []
    position, name = 0, ""
    for tag in REMARK.finditer(text):
        if not name and not tag[1]:
            parts.append(text[position : tag.start()])
            name = tag[2].lower()
        elif tag[1] and tag[2].lower() == name:
            position, name = tag.end(), ""
    if not name:
        parts.append(text[position:])
    return "".join(parts), bool(name)


def normalized(text: str) -> str:
    """Return the text with full-width forms as ASCII, without invisible signs, spaces collapsed."""
    if not text.isascii():
        text = text.translate(LIKE_DEGREES)
        text = INVISIBLE.sub("", unicodedata.normalize("NFKC", text))
        text = MINUS_DASH.sub("-", RANGE_DASH.sub("-", text))
        text = text.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'").replace(
            "\N{MINUS SIGN}", "-"
        )
    text = STRUCK.sub(" ", SNAKE_CASE.sub(" ", text))
    text = LATEX_FRACTION.sub(r"\1/\2", text)
    text = DEGREE_SIGN.sub("\N{DEGREE SIGN}", text)
    return LINE_BREAKS.sub("\n", SPACES.sub(" ", text)).strip()
