"""Any set written as a VLMEvalKit multiple-choice TSV: root=FOLDER split=NAME reads FOLDER/NAME.tsv."""

from __future__ import annotations

from actial.benchmarks.base import Benchmark, Item, Source, score_types
from actial.benchmarks.tables import mcq_items


def load(source: Source) -> list[Item]:
    return mcq_items(source, source.file(f"{source.split}.tsv"))


BENCHMARK = Benchmark(name="tsv", hub="(any)", load=load, score=score_types)
