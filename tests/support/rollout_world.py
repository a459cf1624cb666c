"""A question world small enough for a tiny random model: ten words, three options, and a stream of
examples.
"""

from __future__ import annotations

import random

import numpy as np

from actial.core.records import AnswerMode, Example, Prompt, Question
from support.tiny_models import EOS, IMAGE, VIDEO, VISION_END, VISION_START

WORDS = {
    10: "<think>",
    11: "so",
    12: "</think>",
    13: "<answer>",
    14: "A",
    15: "B",
    16: "C",
    17: "</answer>",
    IMAGE: "<|image_pad|>",
}
IDS = {word: number for number, word in WORDS.items()}
FORMAT = [10, 11, 12, 13]  # then a letter, the closing tag, end of turn


def reply(letter: str) -> list[int]:
    """Token ids of a well-formed answer."""
    return [*FORMAT, IDS[letter], 17, EOS]


class WordRenderer:
    """One id per word; ids that are no word decode to their number."""

    def __init__(self, visual_tokens: int) -> None:
        self.banned_ids = [IMAGE, VIDEO, VISION_START, VISION_END]
        self.visual_tokens = visual_tokens

    def prompt(self, example: Example, question: Question) -> Prompt:
        pictures = [VISION_START, *[IMAGE] * self.visual_tokens, VISION_END] * len(
            example.images
        )
        ids = [*pictures, 20 + question.answer_index, 30]
        return Prompt(uid=question.uid, engine_ids=[], input_ids=ids, images=example.images)

    def decode(self, token_ids: list[int]) -> str:
        return " ".join(WORDS.get(i, str(i)) for i in token_ids if i != EOS)


def example_at(
    position: int, *, size: int = 32, mode: AnswerMode = AnswerMode.THINK
) -> Example:
    """Every third example has no image; the answer cycles through the options."""
    rng = random.Random(position)
    noise = np.random.RandomState(rng.randrange(2**31))
    images = [
        noise.randint(0, 256, (size, size, 3), dtype=np.uint8) for _ in range(position % 3)
    ]
    question = Question(
        uid=f"q{position}",
        type=("turn", "move")[position % 2],
        text="?",
        options=("left", "right", "none"),
        answer_index=position % 3,
        mode=mode,
    )
    return Example(uid=f"e{position}", images=images, questions=[question], task="toy")
