"""Rewards and groups beyond the paper, all experimental.

In our own experiments none of them improved on format and accuracy alone
(experiments/viewpoint_kept; prior art and differences are in docs/beyond.md):

- consistency, joint: compare the answers to all questions about one pair of images
- verified: checks the claims of a chain of thought against the camera poses
- counterfactual groups (grpo.counterfactual): half of a group sees the images in reverse order
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

from actial.core.multiple_choice_format import LETTERS
from actial.core.records import AnswerMode, Example, Question
from actial.core.set_records import ViewPair
from actial.rl.graded import GradedCompletion
from actial.viewpoint.rationale_verifier import claims
from actial.viewpoint.symmetry import SIGN, implied_motion, swap_views


def consistency_reward(graded: GradedCompletion) -> float | None:
    """Return the share of the pair's other answers that imply the same camera motion.

    It needs no truth, and pays whatever all answers agree on, "no movement"
    too: give the correct answer a weight beside it. None where there are no
    others.
    """
    others = [other for other in graded.others if other.question.type in SIGN]
    if graded.question.type not in SIGN or not others:
        return None
    motion = answered_motion(graded)
    if motion is None:
        return 0.0
    return sum(answered_motion(other) == motion for other in others) / len(others)


def joint_reward(graded: GradedCompletion) -> float | None:
    """Return the share of the pair's other answers that are correct, or 0 for a wrong answer.

    None where there are no others.
    """
    if not graded.others:
        return None
    num_correct = sum(other.grade.correct for other in graded.others)
    return graded.grade.correct * num_correct / len(graded.others)


def verified_reward(graded: GradedCompletion) -> float | None:
    """Return the share of topics of a chain of thought in which every claim fits the poses.

    Topics are sides by frame of reference, degrees, turn, and clock hours. 0 for a
    chain that claims nothing; None where the record has no pose, or a letter alone was
    requested.
    """
    if graded.question.mode is not AnswerMode.THINK or not isinstance(graded.record, ViewPair):
        return None
    topic_holds: dict[str, bool] = defaultdict(lambda: True)
    for claim in claims(chain_of_thought(graded.text), graded.record):
        topic_holds[claim.reason] &= claim.holds
    return sum(topic_holds.values()) / len(topic_holds) if topic_holds else 0.0


def chain_of_thought(text: str) -> str:
    """Return the text before the last closing think tag, or all of it where none closes."""
    return text.lower().rpartition("</think>")[0] or text.lower()


def answered_motion(graded: GradedCompletion) -> int | None:
    """Return the camera motion that an answer implies over the pair as it is stored.

    +1 to the camera's right, -1 to its left, 0 for none; None for an unparsed answer.
    """
    question, letter = graded.question, graded.grade.letter
    if question.type not in SIGN or letter is None:
        return None
    motion = implied_motion(question.type, question.options[LETTERS.index(letter)])
    return -motion if graded.images_reversed else motion


def counterfactual(example: Example, question: Question) -> tuple[Example, Question, bool]:
    """Return the example and question of the other half of a group, and whether images swapped.

    A question whose answer does not turn with the images is put a second time as it is.
    """
    if question.type in SIGN and len(example.images) > 1:
        swapped = swap_views(replace(example, questions=[question]))
        return swapped, swapped.questions[0], True
    return example, replace(question, uid=f"{question.uid}#again"), False


EXPERIMENTAL_REWARDS = {
    "consistency": consistency_reward,
    "joint": joint_reward,
    "verified": verified_reward,
}
