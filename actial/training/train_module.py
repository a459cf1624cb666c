"""One optimizer step, the same for SFT and GRPO.

Micro-batches under denominators of the whole step, clipping, schedule, and
state that resumes exactly. Optimization is manual: Lightning's automatic
accumulation mis-scales an incomplete window
(https://github.com/Lightning-AI/pytorch-lightning/issues/19987), and
micro-batches here are token budgets, not sample counts. Gradients are summed
over ranks once per step, so ranks may hold different numbers of micro-batches,
or no image at all.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.strategies import ModelParallelStrategy

from actial.config import ModelConfig, OptimConfig, Schedule, StageConfig
from actial.core.errors import NonFiniteError
from actial.modeling.dtensor import is_sharded, like, whole
from actial.modeling.policy import Policy
from actial.modeling.prefix_packing import PackedBatch, PrefixGroup, pack, split_micro_batches
from actial.training.batch import TrainBatch
from actial.training.distributed import (
    Sums,
    export_rank,
    merge,
    shard,
    sum_gradients,
    sum_over_ranks,
)

MicroBatch = list[int]  # indices of a batch's prefix groups


class StepModule(lightning.LightningModule):
    """Base of the stages' modules.

    After each step, `metrics` (a function of data and seed) and `timings` describe it.
    """

    def __init__(
        self, policy: Policy, stage: StageConfig, model: ModelConfig, *, crash_folder: Path
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.policy = policy
        self.stage = stage
        self.model_config = model
        self.crash_folder = crash_folder
        self.completed_steps = 0
        self.metrics: Sums = {}
        self.timings: Sums = {}
        # Tokens of the packed batches of a step, without and with padding.
        self._num_tokens = self._num_positions = 0
        # From a checkpoint, by parameter name.
        self.optimizer_state: dict[str, dict[str, torch.Tensor]] = {}

    # ------------------------------------------------------------ hooks of Lightning

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return AdamW over the trainable parameters, with the state of the checkpoint if any.

        The learning rate is set at each step and depends on the step's number alone.
        """
        optim = self.stage.optim
        groups = self.policy.param_groups(optim.lr, optim.weight_decay)
        for group in groups:
            group["base_lr"] = group["lr"]
        betas = (optim.betas[0], optim.betas[1])
        optimizer = torch.optim.AdamW(groups, lr=optim.lr, betas=betas, fused=True)
        for name, parameter in self.policy.named_parameters():
            if name in self.optimizer_state:
                # The fused kernel reads `step` on the parameter's device, without a check.
                optimizer.state[parameter] = {
                    key: like(value, parameter)
                    for key, value in self.optimizer_state.pop(name).items()
                }
        return optimizer

    def setup(self, stage: str) -> None:
        """Export the rank, before a sampler starts an engine that reads it."""
        trainer = self.trainer
        export_rank(trainer.global_rank, trainer.local_rank, trainer.world_size)

    def configure_model(self) -> None:
        if isinstance(self.trainer.strategy, ModelParallelStrategy) and not self.sharded:
            shard(self.policy, self.trainer.strategy.device_mesh["data_parallel"])

    def on_train_start(self) -> None:
        self.policy.train()

    def transfer_batch_to_device(
        self, batch: TrainBatch, device: torch.device, dataloader_idx: int
    ) -> TrainBatch:
        """Return the batch as it is: micro-batches become tensors one after the other."""
        return batch

    # ------------------------------------------------------------ state of a stage in checkpoints

    def counters(self) -> dict[str, int]:
        """Return what a stage counts over its steps, besides the steps."""
        return {}

    def load_counters(self, counters: Mapping[str, int]) -> None:
        """Restore what `counters` returned."""

    def extra_state(self) -> dict[str, torch.Tensor]:
        """Return what a stage has prepared for later steps; called on all ranks."""
        return {}

    def load_extra_state(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Restore what `extra_state` returned."""

    # ------------------------------------------------------------ one optimizer step

    @property
    def sharded(self) -> bool:
        """Whether forward passes are collective.

        Every rank must then make the same number of them, through the same modules.
        """
        return is_sharded(self.policy)

    def packed(self, batch: TrainBatch, micro_batch: Sequence[int]) -> PackedBatch:
        """Return a micro-batch as tensors on this module's device.

        An empty micro-batch becomes one token that is not supervised.
        """
        groups = [batch.prefix_groups[i] for i in micro_batch]
        packed = pack(
            groups or [PrefixGroup("spare", [0], [], [])],
            batch.images,
            self.policy.spec,
            self.model_config.sequence_tokens,
            always_encode_images=self.sharded,
        )
        self._num_tokens += packed.num_tokens
        self._num_positions += packed.input_ids.numel()
        return packed.to(self.device)

    def micro_batches(
        self, batch: TrainBatch, indices: Sequence[int] | None = None
    ) -> list[MicroBatch]:
        """Return the prefix groups (all, or those of `indices`) split by the token budget.

        With sharded weights every rank gets as many micro-batches as the rank with most; the last
        ones may be empty.
        """
        groups = range(len(batch.prefix_groups)) if indices is None else indices
        split = split_micro_batches(
            [batch.prefix_groups[i] for i in groups], self.model_config.micro_batch_tokens
        )
        micro_batches = [[groups[i] for i in positions] for positions in split]
        if self.sharded:
            count = float(len(micro_batches))
            largest = round(sum_over_ranks({"max/micro_batches": count})["max/micro_batches"])
            micro_batches += [[] for _ in range(largest - len(micro_batches))]
        return micro_batches

    def update(
        self,
        batch: TrainBatch,
        micro_batches: Iterable[MicroBatch],
        loss_of: Callable[[MicroBatch], tuple[torch.Tensor, Mapping[str, Any]]],
    ) -> Sums:
        """Sum the gradients over micro-batches and ranks, clip, and step the optimizer.

        `loss_of` returns a micro-batch's share of the loss and additive metrics; the
        metrics are returned summed in the same way. Raises NonFiniteError, with the
        batch saved, before a loss or gradient that is not finite changes the weights.
        With the state that CheckpointCallback adds, `resume` and `TrainBatch.load`
        replay the step.
        """
        optimizer: Any = self.optimizers()
        factor = lr_factor(self.completed_steps, self.stage.steps, self.stage.optim)
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        optimizer.zero_grad(set_to_none=True)
        sums: Sums = {}
        with self._local_gradients():
            for micro_batch in micro_batches:
                loss, metrics = loss_of(micro_batch)
                self.manual_backward(loss)
                sums = merge(sums, {name: float(value) for name, value in metrics.items()})
        trained = [p for group in optimizer.param_groups for p in group["params"]]
        num_images = sum(len(group.images) for group in batch.prefix_groups)
        sums = sum_over_ranks(sums | {"images": float(num_images)})
        images_on_all_ranks = sums.pop("images")
        if self.sharded:
            if not images_on_all_ranks:
                self._drop_vision_gradients()
        else:
            sum_gradients(trained)
        norm = float(
            whole(torch.nn.utils.clip_grad_norm_(trained, self.stage.optim.grad_clip))
        )
        loss_sum = sums.get("loss", 0.0)
        if not math.isfinite(norm) or not math.isfinite(loss_sum):
            self._stop_at(batch, loss=loss_sum, norm=norm)
        optimizer.step()
        return {**sums, "grad_norm": norm, "lr": optimizer.param_groups[0]["lr"]}

    def finish_step(self, metrics: Sums, *, started: float, tokens: float) -> None:
        """Count the step and set its metrics; `tokens` = tokens that this rank has computed."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()  # the optimizer's kernels belong to the step
        seconds = time.perf_counter() - started
        self.completed_steps += 1
        self.metrics = metrics
        self.timings = {"seconds": seconds, "tokens_per_second": tokens / seconds}
        if self._num_positions:
            self.timings["packing_efficiency"] = self._num_tokens / self._num_positions
        self._num_tokens = self._num_positions = 0

    def _drop_vision_gradients(self) -> None:
        """Leave the vision encoder unchanged by a step without images.

        With sharded weights every rank has run it, on a blank image where it had none.
        """
        for module_group in ("vision", "merger"):
            for parameter in self.policy.module_group_parameters(module_group):
                parameter.grad = None

    def _local_gradients(self) -> AbstractContextManager[Any]:
        """Keep DDP from reducing after every backward pass: ranks may differ in their number."""
        wrapped: Any = self.trainer.strategy.model
        return wrapped.no_sync() if hasattr(wrapped, "no_sync") else nullcontext()

    def _stop_at(self, batch: TrainBatch, *, loss: float, norm: float) -> None:
        name = f"nonfinite-step-{self.completed_steps}-rank-{self.global_rank}"
        folder = self.crash_folder / name
        batch.save(folder)
        uids = ", ".join(group.uid for group in batch.prefix_groups)
        raise NonFiniteError(
            f"step {self.completed_steps}: loss {loss}, gradient norm {norm}; the batch is saved "
            f"in {folder} (samples {uids})"
        )


def lr_factor(step: int, total: int, optim: OptimConfig) -> float:
    """Return the share of the learning rate in the 0-based `step` of `total`."""
    if step < optim.warmup_steps:
        return (step + 1) / optim.warmup_steps
    if optim.schedule is Schedule.linear:
        start = max(optim.decay_from * total, optim.warmup_steps)
        return min(1.0, max(0.0, (total - step) / max(total - start, 1)))
    if optim.schedule is Schedule.cosine:
        progress = (step - optim.warmup_steps) / max(total - optim.warmup_steps, 1)
        return 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))
    return 1.0
