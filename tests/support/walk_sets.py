"""Questions about procedural scenes under the names, and in the files, of the paper's benchmarks."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from actial.evaluation.benchmarks.blink import SPATIAL
from support.benchmark_files import write_parquet, write_tsv

Scene = dict[str, Any]  # a row of SAT's files: photos, question, two or more answers
CV_TASKS = {"2d": ("Count", "Relation"), "3d": ("Depth", "Distance")}
CATEGORIES = (
    "height_higher",
    "location_above",
    "orientation_viewpoint",
    "multi_object_facing",
)
MMSI_KINDS = ("Cam.-Cam.", "Obj.-Obj.", "Reg.-Reg.", "Cam.-Obj.", "Obj.-Reg.", "Cam.-Reg.")


def read_scenes(file: Path) -> list[Scene]:
    return list(pq.read_table(file).to_pylist())


def letter(scene: Scene) -> str:
    return "ABCDEF"[scene["answers"].index(scene["correct_answer"])]


def listed(scene: Scene, form: str) -> list[str]:
    return [form.format(*pair) for pair in zip("ABCDEF", scene["answers"], strict=False)]


def write_cv_bench(root: Path, scenes: Sequence[Scene]) -> None:
    for part, tasks in CV_TASKS.items():
        rows = []
        for number, (scene, task) in enumerate(zip(scenes, cycle(tasks), strict=False)):
            lines = "\n".join(listed(scene, "({}) {}"))
            rows.append(
                {
                    "idx": number,
                    "type": part.upper(),
                    "task": task,
                    "image": {"bytes": scene["image_bytes"][0], "path": None},
                    "question": scene["question"],
                    "choices": scene["answers"],
                    "answer": f"({letter(scene)})",
                    "prompt": f"{scene['question']} Select from the following choices.\n{lines}",
                    "source": "procedural",
                    "filename": "f",
                }
            )
        write_parquet(root / f"test_{part}.parquet", rows)


def write_blink(root: Path, scenes: Sequence[Scene]) -> None:
    for subtask in SPATIAL:
        rows = []
        for number, scene in enumerate(scenes):
            photos = [*scene["image_bytes"], None, None, None][:4]
            lines = "\n".join(listed(scene, "({}) {}"))
            rows.append(
                {
                    "idx": f"val_{subtask}_{number}",
                    "question": scene["question"],
                    "sub_task": subtask,
                    "choices": scene["answers"],
                    "answer": f"({letter(scene)})",
                    "prompt": f"{scene['question']} Select from the options.\n{lines}",
                    **{
                        f"image_{i}": None if data is None else {"bytes": data, "path": None}
                        for i, data in enumerate(photos, 1)
                    },
                }
            )
        write_parquet(root / subtask / "val-00000-of-00001.parquet", rows)


def write_3dsrbench(root: Path, scenes: Sequence[Scene]) -> None:
    """Each question in both orders of its first two options."""
    rows = []
    for number, (scene, category) in enumerate(zip(scenes, cycle(CATEGORIES), strict=False)):
        first, second = scene["answers"][:2]
        correct = scene["correct_answer"]
        image = base64.b64encode(scene["image_bytes"][0]).decode()
        for suffix, options in (("", (first, second)), ("-1", (second, first))):
            rows.append(
                {
                    "index": len(rows),
                    "qid": f"SCENE{number:03d}{suffix}",
                    "question": scene["question"],
                    "A": options[0],
                    "B": options[1],
                    "C": "",
                    "D": "",
                    "answer": "A" if options[0] == correct else "B",
                    "category": category,
                    "image": image,
                }
            )
    write_tsv(root / "3dsrbench_v1_vlmevalkit_circular.tsv", rows)


def write_mmsi(root: Path, scenes: Sequence[Scene]) -> None:
    rows = [
        {
            "id": number,
            "images": scene["image_bytes"],
            "question_type": f"Positional Relationship ({kind})",
            "question": f"{scene['question']}\nOptions: {', '.join(listed(scene, '{}: {}'))}",
            "answer": letter(scene),
            "thought": "",
            "difficulty": "",
        }
        for number, (scene, kind) in enumerate(zip(scenes, cycle(MMSI_KINDS), strict=False))
    ]
    write_parquet(root / "MMSI_Bench.parquet", rows)


WRITERS: dict[str, Callable[[Path, Sequence[Scene]], None]] = {
    "cv_bench": write_cv_bench,
    "blink": write_blink,
    "3dsrbench": write_3dsrbench,
    "mmsi": write_mmsi,
}


def write_walk_sets(root: Path, scenes: Sequence[Scene], count: int) -> None:
    """Write `count` questions of two options for each part of each of the four benchmarks."""
    two = [scene for scene in scenes if len(scene["answers"]) == 2]
    for name, write in WRITERS.items():
        write(root / name, list(islice(cycle(two), count)))
