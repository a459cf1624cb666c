"""Supervised stage: negative log-likelihood of the answers' tokens, several questions behind one trunk."""

from __future__ import annotations

import time

import torch

from actial.core.errors import UserError
from actial.training.batch import TrainBatch
from actial.training.distributed import Sums, sum_over_ranks
from actial.training.losses import masked_nll
from actial.training.train_module import StepModule


class SFTModule(StepModule):
    """Policy + masked_nll. Metrics: loss, loss/<tag>, grad_norm, lr, supervised tokens."""

    def training_step(self, batch: TrainBatch, _: int) -> None:
        started = time.perf_counter()
        scored = [
            sum(sum(continuation.loss_mask) for continuation in prefix_group.continuations)
            for prefix_group in batch.prefix_groups
        ]
        total = sum_over_ranks({"tokens": float(sum(scored))})["tokens"]
        if total == 0:
            raise UserError(
                f"step {self.completed_steps} has no supervised token: its answers are empty."
            )
        tags = batch.tags or [""] * sum(
            len(prefix_group.continuations) for prefix_group in batch.prefix_groups
        )
        first_sequence = (
            torch.tensor(
                [0] + [len(prefix_group.continuations) for prefix_group in batch.prefix_groups]
            )
            .cumsum(0)
            .tolist()
        )

        def loss_of(part: list[int]) -> tuple[torch.Tensor, Sums]:
            result = self.policy.token_logprobs(self.packed(batch, part))
            loss = masked_nll(result.logprobs, total)
            part_tags = [
                tags[b] for i in part for b in range(first_sequence[i], first_sequence[i + 1])
            ]
            return loss, {"loss": float(loss.detach())} | _sums_by_tag(
                result.logprobs, result.sequence_index, part_tags
            )

        sums = self.update(batch, self.parts(batch), loss_of)
        by_tag = {
            f"loss/{tag}": -sums.pop(f"sum/{tag}") / sums.pop(f"count/{tag}")
            for tag in _tags_in(sums)
        }
        computed = sum(prefix_group.num_tokens for prefix_group in batch.prefix_groups)
        self.finish_step({**sums, **by_tag, "tokens": total}, started=started, tokens=computed)


def _sums_by_tag(logprobs: torch.Tensor, sequence_index: torch.Tensor, tags: list[str]) -> Sums:
    """Sum and count of log-probabilities for each tag; branches tagged "" are left out."""
    names = sorted(set(tags) - {""})
    if not names:
        return {}
    number = {name: i for i, name in enumerate(names)}
    tag_of_sequence = torch.tensor(
        [number.get(tag, len(names)) for tag in tags], device=logprobs.device
    )
    tag_of_token = tag_of_sequence[sequence_index]
    sums = logprobs.new_zeros(len(names) + 1).index_add(0, tag_of_token, logprobs.detach()).tolist()
    counts = tag_of_token.bincount(minlength=len(names) + 1).tolist()
    found: Sums = {}
    for name, i in number.items():
        if counts[i]:
            found |= {f"sum/{name}": sums[i], f"count/{name}": float(counts[i])}
    return found


def _tags_in(sums: Sums) -> list[str]:
    return sorted(name.removeprefix("sum/") for name in sums if name.startswith("sum/"))
