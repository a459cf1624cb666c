"""Beyond the paper: rewards over all questions of a pair, chains checked with the poses, groups
whose half sees the photos reversed.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.records import LEFT, question_record, view_pair
from support.rollout_world import WordRenderer, example_at, reply
from support.scripted import ScriptedSampler
from support.tiny_models import EOS

from actial.config import (
    AdvantageScale,
    ColdStartConfig,
    DataConfig,
    DynamicSamplingConfig,
    GRPOConfig,
    RewardConfig,
    RewardTerm,
    SetConfig,
    Task,
)
from actial.core.records import AnswerMode, Example, FinishReason, Prompt
from actial.core.set_records import PAPER_QUESTIONS
from actial.data.datasets import open_set
from actial.rl.experimental import answered_motion
from actial.rl.graded import GradedCompletion
from actial.rl.rewards import Rewards
from actial.rl.rollouts import RolloutBatch, Rollouts
from actial.viewpoint.questions import viewpoint_question
from actial.viewpoint.rationale_verifier import claims
from actial.viewpoint.symmetry import swap_views, swapped_pair

PAIR = view_pair()  # the camera goes to its right
SIDES = {
    "ego_translation": "right",
    "object_translation": "left",
    "ego_rotation": "left",
}  # what fits a camera that went to its right


def pair_at(position: int) -> Example:
    """Three questions about one pair of photos."""
    noise = np.random.RandomState(position)
    images = [noise.randint(0, 256, (32, 32, 3), dtype=np.uint8) for _ in range(2)]
    questions = [
        viewpoint_question(replace(PAIR, uid=f"pair{position}"), kind, AnswerMode.THINK)
        for kind in PAPER_QUESTIONS
    ]
    return Example(
        uid=f"pair{position}",
        images=images,
        questions=questions,
        task="viewpoint",
        record=PAIR,
    )


def mixed_at(position: int) -> Example:
    """Pairs at even positions; else an example with one question and no motion."""
    return example_at(position) if position % 2 else pair_at(position)


def letter_of(question: Any, side: str) -> str:
    return "ABC"[
        next(i for i, option in enumerate(question.options) if side in option.lower())
    ]


def roll_out(
    says: Any, example: Any = pair_at, terms: dict[str, float] | None = None, **values: Any
) -> RolloutBatch:
    """One step in which `says(prompt uid, member)` is the side that is answered, in the
    right form.
    """
    renderer = WordRenderer(4)
    questions_by_uid: dict[str, Any] = {}

    def prompt(example: Example, question: Any) -> Prompt:
        questions_by_uid[question.uid] = question
        return WordRenderer.prompt(renderer, example, question)

    renderer.prompt = prompt  # type: ignore[method-assign]

    def script(given: Prompt, member: int) -> list[int]:
        question = questions_by_uid[given.uid.rpartition("@")[0]]
        side = says(given.uid, member)
        return reply(side if side in "ABC" else letter_of(question, side))

    settings = {
        "steps": 1,
        "batch_size": 2,
        "group_size": 4,
        "max_tokens": 10,
        "advantage": AdvantageScale.none,
        **values,
    }
    reward = RewardConfig(
        terms={
            kind: RewardTerm(kind=kind, weight=weight)
            for kind, weight in (terms or {"accuracy": 1.0}).items()
        }
    )
    return Rollouts(
        example,
        renderer,
        ScriptedSampler(script, stop_ids=[EOS]),
        reward,
        GRPOConfig(**settings),
        seed=0,
    ).make(0, 0)


def kind_of(uid: str) -> str:
    return uid.partition("@")[0].partition("#")[0].rpartition("/")[2]


# ---------------- all questions of a pair in one step


def test_a_pair_is_asked_all_of_its_questions_behind_the_same_photos():
    batch = roll_out(lambda uid, member: "left", all_questions=True)
    assert [prefix_group.uid for prefix_group in batch.prefix_groups] == [
        f"pair{p}/{kind.value}@{p}" for p in (0, 1) for kind in PAPER_QUESTIONS
    ]
    assert len(batch.images) == 4
    assert [prefix_group.images for prefix_group in batch.prefix_groups] == [[0, 1]] * 3 + [
        [2, 3]
    ] * 3
    assert (
        len(batch.samples),
        batch.position,
        batch.sums["total/dynamic_sampling/accepted_ratio"]
        / batch.sums["count/dynamic_sampling/accepted_ratio"],
    ) == (24, 2, 1.0)


def test_answers_that_tell_one_motion_are_consistent_right_or_wrong():
    """Left and right camera motions tell the same in all three questions; the last member of
    ego_rotation disagrees with all.
    """
    turned = {"left": "right", "right": "left"}

    def says(uid: str, member: int) -> str:
        side = turned[SIDES[kind_of(uid)]]  # consistently wrong
        return turned[side] if kind_of(uid) == "ego_rotation" and member == 3 else side

    batch = roll_out(
        says, terms={"consistency": 1.0, "joint": 1.0}, all_questions=True, batch_size=1
    )
    consistency_rewards = [sample.terms["consistency"] for sample in batch.samples]
    assert consistency_rewards == [7 / 8] * 8 + [1.0] * 3 + [0.0]
    assert [sample.terms["joint"] for sample in batch.samples] == [0.0] * 12


def test_the_joint_reward_is_the_share_of_the_others_that_are_right():
    batch = roll_out(
        lambda uid, member: SIDES[kind_of(uid)] if member < 2 else "no ",
        terms={"joint": 1.0},
        all_questions=True,
        batch_size=1,
    )
    assert [sample.terms["joint"] for sample in batch.samples] == [0.5, 0.5, 0.0, 0.0] * 3


def test_no_motion_agrees_with_no_motion_and_an_unread_answer_with_nothing():
    question = pair_at(0).questions[0]
    still, unread = (
        GradedCompletion.of(question, text, FinishReason.STOP)
        for text in (f"<answer>{letter_of(question, 'no ')}</answer>", "nothing")
    )
    assert (answered_motion(still), answered_motion(unread)) == (0, None)
    still.others = unread.others = [still, unread]
    consistency = Rewards(
        RewardConfig(terms={"c": RewardTerm(kind="consistency", weight=1.0)})
    ).terms
    assert (consistency(still), consistency(unread)) == ({"c": 0.5}, {"c": 0.0})


def test_questions_without_siblings_are_left_to_the_other_parts():
    batch = roll_out(
        lambda uid, member: SIDES.get(kind_of(uid), "B"),
        mixed_at,
        {"accuracy": 0.5, "consistency": 0.5, "joint": 0.1},
        all_questions=True,
    )
    assert [prefix_group.uid for prefix_group in batch.prefix_groups][-1] == "q1@1"
    assert batch.samples[-1].terms == {"accuracy": 1.0, "consistency": None, "joint": None}
    assert batch.samples[0].terms == {"accuracy": 1.0, "consistency": 1.0, "joint": 1.0}


def test_the_variance_filter_counts_examples():
    """Of pair 0 one group of three has spread: it alone is trained on, and pair 0 is done; pair 1
    is replaced by pair 2.
    """

    def says(uid: str, member: int) -> str:
        spread = uid == "pair0/ego_rotation@0" or uid.endswith("@2")
        return "no " if spread and member == 0 else SIDES[kind_of(uid)]

    batch = roll_out(
        says, all_questions=True, dynamic_sampling=DynamicSamplingConfig(enabled=True)
    )
    assert [prefix_group.uid for prefix_group in batch.prefix_groups] == [
        "pair0/ego_rotation@0",
        *(f"pair2/{kind.value}@2" for kind in PAPER_QUESTIONS),
    ]
    assert (
        batch.position,
        batch.sums["total/dynamic_sampling/accepted_ratio"],
        batch.sums["count/dynamic_sampling/accepted_ratio"],
    ) == (3, 2, 3)


# ---------------------------------------------------------------- counterfactual groups


def test_half_of_a_group_sees_the_photos_reversed_and_one_baseline_serves_both():
    """A policy that always says left is right in one half and wrong in the other: the group, not
    the prompt, has the spread.
    """
    batch = roll_out(lambda uid, member: "left", counterfactual=True, batch_size=1)
    as_is, swapped = batch.prefix_groups
    assert swapped.uid == as_is.uid.replace("@", "#swap@")
    assert (as_is.images, swapped.images, len(batch.images)) == ([0, 1], [1, 0], 2)
    assert [len(prefix_group.continuations) for prefix_group in batch.prefix_groups] == [2, 2]
    assert sorted(batch.advantages) == [-0.5, -0.5, 0.5, 0.5]
    assert batch.sums["total/frac_reward_zero_std"] == 0
    assert [sample.answer for sample in batch.samples] == [batch.samples[0].answer] * 2 + [
        batch.samples[2].answer
    ] * 2
    assert batch.samples[0].answer != batch.samples[2].answer


def test_a_counterfactual_half_is_consistent_when_its_answer_turns():
    batch = roll_out(
        lambda uid, member: "left" if "#swap" in uid else "right",
        terms={"consistency": 1.0},
        counterfactual=True,
        batch_size=1,
    )
    assert [sample.terms["consistency"] for sample in batch.samples] == [1.0] * 4
    stubborn = roll_out(
        lambda uid, member: "left",
        terms={"consistency": 1.0},
        counterfactual=True,
        batch_size=1,
    )
    assert [sample.terms["consistency"] for sample in stubborn.samples] == [0.0] * 4


def test_a_question_that_does_not_turn_keeps_its_photos():
    batch = roll_out(lambda uid, member: "B", example_at, counterfactual=True)
    assert [prefix_group.uid for prefix_group in batch.prefix_groups] == [
        "q0@0",
        "q0#again@0",
        "q1@1",
        "q1#again@1",
    ]
    assert len({sample.answer for sample in batch.samples[4:]}) == 1


def test_kept_halves_come_back():
    config = GRPOConfig(
        steps=1,
        batch_size=3,
        group_size=4,
        max_tokens=10,
        counterfactual=True,
        all_questions=True,
    )
    sampler = ScriptedSampler(
        lambda prompt, member: [10 + len(prompt.uid) % 7, EOS], stop_ids=[EOS]
    )
    rollouts = Rollouts(
        mixed_at,
        WordRenderer(4),
        sampler,
        RewardConfig(terms={"a": RewardTerm(kind="accuracy", weight=1.0)}),
        config,
        seed=0,
    )
    begun = rollouts.begin(1, 5)
    again = rollouts.restore_pending(1, 5, rollouts.pending_state(begun))
    assert again.completions.result() == begun.completions.result()
    assert [one.prompt.uid for one in again.requests] == [
        one.prompt.uid for one in begun.requests
    ]


def test_swapping_a_pair_reverses_its_labels_angle_and_views():
    back = swapped_pair(PAIR)
    assert back.labels == LEFT
    assert back.geometry.alpha_deg == -60.0
    assert [view.azimuth_deg for view in back.views] == [60.0, 0.0]
    assert swapped_pair(back) == PAIR
    example = swap_views(pair_at(0))
    assert example.record == back
    for kind, question in zip(PAPER_QUESTIONS, example.questions, strict=True):
        assert (
            back.labels.sides()[kind.value] in question.options[question.answer_index].lower()
        )
    other = question_record()
    turned = replace(pair_at(0), record=other)
    assert swap_views(turned).record is other


# ---------------------------------------------------------------- chains checked with the poses


@pytest.mark.parametrize(
    ("chain", "expected"),
    [
        ("The camera moved to its right. So the camera turned to the left.", 1.0),
        ("The camera moved to its left. So the camera turned to the left.", 0.5),
        (
            "The camera moved to its right. The camera moved to its left.",
            0.0,
        ),  # one matter, told both ways
        ("It went clockwise, about 60 degrees, and the camera turned left.", 2 / 3),
        ("I see a mug.", 0.0),
    ],
)
def test_a_chain_earns_the_share_of_matters_that_fit_the_poses(chain, expected):
    question = pair_at(0).questions[0]
    rewards = Rewards(RewardConfig(terms={"v": RewardTerm(kind="verified", weight=1.0)}))
    text = f"<think>\n{chain}\n</think>\n<answer>the camera moved to its left</answer>"  # what follows the chain is not its claim
    assert rewards.terms(GradedCompletion.of(question, text, FinishReason.STOP, PAIR)) == {
        "v": pytest.approx(expected)
    }
    assert rewards.terms(GradedCompletion.of(question, text, FinishReason.STOP)) == {"v": None}
    direct = replace(question, mode=AnswerMode.DIRECT)
    assert rewards.terms(GradedCompletion.of(direct, "A", FinishReason.STOP, PAIR)) == {
        "v": None
    }


def test_grounded_chains_of_a_set_are_verified_and_those_of_the_reversed_pair_are_not(
    tiny_set: Path,
):
    supervised = open_set(
        SetConfig(task=Task.viewpoint, root=str(tiny_set)),
        "train",
        DataConfig(questions_per_pair=3),
        ColdStartConfig(ratio=1.0),
        supervised=True,
    )
    rewards = Rewards(RewardConfig(terms={"v": RewardTerm(kind="verified", weight=1.0)}))
    for index in range(20):
        example = supervised.example(index, 0)
        for question in example.questions:
            assert rewards.terms(
                GradedCompletion.of(
                    question, str(question.target), FinishReason.STOP, example.record
                )
            ) == {"v": 1.0}
            lost = rewards.terms(
                GradedCompletion.of(
                    question,
                    str(question.target),
                    FinishReason.STOP,
                    swapped_pair(example.record),
                )
            )["v"]
            assert lost is not None
            assert lost < 0.5
            assert sum(1 for _ in claims(str(question.target), example.record)) >= 4
