"""What is logged about the completions of a step, as totals and counts that add up over ranks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from actial.core.records import Completion, FinishReason, Outcome
from actial.rl.advantages import informative_groups
from actial.rl.graded import GradedCompletion
from actial.rl.prompt_requests import PromptRequest
from actial.training.distributed import Sums, sum_over_ranks


@dataclass(slots=True, kw_only=True)
class CompletionRecord:
    """One completion with its reward and advantage, for tables and logs."""

    uid: str
    member: int
    type: str
    question: str
    answer: str
    text: str
    letter: str | None
    finish: str
    length: int
    terms: dict[str, float | None]
    reward: float
    advantage: float = 0.0


@dataclass(slots=True, kw_only=True)
class GradedPrompt:
    """One prompt with its graded completions; the lists are in order of the group's members."""

    request: PromptRequest
    completions: list[Completion]
    graded: list[GradedCompletion]
    records: list[CompletionRecord]
    task_rewards: list[float]  # the reward terms alone, without length and KL penalties


def rollout_sums(
    prompts: Sequence[GradedPrompt], rewards_PG: torch.Tensor, banned_ids: Sequence[int]
) -> Sums:
    """Return "total/<metric>" and "count/<metric>" of a step's prompts; their quotient is the mean.

    rewards_PG: (P, G), in the order of the prompts; NaN for a completion that cannot be graded.
    """
    sums: Sums = {}
    for rewards in rewards_PG:
        add_value(sums, "reward_std", float(rewards.std()))
        uniform = not informative_groups(rewards[None])[0]
        add_value(sums, "frac_reward_zero_std", float(uniform))
    for prompt in prompts:
        members = zip(prompt.records, prompt.completions, prompt.graded, strict=True)
        for record, completion, graded in members:
            _add_completion(sums, record, completion, graded, frozenset(banned_ids))
    return sums


def _add_completion(
    sums: Sums,
    record: CompletionRecord,
    completion: Completion,
    graded: GradedCompletion,
    banned_ids: frozenset[int],
) -> None:
    grade = graded.grade
    add_value(sums, "reward", record.reward)
    # Accuracy and format are logged whether or not the reward has terms of these names.
    terms = {"accuracy": float(grade.correct), "format": float(grade.format_ok)}
    for name, value in (terms | record.terms).items():
        add_value(sums, f"reward/{name}/mean", value)
    add_value(sums, f"reward/accuracy/mean/{record.type}", float(grade.correct))
    add_value(sums, f"completions/mean_length/{record.type}", float(record.length))
    add_value(sums, "completions/mean_length", float(record.length))
    clipped = completion.finish is FinishReason.LENGTH
    add_value(sums, "completions/clipped_ratio", float(clipped))
    unparsed = grade.outcome is not Outcome.PARSED
    add_value(sums, "completions/unparsed_ratio", float(unparsed))
    has_banned = any(token in banned_ids for token in completion.token_ids)
    add_value(sums, "completions/banned_token_ratio", float(has_banned))


def add_value(sums: Sums, name: str, value: float | None) -> None:
    """Count one value; None and NaN (a completion that cannot be graded) do not count."""
    if value is None or math.isnan(value):
        return
    sums[f"total/{name}"] = sums.get(f"total/{name}", 0.0) + value
    sums[f"count/{name}"] = sums.get(f"count/{name}", 0.0) + 1.0


def deviation_over_ranks(rewards_PG: torch.Tensor) -> float:
    """Return the sample standard deviation of all ranks' gradable rewards.

    Every rank takes part, whether or not it has rewards of its own.
    """
    graded = rewards_PG[~rewards_PG.isnan()]
    sums = sum_over_ranks({"n": float(len(graded)), "total": float(graded.sum())})
    mean = sums["total"] / max(1.0, sums["n"])
    squares = sum_over_ranks({"squares": float((graded - mean).square().sum())})["squares"]
    return math.sqrt(squares / (sums["n"] - 1)) if sums["n"] > 1 else 0.0
