"""Sets about viewpoints over several photos: ViewSpatial-Bench, MindCube, All-Angles-Bench."""

from __future__ import annotations

import re

from actial.core.multiple_choice_format import answer_position, clean_options, inline_options
from actial.evaluation.benchmarks.base import Benchmark, Item, Source, Style, score_types
from actial.evaluation.benchmarks.tables import json_rows, lettered_options, mcq_items


def load_viewspatial(source: Source) -> list[Item]:
    """Read ViewSpatial-Bench.json: `choices` is lines "A. right", the answer one of them."""
    columns = ("question_type", "image_path", "question", "answer", "choices")
    path = source.file("ViewSpatial-Bench.json", columns=columns)
    items = []
    for number, row in enumerate(json_rows(path, columns)):
        options = clean_options(
            re.sub(r"^[A-F][.:)]\s*", "", line.strip())
            for line in row["choices"].splitlines()
            if line.strip()
        )
        items.append(
            Item(
                uid=f"{source.name}/{number}",
                images=[source.picture(name) for name in row["image_path"]],
                question=row["question"],
                options=options,
                answer_index=answer_position(row["answer"], options, f"{path} row {number}"),
                type=row["question_type"],
                categories={"question_type": row["question_type"]},
                source_index=number,
            )
        )
    return items


def load_mindcube(source: Source) -> list[Item]:
    """Read MindCube: options stand inside the question, the setting in the id."""
    name = "MindCube.jsonl" if source.split == "full" else "MindCube_tinybench.jsonl"
    columns = ("id", "images", "question", "gt_answer")
    path = source.file(f"raw/{name}", f"data/raw/{name}", name, columns=columns)
    items = []
    for row in json_rows(path, columns):
        stem, options = inline_options(row["question"])
        setting = re.sub(r"new$", "", re.match(r"[a-z]+", row["id"])[0])  # type: ignore[index]
        items.append(
            Item(
                uid=f"{source.name}/{row['id']}",
                images=[source.picture(name) for name in row["images"]],
                question=stem,
                options=options,
                answer_index=answer_position(row["gt_answer"], options, f"{path} {row['id']}"),
                type=setting,
                categories={"setting": setting},
                source_index=row["id"],
            )
        )
    return items


def load_all_angles(source: Source) -> list[Item]:
    """The authors' TSV, or data.json with pictures unpacked beside it."""
    columns = ("index", "category", "image_path", "question", "A", "B", "answer")
    tables = ("bench_tsv/all_angles_bench_huggingface.tsv", "all_angles_bench_huggingface.tsv")
    path = source.file("data.json", *tables, columns=columns)
    if path.suffix == ".tsv":
        return mcq_items(source, path)
    items = []
    for row in json_rows(path, columns):
        options = lettered_options(row)
        items.append(
            Item(
                uid=f"{source.name}/{row['index']}",
                images=[source.picture(name) for name in row["image_path"]],
                question=row["question"],
                options=options,
                answer_index=answer_position(row["answer"], options, f"{path} {row['index']}"),
                type=row["category"],
                categories={"category": row["category"]},
                source_index=row["index"],
            )
        )
    return items


VIEWSPATIAL = Benchmark(
    name="viewspatial",
    questions=5712,
    hub="lidingm/ViewSpatial-Bench",
    load=load_viewspatial,
    score=score_types,
    style=Style.VIEWSPATIAL,
    license="Apache-2.0",
    paper="https://arxiv.org/abs/2505.21500",
)
MINDCUBE = Benchmark(
    name="mindcube",
    hub="MLL-Lab/MindCube",
    load=load_mindcube,
    score=score_types,
    split="tiny",
    splits=("full",),
    license="MIT",
    paper="https://arxiv.org/abs/2506.21458",
)
ALL_ANGLES = Benchmark(
    name="all_angles",
    questions=2132,
    hub="ch-chenyu/All-Angles-Bench",
    load=load_all_angles,
    score=score_types,
    license="MIT; the Ego-Exo4D part needs its own licence",
    paper="https://arxiv.org/abs/2504.15280",
)
