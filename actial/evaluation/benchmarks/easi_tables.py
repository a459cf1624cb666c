"""Sets in the tables of EASI's hub data set: EmbSpatial-Bench, SITE-Bench, ERQA, SPBench.

EASI (arXiv 2508.13142) publishes every set as a TSV whose options are a list written as
text. Its images are base64 in the table, or files of the set's own archives, unpacked
beside the table.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from actial.core.multiple_choice_format import answer_position, inline_options
from actial.evaluation.benchmarks.base import (
    Benchmark,
    Item,
    Picture,
    Scores,
    Source,
    Style,
    score_types,
)
from actial.evaluation.benchmarks.tables import (
    listed,
    parquet_rows,
    picture_bytes,
    tsv_pictures,
    tsv_rows,
    without_letters,
)
from actial.evaluation.benchmarks.video import frames, score_vsi
from actial.grading import metrics
from actial.grading.metrics import Prediction
from actial.grading.published_formulas import chance_adjusted

EASI_HUB = "lmms-lab-si/EASI-Leaderboard-Data"
SITE_FRAMES = 32
VIDEO_REQUEST = (
    "Select the best answer to the following multiple-choice question based on the video. "
    "Respond with only the letter of the correct option."
)
NUMBER_ANSWER = (
    "Please answer the question using a numerical value (e.g., 42 or 3.1) directly."
)
ANSWER_REQUEST = re.compile(r"\s*Please answer directly with only the letter.*", re.DOTALL)


# ---------------------------------------------------------------- EmbSpatial-Bench


def load_embspatial(source: Source) -> list[Item]:
    """Read EASI's table, or the parquet file of FlagEval's copy with 0-based answers."""
    columns = ("index", "question", "options", "answer", "data_source", "image")
    path = source.file(
        "EmbSpatialBench.tsv",
        "data/test-00000-of-00001.parquet",
        "test.parquet",
        columns=columns,
    )
    rows: list[dict[str, Any]]
    if path.suffix == ".tsv":
        rows = list(tsv_rows(path, columns))
        named = [(row["index"], listed(row["options"], path)) for row in rows]
        pictures = tsv_pictures(rows, path)
    else:
        published = ("question_id", "question", "answer_options", "answer", "data_source")
        rows = list(parquet_rows(path, (*published, "image")))
        named = [(row["question_id"], row["answer_options"]) for row in rows]
        pictures = [[picture_bytes(row["image"])] for row in rows]
    items = []
    for row, (index, texts), images in zip(rows, named, pictures, strict=True):
        options = without_letters(texts)
        categories = {"data_source": row["data_source"]}
        if row.get("relation"):
            categories["relation"] = row["relation"]
        items.append(
            Item(
                uid=f"{source.name}/{index}",
                images=images,
                question=row["question"],
                options=options,
                answer_index=answer_position(row["answer"], options, f"{path} {index}"),
                type=row["data_source"],
                categories=categories,
                source_index=index,
            )
        )
    return items


# ---------------------------------------------------------------- SITE-Bench


def load_site(source: Source) -> list[Item]:
    """Read SiteBenchImage.tsv and SiteBenchVideo.tsv; `split` "image" or "video" takes one."""
    halves = [source.split] if source.split in ("image", "video") else ["image", "video"]
    return list(chain.from_iterable(_site_items(source, half) for half in halves))


def _site_items(source: Source, half: str) -> list[Item]:
    texts, files = (
        ("options", "image_path") if half == "image" else ("candidates", "video_path")
    )
    columns = ("index", "question", texts, "answer", "category", files)
    path = source.file(f"SiteBench{half.capitalize()}.tsv", columns=columns)
    items = []
    for row in tsv_rows(path, columns):
        options = without_letters(listed(row[texts], path))
        categories = {"category": row["category"], "options": str(len(options)), "half": half}
        items.append(
            Item(
                uid=f"{source.name}/{half}/{row['index']}",
                images=_site_images(source, row[files], path),
                question=numbered_images(row["question"]),
                options=options,
                answer_index=answer_position(row["answer"], options, f"{path} {row['index']}"),
                type=row["category"],
                categories=categories,
                hint=VIDEO_REQUEST if half == "video" else "",
                source_index=f"{half}/{row['index']}",
            )
        )
    return items


def _site_images(source: Source, cell: str, path: Path) -> list[Picture]:
    names = listed(cell, path) if cell.startswith("[") else [cell]
    if path.name == "SiteBenchVideo.tsv":
        return list(frames(source, str(Path(names[0]).with_suffix("")), SITE_FRAMES))
    return [source.picture(name) for name in names]


def numbered_images(text: str) -> str:
    """Name the images that stand inside a question: they come before the text here."""
    parts = text.split("<image>")
    numbered = [f"[image {number}]{part}" for number, part in enumerate(parts[1:], 1)]
    return (parts[0] + "".join(numbered)).strip()


def score_site(predictions: Sequence[Prediction]) -> Scores:
    """Score chance-adjusted accuracy, the published figure, and plain accuracy, by category."""
    by_category = metrics.split_by(predictions, "category")
    return {
        "overall": chance_adjusted(predictions),
        "accuracy": metrics.accuracy(predictions),
        "category": {name: chance_adjusted(rows) for name, rows in by_category.items()},
        "category_accuracy": metrics.accuracy_by(predictions, "category"),
    }


# ---------------------------------------------------------------- ERQA and SPBench


def load_erqa(source: Source) -> list[Item]:
    """Read EASI's table or the parquet file; the options stand inside the question."""
    columns = ("question", "answer", "question_type")
    path = source.file(
        "ERQA.tsv", "data/test-00000-of-00001.parquet", columns=("index", *columns, "image")
    )
    rows: list[dict[str, Any]]
    if path.suffix == ".tsv":
        rows = list(tsv_rows(path, ("index", *columns, "image")))
        pictures = tsv_pictures(rows, path)
        names = [row["index"] for row in rows]
    else:
        rows = list(parquet_rows(path, (*columns, "images")))
        pictures = [[picture_bytes(cell) for cell in row["images"]] for row in rows]
        names = [str(row.get("question_id", number)) for number, row in enumerate(rows)]
    items = []
    for row, index, images in zip(rows, names, pictures, strict=True):
        stem, options = inline_options(ANSWER_REQUEST.sub("", row["question"]))
        items.append(
            Item(
                uid=f"{source.name}/{index}",
                images=images,
                question=stem,
                options=options,
                answer_index=answer_position(row["answer"], options, f"{path} {index}"),
                type=row["question_type"],
                categories={"question_type": row["question_type"]},
                raw_prompt=row["question"],
                source_index=index,
            )
        )
    return items


def load_spbench(source: Source) -> list[Item]:
    """Read SPBench-SI.tsv and SPBench-MV.tsv; `split` "SI" or "MV" takes one of them."""
    parts = [source.split] if source.split in ("SI", "MV") else ["SI", "MV"]
    columns = ("index", "question", "candidates", "question_type", "answer", "image_path")
    items = []
    for part in parts:
        path = source.file(f"SPBench-{part}.tsv", columns=columns)
        for row in tsv_rows(path, columns):
            options = without_letters(listed(row["candidates"], path))
            names = row["image_path"]
            item = Item(
                uid=f"{source.name}/{part}/{row['index']}",
                images=[
                    source.picture(name)
                    for name in (listed(names, path) if names.startswith("[") else [names])
                ],
                question=row["question"],
                options=options,
                type=row["question_type"],
                categories={"part": part},
                source_index=f"{part}/{row['index']}",
            )
            if options:
                item.answer_index = answer_position(row["answer"], options, item.uid)
            else:
                item.open = {"metric": "mra_token", "answer": row["answer"].strip()}
                item.raw_prompt = f"{row['question']}\n{NUMBER_ANSWER}"
            items.append(item)
    return items


def score_spbench(predictions: Sequence[Prediction]) -> Scores:
    """Score both parts as VSI-Bench is scored: the mean of the types."""
    return {
        part: score_vsi(rows) for part, rows in metrics.split_by(predictions, "part").items()
    }


EMBSPATIAL = Benchmark(
    name="embspatial",
    questions=3640,
    hub=EASI_HUB,
    load=load_embspatial,
    score=score_types,
    style=Style.SITE,
    license="CC-BY-4.0",
    paper="https://arxiv.org/abs/2406.05756",
)
SITE = Benchmark(
    name="site",
    hub=EASI_HUB,
    load=load_site,
    score=score_site,
    style=Style.SITE,
    split="all",
    splits=("image", "video"),
    paper="https://arxiv.org/abs/2505.05456",
    note="images that stand inside a question come before it here, named by their numbers",
)
ERQA = Benchmark(
    name="erqa",
    questions=400,
    hub=EASI_HUB,
    load=load_erqa,
    score=score_types,
    style=Style.DATASET,
    license="CC-BY-4.0",
    paper="https://arxiv.org/abs/2503.20020",
)
SPBENCH = Benchmark(
    name="spbench",
    hub=EASI_HUB,
    load=load_spbench,
    score=score_spbench,
    style=Style.FRAMES,
    split="all",
    splits=("SI", "MV"),
    paper="https://arxiv.org/abs/2510.08531",
)
