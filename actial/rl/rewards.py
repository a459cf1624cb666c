"""Rewards as weighted named parts of a graded completion; a part that does not apply gives None and counts for nothing.

Beyond the paper: `consistency` and `joint` compare the answers to all questions about one pair, `verified` checks what the chain says with
the poses. Prior art, also where it differs, is in docs/beyond.md.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from actial.config import RewardConfig
from actial.core.records import AnswerMode, FinishReason, Grade, Question
from actial.grading.multiple_choice import Compat
from actial.grading.predictions import read_answer
from actial.viewpoint.rationale_verifier import claims
from actial.viewpoint.symmetry import SIGN, implied_motion

SOFT_SHARE = 0.2  # of the length limit, over which the soft penalty grows (https://arxiv.org/abs/2503.14476, 4096 of 20480)


@dataclass(slots=True, kw_only=True)
class Graded:
    """One completion as the reward functions see it."""

    question: Question
    text: str
    finish: FinishReason
    grade: Grade
    row: Mapping[str, Any] = field(
        default_factory=dict
    )  # of the question's example; of a swapped pair, the swapped one
    turned: bool = False  # the photos stand in reverse order
    others: Sequence[Graded] = ()  # completions of the other prompts about the same photos

    @classmethod
    def of(
        cls,
        question: Question,
        text: str,
        finish: FinishReason,
        row: Mapping[str, Any] | None = None,
        turned: bool = False,
    ) -> Graded:
        """A completion with its grade; `others` are filled in when all are there."""
        read, _ = read_answer(row or {}, question, text, finish)
        return cls(
            question=question, text=text, finish=finish, grade=read, row=row or {}, turned=turned
        )

    @property
    def motion(self) -> int | None:
        """+1 when the answer implies that the camera went to its right over the pair as it is stored, -1 left, 0 no motion; None unread."""
        if self.question.type not in SIGN or self.grade.letter is None:
            return None
        motion = implied_motion(
            self.question.type, self.question.options["ABCDEF".index(self.grade.letter)]
        )
        return -motion if self.turned else motion


RewardKind = Callable[[Graded], float | None]


def format_reward(graded: Graded) -> float | None:
    """1 for one think block and one answer block; None where the question asked for a letter alone."""
    return float(graded.grade.format_ok) if graded.question.mode is AnswerMode.THINK else None


def accuracy_reward(graded: Graded) -> float | None:
    """1 for the right option, however it is named; of a question whose answer is a number, its relative accuracy in tenths."""
    return graded.grade.value


def faithful_accuracy_reward(graded: Graded) -> float | None:
    """The Actial release: the first answer tag's body must equal the letter, character by character (paper 6)."""
    read, _ = read_answer(graded.row, graded.question, graded.text, graded.finish, Compat.ACTIAL)
    return read.value


def consistency_reward(graded: Graded) -> float | None:
    """Share of the answers to the pair's other prompts that imply the same motion; needs no truth. None where there are no others.

    Whatever all answers agree on is paid, "no movement" too: give the right answer a weight beside it.
    """
    others = [other for other in graded.others if other.question.type in SIGN]
    if graded.question.type not in SIGN or not others:
        return None
    return sum(
        graded.motion is not None and other.motion == graded.motion for other in others
    ) / len(others)


def joint_reward(graded: Graded) -> float | None:
    """For a right answer the share of right answers to the pair's other prompts, for a wrong one 0; None where there are no others."""
    if not graded.others:
        return None
    return (
        graded.grade.correct
        * sum(other.grade.correct for other in graded.others)
        / len(graded.others)
    )


def verified_reward(graded: Graded) -> float | None:
    """Share of the matters a chain speaks of (sides by frame of reference, degrees, turn, hours) in which every claim fits the poses.

    0 for a chain that claims nothing; None where the row has no pose, or the question asked for a letter alone.
    """
    if graded.question.mode is not AnswerMode.THINK or not {"labels", "geom"} <= set(graded.row):
        return None
    matters: dict[str, bool] = defaultdict(lambda: True)
    for claim in claims(chain_of(graded.text), graded.row):
        matters[claim.reason] &= claim.holds
    return sum(matters.values()) / len(matters) if matters else 0.0


def chain_of(text: str) -> str:
    """What stands before the last closing think tag; all of a completion that never closed it."""
    return text.lower().rpartition("</think>")[0] or text.lower()


KINDS: dict[str, RewardKind] = {
    "format": format_reward,
    "accuracy": accuracy_reward,
    "accuracy_faithful": faithful_accuracy_reward,
    "consistency": consistency_reward,
    "joint": joint_reward,
    "verified": verified_reward,
}


class Rewards:
    """The configured parts, ready to score."""

    def __init__(self, config: RewardConfig) -> None:
        self.config = config

    def terms(self, graded: Graded) -> dict[str, float | None]:
        """Every part's value, before weights."""
        return {name: KINDS[part.kind](graded) for name, part in self.config.terms.items()}

    def combine(self, parts: dict[str, float | None]) -> float:
        """Weighted sum of the parts that apply; NaN where none does. Gated: only a completion of the right form earns more."""
        held = [
            value
            for name, value in parts.items()
            if self.config.terms[name].kind == "format" and value is not None
        ]
        blocked = self.config.gated and any(value < 1.0 for value in held)
        total, applied = 0.0, False
        for name, value in parts.items():
            if value is None:
                continue
            applied = True
            if not blocked or self.config.terms[name].kind == "format":
                total += self.config.terms[name].weight * value
        return total if applied else float("nan")


def overlong_penalty(length: int, limit: int) -> float:
    """0 up to 80 % of the limit, then linearly down to -1 at the limit."""
    soft = SOFT_SHARE * limit
    return min(0.0, max(-1.0, (limit - soft - length) / soft))
