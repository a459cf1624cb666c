"""Prompts -> samples -> grades -> rewards -> advantages -> one step's batch. What was sampled is what is trained on.

A group is G completions with one baseline: those of one prompt, or under grpo.counterfactual the halves of two, the photos as they are and
in reverse order. Axes: P groups kept, G completions of each.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch

from actial.config import AdvantageScale, GRPOConfig, Overlong, RewardConfig
from actial.core.records import (
    Completion,
    Example,
    FinishReason,
    Outcome,
    Prompt,
    Question,
    SamplingParams,
)
from actial.core.seeding import hash_choice, hash_int
from actial.grading.predictions import truth
from actial.inference.samplers import Groups, RolloutSampler, finished
from actial.modeling.prefix_packing import Continuation, PrefixGroup, as_prefix_groups
from actial.rl.advantages import compute_advantages, informative_groups
from actial.rl.rewards import Graded, Rewards, overlong_penalty
from actial.training.batch import TrainBatch
from actial.training.distributed import Sums, gathered, num_ranks, sum_over_ranks
from actial.viewpoint.symmetry import SIGN, swap_views


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
    terms: dict[str, float | None]
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
class _Asked:
    """One prompt, from `position` of the stream; the prompts of one position are about the same photos."""

    position: int
    prompt: Prompt
    question: Question
    row: dict[str, Any]
    turned: bool = False  # the photos stand in reverse order


@dataclass(slots=True, kw_only=True)
class _Answered:
    """One prompt with its graded completions."""

    asked: _Asked
    completions: list[Completion]
    graded: list[Graded]
    samples: list[Sample]


@dataclass(slots=True, kw_only=True)
class PendingRollouts:
    """This rank's prompts of a step with their samples, which may still be on their way; `positions` in the stream."""

    step: int
    positions: range
    asked: list[_Asked]
    sampled: Future[Groups]


Penalty = Callable[[list[PrefixGroup], list[np.ndarray]], list[float]]


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
        self.prompts_per_group = 2 if config.counterfactual else 1
        self.background = ThreadPoolExecutor(1)
        self.prepared: tuple[range, Future[list[_Asked]]] | None = None

    def make(
        self,
        step: int,
        position: int,
        penalty: Penalty | None = None,
        pending_rollouts: PendingRollouts | None = None,
    ) -> RolloutBatch:
        """Roll out `batch_size` examples from `position` on; those with uniform groups only are replaced up to `max_refills` times.

        `penalty` gives each completion's KL penalty, to be taken off its reward; `begun` what `begin` gave for this step and position.
        """
        answered: list[_Answered] = []
        drawn, wanted, rounds = 0, self.config.batch_size, 0
        while True:
            fresh = self._graded(
                pending_rollouts or self._begin(step, self._share(position + drawn, wanted))
            )
            pending_rollouts = None
            drawn += wanted
            kept = [one for one, keep in zip(fresh, self._kept(fresh), strict=True) if keep]
            answered += kept
            missing = wanted - round(sum_over_ranks({"kept": float(_examples(kept))})["kept"])
            if missing == 0 or rounds == self.config.dynamic_sampling.max_rounds:
                break
            wanted, rounds = missing, rounds + 1
        batch = self._batch(answered, penalty, position + drawn)
        share = {
            "total/dynamic_sampling/accepted_ratio": float(_examples(answered)),
            "count/dynamic_sampling/accepted_ratio": float(drawn) / num_ranks(),
        }
        batch.sums |= share | {
            "total/dynamic_sampling/rounds": float(rounds) / num_ranks(),
            "count/dynamic_sampling/rounds": 1.0 / num_ranks(),
        }
        return batch

    # ------------------------------------------------------------ samples

    def begin(self, step: int, position: int) -> PendingRollouts:
        """Ask for the samples of a step (refills apart) with the weights as they are now."""
        return self._begin(step, self._share(position, self.config.batch_size))

    def prepare(self, position: int) -> None:
        """Read and render beside the caller what a step that begins at `position` will ask; it depends on nothing but the position."""
        positions = self._share(position, self.config.batch_size)
        self.prepared = positions, self.background.submit(self._asked, positions)

    def _share(self, position: int, count: int) -> range:
        return range(position + self.rank, position + count, num_ranks())

    def _begin(self, step: int, positions: range) -> PendingRollouts:
        known, asked = self.prepared or (None, None)
        prompts = (
            asked.result() if asked is not None and known == positions else self._asked(positions)
        )
        seed = hash_int("rollout", self.seed, step) >> 1
        params = SamplingParams(
            temperature=self.config.temperature, max_tokens=self.config.max_tokens, seed=seed
        )
        sampled = self.sampler.begin(
            [one.prompt for one in prompts], self._completions_per_prompt, params
        )
        return PendingRollouts(step=step, positions=positions, asked=prompts, sampled=sampled)

    @property
    def _completions_per_prompt(self) -> int:
        return self.config.group_size // self.prompts_per_group

    def _asked(self, positions: range) -> list[_Asked]:
        return [
            one for position in positions for one in self._prompts(self.example(position), position)
        ]

    def _prompts(self, example: Example, position: int) -> Iterator[_Asked]:
        """What one example is asked: a question drawn by hash or all of them, under grpo.counterfactual each of them twice."""
        drawn = (
            example.questions
            if self.config.all_questions
            else [hash_choice(example.questions, "rollout", self.seed, position)]
        )
        for question in drawn:
            yield self._prompt(example, question, position)
            if self.config.counterfactual:
                if question.type in SIGN and len(example.images) > 1:
                    swapped = swap_views(replace(example, questions=[question]))
                    yield self._prompt(swapped, swapped.questions[0], position, turned=True)
                else:  # nothing that reversing the photos would turn
                    yield self._prompt(
                        example, replace(question, uid=f"{question.uid}#again"), position
                    )

    def _prompt(
        self, example: Example, question: Question, position: int, *, turned: bool = False
    ) -> _Asked:
        prompt = replace(
            self.renderer.prompt(example, question), uid=f"{question.uid}@{position}"
        )  # drawn twice, it is sampled twice
        return _Asked(
            position=position, prompt=prompt, question=question, row=example.row, turned=turned
        )

    def saved(self, pending_rollouts: PendingRollouts) -> dict[str, torch.Tensor]:
        """All ranks' samples of a step in order of position.

        (P,) positions of the prompts, (C,) lengths and stops of the completions, (N,) ids and log-probabilities.
        """
        own = zip(
            (one.position for one in pending_rollouts.asked),
            pending_rollouts.sampled.result(),
            strict=True,
        )
        pairs = sorted(
            (pair for pairs in gathered(list(own)) for pair in pairs), key=lambda pair: pair[0]
        )
        completions = [completion for _, group in pairs for completion in group]
        return {
            "positions": torch.tensor([position for position, _ in pairs]),
            "lengths": torch.tensor([len(c.token_ids) for c in completions]),
            "stopped": torch.tensor([c.finish is FinishReason.STOP for c in completions]),
            "token_ids": torch.tensor([token for c in completions for token in c.token_ids]),
            "logprobs": torch.tensor(
                [value for c in completions for value in c.logprobs], dtype=torch.float64
            ),
        }

    def restored(
        self, step: int, position: int, tensors: Mapping[str, torch.Tensor]
    ) -> PendingRollouts:
        """Inverse of `saved`, for any number of ranks."""
        lengths = tensors["lengths"].tolist()
        parts = [
            tensors["stopped"].tolist(),
            *(tensors[name].split(lengths) for name in ("token_ids", "logprobs")),
        ]
        completions = [
            Completion(
                token_ids=ids.tolist(),
                logprobs=values.tolist(),
                finish=FinishReason.STOP if stopped else FinishReason.LENGTH,
            )
            for stopped, ids, values in zip(*parts, strict=True)
        ]
        size, positions = (
            self._completions_per_prompt,
            self._share(position, self.config.batch_size),
        )
        groups = [
            completions[size * i : size * (i + 1)]
            for i, p in enumerate(tensors["positions"].tolist())
            if p in positions
        ]
        return PendingRollouts(
            step=step, positions=positions, asked=self._asked(positions), sampled=finished(groups)
        )

    # ------------------------------------------------------------ grades

    def _graded(self, pending_rollouts: PendingRollouts) -> list[_Answered]:
        sampled = pending_rollouts.sampled.result()
        graded = [
            [self._grade(one, completion) for completion in group]
            for one, group in zip(pending_rollouts.asked, sampled, strict=True)
        ]
        of_example = defaultdict(list)
        for i, one in enumerate(pending_rollouts.asked):
            of_example[one.position].append(i)
        for i, one in enumerate(pending_rollouts.asked):
            others = [other for j in of_example[one.position] if j != i for other in graded[j]]
            for read in graded[i]:
                read.others = others
        return [
            self._answered(*found)
            for found in zip(pending_rollouts.asked, sampled, graded, strict=True)
        ]

    def _grade(self, asked: _Asked, completion: Completion) -> Graded:
        text = self.renderer.decode(completion.token_ids)
        return Graded.of(asked.question, text, completion.finish, asked.row, turned=asked.turned)

    def _answered(
        self, asked: _Asked, completions: list[Completion], graded: list[Graded]
    ) -> _Answered:
        samples = []
        for member, (completion, read) in enumerate(zip(completions, graded, strict=True)):
            terms = self.rewards.terms(read)
            reward = self.rewards.combine(terms)
            if self.config.overlong is Overlong.soft_penalty:
                reward += overlong_penalty(len(completion.token_ids), self.config.max_tokens)
            question = asked.question
            samples.append(
                Sample(
                    uid=asked.prompt.uid, member=member, type=question.type, question=question.text, answer=truth(asked.row, question),
                    text=read.text, letter=read.grade.letter, finish=completion.finish.value, length=len(completion.token_ids),
                    terms=terms, reward=reward,
                )
            )  # fmt: skip
        return _Answered(asked=asked, completions=completions, graded=graded, samples=samples)

    def _kept(self, answered: list[_Answered]) -> list[bool]:
        if not self.config.dynamic_sampling.enabled or not answered:
            return [True] * len(answered)
        return (
            informative_groups(self._rewards(answered))
            .repeat_interleave(self.prompts_per_group)
            .tolist()
        )

    def _rewards(self, answered: Sequence[_Answered]) -> torch.Tensor:
        """(P, G)"""
        return torch.tensor(
            [s.reward for one in answered for s in one.samples], dtype=torch.float64
        ).view(-1, self.config.group_size)

    def _batch(
        self, answered: list[_Answered], penalty: Penalty | None, position: int
    ) -> RolloutBatch:
        prefix_groups, images = as_prefix_groups([one.asked.prompt for one in answered])
        for prefix_group, one in zip(prefix_groups, answered, strict=True):
            prefix_group.continuations = [
                self._continuation(completion) for completion in one.completions
            ]
        samples = [sample for one in answered for sample in one.samples]
        sampler_logprobs = [
            completion.logprobs for one in answered for completion in one.completions
        ]
        sums = measure(answered, self._rewards(answered), self.renderer.banned_ids)
        if (
            penalty is not None
        ):  # also without groups: sharded, every rank must make the forward passes
            for sample, cost in zip(samples, penalty(prefix_groups, images), strict=True):
                sample.reward -= cost
                _add(sums, "kl_penalty", cost)
        rewards = self._rewards(answered)
        spread = (
            deviation_over_ranks(rewards)
            if self.config.advantage is AdvantageScale.batch and num_ranks() > 1
            else None
        )
        advantages = (
            compute_advantages(rewards, self.config.advantage, spread).flatten().tolist()
            if answered
            else []
        )
        for sample, advantage in zip(samples, advantages, strict=True):
            sample.advantage = advantage
        return RolloutBatch(
            prefix_groups=prefix_groups, images=images, tags=[sample.type for sample in samples], advantages=advantages,
            sampler_logprobs=sampler_logprobs, sums=sums, position=position, samples=samples,
        )  # fmt: skip

    def _continuation(self, completion: Completion) -> Continuation:
        """All tokens scored, but for an answer cut off under overlong=mask, and ids that no law of ours can draw."""
        masked = self.config.overlong is Overlong.mask and completion.finish is FinishReason.LENGTH
        banned = set(self.renderer.banned_ids)
        return Continuation(
            completion.token_ids,
            [not masked and token not in banned for token in completion.token_ids],
        )


def deviation_over_ranks(rewards_PG: torch.Tensor) -> float:
    """The sample deviation of all ranks' gradable rewards; every rank takes part, with or without some of its own."""
    known = rewards_PG[~rewards_PG.isnan()]
    sums = sum_over_ranks({"n": float(len(known)), "total": float(known.sum())})
    mean = sums["total"] / max(1.0, sums["n"])
    squares = sum_over_ranks({"squares": float((known - mean).square().sum())})["squares"]
    return math.sqrt(squares / (sums["n"] - 1)) if sums["n"] > 1 else 0.0


def _examples(answered: Sequence[_Answered]) -> int:
    return len({one.asked.position for one in answered})


def measure(
    answered: Sequence[_Answered], rewards_PG: torch.Tensor, banned_ids: Sequence[int]
) -> Sums:
    """Totals and counts of what is logged per step; added over ranks, they give the means."""
    sums: Sums = {}
    banned = set(banned_ids)
    for rewards in rewards_PG:
        _add(sums, "reward_std", float(rewards.std()))
        _add(sums, "frac_reward_zero_std", float(not informative_groups(rewards[None])[0]))
    for one in answered:
        for sample, completion, graded in zip(
            one.samples, one.completions, one.graded, strict=True
        ):
            read = graded.grade
            _add(sums, "reward", sample.reward)
            # Accuracy and format are logged whether or not the reward has a term of that name.
            terms = {"accuracy": float(read.correct), "format": float(read.format_ok)}
            for name, value in (terms | sample.terms).items():
                _add(sums, f"reward/{name}/mean", value)
            _add(sums, f"reward/accuracy/mean/{sample.type}", float(read.correct))
            _add(sums, f"completions/mean_length/{sample.type}", float(sample.length))
            _add(sums, "completions/mean_length", float(sample.length))
            clipped = completion.finish is FinishReason.LENGTH
            _add(sums, "completions/clipped_ratio", float(clipped))
            unparsed = read.outcome is not Outcome.PARSED
            _add(sums, "completions/unparsed_ratio", float(unparsed))
            _add(
                sums,
                "completions/banned_token_ratio",
                float(any(token in banned for token in completion.token_ids)),
            )
    return sums


def _add(sums: Sums, name: str, value: float | None) -> None:
    """Count one value; None and NaN (not gradable) do not count."""
    if value is not None and not math.isnan(value):
        sums[f"total/{name}"] = sums.get(f"total/{name}", 0.0) + value
        sums[f"count/{name}"] = sums.get(f"count/{name}", 0.0) + 1.0
