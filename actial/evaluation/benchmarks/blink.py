"""BLINK (Fu et al., arXiv 2404.12390): one parquet folder per subtask; scored on val."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from actial.core.errors import UserError
from actial.core.multiple_choice_format import answer_position, clean_options
from actial.evaluation.benchmarks.base import Benchmark, Item, Scores, Source, Style
from actial.evaluation.benchmarks.tables import parquet_rows, picture_bytes
from actial.grading import metrics
from actial.grading.metrics import Prediction

COLUMNS = (
    "idx",
    "question",
    "sub_task",
    "image_1",
    "image_2",
    "image_3",
    "image_4",
    "choices",
    "answer",
    "prompt",
)
SPATIAL = (
    "Multi-view_Reasoning",
    "Relative_Depth",
    "Spatial_Relation",
)  # the three of the paper
SUBTASKS = (
    "Art_Style",
    "Counting",
    "Forensic_Detection",
    "Functional_Correspondence",
    "IQ_Test",
    "Jigsaw",
    "Multi-view_Reasoning",
    "Object_Localization",
    "Relative_Depth",
    "Relative_Reflectance",
    "Semantic_Correspondence",
    "Spatial_Relation",
    "Visual_Correspondence",
    "Visual_Similarity",
)


def load(source: Source, subtasks: Sequence[str] = SPATIAL) -> list[Item]:
    """Raises UserError for rows whose answer is hidden."""
    items = []
    for subtask in subtasks:
        path = source.file(
            f"{subtask}/{source.split}-00000-of-00001.parquet",
            f"{subtask}.parquet",
            columns=COLUMNS,
        )
        for row in parquet_rows(path, COLUMNS):
            if row["answer"] == "hidden":
                raise UserError(
                    f"{path}: the answers of BLINK's {source.split} split are hidden: set "
                    "benchmark.split=val."
                )
            options = clean_options(row["choices"])
            items.append(
                Item(
                    uid=f"blink/{row['idx']}",
                    images=[
                        picture_bytes(row[f"image_{i}"])
                        for i in range(1, 5)
                        if row[f"image_{i}"] is not None
                    ],
                    question=row["question"],
                    options=options,
                    answer_index=answer_position(
                        row["answer"], options, f"{path} {row['idx']}"
                    ),
                    type=row["sub_task"],
                    categories={"sub_task": row["sub_task"]},
                    raw_prompt=row["prompt"],
                    source_index=row["idx"],
                )
            )
    return items


def load_all(source: Source) -> list[Item]:
    return load(source, SUBTASKS)


def score(predictions: Sequence[Prediction]) -> Scores:
    """Score subtasks, the mean of all three or fourteen of them, and the mean over answers."""
    subtasks = metrics.accuracy_by(predictions, "sub_task")
    scores: Scores = {"sub_task": subtasks, "micro": metrics.accuracy(predictions)}
    for name, members in (("macro3", SPATIAL), ("macro14", SUBTASKS)):
        if set(members) <= set(subtasks):
            scores[name] = metrics.macro([subtasks[m] for m in members])
    return scores


def _benchmark(name: str, loader: Callable[[Source], list[Item]], questions: int) -> Benchmark:
    return Benchmark(
        name=name,
        questions=questions,
        hub="BLINK-Benchmark/BLINK",
        load=loader,
        score=score,
        style=Style.DATASET,
        split="val",
        splits=None,
        license="Apache-2.0",
        paper="https://arxiv.org/abs/2404.12390",
        reference="table1",
    )


BENCHMARK = _benchmark("blink", load, 133 + 124 + 143)
BENCHMARK_ALL = _benchmark("blink_all", load_all, 1901)
