"""Write an item as the user's text; closing lines are the benchmarks' own, word for word."""

from __future__ import annotations

from dataclasses import replace

from actial.core.errors import UserError
from actial.core.multiple_choice_format import LETTERS
from actial.core.records import AnswerMode
from actial.evaluation.benchmarks.base import Item, Style
from actial.viewpoint.questions import multiple_choice_text

MMSI_REQUEST = (
    "Answer with the option's letter from the given choices directly. "
    "Enclose the option's letter within ``."
)
DIRECT_REQUEST = "Answer with the option's letter from the given choices directly."
NUMBER_REQUEST = "Please answer the question using a single word or phrase."
VLMEVAL_REQUEST = "Please select the correct answer from the options above. \n"
SITE_REQUEST = "Give me the answer letter directly. The best answer is:"
VIEWSPATIAL_REQUEST = "Reply only to the corresponding option.\nAnswer:"


def sample_prompt(style: Style) -> str:
    """Return the texts of two made-up questions, which tell styles and their versions apart."""
    item = Item(uid="sample", images=[], question="Where is it?", raw_prompt="Own prompt.")
    closed = replace(item, options=("left", "right"), answer_index=0, hint="A hint.")
    return f"{prompt_text(closed, style)}\n{prompt_text(replace(item, raw_prompt=''), style)}"


def prompt_text(item: Item, style: Style) -> str:
    """Raises UserError when the data set has no prompt of its own and style asks for it."""
    lettered = [
        f"{letter}. {text}" for letter, text in zip(LETTERS, item.options, strict=False)
    ]
    if style in (Style.DATASET, Style.DATASET_TEXT_FIRST):
        if item.raw_prompt is None:
            raise UserError(
                f"{item.uid} has no prompt of its own: set benchmark.style to one of think, "
                "letter, vlmeval."
            )
        return item.raw_prompt
    if not item.options:
        return item.raw_prompt or f"{item.question}\n{NUMBER_REQUEST}"
    if style is Style.VLMEVAL:
        hint = f"Hint: {item.hint}\n" if item.hint else ""
        return (
            f"{hint}Question: {item.question}\nOptions:\n"
            + "\n".join(lettered)
            + "\n"
            + VLMEVAL_REQUEST
        )
    question = f"{item.hint}\n{item.question}" if item.hint else item.question
    if style is Style.MMSI:
        options = ", ".join(
            f"{letter}: {text}" for letter, text in zip(LETTERS, item.options, strict=False)
        )
        return f"{question}\nOptions: {options}\n{MMSI_REQUEST}"
    if style is Style.SITE:
        options = "\n".join(
            f"{letter}: {text}" for letter, text in zip(LETTERS, item.options, strict=False)
        )
        before = f"{item.hint}\n" if item.hint else ""
        return f"{before}Question: {item.question}\nOptions:\n{options}\n{SITE_REQUEST}"
    if style is Style.VIEWSPATIAL:
        return f"{question}\n" + "\n".join(lettered) + f"\n{VIEWSPATIAL_REQUEST}"
    if style is Style.FRAMES:
        return f"{question}\nOptions:\n" + "\n".join(lettered) + f"\n{DIRECT_REQUEST}"
    return multiple_choice_text(
        question,
        item.options,
        AnswerMode.DIRECT if style is Style.LETTER else AnswerMode.THINK,
    )
