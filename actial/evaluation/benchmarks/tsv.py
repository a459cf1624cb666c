"""Any set in VLMEvalKit's multiple-choice form: root=FOLDER split=NAME reads FOLDER/NAME.tsv."""

from __future__ import annotations

from actial.evaluation.benchmarks.base import Benchmark, Item, Source, score_types
from actial.evaluation.benchmarks.tables import MCQ_COLUMNS, mcq_items


def load(source: Source) -> list[Item]:
    """A file with VLMEvalKit's `g_index` is scored circularly too."""
    return mcq_items(
        source, source.file(f"{source.split}.tsv", columns=(*MCQ_COLUMNS, "category", "image"))
    )


BENCHMARK = Benchmark(name="tsv", hub="(any)", load=load, score=score_types, splits=None)
