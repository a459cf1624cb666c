"""The SFT stage: negative log-likelihood of the answers' tokens.

Several questions about the same images are continuations of one shared prefix.
"""

from __future__ import annotations

import time
from itertools import accumulate

import torch

from actial.core.errors import UserError
from actial.training.batch import TrainBatch
from actial.training.distributed import Sums, sum_over_ranks
from actial.training.losses import masked_nll
from actial.training.train_module import MicroBatch, StepModule


class SFTModule(StepModule):
    """Policy and masked_nll. Metrics: loss, loss/<tag>, grad_norm, lr, tokens (supervised)."""

    def training_step(self, batch: TrainBatch, _: int) -> None:
        started = time.perf_counter()
        continuations = [one for group in batch.prefix_groups for one in group.continuations]
        supervised = sum(sum(continuation.loss_mask) for continuation in continuations)
        num_tokens = sum_over_ranks({"tokens": float(supervised)})["tokens"]
        if num_tokens == 0:
            raise UserError(
                f"step {self.completed_steps} has no supervised token: its answers are empty. "
                "Look at the targets of the data set."
            )
        tags = batch.tags or [""] * len(continuations)
        # Continuations of group i are offsets[i] to offsets[i + 1] of the batch.
        sizes = [len(group.continuations) for group in batch.prefix_groups]
        offsets = list(accumulate(sizes, initial=0))

        def loss_of(micro_batch: MicroBatch) -> tuple[torch.Tensor, Sums]:
            result = self.policy.token_logprobs(self.packed(batch, micro_batch))
            loss = masked_nll(result.logprobs, num_tokens)
            own_tags = [tag for i in micro_batch for tag in tags[offsets[i] : offsets[i + 1]]]
            by_tag = _sums_by_tag(result.logprobs, result.sequence_index, own_tags)
            return loss, {"loss": float(loss.detach())} | by_tag

        sums = self.update(batch, self.micro_batches(batch), loss_of)
        names = sorted(name.removeprefix("sum/") for name in sums if name.startswith("sum/"))
        for tag in names:
            sums[f"loss/{tag}"] = -sums.pop(f"sum/{tag}") / sums.pop(f"count/{tag}")
        computed = sum(group.num_tokens for group in batch.prefix_groups)
        self.finish_step({**sums, "tokens": num_tokens}, started=started, tokens=computed)


def _sums_by_tag(
    logprobs: torch.Tensor, sequence_index: torch.Tensor, tags: list[str]
) -> Sums:
    """Return "sum/<tag>" and "count/<tag>" of the log-probabilities of each tag's tokens.

    logprobs, sequence_index: (N,); tags: one per continuation, "" for those to leave out.
    """
    names = sorted(set(tags) - {""})
    if not names:
        return {}
    number_of_tag = {name: i for i, name in enumerate(names)}
    # Tokens of untagged continuations are added up in one more slot, which is not read.
    slots = [number_of_tag.get(tag, len(names)) for tag in tags]
    slot_of_sequence = torch.tensor(slots, device=logprobs.device)
    slot_of_token = slot_of_sequence[sequence_index]
    num_slots = len(names) + 1
    zeros = logprobs.new_zeros(num_slots)
    totals = zeros.index_add(0, slot_of_token, logprobs.detach()).tolist()
    counts = slot_of_token.bincount(minlength=num_slots).tolist()
    sums: Sums = {}
    for name, i in number_of_tag.items():
        if counts[i]:
            sums |= {f"sum/{name}": totals[i], f"count/{name}": float(counts[i])}
    return sums
