"""A completion with its grade, as the reward functions see it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from actial.core.records import FinishReason, Grade, Question
from actial.grading.predictions import read_answer


@dataclass(slots=True, kw_only=True)
class GradedCompletion:
    """One completion of a prompt with its grade."""

    question: Question
    text: str
    finish: FinishReason
    grade: Grade
    # The record of the question's example; that of the swapped pair where images_reversed.
    row: Mapping[str, Any] = field(default_factory=dict)
    images_reversed: bool = False
    # The graded completions of the other prompts about the same images.
    others: Sequence[GradedCompletion] = ()

    @classmethod
    def of(
        cls,
        question: Question,
        text: str,
        finish: FinishReason,
        row: Mapping[str, Any] | None = None,
        images_reversed: bool = False,
    ) -> GradedCompletion:
        """Grade a completion; `others` is set once all completions of a step are graded."""
        grade, _ = read_answer(row or {}, question, text, finish)
        return cls(
            question=question,
            text=text,
            finish=finish,
            grade=grade,
            row=row or {},
            images_reversed=images_reversed,
        )
