"""The GRPO stage: rollouts, then one or several policy-gradient updates on them.

Completions are generated in the data loader, by `make_batch`. Axes: N supervised tokens of a
micro-batch, B completions, P prompts.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from actial.config import GRPOConfig, KLEstimator, KLPlace, ModelConfig
from actial.core.errors import UserError
from actial.inference.samplers import HFSampler
from actial.modeling.policy import Compare, Policy
from actial.modeling.prefix_packing import Continuation, PrefixGroup
from actial.modeling.token_scoring import SamplingDistribution
from actial.rl.pending_rollouts import PendingRollouts
from actial.rl.rollouts import RolloutBatch, Rollouts
from actial.rl.sampling_difference import (
    check_difference,
    difference_by_length,
    difference_moments,
    summarize_difference,
)
from actial.training.batch import TrainBatch
from actial.training.distributed import Sums, sum_over_ranks
from actial.training.losses import Denominators, Metrics, Scores, kl_penalty, policy_gradient
from actial.training.train_module import MicroBatch, StepModule


class GRPOModule(StepModule):
    """A step is one rollout batch and `num_mini_batches` optimizer updates on it.

    Metrics: loss, reward and its terms, accuracy by question type, kl, clip ratio, importance
    ratio, entropy, completion lengths, and the difference between trainer and sampler.
    """

    stage: GRPOConfig

    def __init__(
        self,
        policy: Policy,
        stage: GRPOConfig,
        model: ModelConfig,
        *,
        crash_folder: Path,
        rollouts: Rollouts,
    ) -> None:
        super().__init__(policy, stage, model, crash_folder=crash_folder)
        self.rollouts = rollouts
        banned_ids = tuple(rollouts.renderer.banned_ids)
        self.distribution = SamplingDistribution(stage.temperature, banned_ids)
        self.position = 0  # in the stream of examples
        # Under one_step_off: completions of the step that trains and of the next one.
        self.pending_rollouts: dict[int, PendingRollouts] = {}
        # From a checkpoint, until the first step has begun.
        self.restored_rollouts: Mapping[str, torch.Tensor] = {}
        _turn_dropout_off(policy)
        self.kl_in_reward = stage.kl.place is KLPlace.reward and stage.kl.beta > 0
        self.compare = Compare.none
        if stage.kl.beta > 0 and stage.kl.estimator is KLEstimator.full:
            self.compare = Compare.full_kl
        elif stage.kl.beta > 0 and stage.kl.estimator is not KLEstimator.none:
            self.compare = Compare.logprobs

    def configure_model(self) -> None:
        super().configure_model()
        if self.sharded and isinstance(self.rollouts.sampler, HFSampler):
            raise UserError(
                "sampler.kind=hf cannot decode with trainer.strategy=fsdp2, whose forward passes "
                "are collective: use a vllm sampler."
            )

    def counters(self) -> dict[str, int]:
        return {"position": self.position}

    def load_counters(self, counters: Mapping[str, int]) -> None:
        self.position = counters["position"]

    def extra_state(self) -> dict[str, torch.Tensor]:
        """Return the completions of the next step that the previous weights have sampled.

        Before the first step there is nothing to save: its completions can be sampled again.
        """
        pending = self.pending_rollouts.get(self.completed_steps)
        if pending is None or not self.completed_steps:
            return {}
        return self.rollouts.pending_state(pending)

    def load_extra_state(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self.restored_rollouts = tensors

    def make_batch(self, step: int) -> RolloutBatch:
        """Roll out the prompts of `step` with the present weights, in this process.

        Under one_step_off its completions were sampled before the last update, and sampling of the
        next step's begins here.
        """
        self.rollouts.rank = self.global_rank
        penalty = self._reward_penalty if self.kl_in_reward else None
        pending = self._pending(step) if self.stage.one_step_off else None
        batch = self.rollouts.make(step, self.position, penalty, pending)
        next_position = batch.position
        if step + 1 < self.stage.steps:
            if pending is not None:
                following = self.rollouts.begin(step + 1, next_position)
                self.pending_rollouts = {step: pending, step + 1: following}
                next_position += self.stage.batch_size
            self.rollouts.prepare(next_position)
        return batch

    def _pending(self, step: int) -> PendingRollouts:
        """Return the step's completions: begun one step ago, from a checkpoint, or begun now."""
        if step in self.pending_rollouts:
            return self.pending_rollouts[step]
        restored, self.restored_rollouts = self.restored_rollouts, {}
        if restored:
            return self.rollouts.restore_pending(step, self.position, restored)
        return self.rollouts.begin(step, self.position)

    def training_step(self, batch: RolloutBatch, _: int) -> None:
        started = time.perf_counter()
        old_logprobs = None
        if self.stage.num_mini_batches > 1:
            old_logprobs = self._old_logprobs(batch)
        updates: list[Sums] = []
        first = 0
        for size in batch.mini_batch_sizes:
            groups = range(first, first + size)
            first += size
            denominators = self._denominators(batch, groups)
            if denominators.tokens:
                updates.append(self._update(batch, groups, old_logprobs, denominators))
        self.position = batch.position
        rollout_metrics = _means(sum_over_ranks(batch.sums))
        num_tokens = sum(group.num_tokens for group in batch.prefix_groups)
        metrics = {**mean_of_updates(updates), **rollout_metrics}
        self.finish_step(metrics, started=started, tokens=num_tokens)
        # Figures of the last weight transfer, of samplers that make one.
        self.timings |= getattr(self.rollouts.sampler, "figures", {})

    # ------------------------------------------------------------ one update

    def _update(
        self,
        batch: RolloutBatch,
        groups: range,
        old_logprobs: list[torch.Tensor] | None,
        denominators: Denominators,
    ) -> Sums:
        """Take one optimizer step on these prompts; `old_logprobs` has one tensor per prompt."""
        compare = Compare.none if self.kl_in_reward else self.compare

        def loss_of(micro_batch: MicroBatch) -> tuple[torch.Tensor, Metrics]:
            packed = self.packed(batch, micro_batch)
            result = self.policy.token_logprobs(
                packed, self.distribution, entropy=True, compare=compare
            )
            logprobs = result.logprobs
            old = None
            if old_logprobs is not None:
                # The leading empty tensor gives an empty micro-batch its dtype and device.
                old = torch.cat(
                    [logprobs.new_zeros(0), *(old_logprobs[i] for i in micro_batch)]
                )
            scores = Scores(
                logprobs=logprobs,
                sequence_index=packed.sequence_index,
                group_of_sequence=packed.group_of_sequence,
                advantages=_advantages(batch, micro_batch).to(logprobs),
                old_logprobs=old,
                sampler_logprobs=_sampler_logprobs(batch, micro_batch).to(logprobs),
                reference_logprobs=result.reference_logprobs,
                exact_kl=result.kl,
            )
            loss, metrics = policy_gradient(scores, self.stage, denominators)
            assert result.entropy is not None
            metrics["entropy"] = result.entropy.sum() / denominators.tokens
            return loss, metrics | difference_moments(scores) | difference_by_length(scores)

        metrics = self.update(batch, self.micro_batches(batch, groups), loss_of)
        metrics |= summarize_difference(metrics)
        limit = self.stage.max_sampling_logp_difference
        check_difference(metrics, limit, self.completed_steps)
        return metrics

    def _denominators(self, batch: RolloutBatch, groups: range) -> Denominators:
        """Count the supervised tokens, completions and prompts of an update over all ranks."""
        counts = [
            [sum(one.loss_mask) for one in batch.prefix_groups[i].continuations]
            for i in groups
        ]
        sums = {
            "tokens": float(sum(map(sum, counts))),
            "sequences": float(sum(count > 0 for group in counts for count in group)),
            "groups": float(sum(any(group) for group in counts)),
        }
        return Denominators(**sum_over_ranks(sums))

    @torch.no_grad()
    def _old_logprobs(self, batch: RolloutBatch) -> list[torch.Tensor]:
        """Return, per prompt, the log-probabilities before the first update on this batch."""
        old_logprobs: list[torch.Tensor] = []
        self.policy.eval()
        for micro_batch in self.micro_batches(batch):
            packed = self.packed(batch, micro_batch)
            logprobs = self.policy.token_logprobs(packed, self.distribution).logprobs
            # Tokens stand prompt by prompt, so the flat (N,) tensor splits into one per prompt.
            group_of_token = packed.group_of_sequence[packed.sequence_index]
            tokens_per_group = group_of_token.bincount(minlength=len(micro_batch))
            old_logprobs += logprobs.split(tokens_per_group.tolist())
        self.policy.train()
        return old_logprobs

    @torch.no_grad()
    def _reward_penalty(
        self, groups: list[PrefixGroup], images: list[np.ndarray]
    ) -> list[float]:
        """Return beta times the summed KL estimate of each completion, for kl.place=reward."""
        penalties: list[float] = []
        batch = TrainBatch(prefix_groups=groups, images=images)
        for micro_batch in self.micro_batches(batch):
            packed = self.packed(batch, micro_batch)
            result = self.policy.token_logprobs(
                packed, self.distribution, compare=self.compare
            )
            scores = Scores(
                logprobs=result.logprobs,
                sequence_index=packed.sequence_index,
                group_of_sequence=packed.group_of_sequence,
                advantages=result.logprobs.new_zeros(packed.num_sequences),
                reference_logprobs=result.reference_logprobs,
                exact_kl=result.kl,
            )
            on_policy = torch.ones_like(scores.logprobs)
            kl_N = kl_penalty(scores, self.stage.kl, on_policy)
            kl_B = kl_N.new_zeros(packed.num_sequences).index_add(
                0, packed.sequence_index, kl_N
            )
            penalties += (self.stage.kl.beta * kl_B).tolist()
        return penalties


def _turn_dropout_off(policy: Policy) -> None:
    """Set every dropout rate to 0, those of LoRA and of attention included.

    The policy ratio and the difference to the sampler compare probabilities of one
    network; with dropout they would compare two random ones
    (https://github.com/huggingface/trl/issues/3234).
    """
    for module in policy.modules():
        if isinstance(module, torch.nn.modules.dropout._DropoutNd):
            module.p = 0.0
        for name in ("attention_dropout", "dropout"):  # rates that attention modules hold
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


# ---------------- lists in the order of a micro-batch


def _continuations(
    groups: list[PrefixGroup], micro_batch: MicroBatch
) -> list[tuple[int, Continuation]]:
    """Return (index in the whole batch, continuation) of a micro-batch, in packed order."""
    offsets = [0]
    for group in groups:
        offsets.append(offsets[-1] + len(group.continuations))
    return [
        (offsets[i] + j, continuation)
        for i in micro_batch
        for j, continuation in enumerate(groups[i].continuations)
    ]


def _advantages(batch: RolloutBatch, micro_batch: MicroBatch) -> torch.Tensor:
    """Return (B,) the advantages of the micro-batch's completions."""
    continuations = _continuations(batch.prefix_groups, micro_batch)
    return torch.tensor([batch.advantages[index] for index, _ in continuations])


def _sampler_logprobs(batch: RolloutBatch, micro_batch: MicroBatch) -> torch.Tensor:
    """Return (N,) the sampler's log-probabilities of the supervised tokens."""
    values: list[float] = []
    for index, continuation in _continuations(batch.prefix_groups, micro_batch):
        logprobs = batch.sampler_logprobs[index]
        pairs = zip(logprobs, continuation.loss_mask, strict=True)
        values += [logprob for logprob, supervised in pairs if supervised]
    return torch.tensor(values)


# ---------------------------------------------------------------- metrics of a step


def mean_of_updates(updates: list[Sums]) -> Sums:
    """Return the mean of each metric over the updates that have it."""
    names = dict.fromkeys(name for update in updates for name in update)
    values = {name: [update[name] for update in updates if name in update] for name in names}
    return {name: sum(of_name) / len(of_name) for name, of_name in values.items()}


def _means(sums: Sums) -> Sums:
    """Return total / count of every metric that was counted."""
    names = [name.removeprefix("total/") for name in sums if name.startswith("total/")]
    counted = [name for name in names if sums[f"count/{name}"]]
    return {name: sums[f"total/{name}"] / sums[f"count/{name}"] for name in counted}
