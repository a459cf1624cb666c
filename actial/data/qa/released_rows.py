"""Rows of a released data set in any of the layouts that such sets have.

chat       messages or conversations: role and content, or from and value; a
list or JSON text verl       prompt (chat turns) and reward_model.ground_truth
columns    question, options (or A, B, C), and answer, under their usual names
Images are in images, image, image_bytes, or numbered columns such as image_1
and image_2.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from actial.core.multiple_choice_format import LETTERS, inline_options
from actial.data.qa.listed_options import Turn, with_options

Row = Mapping[str, Any]
CHAT_COLUMNS = ("messages", "conversations", "conversation")
QUESTION_COLUMNS = ("question", "problem", "instruction", "query")
OPTION_COLUMNS = ("options", "choices", "candidates")
ANSWER_COLUMNS = (
    *("answer", "solution", "output", "response"),
    *("gt_answer", "correct_answer", "ground_truth"),
)
IMAGE_COLUMNS = ("images", "image", "image_bytes", "image_paths", "image_path")
NUMBERED_IMAGE = re.compile(r"(?:image|img|photo)_?(\d+)")
USERS = ("user", "human")
TAGGED = re.compile(
    r"(?:<think>)?(?P<chain>.*?)(?:</think>)?\s*<answer>(?P<answer>.*?)</answer>\s*\Z",
    re.DOTALL | re.IGNORECASE,
)
LAST_LETTER = re.compile(r"(?:^|[\s:(*>])(?P<letter>[A-F])[\s.)*]*\Z")
WORDS_OF_A_CHAIN = 12  # fewer before the letter are an answer such as "The answer is B."
# What follows the last option on its line: a new line, a sentence, or a request.
BEHIND_OPTIONS = re.compile(
    r"(?:\s*\n|(?<=[.!?;])\s|(?<=\S)\s+(?:please|answer|output|reply|respond|return|give|provide"
    r"|choose|select|only|just|directly|your)\b).*\Z",
    re.DOTALL | re.IGNORECASE,
)


class UnknownColumns(Exception):
    """A row in none of the layouts; str() names its columns and what was looked for."""

    def __init__(self, row: Row) -> None:
        super().__init__(
            f"has the columns {', '.join(sorted(row))}: the turns must be in "
            f"{' or '.join(CHAT_COLUMNS[:2])}, in prompt with reward_model, or in question and "
            "answer, and the photos in images or image"
        )


# ---------------------------------------------------------------- turns and images


def released_turns(row: Row) -> Iterator[Turn]:
    """Yield the questions of a row with their answers.

    Raises UnknownColumns for a row in none of the layouts, KeyError for an empty field of one,
    Unusable for options with a gap.
    """
    for column in CHAT_COLUMNS:
        if row.get(column):
            yield from _chat_turns(row, _listed(row[column]))
            return
    truth = (row.get("reward_model") or {}).get("ground_truth")
    if row.get("prompt") and truth is not None:
        prompt = _listed(row["prompt"])
        yield Turn([text for is_user, text in _spoken(row, prompt) if is_user][-1], str(truth))
        return
    question, answer = _first(row, QUESTION_COLUMNS), _first(row, ANSWER_COLUMNS)
    if question is None or answer is None:
        if set(CHAT_COLUMNS) & row.keys():
            raise KeyError("messages")
        if set(QUESTION_COLUMNS) & row.keys() and set(ANSWER_COLUMNS) & row.keys():
            raise KeyError("question or answer")
        raise UnknownColumns(row)
    text = f"{question}\n{row.get('input') or ''}".strip()
    lettered = {letter: row[letter] for letter in LETTERS[:6] if letter in row}
    yield with_options(text, str(answer), _first(row, OPTION_COLUMNS) or lettered)


def _first(row: Row, columns: Sequence[str]) -> Any:
    return next((row[name] for name in columns if row.get(name) is not None), None)


def _listed(value: Any) -> list[Any]:
    return json.loads(value) if isinstance(value, str) else list(value)


def _chat_turns(row: Row, messages: Sequence[Row]) -> Iterator[Turn]:
    question = None
    for is_user, text in _spoken(row, messages):
        if is_user:
            question = text
        elif question is not None:
            yield Turn(question, text)
            question = None


def _spoken(row: Row, messages: Sequence[Row]) -> Iterator[tuple[bool, str]]:
    """Yield (whether the user speaks, text) of each turn but the system's."""
    for message in messages:
        speaker = message.get("role", message.get("from"))
        content = message.get("content", message.get("value"))
        if speaker is None or content is None:
            raise UnknownColumns(row)
        if speaker != "system":
            yield speaker in USERS, _text(content)


def _text(content: Any) -> str:
    """Return the text of a turn, which may be a list of parts."""
    if isinstance(content, str):
        return content
    return "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))


def released_images(row: Row) -> list[Any]:
    """Return the image cells of a row in their order; raises UnknownColumns without a column."""
    named = [name for name in IMAGE_COLUMNS if name in row]
    numbers = {name: NUMBERED_IMAGE.fullmatch(name.lower()) for name in row}
    numbered = sorted((int(match[1]), name) for name, match in numbers.items() if match)
    if not named and not numbered:
        raise UnknownColumns(row)
    cells = next((row[name] for name in named if row[name]), None)
    if cells is None:
        cells = [row[name] for _, name in numbered if row[name] is not None]
    return list(cells) if isinstance(cells, (list, tuple)) else [cells]


# ---------------------------------------------------------------- texts


def split_options(text: str) -> tuple[str, tuple[str, ...]]:
    """Return the question and its options, without a request that follows the last of them."""
    stem, options = inline_options(text)
    if not options:
        return stem, ()
    *first, last = options
    lines = [option.partition("\n")[0] for option in first]
    lines.append(BEHIND_OPTIONS.sub("", last))
    return stem, tuple(line.strip().rstrip(" .;,") for line in lines)


def split_chain(answer: str) -> tuple[str, str]:
    """Return (chain of thought, answer) of an assistant's text; the chain is "" without one.

    The answer is in answer tags, or the letter that ends a longer text.
    """
    text = answer.strip()
    if tagged := TAGGED.match(text):
        return tagged["chain"].strip(), tagged["answer"].strip()
    bare = re.sub(r"</?think>", "", text, flags=re.IGNORECASE).strip()
    last = LAST_LETTER.search(bare)
    if last is None or len(bare[: last.start()].split()) < WORDS_OF_A_CHAIN:
        return "", text
    return bare, last["letter"]
