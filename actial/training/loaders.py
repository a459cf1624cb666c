"""Data loaders of a stage: one item is the batch of one optimizer step.

The trainer must be built with use_distributed_sampler=False and limit itself to one epoch.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from actial.core.errors import UserError
from actial.training.batch import TrainBatch


class _Steps(Dataset[TrainBatch]):
    def __init__(self, make: Callable[[int], TrainBatch]) -> None:
        self.make = make

    def __getitem__(self, step: int) -> TrainBatch:
        return self.make(step)


def step_loader(
    make: Callable[[int], TrainBatch], start: int, stop: int, *, workers: int = 0
) -> DataLoader[TrainBatch]:
    """Return the batches of the steps [start, stop).

    The loader has a length, without which Lightning reads one batch ahead, and no state, since
    `make` is a function of the step's number.
    """
    return _loader(_Steps(make), workers, sampler=range(start, stop))


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
        # worker 0 first: so worker 0 of a resumed run reads the stream of step `start`.
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
    """Return the batches of the steps [start, stop) from streams.

    Steps before `start` are read and skipped. `open_reader(stream, num_streams)` opens one of
    `max(workers, 1)` streams at its beginning.
    """
    return _loader(_StreamedSteps(open_reader, start, stop), workers)


def _loader(
    dataset: Dataset[TrainBatch], workers: int, **options: Any
) -> DataLoader[TrainBatch]:
    """Return a loader of whole batches.

    Workers are forked whatever the start method of the platform is (Python 3.14:
    forkserver), because the functions that make batches refer to open models and cannot
    be pickled.
    """
    if workers and "fork" not in multiprocessing.get_all_start_methods():
        raise UserError(
            f"data.workers={workers} needs processes that can be forked, which this platform "
            "cannot: set data.workers=0."
        )
    return DataLoader(
        dataset,
        batch_size=None,
        num_workers=workers,
        collate_fn=_unchanged,
        multiprocessing_context="fork" if workers else None,
        # With its own generator, starting an iterator does not move torch's global random state.
        generator=torch.Generator().manual_seed(0),
        **options,
    )


def _unchanged(batch: Any) -> Any:
    return batch
