"""Rewards as weighted named terms of a graded completion; a term that does not apply is None."""

from __future__ import annotations

from collections.abc import Callable

from actial.config import RewardConfig
from actial.core.records import AnswerMode
from actial.grading.multiple_choice import Compat
from actial.grading.predictions import read_answer
from actial.rl.experimental import EXPERIMENTAL_REWARDS
from actial.rl.graded import GradedCompletion

# Share of the length limit over which the soft penalty grows: 4096 of 20480 tokens in DAPO
# (https://arxiv.org/abs/2503.14476).
SOFT_SHARE = 0.2

RewardFunction = Callable[[GradedCompletion], float | None]


def format_reward(graded: GradedCompletion) -> float | None:
    """Return 1 for one think block followed by one answer block, else 0.

    None where the question asked for a letter alone.
    """
    return float(graded.grade.format_ok) if graded.question.mode is AnswerMode.THINK else None


def accuracy_reward(graded: GradedCompletion) -> float | None:
    """Return 1 for the correct option, however the completion names it.

    For a question whose answer is a number, its relative accuracy in tenths.
    """
    return graded.grade.value


def faithful_accuracy_reward(graded: GradedCompletion) -> float | None:
    """Return the accuracy of the Actial release (paper, section 6).

    The body of the first answer tag must equal the letter, character by character.
    """
    grade, _ = read_answer(
        graded.record, graded.question, graded.text, graded.finish, Compat.ACTIAL
    )
    return grade.value


REWARD_FUNCTIONS: dict[str, RewardFunction] = {
    "format": format_reward,
    "accuracy": accuracy_reward,
    "accuracy_faithful": faithful_accuracy_reward,
    **EXPERIMENTAL_REWARDS,
}


class Rewards:
    """The configured reward terms."""

    def __init__(self, config: RewardConfig) -> None:
        self.config = config

    def terms(self, graded: GradedCompletion) -> dict[str, float | None]:
        """Return the value of every term, before weights."""
        return {
            name: REWARD_FUNCTIONS[term.kind](graded)
            for name, term in self.config.terms.items()
        }

    def combine(self, terms: dict[str, float | None]) -> float:
        """Return the weighted sum of the terms that apply; NaN where none does.

        With reward.gated, a completion in the wrong format earns nothing but the format terms.
        """
        values = {name: value for name, value in terms.items() if value is not None}
        if not values:
            return float("nan")
        is_format = {name: self.config.terms[name].kind == "format" for name in values}
        wrong_format = any(is_format[name] and value < 1.0 for name, value in values.items())
        total = 0.0
        for name, value in values.items():
            if is_format[name] or not (self.config.gated and wrong_format):
                total += self.config.terms[name].weight * value
        return total


def overlong_penalty(length: int, limit: int) -> float:
    """Return 0 up to 80 % of the length limit, then a linear fall to -1 at the limit."""
    soft_tokens = SOFT_SHARE * limit
    return min(0.0, max(-1.0, (limit - soft_tokens - length) / soft_tokens))
