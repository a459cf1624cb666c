"""A completion with its grade, as the reward functions see it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from actial.core.records import FinishReason, Grade, Question
from actial.core.set_records import Record
from actial.grading.predictions import read_answer


@dataclass(slots=True, kw_only=True)
class GradedCompletion:
    """One completion of a prompt with its grade."""

    question: Question
    text: str
    finish: FinishReason
    grade: Grade
    # The record of the question's example; that of the swapped pair where images_reversed.
    record: Record | None = None
    images_reversed: bool = False
    # The graded completions of the other prompts about the same images.
    others: Sequence[GradedCompletion] = ()

    @classmethod
    def of(
        cls,
        question: Question,
        text: str,
        finish: FinishReason,
        record: Record | None = None,
        images_reversed: bool = False,
    ) -> GradedCompletion:
        """Grade a completion; `others` is set once all completions of a step are graded."""
        grade, _ = read_answer(record, question, text, finish)
        return cls(
            question=question,
            text=text,
            finish=finish,
            grade=grade,
            record=record,
            images_reversed=images_reversed,
        )
