"""The published sets that a mixture may name, each read into one form.

A set is described by where its images, texts and types stand in a record.
Questions with options, those answered yes or no, and numbers (source.numbers)
can be trained on; open answers are counted, and so are records whose images lie
in a video. An answer in tags brings its chain of thought along.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from actial.core.errors import UserError
from actial.core.multiple_choice_format import answer_position, inline_options
from actial.data.qa.listed_options import Turn, with_options
from actial.data.qa.released_rows import (
    released_images,
    released_turns,
    split_chain,
    split_options,
)
from actial.data.qa.sat_rows import Unusable
from actial.viewpoint.questions import VIEWPOINT_TYPES
from actial.viewpoint.recognized_types import recognize_type

MARKS = re.compile(r"<(?:image|video)>\s*")
REQUESTS = re.compile(r"(?:please )?(?:answer|reply|respond|select)", re.IGNORECASE)
NAMES_OPTION = re.compile("letter|option", re.IGNORECASE)
JOINT = re.compile(r"[lrn],\s*[A-F]")  # the older form of Viewpoint-100K's answers
YES_NO = ("Yes", "No")
UNKNOWN_TYPE = "unknown"

SetRecord = Mapping[str, Any]  # one record as the set's file has it


@dataclass(slots=True, frozen=True, kw_only=True)
class AdaptedQuestion:
    """One question of any set."""

    id: str
    images: tuple[Any, ...]  # paths below the set's root, or encoded bytes
    question: str
    options: tuple[str, ...]  # empty for numbers and open answers
    answer: str
    answer_index: int  # -1 without options
    answer_kind: str  # mcq | yesno | number | joint | open
    chain: str = ""  # chain of thought before the answer
    types: tuple[str, ...]  # at least one; some sets give a question several


@dataclass(slots=True, frozen=True)
class NamedSet:
    """Where the fields of a set stand; `turns` gives the questions of a record, and answers."""

    turns: Callable[[SetRecord], Iterator[Turn]]
    type: str
    license: str
    images: str = "images"
    # rows in any layout of a release: types come from the wording, test rows from files so named
    released: bool = False


def without_letter_request(text: str) -> str:
    """Return a question without a last sentence such as "Answer with the option's letter."

    In time that grows with the length alone, whatever a file holds.
    """
    body = text.rstrip()
    end = len(body) - body.endswith(".")
    start = 1 + max(body.rfind(".", 0, end), body.rfind("\n", 0, end))
    request = REQUESTS.search(body, start, end)
    if request is None or not NAMES_OPTION.search(body, request.end(), end):
        return text
    return body[: request.start()].rstrip()


def _conversations(record: SetRecord) -> Iterator[Turn]:
    """Yield the turns of LLaVA's form: from human, from gpt, and so on."""
    yield from _alternating(record["conversations"], "from", "value", ("human", "user"))


def _messages(record: SetRecord) -> Iterator[Turn]:
    yield from _alternating(record["messages"], "role", "content", ("user",))


def _alternating(
    messages: Sequence[SetRecord], speaker: str, text: str, users: tuple[str, ...]
) -> Iterator[Turn]:
    question = None
    for message in messages:
        if message[speaker] in users:
            question = message[text]
        elif question is not None and message[speaker] != "system":
            yield Turn(question, message[text])
            question = None


def _fields(answer: str) -> Callable[[SetRecord], Iterator[Turn]]:
    """Return the reader of records with the fields question, options or choices, and `answer`."""

    def turns(record: SetRecord) -> Iterator[Turn]:
        for field in ("question", answer):
            if record[field] is None:
                raise KeyError(field)
        options = record.get("options") or record.get("choices")
        yield with_options(record["question"], str(record[answer]), options)

    return turns


NAMED: dict[str, NamedSet] = {
    "mindcube_train": NamedSet(_fields("gt_answer"), "type", "MIT"),
    "spar_7m": NamedSet(_conversations, "type", "see LogosRoboticsGroup/SPAR", "image"),
    "vsi_590k": NamedSet(_conversations, "question_type", "Apache-2.0", "image"),
    "vsi_100k": NamedSet(_conversations, "question_type", "see arXiv 2504.00883", "image"),
    "multispa": NamedSet(
        _conversations, "question_type", "see facebookresearch/Multi-SpatialMLLM", "image"
    ),
    "spatialladder_26k": NamedSet(_fields("answer"), "type", "see ZJU-REAL/SpatialLadder"),
    "vica_322k": NamedSet(_conversations, "type", "see nkkbr/ViCA", "image"),
    "mv_stride": NamedSet(_messages, "category", "see co1dspring/MV-STRIDE"),
    "molmo2_er_vst_p": NamedSet(_conversations, "type", "see allenai/Molmo2-ER-VST-P"),
    "joyai_openspatial": NamedSet(
        _conversations, "task", "see jdopensource/JoyAI-Image-OpenSpatial", "image"
    ),
    "mulset": NamedSet(_fields("answer"), "task", "Apache-2.0"),
    # as JSON lines: one image as a text, several as a list
    "sensenova_si_8m": NamedSet(_conversations, "type", "Apache-2.0", "image"),
    "viewpoint_100k": NamedSet(
        released_turns, "question_type", "see INno0o/Viewpoint-100K", released=True
    ),
    "llava": NamedSet(
        _conversations, "type", "unknown", "image"
    ),  # any other set in this form
}


def adapt(name: str, record: SetRecord, number: int) -> Iterator[AdaptedQuestion]:
    """Yield the questions of one record, which is row `number` of its file.

    Raises KeyError or TypeError for a record without the set's fields, Unusable for one
    without a question, an answer or an option, ValueError for an answer that is not one
    of the options.
    """
    layout = NAMED[name]
    turns = list(layout.turns(record))
    images = _images(layout, record)
    types = types_of_turns(record.get(layout.type), len(turns))
    for number_of_turn, turn in enumerate(turns):
        text = without_letter_request(MARKS.sub("", turn.question)).strip()
        chain, answer = (split_chain if layout.released else _split_tags)(turn.answer)
        bare = turn._replace(question=text)
        stem, options = bare.split(split_options if layout.released else inline_options)
        kind, options, index = _read_answer(options, answer.strip())
        question = stem.strip() if kind == "mcq" else bare.text
        if not question:
            raise Unusable("no question")
        written = types[number_of_turn]
        yield AdaptedQuestion(
            id=f"{record.get('id', number)}"
            + (f"/{number_of_turn}" if number_of_turn else ""),
            images=images,
            question=question,
            options=options,
            answer=answer.strip(),
            answer_index=index,
            answer_kind=kind,
            types=_released_types(stem, options, written) if layout.released else written,
            chain=chain,
        )


def _images(layout: NamedSet, record: SetRecord) -> tuple[Any, ...]:
    if layout.released:
        images = released_images(record)
    else:
        cells = record.get(layout.images) or record.get("images") or record.get("image") or ()
        images = list(cells) if isinstance(cells, (list, tuple)) else [cells]
    if len(images) == 1 and isinstance(images[0], str) and images[0].startswith("["):
        # a list that a table keeps as text, or a path that begins like one
        with suppress(json.JSONDecodeError):
            images = json.loads(images[0])
    return tuple(images)


def _split_tags(answer: str) -> tuple[str, str]:
    return split_chain(answer) if "<answer>" in answer else ("", answer)


def _released_types(
    question: str, options: tuple[str, ...], written: tuple[str, ...]
) -> tuple[str, ...]:
    """Return our name of a question's type where the row writes it or its wording tells it."""
    if set(written) <= VIEWPOINT_TYPES:
        return written
    recognized = recognize_type(question, options)
    return written if recognized is None else (recognized.value,)


def types_of_turns(field: Any, turns: int) -> list[tuple[str, ...]]:
    """Return the types of each turn of a record.

    A text is the type of all turns. A list holds one type for each of several turns, or else the
    several types that every turn has.
    """
    if not isinstance(field, (list, tuple)):
        return [(UNKNOWN_TYPE if field is None else str(field),)] * turns
    if turns > 1 and len(field) == turns:
        return [types_of_turns(entry, 1)[0] for entry in field]
    names = tuple(dict.fromkeys(str(entry) for entry in field if entry is not None))
    return [names or (UNKNOWN_TYPE,)] * turns


def _read_answer(options: tuple[str, ...], answer: str) -> tuple[str, tuple[str, ...], int]:
    """Return the kind of answer, the options, and the index of the correct one."""
    if JOINT.fullmatch(answer):
        return "joint", (), -1
    if len(options) >= 2:
        try:
            index = answer_position(answer, options, "row")
        except UserError as error:
            raise ValueError(str(error)) from error
        folded = [option.casefold() for option in options]
        if folded.count(folded[index]) > 1:
            raise ValueError("two letters stand for the right answer")
        return "mcq", options, index
    word = answer.rstrip(".").casefold()
    if word in ("yes", "no"):
        return "yesno", YES_NO, int(word == "no")
    try:
        return "number" if math.isfinite(float(answer)) else "open", (), -1
    except ValueError:
        return "open", (), -1
