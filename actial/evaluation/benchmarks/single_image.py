"""Sets on one picture: OmniSpatial, SpatialEval, Omni3D-Bench."""

from __future__ import annotations

from collections.abc import Sequence

from actial.core.multiple_choice_format import answer_position, clean_options
from actial.evaluation.benchmarks.base import (
    Benchmark,
    Item,
    Scores,
    Source,
    Style,
    score_types,
)
from actial.evaluation.benchmarks.tables import (
    json_rows,
    parquet_rows,
    picture_bytes,
    tsv_pictures,
    tsv_rows,
)
from actial.grading import metrics
from actial.grading.metrics import Prediction


def load_omnispatial(source: Source) -> list[Item]:
    """Read data.json with 0-based answers; the image of id "12_3" is <task type>/12.png."""
    columns = ("id", "question", "options", "answer", "task_type", "sub_task_type")
    path = source.file("data.json", "OmniSpatial-test/data.json", columns=columns)
    folder = "OmniSpatial-test/" if path.parent.name == "OmniSpatial-test" else ""
    items = []
    for row in json_rows(path, columns):
        options = clean_options(row["options"])
        picture = f"{folder}{row['task_type']}/{str(row['id']).split('_')[0]}.png"
        items.append(
            Item(
                uid=f"{source.name}/{row['task_type']}/{row['id']}",
                images=[source.picture(picture)],
                question=row["question"],
                options=options,
                answer_index=answer_position(row["answer"], options, f"{path} {row['id']}"),
                type=row["task_type"],
                categories={
                    "task_type": row["task_type"],
                    "sub_task_type": row["sub_task_type"],
                },
                source_index=row["id"],
            )
        )
    return items


def score_omnispatial(predictions: Sequence[Prediction]) -> Scores:
    return {
        "overall": metrics.accuracy(predictions),
        "task_type": metrics.accuracy_by(predictions, "task_type"),
        "sub_task_type": metrics.accuracy_by(
            predictions,
            lambda p: f"{p.categories['task_type']}/{p.categories['sub_task_type']}",
        ),
    }


def load_spatialeval(source: Source) -> list[Item]:
    """Read vqa, tqa or vtqa (`split`); an output that contains the answer's text is correct."""
    columns = ("id", "text", "oracle_answer")
    path = source.file(
        f"{source.split}/test-00000-of-00001.parquet",
        f"{source.split}.parquet",
        columns=columns,
    )
    items = []
    for row in parquet_rows(path, columns):
        task = str(row["id"]).split(".")[0]
        items.append(
            Item(
                uid=f"{source.name}/{row['id']}",
                images=[picture_bytes(row["image"])] if row.get("image") is not None else [],
                question=row["text"],
                raw_prompt=row["text"],
                open={"metric": "contains", "answer": row["oracle_answer"]},
                type=task,
                source_index=row["id"],
            )
        )
    return items


def load_omni3d(source: Source) -> list[Item]:
    """Read omni3dbench.tsv: counts, yes/no, choices and lengths, by answer_type and answer."""
    columns = ("index", "question", "answer", "answer_type")
    path = source.file("omni3dbench.tsv", columns=columns)
    rows = tsv_rows(path, columns)
    items = []
    for row, images in zip(rows, tsv_pictures(rows, path), strict=True):
        metric = {"int": "count", "float": "mra_strict"}.get(row["answer_type"], "text")
        if metric == "text":
            metric = "yes_no" if row["answer"].strip().lower() in ("yes", "no") else "exact"
        items.append(
            Item(
                uid=f"{source.name}/{row['index']}",
                images=images,
                question=row["question"],
                open={"metric": metric, "answer": row["answer"].strip()},
                type=metric,
                source_index=row["index"],
            )
        )
    return items


def score_omni3d(predictions: Sequence[Prediction]) -> Scores:
    """Four figures; the benchmark publishes no mean of them."""
    return {"type": metrics.accuracy_by(predictions, "type")}


OMNISPATIAL = Benchmark(
    name="omnispatial",
    questions=1533,
    hub="qizekun/OmniSpatial",
    load=load_omnispatial,
    score=score_omnispatial,
    style=Style.LETTER,
    license="CC-BY-NC-4.0",
    paper="https://arxiv.org/abs/2506.03135",
)
SPATIALEVAL = Benchmark(
    name="spatialeval",
    hub="MilaWang/SpatialEval",
    load=load_spatialeval,
    score=score_types,
    style=Style.DATASET,
    split="vqa",
    splits=None,
    paper="https://arxiv.org/abs/2406.14852",
)
OMNI3D = Benchmark(
    name="omni3d",
    hub="rohunagrawal/Omni3DBench-VLMEvalKit",
    load=load_omni3d,
    score=score_omni3d,
    paper="https://arxiv.org/abs/2502.06787",
)
