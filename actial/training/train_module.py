"""One optimiser step, the same for SFT and GRPO: micro-batches under global denominators, clipping, schedule, exact state.

Optimisation is manual: Lightning's automatic accumulation mis-scales an incomplete window
(https://github.com/Lightning-AI/pytorch-lightning/issues/19987), and micro-batches here are token budgets, not sample counts.
Gradients are summed over ranks once per step, so ranks may hold different numbers of micro-batches, or no image at all.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import lightning
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from actial.config import ModelConfig, OptimConfig, Schedule, StageConfig
from actial.core.errors import NonFiniteError
from actial.modeling.dtensor import is_sharded, like, whole
from actial.modeling.policy import Policy
from actial.modeling.prefix_packing import PackedBatch, PrefixGroup, pack, split_micro_batches
from actial.training.batch import TrainBatch
from actial.training.distributed import Part, Sums, merge, shard, sum_gradients, sum_over_ranks


class StepModule(lightning.LightningModule):
    """Base of the stages' modules. After each step `metrics` (a function of data and seed) and `timings` describe it."""

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
        self.optimizer_state: dict[
            str, dict[str, torch.Tensor]
        ] = {}  # by parameter name, from a checkpoint

    # ------------------------------------------------------------ hooks of Lightning

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW over the trainable parts; the rate is set per step, so that it depends on the step's number alone."""
        optim = self.stage.optim
        groups = self.policy.param_groups(optim.lr, optim.weight_decay)
        for group in groups:
            group["base_lr"] = group["lr"]
        optimizer = torch.optim.AdamW(
            groups, lr=optim.lr, betas=(optim.betas[0], optim.betas[1]), fused=True
        )
        names = {parameter: name for name, parameter in self.policy.named_parameters()}
        for parameter, name in names.items():
            if name in self.optimizer_state:
                optimizer.state[parameter] = {
                    key: like(value, parameter) for key, value in self.optimizer_state[name].items()
                }
        return optimizer

    def configure_model(self) -> None:
        if isinstance(self.trainer.strategy, ModelParallelStrategy) and not self.sharded:
            shard(self.policy, self.trainer.strategy.device_mesh["data_parallel"])

    def on_train_start(self) -> None:
        self.policy.train()

    def transfer_batch_to_device(
        self, batch: TrainBatch, device: torch.device, dataloader_idx: int
    ) -> TrainBatch:
        """Left as it is: token lists are packed into tensors micro-batch by micro-batch."""
        return batch

    def counters(self) -> dict[str, int]:
        """What a stage counts over its steps, besides the steps; kept in checkpoints."""
        return {}

    def load_counters(self, counters: Mapping[str, int]) -> None:
        """Put back what `counters` gave."""

    def extra_state(self) -> dict[str, torch.Tensor]:
        """What a stage has made ahead for later steps; kept in checkpoints, and called on all ranks."""
        return {}

    def load_extra_state(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Put back what `buffers_to_keep` gave."""

    # ------------------------------------------------------------ one optimiser step

    @property
    def sharded(self) -> bool:
        """Whether forward passes are collective, so that every rank must make the same number, through the same modules."""
        return is_sharded(self.policy)

    def packed(self, batch: TrainBatch, indices: Sequence[int]) -> PackedBatch:
        """Some trunks of the batch as tensors on this module's device; without any, a spare that scores nothing."""
        prefix_groups = [batch.prefix_groups[i] for i in indices] or [
            PrefixGroup("spare", [0], [], [])
        ]
        rows = pack(
            prefix_groups,
            batch.images,
            self.policy.spec,
            self.model_config.sequence_tokens,
            always_encode_images=self.sharded,
        )
        return rows.to(self.device)

    def parts(self, batch: TrainBatch, indices: Sequence[int] | None = None) -> list[list[int]]:
        """Trunk indices of each micro-batch; sharded, as many on every rank, the last ones perhaps empty."""
        chosen = list(range(len(batch.prefix_groups))) if indices is None else list(indices)
        split = split_micro_batches(
            [batch.prefix_groups[i] for i in chosen], self.model_config.micro_batch_tokens
        )
        found = [[chosen[i] for i in part] for part in split]
        most = (
            sum_over_ranks({"max/parts": float(len(found))})["max/parts"]
            if self.sharded
            else len(found)
        )
        return found + [[]] * (round(most) - len(found))

    def update(
        self,
        batch: TrainBatch,
        parts: Iterable[Part],
        loss_of: Callable[[Part], tuple[torch.Tensor, Mapping[str, Any]]],
    ) -> Sums:
        """Sum the parts' gradients over micro-batches and ranks, clip, step. Returns additive metrics summed likewise.

        Raises NonFiniteError, the batch saved, before a loss or gradient that is not finite touches the weights; with the state that
        CheckpointCallback adds, `resume` and `TrainBatch.load` replay the step.
        """
        optimizer: Any = self.optimizers()
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * lr_factor(
                self.completed_steps, self.stage.steps, self.stage.optim
            )
        optimizer.zero_grad(set_to_none=True)
        sums: Sums = {}
        with self._local_gradients():
            for part in parts:
                loss, metrics = loss_of(part)
                self.manual_backward(loss)
                sums = merge(sums, {name: float(value) for name, value in metrics.items()})
        trained = [p for group in optimizer.param_groups for p in group["params"]]
        sums = sum_over_ranks(
            sums
            | {
                "images": float(
                    sum(len(prefix_group.images) for prefix_group in batch.prefix_groups)
                )
            }
        )
        images = sums.pop("images")
        if self.sharded:
            self._forget_spare_gradients(images)
        else:
            sum_gradients(trained)
        norm = float(whole(torch.nn.utils.clip_grad_norm_(trained, self.stage.optim.grad_clip)))
        if not math.isfinite(norm) or not math.isfinite(sums.get("loss", 0.0)):
            self._stop_at(batch, loss=sums.get("loss", 0.0), norm=norm)
        optimizer.step()
        return {**sums, "grad_norm": norm, "lr": optimizer.param_groups[0]["lr"]}

    def finish_step(self, metrics: Sums, *, started: float, tokens: float) -> None:
        """Count the step and publish what it was like; `tokens` = tokens this rank computed."""
        seconds = time.perf_counter() - started
        self.completed_steps += 1
        self.metrics = metrics
        self.timings = {"seconds": seconds, "tokens_per_second": tokens / seconds}

    def _forget_spare_gradients(self, images: float) -> None:
        """A step without any image leaves the tower as it is, though every rank has shown it a blank one."""
        if not images:
            for parameter in (
                *self.policy.module_group_parameters("vision"),
                *self.policy.module_group_parameters("merger"),
            ):
                parameter.grad = None

    def _local_gradients(self) -> AbstractContextManager[Any]:
        """Keep DDP from reducing after every backward pass: ranks may differ in how many they make."""
        wrapped: Any = self.trainer.strategy.model
        return wrapped.no_sync() if hasattr(wrapped, "no_sync") else nullcontext()

    def _stop_at(self, batch: TrainBatch, *, loss: float, norm: float) -> None:
        folder = (
            self.crash_folder / f"nonfinite-step-{self.completed_steps}-rank-{self.global_rank}"
        )
        batch.save(folder)
        uids = ", ".join(prefix_group.uid for prefix_group in batch.prefix_groups)
        raise NonFiniteError(
            f"step {self.completed_steps}: loss {loss}, gradient norm {norm}; the batch is saved in {folder} (samples {uids})"
        )


def lr_factor(step: int, total: int, optim: OptimConfig) -> float:
    """Share of the learning rate in the 0-based `step` of `total`."""
    if step < optim.warmup_steps:
        return (step + 1) / optim.warmup_steps
    if optim.schedule is Schedule.linear:
        start = max(optim.decay_from * total, optim.warmup_steps)
        return min(1.0, max(0.0, (total - step) / max(total - start, 1)))
    if optim.schedule is Schedule.cosine:
        progress = (step - optim.warmup_steps) / max(total - optim.warmup_steps, 1)
        return 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))
    return 1.0


# ---------------------------------------------------------------- loading by step


class _Steps(Dataset[TrainBatch]):
    def __init__(self, make: Callable[[int], TrainBatch]) -> None:
        self.make = make

    def __getitem__(self, step: int) -> TrainBatch:
        return self.make(step)


def step_loader(
    make: Callable[[int], TrainBatch], start: int, stop: int, *, workers: int = 0
) -> DataLoader[TrainBatch]:
    """Batches of the steps [start, stop): sized, and stateless, since `make` is a function of the step's number.

    The trainer must be built with use_distributed_sampler=False and limit itself to one epoch.
    """
    return DataLoader(
        _Steps(make),
        batch_size=None,
        sampler=range(start, stop),
        num_workers=workers,
        collate_fn=_same,
        generator=torch.Generator().manual_seed(
            0
        ),  # otherwise starting an iterator moves torch's global state
    )


class StepReader(Protocol):
    """One data worker's pass through a stream, step by step."""

    def batch(self, step: int) -> TrainBatch: ...

    def skip(self, step: int) -> None: ...


class _StreamedSteps(IterableDataset[TrainBatch]):
    """The batches of the steps [start, stop), of which a data worker makes every n-th one."""

    def __init__(self, open_reader: Callable[[int, int], StepReader], start: int, stop: int):
        self.open_reader, self.start, self.stop = open_reader, start, stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[TrainBatch]:
        info = get_worker_info()
        worker, num_workers = (info.id, info.num_workers) if info else (0, 1)
        # Step s belongs to stream s mod num_workers whatever the start is, and the loader asks its
        # worker 0 first: so worker 0 of a resumed run reads the stream that step `start` belongs to.
        stream = (self.start + worker) % num_workers
        reader = self.open_reader(stream, num_workers)
        for step in range(stream, self.stop, num_workers):
            if step < self.start:
                reader.skip(step)
            else:
                yield reader.batch(step)


def stream_loader(
    open_reader: Callable[[int, int], StepReader], start: int, stop: int, *, workers: int = 0
) -> DataLoader[TrainBatch]:
    """Batches of the steps [start, stop) from streams: steps before `start` are read and skipped.

    `open_reader(stream, num_streams)` opens one of `max(workers, 1)` streams at its beginning.
    """
    return DataLoader(
        _StreamedSteps(open_reader, start, stop),
        batch_size=None,
        num_workers=workers,
        collate_fn=_same,
        generator=torch.Generator().manual_seed(0),
    )


def _same(batch: Any) -> Any:
    return batch


# ---------------------------------------------------------------- sums over ranks
