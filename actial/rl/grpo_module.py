"""GRPO stage: Policy + policy_gradient on ready rollouts; generation happens in the loader, through `make_batch`."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from actial.config import GRPOConfig, KLEstimator, KLPlace, ModelConfig
from actial.core.errors import UserError
from actial.inference.samplers import HFSampler
from actial.modeling.policy import Compare, Policy
from actial.modeling.prefix_packing import PrefixGroup
from actial.modeling.token_scoring import SamplingDistribution
from actial.rl.pending_rollouts import PendingRollouts
from actial.rl.rollouts import RolloutBatch, Rollouts
from actial.training.batch import TrainBatch
from actial.training.distributed import Sums, sum_over_ranks
from actial.training.losses import Denominators, Metrics, Scores, kl_penalty, policy_gradient
from actial.training.train_module import StepModule

LENGTHS = (
    64,
    256,
    1024,
    math.inf,
)  # tokens; upper bounds of the buckets in which the gap to the sampler is reported


class MismatchError(RuntimeError):
    """Sampler and trainer disagree on the probabilities of the same tokens by more than the run allows."""


class GRPOModule(StepModule):
    """A step = one rollout batch and `num_mini_batches` optimiser updates on it.

    Metrics: loss, reward and its parts, accuracy by type, kl, clip_fraction, ratio, entropy, length, truncated, format, unparsed,
    and the gap between trainer and sampler (logprob_gap, its maximum, the correlation, and the mean by the completion's length).
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
        self.distribution = SamplingDistribution(
            stage.temperature, tuple(rollouts.renderer.banned_ids)
        )
        self.position = 0  # in the stream of examples
        self.pending_rollouts: dict[
            int, PendingRollouts
        ] = {}  # one_step_off: samples of the step that trains and of the next
        self.kept: Mapping[
            str, torch.Tensor
        ] = {}  # from a checkpoint, until the first step has begun
        self.penalised = stage.kl.place is KLPlace.reward and stage.kl.beta > 0
        self.compare = Compare.none
        if stage.kl.beta > 0 and stage.kl.estimator is not KLEstimator.none:
            self.compare = (
                Compare.full_kl if stage.kl.estimator is KLEstimator.full else Compare.logprobs
            )

    def configure_model(self) -> None:
        super().configure_model()
        if self.sharded and isinstance(self.rollouts.sampler, HFSampler):
            raise UserError(
                "sampler.kind=hf cannot decode with trainer.strategy=fsdp2, whose forward is collective: use a vllm sampler."
            )

    def counters(self) -> dict[str, int]:
        return {"position": self.position}

    def load_counters(self, counters: Mapping[str, int]) -> None:
        self.position = counters["position"]

    def extra_state(self) -> dict[str, torch.Tensor]:
        """Samples of the next step that older weights drew; none on the way to a first step, which can be drawn again."""
        pending_rollouts = self.pending_rollouts.get(self.completed_steps)
        return (
            self.rollouts.pending_state(pending_rollouts)
            if pending_rollouts is not None and self.completed_steps
            else {}
        )

    def load_extra_state(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self.kept = tensors

    def make_batch(self, step: int) -> RolloutBatch:
        """Roll out the prompts of `step` with the weights as they are now; for a loader without worker processes.

        Under one_step_off they were drawn with the weights before the last update, and those of the next step are begun.
        """
        penalty = self._reward_penalty if self.penalised else None
        pending_rollouts = self._pending_rollouts(step) if self.stage.one_step_off else None
        batch = self.rollouts.make(step, self.position, penalty, pending_rollouts)
        following = batch.position
        if step + 1 < self.stage.steps:
            if pending_rollouts is not None:
                self.pending_rollouts = {
                    step: pending_rollouts,
                    step + 1: self.rollouts.begin(step + 1, following),
                }
                following += self.stage.batch_size
            self.rollouts.prepare(following)
        return batch

    def _pending_rollouts(self, step: int) -> PendingRollouts:
        if step in self.pending_rollouts:
            return self.pending_rollouts[step]
        kept, self.kept = self.kept, {}
        return (
            self.rollouts.restore_pending(step, self.position, kept)
            if kept
            else self.rollouts.begin(step, self.position)
        )

    def training_step(self, batch: RolloutBatch, _: int) -> None:
        started = time.perf_counter()
        old = self._old_logprobs(batch) if self.stage.num_mini_batches > 1 else None
        per_update = math.ceil(len(batch.prefix_groups) / self.stage.num_mini_batches)
        updates: list[Sums] = []
        for number in range(self.stage.num_mini_batches):
            chosen = range(
                number * per_update, min((number + 1) * per_update, len(batch.prefix_groups))
            )
            denominators = self._denominators(batch, chosen)
            if denominators.tokens:
                updates.append(self._update(batch, chosen, old, denominators))
        metrics = _mean_of(updates)
        self.position = batch.position
        self.finish_step(
            {**metrics, **_means(sum_over_ranks(batch.sums))},
            started=started,
            tokens=sum(prefix_group.num_tokens for prefix_group in batch.prefix_groups),
        )
        self.timings |= getattr(
            self.rollouts.sampler, "figures", {}
        )  # of the last transfer of weights, where there is one

    # ------------------------------------------------------------ one update

    def _update(
        self,
        batch: RolloutBatch,
        chosen: range,
        old: list[torch.Tensor] | None,
        denominators: Denominators,
    ) -> Sums:
        compare = Compare.none if self.penalised else self.compare

        def loss_of(part: list[int]) -> tuple[torch.Tensor, Metrics]:
            packed = self.packed(batch, part)
            result = self.policy.token_logprobs(
                packed, self.distribution, entropy=True, compare=compare
            )
            scores = Scores(
                logprobs=result.logprobs,
                sequence_index=packed.sequence_index,
                group_of_sequence=packed.group_of_sequence,
                advantages=_per_sequence(batch.advantages, batch.prefix_groups, part).to(
                    result.logprobs
                ),
                old_logprobs=None
                if old is None
                else torch.cat([result.logprobs.new_zeros(0), *(old[i] for i in part)]),
                sampler_logprobs=_sampler_logprobs(batch, part).to(result.logprobs),
                reference_logprobs=result.reference_logprobs,
                exact_kl=result.kl,
            )
            loss, metrics = policy_gradient(scores, self.stage, denominators)
            assert result.entropy is not None
            return loss, metrics | {
                "entropy": result.entropy.sum() / denominators.tokens
            } | _gap_moments(scores) | _gap_by_length(scores)

        metrics = self.update(batch, self.parts(batch, chosen), loss_of)
        metrics |= _gap_summary(metrics)
        difference = metrics["sampling/sampling_logp_difference/mean"]
        if 0 < self.stage.max_sampling_logp_difference < difference:
            raise MismatchError(
                f"step {self.completed_steps}: sampler and trainer differ by {difference:.2e} per token on "
                "average, above grpo.max_sampling_logp_difference="
                f"{self.stage.max_sampling_logp_difference}: the sampler's weights or caches are "
                "stale, or its images differ."
            )
        return metrics

    def _denominators(self, batch: RolloutBatch, chosen: range) -> Denominators:
        scored = [
            [sum(continuation.loss_mask) for continuation in batch.prefix_groups[i].continuations]
            for i in chosen
        ]
        sums = {
            "tokens": float(sum(map(sum, scored))),
            "sequences": float(sum(count > 0 for group in scored for count in group)),
            "groups": float(sum(any(group) for group in scored)),
        }
        return Denominators(**sum_over_ranks(sums))

    @torch.no_grad()
    def _old_logprobs(self, batch: RolloutBatch) -> list[torch.Tensor]:
        """Per trunk, the log-probabilities before the first update on this batch."""
        old: list[torch.Tensor] = []
        self.policy.eval()
        for part in self.parts(batch):
            packed = self.packed(batch, part)
            logprobs = self.policy.token_logprobs(packed, self.distribution).logprobs
            counts = packed.group_of_sequence[packed.sequence_index].bincount(minlength=len(part))
            old += logprobs.split(counts.tolist())
        self.policy.train()
        return old

    @torch.no_grad()
    def _reward_penalty(
        self, prefix_groups: list[PrefixGroup], images: list[np.ndarray]
    ) -> list[float]:
        """beta times the summed KL estimate of each completion, for kl.place=reward."""
        costs: list[float] = []
        batch = TrainBatch(prefix_groups=prefix_groups, images=images)
        for part in self.parts(batch):
            packed = self.packed(batch, part)
            result = self.policy.token_logprobs(packed, self.distribution, compare=self.compare)
            scores = Scores(
                logprobs=result.logprobs,
                sequence_index=packed.sequence_index,
                group_of_sequence=packed.group_of_sequence,
                advantages=result.logprobs.new_zeros(packed.num_sequences),
                reference_logprobs=result.reference_logprobs,
                exact_kl=result.kl,
            )
            kl = kl_penalty(scores, self.stage.kl, torch.ones_like(scores.logprobs))
            sums = kl.new_zeros(packed.num_sequences).index_add(0, packed.sequence_index, kl)
            costs += (self.stage.kl.beta * sums).tolist()
        return costs


# ---------------------------------------------------------------- aligning lists with scored tokens


def _branches(prefix_groups: list[PrefixGroup], part: list[int]) -> list[tuple[int, Any]]:
    """(index in the whole batch, branch) of the part's branches, in packed order."""
    first = [0]
    for prefix_group in prefix_groups:
        first.append(first[-1] + len(prefix_group.continuations))
    return [
        (first[i] + j, continuation)
        for i in part
        for j, continuation in enumerate(prefix_groups[i].continuations)
    ]


def _per_sequence(
    values: list[float], prefix_groups: list[PrefixGroup], part: list[int]
) -> torch.Tensor:
    return torch.tensor([values[index] for index, _ in _branches(prefix_groups, part)])


def _sampler_logprobs(batch: RolloutBatch, part: list[int]) -> torch.Tensor:
    """(N,) of the scored tokens."""
    return torch.tensor(
        [
            value
            for index, continuation in _branches(batch.prefix_groups, part)
            for value, scored in zip(
                batch.sampler_logprobs[index], continuation.loss_mask, strict=True
            )
            if scored
        ]
    )


# ---------------------------------------------------------------- the gap to the sampler


def _sampled_from(scores: Scores) -> torch.Tensor:
    """(N,) the trainer's log-probabilities under the weights that were sampled from, not those of an update on the same batch."""
    return scores.logprobs.detach() if scores.old_logprobs is None else scores.old_logprobs


def _gap_moments(scores: Scores) -> Metrics:
    """Additive moments of trainer's (x) and sampler's (y) log-probabilities, and the largest gap."""
    assert scores.sampler_logprobs is not None
    x, y = _sampled_from(scores).double(), scores.sampler_logprobs.double()
    moments = {"n": torch.ones_like(x), "x": x, "y": y, "xx": x * x, "yy": y * y, "xy": x * y}
    largest = (x - y).abs().max() if len(x) else x.new_zeros(())
    return {f"moment/{name}": values.sum() for name, values in moments.items()} | {
        "max/logprob_gap": largest
    }


def _gap_by_length(scores: Scores) -> Metrics:
    """Additive gap and count of the tokens of completions whose length falls under each bound of `LENGTHS`, and above the one before."""
    assert scores.sampler_logprobs is not None
    gap = (_sampled_from(scores) - scores.sampler_logprobs).abs().double()
    length = (
        scores.sequence_index.bincount()[scores.sequence_index]
        if len(gap)
        else scores.sequence_index
    )
    sums: Metrics = {}
    for low, high in zip((0, *LENGTHS), LENGTHS, strict=False):
        inside = (length > low) & (length <= high)
        sums |= {f"length/{high}/gap": gap[inside].sum(), f"length/{high}/tokens": inside.sum()}
    return sums


def _gap_summary(metrics: Sums) -> Sums:
    """Replace the moments by the correlation (absent for constant values) and name the maximum."""
    n, x, y, xx, yy, xy = (
        metrics.pop(f"moment/{name}") for name in ("n", "x", "y", "xx", "yy", "xy")
    )
    spread = (xx - x * x / n) * (yy - y * y / n)
    summary = {"sampling/sampling_logp_difference/max": metrics.pop("max/logprob_gap")}
    for bound in LENGTHS:
        gap, tokens = metrics.pop(f"length/{bound}/gap"), metrics.pop(f"length/{bound}/tokens")
        if tokens:
            summary[f"sampling/sampling_logp_difference/length<={bound:g}"] = gap / tokens
    if spread > 0:
        summary["sampling/logp_correlation"] = (xy - x * y / n) / math.sqrt(spread)
    return summary


def _mean_of(updates: list[Sums]) -> Sums:
    """Mean over the updates that have the figure."""
    names = dict.fromkeys(name for update in updates for name in update)
    found = {name: [update[name] for update in updates if name in update] for name in names}
    return {name: sum(values) / len(values) for name, values in found.items()}


def _means(sums: Sums) -> Sums:
    names = [name.removeprefix("total/") for name in sums if name.startswith("total/")]
    return {
        name: sums[f"total/{name}"] / sums[f"count/{name}"]
        for name in names
        if sums[f"count/{name}"]
    }
