"""Rewards as weighted named parts of a graded completion; a part that does not apply gives None and counts for nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from actial.config import RewardConfig
from actial.errors import UserError
from actial.grading import Compat, grade
from actial.types import AnswerMode, FinishReason, Grade, Question

SOFT_SHARE = 0.2  # of the length limit, over which the soft penalty grows (https://arxiv.org/abs/2503.14476, 4096 of 20480)


@dataclass(slots=True, kw_only=True)
class Graded:
    """One completion as the reward functions see it."""

    question: Question
    text: str
    finish: FinishReason
    grade: Grade


RewardKind = Callable[[Graded], float | None]


def format_reward(graded: Graded) -> float | None:
    """1 for one think block and one answer block; None where the question asked for a letter alone."""
    return float(graded.grade.format_ok) if graded.question.mode is AnswerMode.THINK else None


def accuracy_reward(graded: Graded) -> float | None:
    """1 for the right option, however it is named."""
    return float(graded.grade.correct)


def faithful_accuracy_reward(graded: Graded) -> float | None:
    """The Actial release: the first answer tag's body must equal the letter, character by character (paper 6)."""
    question = graded.question
    read = grade(graded.text, question.options, question.answer_index, graded.finish, Compat.ACTIAL)
    return float(read.correct)


KINDS: dict[str, RewardKind] = {
    "format": format_reward,
    "accuracy": accuracy_reward,
    "accuracy_faithful": faithful_accuracy_reward,
}


class Rewards:
    """The configured parts, ready to score."""

    def __init__(self, config: RewardConfig) -> None:
        for name, part in config.parts.items():
            if part.kind not in KINDS:
                raise UserError(f"reward.parts.{name}.kind={part.kind} is unknown: use one of {', '.join(KINDS)}.")
        self.config = config

    def score(self, question: Question, text: str, finish: FinishReason) -> tuple[Grade, dict[str, float | None]]:
        """The grade and every part's value, before weights."""
        read = grade(text, question.options, question.answer_index, finish)
        graded = Graded(question=question, text=text, finish=finish, grade=read)
        return read, {name: KINDS[part.kind](graded) for name, part in self.config.parts.items()}

    def combine(self, parts: dict[str, float | None]) -> float:
        """Weighted sum of the parts that apply; NaN where none does. Gated: only a completion of the right form earns more."""
        held = [value for name, value in parts.items() if self.config.parts[name].kind == "format" and value is not None]
        blocked = self.config.gated and any(value < 1.0 for value in held)
        total, applied = 0.0, False
        for name, value in parts.items():
            if value is None:
                continue
            applied = True
            if not blocked or self.config.parts[name].kind == "format":
                total += self.config.parts[name].weight * value
        return total if applied else float("nan")


def over_long_penalty(length: int, limit: int) -> float:
    """0 up to 80 % of the limit, then linearly down to -1 at the limit."""
    soft = SOFT_SHARE * limit
    return min(0.0, max(-1.0, (limit - soft - length) / soft))
