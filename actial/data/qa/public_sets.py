"""The published sets that a mixture may name, each read into one row: pictures, question, options, answer, task, licence.

A set is a few facts: where its pictures, texts and task stand in a record. Questions with options, and those answered yes or no, can be
trained on; numbers and open answers are counted, and so are records whose pictures lie in a video.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from actial.core.errors import UserError
from actial.core.multiple_choice_format import answer_position, inline_options

MARKS = re.compile(r"<(?:image|video)>\s*")
ASKS_LETTER = re.compile(
    r"\s*(?:please )?(?:answer|reply|respond|select)[^.\n]*(?:letter|option)[^.\n]*\.?\s*$",
    re.IGNORECASE,
)
YES_NO = ("Yes", "No")


@dataclass(slots=True, frozen=True, kw_only=True)
class AdaptedRow:
    """One question of any set."""

    id: str
    images: tuple[Any, ...]  # paths below the set's root, or encoded bytes
    question: str
    options: tuple[str, ...]  # empty for numbers and open answers
    answer: str
    answer_index: int  # -1 without options
    answer_kind: str  # mcq | yesno | number | open
    task: str


@dataclass(slots=True, frozen=True)
class NamedSet:
    """Where the fields of a set stand; `turns` gives the (question, answer) pairs of a record."""

    turns: Callable[[Mapping], Iterator[tuple[str, str]]]
    task: str
    license: str
    images: str = "images"


def _conversations(record: Mapping) -> Iterator[tuple[str, str]]:
    """LLaVA's form: from human, from gpt, and so on."""
    yield from _alternating(record["conversations"], "from", "value", ("human", "user"))


def _messages(record: Mapping) -> Iterator[tuple[str, str]]:
    yield from _alternating(record["messages"], "role", "content", ("user",))


def _alternating(
    turns: list[Mapping], who: str, said: str, asking: tuple[str, ...]
) -> Iterator[tuple[str, str]]:
    question = None
    for turn in turns:
        if turn[who] in asking:
            question = turn[said]
        elif question is not None and turn[who] != "system":
            yield question, turn[said]
            question = None


def _fields(answer: str) -> Callable[[Mapping], Iterator[tuple[str, str]]]:
    def turns(record: Mapping) -> Iterator[tuple[str, str]]:
        options = record.get("options") or record.get("choices") or ()
        listed = " ".join(
            f"{letter}. {text}" for letter, text in zip("ABCDEF", options, strict=False)
        )
        yield (
            f"{record['question']} Options: {listed}" if listed else record["question"],
            str(record[answer]),
        )

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
    "sensenova_si_8m": NamedSet(
        _conversations, "type", "Apache-2.0", "image"
    ),  # its JSON lines; one picture as text, several as a list
    "llava": NamedSet(_conversations, "type", "unknown", "image"),  # any other set in this form
}


def adapt(name: str, record: Mapping, number: int) -> Iterator[AdaptedRow]:
    """The questions of one record, which is row `number` of its file.

    Raises KeyError or TypeError for a record without the set's fields, ValueError for a right answer that is not one of the options.
    """
    known = NAMED[name]
    pictures = record.get(known.images) or record.get("images") or record.get("image") or ()
    pictures = tuple(pictures) if isinstance(pictures, (list, tuple)) else (pictures,)
    for turn, (question, answer) in enumerate(known.turns(record)):
        text = ASKS_LETTER.sub("", MARKS.sub("", question)).strip()
        stem, options = inline_options(text)
        kind, options, index = _read_answer(options, answer.strip())
        yield AdaptedRow(
            id=f"{record.get('id', number)}" + (f"/{turn}" if turn else ""),
            images=pictures,
            question=stem.strip() if kind == "mcq" else text,
            options=options,
            answer=answer.strip(),
            answer_index=index,
            answer_kind=kind,
            task=str(record.get(known.task, "unknown")),
        )


def _read_answer(options: tuple[str, ...], answer: str) -> tuple[str, tuple[str, ...], int]:
    """(kind, options, index of the right one)."""
    if len(options) >= 2:
        try:
            return "mcq", options, answer_position(answer, options, "row")
        except UserError as error:
            raise ValueError(str(error)) from error
    word = answer.rstrip(".").casefold()
    if word in ("yes", "no"):
        return "yesno", YES_NO, int(word == "no")
    try:
        float(answer)
    except ValueError:
        return "open", (), -1
    return "number", (), -1
