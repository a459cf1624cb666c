"""SAT (Ray et al., arXiv 2412.07755): letters under every order of the options."""

from __future__ import annotations

from collections.abc import Sequence

from actial.data.qa.sat_rows import TYPES, sat_options
from actial.evaluation.benchmarks.base import (
    Benchmark,
    Item,
    Scores,
    Source,
    Style,
    require,
    rotated,
)
from actial.evaluation.benchmarks.tables import parquet_rows, picture_bytes
from actial.grading import metrics
from actial.grading.metrics import Prediction


def load(source: Source) -> list[Item]:
    """Return every question under all rotations of its options.

    Rows whose answer is not exactly one option are dropped.
    """
    columns = ("question", "answers", "question_type", "correct_answer")
    names = (f"SAT_{source.split}.parquet", f"data/{source.split}-00000-of-00001.parquet")
    path = source.file(*names, columns=(*columns, "image_bytes"))
    items = []
    for number, row in enumerate(parquet_rows(path, columns)):
        pictures = row.get("image_bytes", row.get("images"))
        require(
            str(path),
            {*row, *(["image_bytes"] if pictures is not None else [])},
            (*columns, "image_bytes"),
        )
        options, answer = sat_options(row["answers"], row["correct_answer"])
        if answer is None:
            source.dropped["answer is not exactly one option"] += 1
            continue
        items.append(
            Item(
                uid=f"{source.name}/{source.split}/{number}",
                images=[
                    picture_bytes(cell)
                    for cell in (pictures if isinstance(pictures, list) else [pictures])
                ],
                question=row["question"].strip(),
                options=options,
                answer_index=answer,
                type=TYPES.get(row["question_type"], row["question_type"]),
                source_index=number,
            )
        )
    return rotated(items)


def score(predictions: Sequence[Prediction]) -> Scores:
    """Score `circular` (correct in every order, as in the SAT paper) and the mean over orders."""
    by_type = metrics.split_by(predictions, "type")
    return {
        "circular": metrics.circular(predictions),
        "mean": metrics.accuracy(predictions),
        "circular_by_type": {name: metrics.circular(rows) for name, rows in by_type.items()},
        "mean_by_type": {name: metrics.accuracy(rows) for name, rows in by_type.items()},
    }


BENCHMARK = Benchmark(
    name="sat",
    hub="array/SAT",
    load=load,
    score=score,
    style=Style.THINK,
    splits=None,
    license="MIT",
    paper="https://arxiv.org/abs/2412.07755",
)
