"""The benchmark copies of Actial's release: VLMEvalKit tables of OmniSpatial and ViewSpatial-Bench.

Options stand in columns A, B, ... or inside the question, the answer as a
letter or an option's text; several images are a list in one cell. The release
asks a question with its options inside as it stands: benchmark.style=dataset
does so.
"""

from __future__ import annotations

from actial.core.multiple_choice_format import answer_position
from actial.data.qa.released_rows import split_options
from actial.evaluation.benchmarks.base import Benchmark, Item, Source, Style, score_types
from actial.evaluation.benchmarks.tables import lettered_options, tsv_pictures, tsv_rows

COLUMNS = ("index", "question", "answer")
TYPE_COLUMNS = ("category", "task_type", "question_type", "type")
TABLES = {
    "omnispatial_release": ("omni_spatial_bench.tsv",),
    "viewspatial_release": ("view_spatial_bench.tsv", "ViewSpatial-Bench.tsv"),
}


def load(source: Source) -> list[Item]:
    """Return the questions of a table; raises UserError for other columns than the release's."""
    path = source.file(*TABLES[source.name], columns=(*COLUMNS, "image"))
    rows = tsv_rows(path, COLUMNS)
    items = []
    for row, images in zip(rows, tsv_pictures(rows, path), strict=True):
        question, own_prompt = row["question"], None
        options = lettered_options(row)
        if not options:
            own_prompt = row["question"]
            question, options = split_options(own_prompt)
        kind = next((row[name] for name in TYPE_COLUMNS if row.get(name)), "all")
        name = f"{path} row {row['index']}"
        items.append(
            Item(
                uid=f"{source.name}/{row['index']}",
                images=images,
                question=question.strip(),
                options=options,
                answer_index=answer_position(row["answer"], options, name),
                type=kind,
                categories={"type": kind},
                raw_prompt=own_prompt,
                source_index=row["index"],
            )
        )
    return items


OMNISPATIAL = Benchmark(
    name="omnispatial_release",
    hub="INno0o/Omni-Spatial-Bench",
    load=load,
    score=score_types,
    style=Style.VLMEVAL,
    license="CC-BY-NC-4.0",
    paper="https://arxiv.org/abs/2506.03135",
)
VIEWSPATIAL = Benchmark(
    name="viewspatial_release",
    hub="INno0o/View-Spatial-Bench",
    load=load,
    score=score_types,
    style=Style.VLMEVAL,
    license="Apache-2.0",
    paper="https://arxiv.org/abs/2505.21500",
)
