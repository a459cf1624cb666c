"""Phrases that take an answer back, with another one or without."""

from __future__ import annotations

import re

_CUE = (
    r"(?:no[,.!]?\swait|wait[,.!]?\sno|no|wait|actually|correction|sorry|oops|rather|i\smean"
    r"|i\smeant|scratch\sthat|on\s(?:second|closer)\s\w{1,12})"
)
# "A. No wait, B." at the end of an answer; "A or rather B" corrects nothing
CORRECTED = re.compile(
    rf"(?:[.,;:!?\n\u2013\u2014\u2026-]{{1,3}}[\s*_(]{{1,4}}|\n[*_(]{{0,3}}){_CUE}"
    r"(?:[\s,.:!*_\u2013\u2014\u2026-]{1,4}(?:i\smean|i\smeant|no|make\sthat|it(?:'s|\sis)"
    r"|it\s(?:should|must)\sbe|the\s(?:correct\s)?answer\sis|(?:the\s)?(?:option|choice)))*"
    r"[\s,.:!*_\u2013\u2014\u2026-]{1,4}"
    r"[\"'`*(\[]{0,3}(?-i:(?P<letter>[A-Z]))[\"'`*)\]]{0,3}[.!]?\s?\Z",
    re.IGNORECASE,
)
# "Answer: left. Wait, right."
CUED = re.compile(
    rf"[.,;:!?\n\u2013\u2014-]\s?{_CUE}[\s,.:!-]{{1,4}}(?:the\s|to\sthe\s)?\Z", re.I
)
_DOUBT = (
    r"(?:no|hmm{0,5}|wait|actually|oops|sorry|but\swait|hold\son"
    r"|on\s(?:reflection|second\sthought|closer\s\w{1,12}))"
)
_WRONG = (
    r"(?:(?:clearly|definitely|obviously|simply|actually)\s)?(?:wrong|incorrect|false|impossible"
    r"|inconsistent|invalid|ruled\sout|contradicted|refuted|rejected"
    r"|not\s(?:right|correct|true|consistent|possible(?!\s(?:that|to|for|with))"
    r"|supported|valid|it\b|the\s(?:case|answer)))"
)
_THIS = r"(?:this|that|it)(?:\s(?:option|choice|answer|one))?"
# "A. left: this does not match", "A looks right, but it isn't.", "B. Incorrect."
TAKEN_BACK = re.compile(
    rf"""(?:[.!?;:,\n)\u2013\u2014-]\s?|\s)(?:but\s)?(?:i\s(?:now\s)?(?:realize|see)\s(?:that\s)?)?
    {_THIS}(?:(?:\s(?:is|was|seems)|'s)\s(?:{_WRONG}(?!\s(?:to|that)\b)
       |(?:a|an|my)\s(?:mistake|error)\b)
     |(?:\s(?:does|do|did|can|could)(?:n't|\snot)|\scannot)\s(?:match|fit|hold|agree|work
       |align|make\ssense|be\s(?:right|correct|true|it))\b(?!\s(?-i:[A-Z])\b)
     |(?:\sis(?:n't|\snot)|\s(?:does|do)(?:n't|\snot))\s?(?=[.!\n]|\Z))
    |[.!?;\n]\s?(?:incorrect|wrong|false|ruled\sout|refuted|eliminated|rejected|impossible
     |inconsistent|not\s(?:correct|right|consistent|possible|supported|true))
     (?=[.!,;]|\s(?:with|because|since)|\Z)
    |\b(?:just\skidding|never\smind)\b|\bor\sat\sleast\si\b
    |但(?:其实|实际上|是)?(?:不是|不对|并非|错)|[.,。]\s?(?:不对|不對|错了|錯了)""",
    re.IGNORECASE | re.VERBOSE,
)
# "right, not left", "right rather than left": what stands between the two
CONTRASTED = re.compile(
    r"(?:\s?[,;(]\s?(?:and\s|but\s)?not|\s(?:rather\sthan|instead\sof|as\sopposed\sto))"
    r"\s(?:to\s)?(?:the\s)?",
    re.IGNORECASE,
)
# Where an output was cut: ". But hmm,", "Wait, the handle"; "Evaluate each option:\n\nA. left"
RECONSIDERS = re.compile(
    r"(?:[.!?\n,]\s*|\A\W*)(?:but|wait|hold on|hmm+|however|alternatively|actually)\b",
    re.IGNORECASE,
)
LIST_BEGINS = re.compile(
    r"\b(?:options?|choices?|candidates?|each|them)\b[^\n]{0,40}:\W*\n[^\n]*\Z", re.IGNORECASE
)
# "Wait, no.", "Hmm, that is wrong.", "Let me reconsider." behind an answer
RETRACTION = re.compile(
    rf"""(?:^|[.!?;:,\n\u2013\u2014\u2026-]\s?|\)\s)
    (?:{_DOUBT}[\s,.!\u2026-]{{1,4}}){{1,3}}
    (?:\Z
     |(?:that|this|it|which|my\s(?:answer|choice)|the\sanswer)
      (?:\s(?:is|was|seems|looks|must\sbe|has\sto\sbe|would\sbe|may\sbe|might\sbe)
       \s(?:not\s(?:right|correct|it|true)|wrong|incorrect|false|a\smistake|mistaken|impossible)
       |(?:\s(?:cannot|can't|could\snot|couldn't)\sbe\s(?:right|correct|it|true|the\sanswer)?)
       |(?:\sis|'s)?(?:n't|\snot)\s(?:right|correct|it|true)
       |'s\s(?:wrong|incorrect|not|a\smistake))
     |i\s(?:was|am|made|misread|misjudged|confused|mixed)\b[^.\n]{{0,40}}
      \b(?:wrong|mistaken|mistakes?|misread|confused|mixed))
    |\blet[ ]me[ ](?:reconsider|rethink|redo|start[ ]over|think\sagain|try\sagain|look\sagain)\b""",
    re.IGNORECASE | re.VERBOSE,
)
# "Answer: A" and "Answer: B" on two lines
SAME_AGAIN = re.compile(
    r"(?![^\n]*(?:不对|不對|等等|更正|但))[^A-Za-z]*(?:(?:option|choice)[^A-Za-z]*)?"
    r"(?:(?:the )?(?:correct )?(?:answer|option|choice)(?: is)?[^A-Za-z]*)?"
    r"(?:(?:option|choice)[^A-Za-z]*)?",
    re.IGNORECASE,
)
