"""Sets on video frames: VSI-Bench, STI-Bench, and SPAR-Bench with its numeric tasks.

Videos are read as folders of frames, so that every run sees the same pictures:
FRAMES evenly spaced ones are taken by name order. Extract them once, e.g.
`ffmpeg -i scene.mp4 -vf fps=2 frames/scannet/scene/%05d.jpg`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from actial.core.errors import UserError
from actial.core.multiple_choice_format import answer_position, clean_options, inline_options
from actial.evaluation.benchmarks.base import (
    Benchmark,
    Item,
    Scores,
    Source,
    Style,
    score_types,
)
from actial.evaluation.benchmarks.prompts import NUMBER_REQUEST
from actial.evaluation.benchmarks.tables import (
    json_rows,
    listed,
    parquet_rows,
    picture_bytes,
    without_letters,
)
from actial.grading import metrics
from actial.grading.metrics import Prediction

FRAMES = {"vsi": 32, "sti": 30}
VSI_FILES = {
    "test": ("test.jsonl", "test.parquet"),
    "debiased": ("test_debiased.jsonl", "test_debiased.parquet"),
}
VIDEO_NOTE = "These are frames of a video."
BOX_NOTE = (
    "The values represent the bounding box coordinates normalized to a 0-1000 scale, "
    "with the top-left corner as the origin of the image."
)
SPAR_HIGH = (
    "obj_spatial_relation_oo",
    "obj_spatial_relation_oc_mv",
    "obj_spatial_relation_oo_mv",
    "spatial_imagination_oc",
    "spatial_imagination_oo",
    "spatial_imagination_oc_mv",
    "spatial_imagination_oo_mv",
    "distance_infer_center_oo",
    "distance_infer_center_oo_mv",
)
SPAR_MIDDLE = ("view_change_infer", "position_matching", "camera_motion_infer")
SPAR_NUMERIC = tuple(
    f"{what}_prediction_{kind}"
    for what in ("depth", "distance")
    for kind in ("oc", "oo", "oc_mv", "oo_mv")
)
VSI_DIRECTIONS = tuple(f"object_rel_direction_{level}" for level in ("easy", "medium", "hard"))


def frames(source: Source, folder: str, count: int) -> list[Path]:
    """`count` evenly spaced frames of root/frames/<folder>, first and last included."""
    path = (source.root or Path()) / "frames" / folder
    names = (
        sorted(
            (
                p
                for p in path.glob("*")
                if p.suffix.lower() in (".jpg", ".jpeg", ".png") and p.name[0] != "."
            ),
            key=_numbers_in_order,
        )
        if path.is_dir()
        else []
    )
    if not names:
        raise UserError(
            f"{source.name}: no frames in {path}: extract the video's frames there as .jpg or .png."
        )
    return [
        names[i] for i in np.linspace(0, len(names) - 1, min(count, len(names))).astype(int)
    ]


def _numbers_in_order(path: Path) -> list[tuple[int, str]]:
    """A sort key by which frame 2 comes before frame 10."""
    return [
        (int(part or 0), "") if i % 2 else (0, part)
        for i, part in enumerate(re.split(r"(\d+)", path.name))
    ]


def load_vsi(source: Source) -> list[Item]:
    """Read VSI-Bench, whole or debiased."""
    columns = (
        "id",
        "dataset",
        "scene_name",
        "question_type",
        "question",
        "options",
        "ground_truth",
    )
    names = VSI_FILES["debiased" if source.split == "debiased" else "test"]
    path = source.file(*names, columns=columns)
    items = []
    for row in (
        json_rows(path, columns) if path.suffix == ".jsonl" else parquet_rows(path, columns)
    ):
        texts = row["options"] or []
        options = without_letters(listed(texts, path) if isinstance(texts, str) else texts)
        item = Item(
            uid=f"{source.name}/{row['id']}",
            images=list(
                frames(source, f"{row['dataset']}/{row['scene_name']}", FRAMES["vsi"])
            ),
            question=row["question"],
            options=options,
            type=row["question_type"],
            hint=VIDEO_NOTE,
            source_index=row["id"],
        )
        if options:
            item.answer_index = answer_position(
                row["ground_truth"], options, f"{path} {row['id']}"
            )
        else:
            item.open = {"metric": "mra_token", "answer": str(row["ground_truth"])}
            item.raw_prompt = f"{VIDEO_NOTE}\n{row['question']}\n{NUMBER_REQUEST}"
        items.append(item)
    return items


def score_vsi(predictions: Sequence[Prediction]) -> Scores:
    """Score tasks, relative direction as the mean of its three levels, and their mean."""
    types = metrics.accuracy_by(predictions, "type")
    tasks = {name: cell for name, cell in types.items() if name not in VSI_DIRECTIONS}
    levels = [types[name] for name in VSI_DIRECTIONS if name in types]
    if levels:
        tasks["object_rel_direction"] = metrics.macro(levels)
    return {"overall": metrics.macro(list(tasks.values())), "type": types | tasks}


def load_sti(source: Source) -> list[Item]:
    """Read qa.parquet: Candidates maps letters to texts, or is a list written as text."""
    columns = (
        "Video",
        "ID",
        "Question",
        "Candidates",
        "Answer",
        "Task",
        "time_start",
        "time_end",
    )
    path = source.file("qa.parquet", columns=columns)
    items = []
    for number, row in enumerate(parquet_rows(path, columns)):
        given = (
            ast.literal_eval(row["Candidates"])
            if isinstance(row["Candidates"], str)
            else row["Candidates"]
        )
        options = clean_options(
            [given[key] for key in sorted(given)] if isinstance(given, dict) else given
        )
        items.append(
            Item(
                uid=f"{source.name}/{number}",
                images=list(frames(source, Path(row["Video"]).stem, FRAMES["sti"])),
                question=f"From {row['time_start']} seconds to {row['time_end']} seconds. "
                f"{row['Question']}",
                options=options,
                answer_index=answer_position(row["Answer"], options, f"{path} row {number}"),
                type=row["Task"],
                hint=VIDEO_NOTE,
                source_index=number,
            )
        )
    return items


def load_spar(source: Source) -> list[Item]:
    columns = ("task", "question", "answer", "image")
    path = source.file("data/test-00000-of-00001.parquet", "test.parquet", columns=columns)
    return [
        _spar_item(source, number, row)
        for number, row in enumerate(parquet_rows(path, columns))
    ]


def _spar_item(source: Source, number: int, row: dict) -> Item:
    pictures = row["image"] if isinstance(row["image"], list) else [row["image"]]
    task, answer = row["task"], str(row["answer"]).strip()
    item = Item(
        uid=f"{source.name}/{number}",  # nobody promises that `id` names one question only
        images=[picture_bytes(cell) for cell in pictures],
        question=row["question"],
        type=task,
        source_index=row.get("id", number),
    )
    if task in SPAR_NUMERIC:
        metric = "mra_last" if task.endswith("_mv") else "mra_first"
        item.open = {"metric": metric, "answer": answer}
    elif task == "view_change_infer":
        item.open, item.raw_prompt = (
            {"metric": "view_change", "answer": answer},
            row["question"],
        )
    else:
        item.question, item.options = inline_options(row["question"])
        item.answer_index = answer_position(answer, item.options, item.uid)
        if task in ("position_matching", "camera_motion_infer"):
            item.question += f"\n{BOX_NOTE}"
    return item


def score_spar(predictions: Sequence[Prediction]) -> Scores:
    """Tasks, their mean, and the means of the low, middle and high levels."""
    tasks = metrics.accuracy_by(predictions, "type")
    levels = {"Low": SPAR_NUMERIC, "Middle": SPAR_MIDDLE, "High": SPAR_HIGH}
    by_level = {
        level: [tasks[name] for name in names if name in tasks]
        for level, names in levels.items()
    }
    return {
        "overall": metrics.macro(list(tasks.values())),
        "level": {
            level: metrics.macro(members) for level, members in by_level.items() if members
        },
        "type": tasks,
    }


VSI = Benchmark(
    name="vsi",
    hub="nyu-visionx/VSI-Bench",
    load=load_vsi,
    score=score_vsi,
    style=Style.FRAMES,
    splits=("debiased",),
    license="Apache-2.0",
    paper="https://arxiv.org/abs/2412.14171",
)
VSI_DEBIASED = replace(VSI, name="vsi_debiased", split="debiased", splits=())
STI = Benchmark(
    name="sti",
    hub="MINT-SJTU/STI-Bench",
    load=load_sti,
    score=score_types,
    style=Style.FRAMES,
    license="Apache-2.0",
    paper="https://arxiv.org/abs/2503.23765",
)
SPAR = Benchmark(
    name="spar",
    hub="jasonzhango/SPAR-Bench",
    load=load_spar,
    score=score_spar,
    style=Style.FRAMES,
    license="Apache-2.0",
    paper="https://arxiv.org/abs/2503.22976",
)
