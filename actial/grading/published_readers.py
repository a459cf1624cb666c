"""Answer readers of others, imitated for comparison with published figures only.

`actial` is the Actial release's reward, `actial_eval` its evaluation client,
`actial_mmsi` the same with its own rule for MMSI-Bench and ViewSpatial-Bench,
and `vlmeval_exact` VLMEvalKit's exact matching as the release froze it (Duan et
al., arXiv 2407.11691).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from actial.core.multiple_choice_format import LETTERS

OPENING = re.compile("<answer>", re.IGNORECASE)
CLOSING = re.compile("</answer>", re.IGNORECASE)
# its tags are case-sensitive
ANSWER_TAG = re.compile(r"<(/?)answer>")
DOUBLE_BACKTICKS, BACKTICKS = re.compile("``([^`]*)``"), re.compile("`([^`]*)`")
LONE_LETTER = re.compile(r"\b[A-D]\b(?!\s[a-zA-Z])")
REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
    "Failed to obtain answer via API",
)
Reading = tuple[str | None, str]  # letter and rule


def read_actial(text: str, options: Sequence[str]) -> Reading:
    """Take the stripped body of the first answer tag, which must be a letter and nothing else."""
    opening = OPENING.search(text)
    closing = CLOSING.search(text, opening.end()) if opening else None
    body = text[opening.end() : closing.start()].strip() if opening and closing else ""
    if len(body) == 1 and body in LETTERS[: len(options)]:
        return body, "first_tag"
    return None, "none"


def read_actial_eval(text: str, options: Sequence[str]) -> Reading:
    """Unwrap the answer tag if there is exactly one, then read as VLMEvalKit does."""
    return read_vlmeval(_unwrapped(text), options)


def read_actial_mmsi(text: str, options: Sequence[str]) -> Reading:
    """Unwrap the answer tag; take the first letter A to D in backticks, else in the whole text.

    A letter before a space and a word, such as the article "A", does not count.
    """
    text = _unwrapped(text)
    marked = DOUBLE_BACKTICKS.search(text) or BACKTICKS.search(text)
    letter = LONE_LETTER.search(marked[1] if marked else text)
    answer = letter[0] if letter else text.strip()
    if len(answer) == 1 and answer in LETTERS[: len(options)]:
        return answer, "backticks" if marked and letter else "lone_letter"
    return None, "none"


def _unwrapped(text: str) -> str:
    bodies = _answer_bodies(text)
    return bodies[0].strip() if len(bodies) == 1 else text


def _answer_bodies(text: str) -> list[str]:
    bodies, start = [], None
    for tag in ANSWER_TAG.finditer(text):
        if not tag[1]:
            start = tag.end() if start is None else start
        elif start is not None:
            bodies.append(text[start : tag.start()])
            start = None
    return bodies


def read_vlmeval(text: str, options: Sequence[str]) -> Reading:
    """Take the only option letter among the words, else the only option text contained."""
    if any(refusal in text for refusal in REFUSALS):
        return None, "none"
    words = set(text.translate(str.maketrans(".()[],:;!*#{}", " " * 13)).split())
    letters = [letter for letter in LETTERS[: len(options)] if letter in words]
    if len(letters) == 1:
        return letters[0], "vlmeval_option"
    contained = [i for i, option in enumerate(options) if str(option).lower() in text.lower()]
    if len(contained) == 1 and not (not letters and "Z" in words):
        return LETTERS[contained[0]], "vlmeval_text"
    return None, "none"


READERS = {
    "actial": read_actial,
    "actial_eval": read_actial_eval,
    "actial_mmsi": read_actial_mmsi,
    "vlmeval_exact": read_vlmeval,
}
