"""One GRPO step's batch: prompts -> completions -> grades -> rewards -> advantages.

The tokens that were sampled are the tokens that are trained on; text is decoded
for grading alone. A group is G completions with one baseline: those of one
prompt, or under grpo.counterfactual the halves of two prompts. Axes: P groups,
G completions of each.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from actial.config import AdvantageScale, GRPOConfig, Overlong, RewardConfig
from actial.core.records import Completion, Example, FinishReason, SamplingParams
from actial.core.seeding import hash_int
from actial.grading.predictions import truth
from actial.inference.samplers import RolloutSampler
from actial.modeling.prefix_packing import Continuation, PrefixGroup, as_prefix_groups
from actial.rl.advantages import compute_advantages, informative_groups, shuffle_rewards
from actial.rl.graded import GradedCompletion
from actial.rl.group_balance import SampledPrompt, spread_over_ranks
from actial.rl.pending_rollouts import PendingRollouts, from_tensors, to_tensors
from actial.rl.prompt_requests import PromptRequest, PromptRequests, Renderer
from actial.rl.rewards import Rewards, overlong_penalty
from actial.rl.rollout_metrics import (
    CompletionRecord,
    GradedPrompt,
    add_value,
    deviation_over_ranks,
    rollout_sums,
)
from actial.training.batch import TrainBatch
from actial.training.distributed import Sums, gathered, num_ranks, sum_over_ranks


@dataclass(slots=True, kw_only=True)
class RolloutBatch(TrainBatch):
    """A TrainBatch of prompts with completions as continuations; lists are per completion."""

    advantages: list[float]
    sampler_logprobs: list[list[float]]  # one per token, under the sampling distribution
    sums: Sums  # "total/<metric>" and "count/<metric>" of the completions sampled by this rank
    mini_batch_sizes: list[int]  # prompts of each; on other ranks they may have more or fewer
    position: int  # in the stream of examples, after this step
    samples: list[CompletionRecord] = field(default_factory=list)


# Returns each completion's KL penalty, for grpo.kl.place=reward.
Penalty = Callable[[list[PrefixGroup], list[np.ndarray]], list[float]]


class Rollouts:
    """Makes the batch of a step.

    `example(position)` is the stream of the stage; dynamic sampling may read further in
    it. Ranks sample every R-th position, and then exchange prompts until all have about
    as many tokens. A step begins where the last completed one ended, so its position is
    the only state.
    """

    def __init__(
        self,
        example: Callable[[int], Example],
        renderer: Renderer,
        sampler: RolloutSampler,
        rewards: RewardConfig,
        config: GRPOConfig,
        *,
        seed: int,
    ) -> None:
        self.renderer = renderer
        self.sampler = sampler
        self.rewards = Rewards(rewards)
        self.config = config
        self.seed = seed
        self.rank = 0  # set by the module, once the ranks are launched
        self.requests = PromptRequests(example, renderer, config, seed=seed)
        self.prompts_per_group = 2 if config.counterfactual else 1
        self.completions_per_prompt = config.group_size // self.prompts_per_group

    def make(
        self,
        step: int,
        position: int,
        penalty: Penalty | None = None,
        pending: PendingRollouts | None = None,
    ) -> RolloutBatch:
        """Roll out `batch_size` examples from `position` on.

        With dynamic sampling, examples whose groups are uniform are replaced by further
        ones, for `max_rounds` rounds. `pending` is what `begin` returned for this step
        and position.
        """
        accepted: list[GradedPrompt] = []
        sampled: list[GradedPrompt] = []
        num_drawn, num_wanted, rounds = 0, self.config.batch_size, 0
        while True:
            positions = self._positions(position + num_drawn, num_wanted)
            graded = self._graded(pending or self._sample(step, positions))
            pending = None
            num_drawn += num_wanted
            informative = self._informative(graded)
            fresh = [prompt for prompt, keep in zip(graded, informative, strict=True) if keep]
            accepted += fresh
            sampled += graded
            num_fresh = sum_over_ranks({"examples": float(_num_examples(fresh))})["examples"]
            num_wanted -= round(num_fresh)
            if num_wanted == 0 or rounds == self.config.dynamic_sampling.max_rounds:
                break
            rounds += 1
        # Metrics are about all completions, not only those that dynamic sampling has accepted.
        sums = rollout_sums(sampled, self._rewards(sampled), self.renderer.banned_ids)
        batch = self._batch(accepted, sums, penalty, position + num_drawn)
        # Every rank adds its part, so that the sums over ranks give the whole step.
        ranks = num_ranks()
        batch.sums |= {
            "total/dynamic_sampling/accepted_ratio": float(_num_examples(accepted)),
            "count/dynamic_sampling/accepted_ratio": num_drawn / ranks,
            "total/dynamic_sampling/rounds": rounds / ranks,
            "count/dynamic_sampling/rounds": 1.0 / ranks,
        }
        return batch

    # ------------------------------------------------------------ sampling

    def begin(self, step: int, position: int) -> PendingRollouts:
        """Start sampling the completions of a step with the present weights."""
        return self._sample(step, self._positions(position, self.config.batch_size))

    def prepare(self, position: int) -> None:
        """Render the prompts of a step that begins at `position`, beside what the caller does."""
        self.requests.prepare(self._positions(position, self.config.batch_size))

    def _positions(self, first: int, count: int) -> range:
        """Return this rank's share of `count` positions of the stream."""
        return range(first + self.rank, first + count, num_ranks())

    def _sample(self, step: int, positions: range) -> PendingRollouts:
        requests = self.requests.at(positions)
        params = SamplingParams(
            temperature=self.config.temperature,
            max_tokens=self.config.max_tokens,
            seed=hash_int("rollout", self.seed, step) >> 1,
        )
        prompts = [request.prompt for request in requests]
        completions = self.sampler.begin(prompts, self.completions_per_prompt, params)
        return PendingRollouts(
            step=step, positions=positions, requests=requests, completions=completions
        )

    def pending_state(self, pending: PendingRollouts) -> dict[str, torch.Tensor]:
        """Return all ranks' completions of a step as tensors, in order of their position."""
        positions = [request.position for request in pending.requests]
        own = list(zip(positions, pending.completions.result(), strict=True))
        groups = [group for of_rank in gathered(own) for group in of_rank]
        return to_tensors(sorted(groups, key=lambda group: group[0]))

    def restore_pending(
        self, step: int, position: int, tensors: Mapping[str, torch.Tensor]
    ) -> PendingRollouts:
        """Return what `pending_state` saved, for any number of ranks."""
        positions = self._positions(position, self.config.batch_size)
        return PendingRollouts(
            step=step,
            positions=positions,
            requests=self.requests.at(positions),
            completions=from_tensors(tensors, positions, self.completions_per_prompt),
        )

    # ------------------------------------------------------------ grades and rewards

    def _graded(self, pending: PendingRollouts) -> list[GradedPrompt]:
        """Wait for the completions and grade them."""
        groups = pending.completions.result()
        graded = [
            [self._grade(request, completion) for completion in group]
            for request, group in zip(pending.requests, groups, strict=True)
        ]
        _link_others(pending.requests, graded)
        members = zip(pending.requests, groups, graded, strict=True)
        return [self._rewarded(*member) for member in members]

    def _grade(self, request: PromptRequest, completion: Completion) -> GradedCompletion:
        text = self.renderer.decode(completion.token_ids)
        return GradedCompletion.of(
            request.question,
            text,
            completion.finish,
            request.record,
            images_reversed=request.images_reversed,
        )

    def _rewarded(
        self,
        request: PromptRequest,
        completions: list[Completion],
        graded: list[GradedCompletion],
    ) -> GradedPrompt:
        terms = [self.rewards.terms(one) for one in graded]
        task_rewards = [self.rewards.combine(one) for one in terms]
        question, answer = request.question, truth(request.record, request.question)
        records = []
        for member, (completion, grade) in enumerate(zip(completions, graded, strict=True)):
            length = len(completion.token_ids)
            reward = task_rewards[member]
            if self.config.overlong is Overlong.soft_penalty:
                reward += overlong_penalty(length, self.config.max_tokens)
            record = CompletionRecord(
                uid=request.prompt.uid,
                member=member,
                type=question.type,
                question=question.text,
                answer=answer,
                text=grade.text,
                letter=grade.grade.letter,
                finish=completion.finish.value,
                length=length,
                terms=terms[member],
                reward=reward,
            )
            records.append(record)
        return GradedPrompt(
            request=request,
            completions=completions,
            graded=graded,
            records=records,
            task_rewards=task_rewards,
        )

    def _informative(self, prompts: list[GradedPrompt]) -> list[bool]:
        """Return which prompts enter the batch: without dynamic sampling, all."""
        if not self.config.dynamic_sampling.enabled or not prompts:
            return [True] * len(prompts)
        # By the task's reward alone: a length penalty would make a group of wrong answers differ.
        rewards = [reward for prompt in prompts for reward in prompt.task_rewards]
        rewards_PG = torch.tensor(rewards, dtype=torch.float64).view(
            -1, self.config.group_size
        )
        informative = informative_groups(rewards_PG)
        return informative.repeat_interleave(self.prompts_per_group).tolist()

    def _rewards(self, prompts: Sequence[GradedPrompt]) -> torch.Tensor:
        """Return the (P, G) rewards; NaN for a completion that cannot be graded."""
        rewards = [record.reward for prompt in prompts for record in prompt.records]
        return torch.tensor(rewards, dtype=torch.float64).view(-1, self.config.group_size)

    # ------------------------------------------------------------ the batch

    def _batch(
        self, prompts: list[GradedPrompt], sums: Sums, penalty: Penalty | None, position: int
    ) -> RolloutBatch:
        """Return the batch of this rank: of these prompts, those it keeps, and those it is given.

        Their completions get advantages before.
        """
        groups, images = as_prefix_groups([prompt.request.prompt for prompt in prompts])
        for group, prompt in zip(groups, prompts, strict=True):
            group.continuations = [self._continuation(one) for one in prompt.completions]
        records = [record for prompt in prompts for record in prompt.records]
        rewards_PG, penalties_PG = self._rewards(prompts), None
        if self.config.shuffle_rewards:
            rewards_PG = shuffle_rewards(rewards_PG, position)
        if penalty is not None:
            # Also for an empty batch: with sharded weights every rank must run the forward passes.
            costs = penalty(groups, images)
            penalties_PG = torch.tensor(costs, dtype=torch.float64).view(rewards_PG.shape)
            for record, cost in zip(records, costs, strict=True):
                record.reward -= cost
                add_value(sums, "kl_penalty", cost)
        advantages = self._advantages(rewards_PG, penalties_PG)
        for record, advantage in zip(records, advantages, strict=True):
            record.advantage = advantage
        sampled = self._sampled(prompts, groups)
        return self._assembled(spread_over_ranks(sampled, self.rank), prompts, sums, position)

    def _sampled(
        self, prompts: Sequence[GradedPrompt], groups: Sequence[PrefixGroup]
    ) -> list[SampledPrompt]:
        """Return what the updates need of each prompt; the mini-batches are parts in order."""
        per_mini_batch = math.ceil(len(prompts) / self.config.num_mini_batches)
        return [
            SampledPrompt(
                position=prompt.request.position,
                uid=group.uid,
                mini_batch=index // per_mini_batch,
                num_tokens=group.num_tokens,
                continuations=group.continuations,
                advantages=[record.advantage for record in prompt.records],
                sampler_logprobs=[completion.logprobs for completion in prompt.completions],
                samples=prompt.records,
            )
            for index, (prompt, group) in enumerate(zip(prompts, groups, strict=True))
        ]

    def _assembled(
        self,
        sampled: Sequence[SampledPrompt],
        own: Sequence[GradedPrompt],
        sums: Sums,
        position: int,
    ) -> RolloutBatch:
        """Return the batch of these prompts; those of other ranks are rendered anew."""
        prompt_of = {prompt.request.prompt.uid: prompt.request.prompt for prompt in own}
        given = {one.position for one in sampled if one.uid not in prompt_of}
        for request in self.requests.of(sorted(given)):
            prompt_of.setdefault(request.prompt.uid, request.prompt)
        groups, images = as_prefix_groups([prompt_of[one.uid] for one in sampled])
        for group, one in zip(groups, sampled, strict=True):
            group.continuations = one.continuations
        samples = [record for one in sampled for record in one.samples]
        mini_batches = range(self.config.num_mini_batches)
        return RolloutBatch(
            prefix_groups=groups,
            images=images,
            tags=[record.type for record in samples],
            advantages=[value for one in sampled for value in one.advantages],
            sampler_logprobs=[values for one in sampled for values in one.sampler_logprobs],
            sums=sums,
            position=position,
            samples=samples,
            mini_batch_sizes=[
                sum(one.mini_batch == number for one in sampled) for number in mini_batches
            ],
        )

    def _advantages(
        self, rewards_PG: torch.Tensor, penalties_PG: torch.Tensor | None
    ) -> list[float]:
        """Return the advantage of each completion, in order."""
        scale, deviation = self.config.advantage, None
        if scale is AdvantageScale.batch and num_ranks() > 1:
            deviation = deviation_over_ranks(rewards_PG)
        if not len(rewards_PG):
            return []
        advantages_PG = compute_advantages(rewards_PG, scale, deviation, penalties_PG)
        return advantages_PG.flatten().tolist()

    def _continuation(self, completion: Completion) -> Continuation:
        """Return the completion with its loss mask.

        Masked are completions cut at the limit under overlong=mask, and ids that the sampling
        distribution excludes.
        """
        cut = completion.finish is FinishReason.LENGTH
        masked = cut and self.config.overlong is Overlong.mask
        banned = set(self.renderer.banned_ids)
        loss_mask = [not masked and token not in banned for token in completion.token_ids]
        return Continuation(completion.token_ids, loss_mask)


def _link_others(
    requests: Sequence[PromptRequest], graded: Sequence[Sequence[GradedCompletion]]
) -> None:
    """Give each completion those of the other prompts about the same images."""
    prompts_at = defaultdict(list)
    for i, request in enumerate(requests):
        prompts_at[request.position].append(i)
    for i, request in enumerate(requests):
        siblings = [graded[j] for j in prompts_at[request.position] if j != i]
        others = [completion for group in siblings for completion in group]
        for completion in graded[i]:
            completion.others = others


def _num_examples(prompts: Sequence[GradedPrompt]) -> int:
    return len({prompt.request.position for prompt in prompts})
