"""Rewards and rollouts: parts, gates, advantages, the variance filter and what over-long answers
cost, in worked numbers.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from support.rollout_world import WordRenderer, example_at, reply
from support.scripted import ScriptedSampler
from support.tiny_models import EOS, IMAGE

from actial.config import (
    AdvantageScale,
    DynamicSamplingConfig,
    GRPOConfig,
    Overlong,
    RewardConfig,
    RewardTerm,
)
from actial.config.stages import REWARDS
from actial.core.records import AnswerMode, FinishReason
from actial.rl.advantages import shuffle_rewards
from actial.rl.experimental import answered_motion
from actial.rl.graded import GradedCompletion
from actial.rl.rewards import REWARD_FUNCTIONS, Rewards, overlong_penalty
from actial.rl.rollouts import RolloutBatch, Rollouts

PARTS = {
    "format": RewardTerm(kind="format", weight=0.5),
    "accuracy": RewardTerm(kind="accuracy", weight=0.5),
}
GOOD, WRONG, BARE = reply("A"), reply("B"), [14, EOS]


def grpo_config(**values) -> GRPOConfig:
    return GRPOConfig(
        **{
            "steps": 1,
            "batch_size": 2,
            "group_size": 4,
            "max_tokens": 10,
            "advantage": AdvantageScale.none,
            **values,
        }
    )


def rollouts_of(script, config, *, reward=None, example=example_at) -> Rollouts:
    """`script(position, member)` -> token ids."""
    sampler = ScriptedSampler(
        lambda prompt, member: script(int(prompt.uid.rpartition("@")[2]), member),
        stop_ids=[EOS],
    )
    return Rollouts(
        example, WordRenderer(4), sampler, reward or RewardConfig(terms=PARTS), config, seed=0
    )


# ---------------------------------------------------------------- reward parts


@pytest.mark.parametrize(
    ("text", "gated", "expected"),
    [
        ("<think>x</think><answer>A</answer>", False, 1.0),
        ("<think>x</think><answer>B</answer>", False, 0.5),
        ("A", False, 0.5),
        ("A", True, 0.0),
        ("<think>x</think><answer>A</answer>", True, 1.0),
        ("nothing", False, 0.0),
    ],
)
def test_weighted_parts_and_the_gate(text, gated, expected):
    rewards = Rewards(RewardConfig(terms=PARTS, gated=gated))
    question = example_at(0).questions[0]
    parts = rewards.terms(GradedCompletion.of(question, text, FinishReason.STOP))
    assert rewards.combine(parts) == expected


def test_a_part_that_does_not_apply_counts_for_nothing():
    rewards = Rewards(RewardConfig(terms=PARTS))
    direct = example_at(0, mode=AnswerMode.DIRECT).questions[0]
    parts = rewards.terms(GradedCompletion.of(direct, "A", FinishReason.STOP))
    assert parts == {"format": None, "accuracy": 1.0}
    assert rewards.combine(parts) == 0.5
    assert math.isnan(rewards.combine({"format": None}))


def test_faithful_accuracy_is_as_strict_as_the_release():
    rewards = Rewards(
        RewardConfig(terms={"exact": RewardTerm(kind="accuracy_faithful", weight=1.0)})
    )
    question = example_at(0).questions[0]
    texts = [f"<answer>{body}</answer>" for body in ("A", "a", "A.", "(A)")]
    values = [
        rewards.terms(GradedCompletion.of(question, text, FinishReason.STOP))["exact"]
        for text in texts
    ]
    assert values == [1.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("said", "value"), [("40", 1.0), ("about 44 degrees", 0.9), ("90", 0.0), ("none", 0.0)]
)
def test_a_number_earns_its_relative_accuracy(said, value):
    rewards = Rewards(RewardConfig(terms=PARTS))
    question = replace(
        example_at(0).questions[0],
        options=(),
        answer_index=-1,
        number=40.0,
        type="rotation_number",
    )
    graded = GradedCompletion.of(
        question, f"<think>x</think><answer>{said}</answer>", FinishReason.STOP
    )
    assert rewards.terms(graded) == {"format": 1.0, "accuracy": pytest.approx(value)}
    assert graded.grade.correct == (value == 1)
    assert answered_motion(graded) is None


def test_every_part_that_a_config_may_name_is_there():
    assert tuple(REWARD_FUNCTIONS) == REWARDS


@pytest.mark.parametrize(
    ("length", "penalty"), [(80, 0.0), (90, -0.5), (100, -1.0), (79, 0.0)]
)
def test_over_long_penalty(length, penalty):
    assert overlong_penalty(length, 100) == pytest.approx(penalty)


# ---------------------------------------------------------------- rollouts


def test_batch_of_two_prompts_in_worked_numbers():
    """Prompt 0 (answer A): rewards 1, .5, .5, 0. Prompt 1 (answer B): the same ids earn .5, 1, 0,
    0.
    """
    replies = [GOOD, WRONG, BARE, [11, EOS]]
    batch = rollouts_of(lambda position, member: replies[member], grpo_config()).make(
        step=0, position=0
    )
    assert [sample.reward for sample in batch.samples] == [
        1.0,
        0.5,
        0.5,
        0.0,
        0.5,
        1.0,
        0.0,
        0.0,
    ]
    assert batch.advantages == [0.5, 0.0, 0.0, -0.5, 0.125, 0.625, -0.375, -0.375]
    assert [
        continuation.input_ids for continuation in batch.prefix_groups[0].continuations
    ] == replies
    assert all(
        all(continuation.loss_mask)
        for prefix_group in batch.prefix_groups
        for continuation in prefix_group.continuations
    )
    assert (len(batch.prefix_groups), len(batch.images), batch.position) == (2, 1, 2)
    means = {
        name[6:]: batch.sums[name] / batch.sums["count/" + name[6:]]
        for name in batch.sums
        if name.startswith("total/")
    }
    expected = {
        "reward": 0.4375,
        "reward/format/mean": 0.5,
        "reward/accuracy/mean": 0.375,
        "reward/accuracy/mean/turn": 0.5,
        "reward/accuracy/mean/move": 0.25,
        "completions/mean_length": 4.5,
        "completions/mean_length/turn": 4.5,
        "completions/clipped_ratio": 0.0,
        "completions/unparsed_ratio": 0.25,
        "completions/banned_token_ratio": 0.0,
        "dynamic_sampling/accepted_ratio": 1.0,
        "dynamic_sampling/rounds": 0.0,
        "frac_reward_zero_std": 0.0,
    }
    assert {name: means[name] for name in expected} == expected


def test_what_is_prepared_beside_the_update_is_what_would_be_asked():
    positions_asked: list[int] = []
    rollouts = rollouts_of(
        lambda position, member: GOOD,
        grpo_config(),
        example=lambda p: (positions_asked.append(p), example_at(p))[1],
    )
    rollouts.prepare(2)
    batch = rollouts.make(step=1, position=2)
    again = rollouts_of(lambda position, member: GOOD, grpo_config()).make(step=1, position=2)
    assert batch.prefix_groups == again.prefix_groups
    assert positions_asked == [2, 3]
    assert [
        prefix_group.uid for prefix_group in rollouts.make(step=2, position=7).prefix_groups
    ] == [
        "q7@7",
        "q8@8",
    ]  # not what was prepared


def test_kept_samples_come_back_for_any_number_of_ranks(monkeypatch):
    """Two ranks save, of five prompts; the same two, or one, go on."""
    replies = [GOOD, [11, EOS], BARE]
    ranks = [
        rollouts_of(lambda p, member: replies[(p + member) % 3], grpo_config(batch_size=5))
        for _ in range(2)
    ]
    for rank, rollouts in enumerate(ranks):
        rollouts.rank = rank
    monkeypatch.setattr("actial.rl.rollouts.num_ranks", lambda: 2)
    begun = [rollouts.begin(1, 10) for rollouts in ranks]
    shares = [list(zip(b.positions, b.completions.result(), strict=True)) for b in begun]
    monkeypatch.setattr("actial.rl.rollouts.gathered", lambda own: shares)
    tensors = ranks[0].pending_state(begun[0])
    for rollouts, b in zip(ranks, begun, strict=True):
        again = rollouts.restore_pending(1, 10, tensors)
        assert (again.positions, again.completions.result()) == (
            b.positions,
            b.completions.result(),
        )
    monkeypatch.setattr("actial.rl.rollouts.num_ranks", lambda: 1)
    alone = ranks[0].restore_pending(1, 10, tensors)
    assert alone.completions.result() == ranks[0].begin(1, 10).completions.result()


def test_uniform_groups_are_replaced_from_the_stream():
    """Even positions are uniform: of 0 1, 1 stays; then 2 (no), 3 (yes). Three refills would be
    allowed, two are needed.
    """
    config = grpo_config(dynamic_sampling=DynamicSamplingConfig(enabled=True, max_rounds=3))
    rollouts = rollouts_of(
        lambda position, member: GOOD if position % 2 == 0 or member else [11, EOS], config
    )
    batch = rollouts.make(step=0, position=0)
    assert [prefix_group.uid for prefix_group in batch.prefix_groups] == ["q1@1", "q3@3"]
    assert batch.position == 4
    accepted = "dynamic_sampling/accepted_ratio"
    assert (
        batch.sums[f"total/{accepted}"],
        batch.sums[f"count/{accepted}"],
        batch.sums["total/dynamic_sampling/rounds"],
    ) == (
        2,
        4,
        2,
    )


def test_refills_are_bounded_and_an_empty_batch_is_a_batch():
    config = grpo_config(dynamic_sampling=DynamicSamplingConfig(enabled=True, max_rounds=2))
    batch = rollouts_of(lambda position, member: GOOD, config).make(step=0, position=10)
    assert batch.prefix_groups == []
    assert batch.advantages == []
    assert batch.position == 16


def test_cut_answers_are_kept_masked_or_charged():
    """Ten ids without an end: format and answer are missing, so the reward is 0 before the
    penalty.
    """
    script = lambda position, member: [11] * 12 if member == 0 else GOOD  # noqa: E731
    by_policy = {
        p: rollouts_of(script, grpo_config(overlong=p, batch_size=1)).make(0, 0)
        for p in Overlong
    }
    rewards = {p: batch.samples[0].reward for p, batch in by_policy.items()}
    assert rewards == {Overlong.keep: 0.0, Overlong.mask: 0.0, Overlong.soft_penalty: -1.0}
    assert not any(by_policy[Overlong.mask].prefix_groups[0].continuations[0].loss_mask)
    assert all(by_policy[Overlong.mask].prefix_groups[0].continuations[1].loss_mask)
    assert all(by_policy[Overlong.keep].prefix_groups[0].continuations[0].loss_mask)


def test_a_placeholder_from_an_engine_is_counted_and_not_scored():
    batch = rollouts_of(
        lambda position, member: [11, IMAGE, 14, EOS], grpo_config(batch_size=1)
    ).make(0, 0)
    assert batch.prefix_groups[0].continuations[0].loss_mask == [True, False, True, True]
    assert batch.sums["total/completions/banned_token_ratio"] == 4


def test_ungradable_completions_get_no_advantage():
    reward = RewardConfig(terms={"format": PARTS["format"]})
    direct = lambda position: example_at(position, mode=AnswerMode.DIRECT)  # noqa: E731
    batch = rollouts_of(
        lambda position, member: GOOD, grpo_config(batch_size=1), reward=reward, example=direct
    ).make(0, 0)
    assert batch.advantages == [0.0] * 4
    assert "total/reward" not in batch.sums


def test_shuffled_rewards_are_dealt_over_the_step_and_stay_in_the_records():
    def script(position, member):
        return GOOD if member < 2 else BARE

    plain, shuffled, again = (
        rollouts_of(script, grpo_config(batch_size=8, shuffle_rewards=shuffle)).make(0, 0)
        for shuffle in (False, True, True)
    )
    assert [one.reward for one in shuffled.samples] == [one.reward for one in plain.samples]
    assert shuffled.advantages == again.advantages != plain.advantages
    rewards_PG = torch.arange(64.0).view(8, 8)
    dealt = shuffle_rewards(rewards_PG, 3)
    assert sorted(dealt.flatten().tolist()) == rewards_PG.flatten().tolist()
    assert len({int(value) // 8 for value in dealt[0]}) > 2  # of other groups, too
    assert not torch.equal(dealt, shuffle_rewards(rewards_PG, 4))


def test_a_penalty_comes_off_the_reward_before_the_advantages():
    batch = rollouts_of(lambda position, member: GOOD, grpo_config(batch_size=1)).make(
        0, 0, lambda prefix_groups, images: [0.0, 0.4, 0.0, 0.0]
    )
    assert [sample.reward for sample in batch.samples] == pytest.approx([1.0, 0.6, 1.0, 1.0])
    assert batch.advantages == pytest.approx([0.1, -0.3, 0.1, 0.1])
    assert batch.sums["total/kl_penalty"] == pytest.approx(0.4)


def test_a_batch_survives_its_file(tmp_path):
    batch = rollouts_of(
        lambda position, member: [GOOD, WRONG, BARE, BARE][member], grpo_config()
    ).make(0, 0)
    batch.save(tmp_path)
    again = RolloutBatch.load(tmp_path)
    assert (again.prefix_groups, again.advantages, again.sampler_logprobs) == (
        batch.prefix_groups,
        batch.advantages,
        batch.sampler_logprobs,
    )
    assert all((a == b).all() for a, b in zip(again.images, batch.images, strict=True))


def test_a_length_penalty_does_not_make_a_group_of_wrong_answers_informative():
    """Position 0: all wrong, of lengths near the limit; position 1: all right and equally long."""
    lengths = [7, 8, 9, 10]

    def script(position, member):
        return [11] * lengths[member] if position == 0 else GOOD

    for overlong in (Overlong.keep, Overlong.soft_penalty):
        config = grpo_config(
            overlong=overlong,
            dynamic_sampling=DynamicSamplingConfig(enabled=True, max_rounds=0),
        )
        batch = rollouts_of(script, config).make(0, 0)
        assert batch.prefix_groups == []
        # All eight completions are logged, though none is trained on.
        assert batch.sums["count/reward/accuracy/mean"] == 8


@pytest.mark.parametrize("scale", list(AdvantageScale))
def test_a_kl_penalty_of_equal_rewards_is_proportional_to_beta(scale):
    kl = [1.1, 1.4, 0.9, 1.3]
    by_beta = {
        beta: rollouts_of(
            lambda position, member: GOOD, grpo_config(batch_size=1, advantage=scale)
        ).make(0, 0, lambda groups, images, beta=beta: [beta * value for value in kl])
        for beta in (0.1, 0.001)
    }
    small, large = by_beta[0.001].advantages, by_beta[0.1].advantages
    assert large == pytest.approx([100 * value for value in small], rel=1e-6)
    assert max(map(abs, large)) < 0.1
