"""Prompts -> samples -> grades -> rewards -> advantages -> one step's batch. What was sampled is what is trained on.

Axes: P prompts kept, G completions of each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import torch

from actial.batch import TrainBatch
from actial.config import GRPOConfig, OverLong, RewardConfig
from actial.grpo.advantages import compute_advantages, informative_groups
from actial.grpo.rewards import Rewards, over_long_penalty
from actial.grpo.sampler import Groups, RolloutSampler, as_trunks, finished
from actial.hashing import hash_choice, hash_int
from actial.step import Sums, gathered, num_ranks, sum_over_ranks
from actial.trunk import Branch, Trunk
from actial.types import Completion, Example, FinishReason, Grade, Outcome, Prompt, Question, SamplingParams


class Renderer(Protocol):
    banned_ids: list[int]

    def prompt(self, example: Example, question: Question) -> Prompt: ...

    def decode(self, token_ids: list[int]) -> str: ...


@dataclass(slots=True, kw_only=True)
class Sample:
    """One completion with all that is known about it, for tables and logs."""

    uid: str
    member: int
    type: str
    question: str
    answer: str
    text: str
    letter: str | None
    finish: str
    length: int
    parts: dict[str, float | None]
    reward: float
    advantage: float = 0.0


@dataclass(slots=True, kw_only=True)
class RolloutBatch(TrainBatch):
    """A TrainBatch of prompts with their completions as branches; lists are per branch, in order."""

    advantages: list[float]
    sampler_logprobs: list[list[float]]  # one per token, under the sampling law
    sums: Sums  # "total/<name>" and "count/<name>": what was measured, to be added over ranks
    position: int  # of the example stream, after this step
    samples: list[Sample] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class _Group:
    """One prompt with its G graded completions."""

    prompt: Prompt
    question: Question
    completions: list[Completion]
    samples: list[Sample]
    grades: list[Grade]


@dataclass(slots=True, kw_only=True)
class Begun:
    """This rank's prompts of a step with their samples, which may still be on their way; `positions` in the stream."""

    step: int
    positions: range
    asked: list[tuple[Prompt, Question]]
    sampled: Future[Groups]


Penalty = Callable[[list[Trunk], list[np.ndarray]], list[float]]


class Rollouts:
    """Makes one step's batch. `example(position)` is the stage's stream; with a variance filter a step may read further in it.

    Ranks take every R-th prompt. A step begins where the last completed one ended, so nothing but that position is state.
    """

    def __init__(
        self, example: Callable[[int], Example], renderer: Renderer, sampler: RolloutSampler, rewards: RewardConfig, config: GRPOConfig,
        *, seed: int, rank: int = 0,
    ) -> None:  # fmt: skip
        self.example = example
        self.renderer = renderer
        self.sampler = sampler
        self.rewards = Rewards(rewards)
        self.config = config
        self.seed = seed
        self.rank = rank
        self.background = ThreadPoolExecutor(1)
        self.prepared: tuple[range, Future[list[tuple[Prompt, Question]]]] | None = None

    def make(self, step: int, position: int, penalty: Penalty | None = None, begun: Begun | None = None) -> RolloutBatch:
        """Roll out `batch_size` prompts from `position` on, uniform groups replaced up to `max_refills` times.

        `penalty` gives each completion's KL penalty, to be taken off its reward; `begun` what `begin` gave for this step and position.
        """
        groups: list[_Group] = []
        drawn, wanted, rounds = 0, self.config.batch_size, 0
        while True:
            fresh = self._graded(begun or self._begin(step, self._share(position + drawn, wanted)))
            begun = None
            drawn += wanted
            kept = [group for group, keep in zip(fresh, self._kept(fresh), strict=True) if keep]
            groups += kept
            missing = wanted - round(sum_over_ranks({"kept": float(len(kept))})["kept"])
            if missing == 0 or rounds == self.config.max_refills:
                break
            wanted, rounds = missing, rounds + 1
        batch = self._batch(groups, penalty, position + drawn)
        share = {"total/kept": float(len(groups)), "count/kept": float(drawn) / num_ranks()}
        batch.sums |= share | {"total/refills": float(rounds) / num_ranks(), "count/refills": 1.0 / num_ranks()}
        return batch

    # ------------------------------------------------------------ samples

    def begin(self, step: int, position: int) -> Begun:
        """Ask for the samples of a step (refills apart) with the weights as they are now."""
        return self._begin(step, self._share(position, self.config.batch_size))

    def prepare(self, position: int) -> None:
        """Read and render beside the caller what a step that begins at `position` will ask; it depends on nothing but the position."""
        positions = self._share(position, self.config.batch_size)
        self.prepared = positions, self.background.submit(self._asked, positions)

    def _share(self, position: int, count: int) -> range:
        return range(position + self.rank, position + count, num_ranks())

    def _begin(self, step: int, positions: range) -> Begun:
        known, asked = self.prepared or (None, None)
        questions = asked.result() if asked is not None and known == positions else self._asked(positions)
        seed = hash_int("rollout", self.seed, step) >> 1
        params = SamplingParams(temperature=self.config.temperature, max_tokens=self.config.max_tokens, seed=seed)
        sampled = self.sampler.begin([prompt for prompt, _ in questions], self.config.group_size, params)
        return Begun(step=step, positions=positions, asked=questions, sampled=sampled)

    def _asked(self, positions: range) -> list[tuple[Prompt, Question]]:
        examples = [self.example(p) for p in positions]
        questions = [hash_choice(e.questions, "rollout", self.seed, p) for e, p in zip(examples, positions, strict=True)]
        return [
            (replace(self.renderer.prompt(e, q), uid=f"{q.uid}@{p}"), q)  # the same question drawn twice is sampled twice
            for e, q, p in zip(examples, questions, positions, strict=True)
        ]

    def saved(self, begun: Begun) -> dict[str, torch.Tensor]:
        """All ranks' samples of a step in order of position: (C,) lengths and stops of the completions, (N,) ids and log-probabilities."""
        own = zip(begun.positions, begun.sampled.result(), strict=True)
        groups = [group for _, group in sorted((pair for pairs in gathered(list(own)) for pair in pairs), key=lambda pair: pair[0])]
        completions = [completion for group in groups for completion in group]
        return {
            "lengths": torch.tensor([len(c.token_ids) for c in completions]),
            "stopped": torch.tensor([c.finish is FinishReason.STOP for c in completions]),
            "token_ids": torch.tensor([token for c in completions for token in c.token_ids]),
            "logprobs": torch.tensor([value for c in completions for value in c.logprobs], dtype=torch.float64),
        }

    def restored(self, step: int, position: int, tensors: Mapping[str, torch.Tensor]) -> Begun:
        """Inverse of `saved`, for any number of ranks."""
        lengths = tensors["lengths"].tolist()
        parts = [tensors["stopped"].tolist(), *(tensors[name].split(lengths) for name in ("token_ids", "logprobs"))]
        completions = [
            Completion(token_ids=ids.tolist(), logprobs=values.tolist(), finish=FinishReason.STOP if stopped else FinishReason.LENGTH)
            for stopped, ids, values in zip(*parts, strict=True)
        ]
        size, positions = self.config.group_size, self._share(position, self.config.batch_size)
        groups = [completions[size * (p - position) : size * (p - position + 1)] for p in positions]
        return Begun(step=step, positions=positions, asked=self._asked(positions), sampled=finished(groups))

    # ------------------------------------------------------------ grades

    def _graded(self, begun: Begun) -> list[_Group]:
        return [self._group(*asked, group) for asked, group in zip(begun.asked, begun.sampled.result(), strict=True)]

    def _group(self, prompt: Prompt, question: Question, completions: list[Completion]) -> _Group:
        samples, grades = [], []
        for member, completion in enumerate(completions):
            text = self.renderer.decode(completion.token_ids)
            read, parts = self.rewards.score(question, text, completion.finish)
            reward = self.rewards.combine(parts)
            if self.config.over_long is OverLong.soft_penalty:
                reward += over_long_penalty(len(completion.token_ids), self.config.max_tokens)
            grades.append(read)
            samples.append(
                Sample(
                    uid=prompt.uid, member=member, type=question.type, question=question.text, answer=question.answer_letter, text=text,
                    letter=read.letter, finish=completion.finish.value, length=len(completion.token_ids), parts=parts, reward=reward,
                )
            )  # fmt: skip
        return _Group(prompt=prompt, question=question, completions=completions, samples=samples, grades=grades)

    def _kept(self, groups: list[_Group]) -> list[bool]:
        if not self.config.filter_zero_variance or not groups:
            return [True] * len(groups)
        return informative_groups(_rewards(groups)).tolist()

    def _batch(self, groups: list[_Group], penalty: Penalty | None, position: int) -> RolloutBatch:
        trunks, images = as_trunks([group.prompt for group in groups])
        completions = [completion for group in groups for completion in group.completions]
        for trunk, group in zip(trunks, groups, strict=True):
            trunk.branches = [self._branch(completion) for completion in group.completions]
        samples = [sample for group in groups for sample in group.samples]
        sampler_logprobs = [completion.logprobs for completion in completions]
        sums = measure(groups, self.renderer.banned_ids)
        if penalty is not None:  # also without groups: sharded, every rank must make the forward passes
            for sample, cost in zip(samples, penalty(trunks, images), strict=True):
                sample.reward -= cost
                _add(sums, "kl_penalty", cost)
        advantages = compute_advantages(_rewards(groups), self.config.advantage).flatten().tolist() if groups else []
        for sample, advantage in zip(samples, advantages, strict=True):
            sample.advantage = advantage
        return RolloutBatch(
            trunks=trunks, images=images, tags=[sample.type for sample in samples], advantages=advantages,
            sampler_logprobs=sampler_logprobs, sums=sums, position=position, samples=samples,
        )  # fmt: skip

    def _branch(self, completion: Completion) -> Branch:
        """All tokens scored, but for an answer cut off under over_long=mask, and ids that no law of ours can draw."""
        masked = self.config.over_long is OverLong.mask and completion.finish is FinishReason.LENGTH
        banned = set(self.renderer.banned_ids)
        return Branch(completion.token_ids, [not masked and token not in banned for token in completion.token_ids])


def _rewards(groups: Sequence[_Group]) -> torch.Tensor:
    """(P, G)"""
    return torch.tensor([[sample.reward for sample in group.samples] for group in groups], dtype=torch.float64)


def measure(groups: Sequence[_Group], banned_ids: Sequence[int]) -> Sums:
    """Totals and counts of what is logged per step; added over ranks, they give the means."""
    sums: Sums = {}
    banned = set(banned_ids)
    for group in groups:
        rewards = torch.tensor([sample.reward for sample in group.samples], dtype=torch.float64)
        _add(sums, "reward_std_within", float(rewards.std()))
        _add(sums, "uniform_groups", float(not informative_groups(rewards[None])[0]))
        for sample, completion, read in zip(group.samples, group.completions, group.grades, strict=True):
            _add(sums, "reward", sample.reward)
            for name, value in sample.parts.items():
                _add(sums, f"reward/{name}", value)
            _add(sums, f"accuracy/{sample.type}", float(read.correct))
            _add(sums, "accuracy", float(read.correct))
            _add(sums, "format", float(read.format_ok))
            _add(sums, "length", float(sample.length))
            _add(sums, "truncated", float(completion.finish is FinishReason.LENGTH))
            _add(sums, "unparsed", float(read.outcome is not Outcome.PARSED))
            _add(sums, "stray_placeholders", float(any(token in banned for token in completion.token_ids)))
    return sums


def _add(sums: Sums, name: str, value: float | None) -> None:
    """Count one value; None and NaN (not gradable) do not count."""
    if value is not None and not math.isnan(value):
        sums[f"total/{name}"] = sums.get(f"total/{name}", 0.0) + value
        sums[f"count/{name}"] = sums.get(f"count/{name}", 0.0) + 1.0
