"""A stage's mixture of data sets read as streams (`data.reader=stream`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from actial.config import WORDS_ONLY, ColdStartConfig, DataConfig, MixConfig, SetConfig, Task
from actial.core.errors import UserError
from actial.core.records import Example
from actial.data.datasets import TaskSet, open_set, select_pairs, task_set
from actial.data.mixture import Mixture
from actial.data.shards import load_manifest
from actial.data.stream import (
    DelayedExample,
    ReaderPosition,
    SampleFiles,
    StreamedSet,
    open_stream,
)


class StreamedMixture(Mixture):
    """The shares and schedule of a `Mixture`, whose examples come from streams.

    Positions draw their set as in a `Mixture`; which example of the set that is depends
    on the reader. Sets without files (task=clock, rules) are read by position, the same
    as in a `Mixture`.
    """

    def __init__(
        self,
        streams: dict[str, StreamedSet],
        generated: dict[str, TaskSet],
        mix: MixConfig,
        seed: int,
    ) -> None:
        sizes: dict[str, Any] = {**streams, **generated}
        super().__init__(sizes, mix, seed)
        self.streams = streams

    def check_readers(self, total: int) -> None:
        """Raise UserError when a set has fewer shards than there are readers."""
        for stream in self.streams.values():
            stream.check_readers(total)

    def head(self, count: int) -> list[Example]:
        """Return the first `count` examples that a single reader meets."""
        alone = ReaderPosition(0, 1)
        return [decode() for decode in self.reader(alone).take(range(count))]

    def reader(self, position: ReaderPosition) -> MixtureReader:
        """Return the examples of one of the readers that share this mixture."""
        return MixtureReader(self, position)


class MixtureReader:
    """One reader's pass through a streamed mixture: each call consumes examples of the streams."""

    def __init__(self, mixture: StreamedMixture, position: ReaderPosition) -> None:
        self.mixture = mixture
        self.streams: dict[str, Iterator[DelayedExample]] = {
            name: stream.examples(position) for name, stream in mixture.streams.items()
        }

    def take(self, positions: Sequence[int]) -> list[DelayedExample]:
        """Return the examples at these positions of the stage's sequence, not yet decoded."""
        return [self._next(position) for position in positions]

    def _next(self, position: int) -> DelayedExample:
        source, _ = self.mixture.draw(position)
        name = self.mixture.names[source]
        if name in self.streams:
            return next(self.streams[name])
        return partial(self.mixture.example, position)


def open_streamed_mixture(
    sets: dict[str, SetConfig],
    mix: MixConfig,
    data: DataConfig,
    cold_start: ColdStartConfig,
    seed: int,
) -> StreamedMixture:
    """Open the training split of each set as a stream; raises UserError for missing data."""
    streams: dict[str, StreamedSet] = {}
    generated: dict[str, TaskSet] = {}
    for name, config in sets.items():
        if config.task in WORDS_ONLY:
            generated[name] = open_set(config, "train", data, cold_start, supervised=True)
            continue
        label = f"data.sets.{name}.root={config.root}"
        if cold_start.ratio and load_manifest(config.root, label).get("chains"):
            raise UserError(
                f"{label} has chains of thought, which are drawn by index: set "
                "data.reader=index, or cold_start.ratio=0 to learn letters alone."
            )
        streams[name] = open_stream(
            config.root,
            "train",
            label,
            seed=f"{seed}/{name}",
            shuffle_buffer=data.shuffle_buffer,
            examples_of=partial(_examples_of, config, data, cold_start),
        )
    return StreamedMixture(streams, generated, mix, seed)


def _examples_of(
    config: SetConfig,
    data: DataConfig,
    cold_start: ColdStartConfig,
    sample: SampleFiles,
    epoch: int,
) -> list[DelayedExample]:
    """Return the supervised examples of one tar sample that `config` selects."""
    if config.task is Task.viewpoint and (config.types or config.angles):
        sample.records = list(select_pairs(sample.view_pairs(), config))
    if config.task is Task.qa and config.types:
        questions = sample.question_records()
        wanted = set(config.types)
        sample.records = [q for q in questions if {q.type, *q.types} & wanted]
    if not sample.records:
        return []
    task = task_set(sample, config, data, cold_start, supervised=True)
    return [partial(task.example, index, epoch) for index in range(len(task))]
