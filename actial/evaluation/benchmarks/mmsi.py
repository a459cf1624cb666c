"""MMSI-Bench (arXiv 2505.23764): two to ten photos, four options written inside the question."""

from __future__ import annotations

from collections.abc import Sequence

from actial.core.errors import UserError
from actial.core.multiple_choice_format import answer_position, inline_options
from actial.evaluation.benchmarks.base import Benchmark, Item, Scores, Source, Style
from actial.evaluation.benchmarks.tables import (
    parquet_rows,
    picture_bytes,
    tsv_pictures,
    tsv_rows,
)
from actial.grading import metrics
from actial.grading.metrics import Prediction


def load(source: Source) -> list[Item]:
    """The parquet file, or the TSV of the same release."""
    columns = ("id", "images", "question_type", "question", "answer")
    path = source.file(
        "MMSI_Bench.parquet", "MMSI_bench.tsv", "MMSI_Bench.tsv", columns=columns
    )
    if path.suffix == ".parquet":
        rows = list(parquet_rows(path, columns))
        pictures = [[picture_bytes(cell) for cell in row["images"]] for row in rows]
        named = [(row["id"], row["question_type"]) for row in rows]
    else:
        rows = tsv_rows(path, ("index", "image", "question", "answer", "category"))
        pictures = tsv_pictures(rows, path)  # type: ignore[assignment]
        named = [(row["index"], row["category"]) for row in rows]
    return [
        _item(source, row, *name, images)
        for row, name, images in zip(rows, named, pictures, strict=True)
    ]


def _item(source: Source, row: dict, index: int | str, category: str, images: list) -> Item:
    stem, options = inline_options(row["question"])
    if not options:
        raise UserError(
            f"{source.name} {index}: the question holds no options A: .. B: ..: the file is not "
            "the published one."
        )
    kind = category_name(category)
    return Item(
        uid=f"{source.name}/{index}",
        images=images,
        question=stem,
        options=options,
        answer_index=answer_position(row["answer"], options, f"{source.name} {index}"),
        type=kind,
        categories={"category": kind},
        source_index=index,
    )


def category_name(name: str) -> str:
    """One spelling of a category: its letters with hyphens where releases have an en dash."""
    return name.replace("\N{EN DASH}", "-").strip()


def score(predictions: Sequence[Prediction]) -> Scores:
    """Categories and the sample mean, which is the published average."""
    return {
        "overall": metrics.accuracy(predictions),
        "category": metrics.accuracy_by(predictions, "category"),
    }


BENCHMARK = Benchmark(
    name="mmsi",
    questions=1000,
    hub="RunsenXu/MMSI-Bench",
    load=load,
    score=score,
    style=Style.MMSI,
    license="CC-BY-NC-4.0",
    paper="https://arxiv.org/abs/2505.23764",
    reference="table_a1",
)
