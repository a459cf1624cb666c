"""CV-Bench (Cambrian-1, arXiv 2406.16860): counting, relation, depth order, distance."""

from __future__ import annotations

from collections.abc import Sequence

from actial.core.multiple_choice_format import answer_position, clean_options
from actial.evaluation.benchmarks.base import Benchmark, Item, Scores, Source, Style
from actial.evaluation.benchmarks.tables import parquet_rows, picture_bytes
from actial.grading import published_formulas
from actial.grading.metrics import Prediction

COLUMNS = ("idx", "type", "task", "image", "question", "choices", "answer", "prompt", "source")


def load(source: Source) -> list[Item]:
    """Both parquet files; `split` "2d" or "3d" takes one of them."""
    items = []
    for part in [source.split] if source.split in ("2d", "3d") else ["2d", "3d"]:
        path = source.file(f"test_{part}.parquet", columns=COLUMNS)
        for row in parquet_rows(path, COLUMNS):
            options = clean_options(row["choices"])
            items.append(
                Item(
                    uid=f"{source.name}/{part}/{row['idx']}",
                    images=[picture_bytes(row["image"])],
                    question=row["question"],
                    options=options,
                    answer_index=answer_position(
                        row["answer"], options, f"{path} idx {row['idx']}"
                    ),
                    type=row["task"],
                    categories={"task": row["task"], "source": row["source"]},
                    raw_prompt=row["prompt"],
                    source_index=row["idx"],
                )
            )
    return items


def score(predictions: Sequence[Prediction]) -> Scores:
    return dict(published_formulas.cvbench(predictions))


BENCHMARK = Benchmark(
    name="cv_bench",
    questions=2638,
    hub="nyu-visionx/CV-Bench",
    load=load,
    score=score,
    style=Style.DATASET,
    splits=("2d", "3d"),
    license="Apache-2.0",
    paper="https://arxiv.org/abs/2406.16860",
    reference="table1",
)
