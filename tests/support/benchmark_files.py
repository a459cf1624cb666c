"""Small files in the published format of every benchmark. WRITERS: name -> function that writes
them into a folder.
"""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from actial.evaluation.benchmarks.blink import SPATIAL, SUBTASKS

EN = "\N{EN DASH}"


def picture(level=0, size=(80, 60), form="PNG") -> bytes:
    buffer = io.BytesIO()
    noise = np.arange(size[0] * size[1] * 3, dtype=np.uint32).reshape(size[1], size[0], 3)
    Image.fromarray(((noise * 7 + level) % 256).astype(np.uint8)).save(buffer, form)
    return buffer.getvalue()


def cell(level=0) -> dict[str, Any]:
    return {"bytes": picture(level), "path": None}


def b64(level=0) -> str:
    return base64.b64encode(picture(level)).decode()


def write_tsv(path: Path, rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t", quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(rows)


def write_parquet(path: Path, rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def write_json(path: Path, rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "".join(json.dumps(r) + "\n" for r in rows)
        if path.suffix == ".jsonl"
        else json.dumps(rows)
    )


def write_pictures(root: Path, *names: str) -> None:
    for level, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(
            picture(level, form="PNG" if name.endswith("png") else "JPEG")
        )


# ---------------------------------------------------------------- one each


def threedsr_rows() -> list[dict[str, Any]]:
    """A two-option question with its mirrored twin, and a four-option one, all in every
    rotation.
    """
    base = {"question": "Which is higher?", "C": "", "D": "", "category": "height_higher"}
    four = {
        "A": "l",
        "B": "r",
        "C": "f",
        "D": "b",
        "question": "Facing?",
        "category": "orientation_viewpoint",
    }
    rows = [
        base | {"qid": f"ABCDEFG1{s}", "A": a, "B": b, "answer": x}
        for s, a, b, x in [("", "u", "v", "A"), ("-1", "v", "u", "B")]
    ]
    rows += [
        base | {"qid": f"ABCDEFG1-flip{s}", "A": a, "B": b, "answer": x}
        for s, a, b, x in [("", "u", "v", "B"), ("-1", "v", "u", "A")]
    ]
    rows += [
        four | {"qid": f"ABCDEFG2{s}", "answer": x}
        for s, x in zip(("", "-1", "-2", "-3"), "ABCD", strict=True)
    ]
    return [
        {"index": i, **row, "image": b64() if i == 0 else ("0" if i < 4 else b64(1))}
        for i, row in enumerate(rows)
    ]


def write_3dsrbench(root: Path) -> None:
    write_tsv(root / "3dsrbench_v1_vlmevalkit_circular.tsv", threedsr_rows())


def write_cv_bench(root: Path) -> None:
    """One question of each task."""
    row = {"type": "2D", "image": cell(), "source": "COCO", "filename": "f", "answer": "(A)"}

    def user_text(question, choices):
        lines = "\n".join(
            f"({letter}) {text}" for letter, text in zip("ABCDEF", choices, strict=False)
        )
        return {
            "question": question,
            "choices": choices,
            "prompt": f"{question} Select from the following choices.\n{lines}",
        }

    count = (
        row
        | user_text("How many?", ["2", "1", "4"])
        | {"idx": 0, "task": "Count", "answer": "(C)"}
    )
    relation = (
        row
        | user_text("Where?", ["above", "below"])
        | {"idx": 1, "task": "Relation", "source": "ADE20K"}
    )
    write_parquet(root / "test_2d.parquet", [count, relation])
    deep = row | user_text("Which is closer?", ["a", "b"]) | {"type": "3D", "source": "Omni3D"}
    write_parquet(
        root / "test_3d.parquet",
        [deep | {"idx": 2, "task": "Depth"}, deep | {"idx": 3, "task": "Distance"}],
    )


MULTIVIEW = (
    "The images are frames from a video. The video is shooting a static scene. The camera is either moving clockwise (left) or "
    "counter-clockwise (right) around the object. Is the camera moving left or right? "
    "Select from the following options.\n(A) left\n(B) right"
)


def write_blink(root: Path, subtasks=SPATIAL, split="val", answer="(B)") -> None:
    for subtask in subtasks:
        several = subtask.startswith("Multi")
        row = {
            "idx": f"{split}_{subtask}_1",
            "question": "Where?",
            "sub_task": subtask,
            "choices": ["left", "right"],
            "answer": answer,
        }
        row |= {
            "prompt": MULTIVIEW
            if several
            else "Where? Select from the following options.\n(A) left\n(B) right"
        }
        row |= {
            "image_1": cell(),
            "image_2": cell(1) if several else None,
            "image_3": None,
            "image_4": None,
        }
        write_parquet(root / subtask / f"{split}-00000-of-00001.parquet", [row])


MMSI_QUESTION = "Photo 1 then 2. Where did I go?\nOptions: A: Left, B: Right, C: Up, D: Down"
MMSI_KIND = f"Positional Relationship (Cam.{EN}Cam.)"


def write_mmsi(root: Path) -> None:
    row = {
        "id": 7,
        "images": [picture(), picture(1)],
        "question_type": MMSI_KIND,
        "question": MMSI_QUESTION,
        "answer": "D",
    }
    write_parquet(root / "MMSI_Bench.parquet", [row | {"thought": "", "difficulty": ""}])


def write_mmsi_tsv(root: Path) -> None:
    row = {
        "index": 7,
        "image": str([b64(), b64(1)]),
        "question": MMSI_QUESTION,
        "answer": "D",
        "category": MMSI_KIND.replace(EN, "-"),
    }
    write_tsv(root / "MMSI_bench.tsv", [row])


def write_sat(root: Path) -> None:
    """Five questions, one of which has two options alike."""
    base = {
        "image_bytes": [picture()],
        "question": "Which way?",
        "question_type": "ego_movement",
        "correct_answer": "moved left",
    }
    rows = [
        base | {"answers": ["moved left", "moved right"]},
        base
        | {"answers": ["same", "moved left in the first frame"], "question_type": "goal_aim"},
        base | {"answers": ["moved left", "Moved Left"]},
        base
        | {
            "answers": ["no", "no, it would stay", "maybe"],
            "correct_answer": "no",
            "question_type": "other",
        },
    ]
    write_parquet(root / "SAT_test.parquet", rows)


def write_viewpoint(root: Path) -> None:
    """A three-option row, and one in the older joint form."""
    user_text = "<image><image>The object is static. From the object's view, where did the camera move?\n"
    user_text += "A: Move to the right B: No movement C: Move to the left\nLetter only."
    photos = {"images": ["a.png", "b.png"]}
    rows = [
        photos
        | {
            "messages": [
                {"role": "user", "content": user_text},
                {"role": "assistant", "content": "C"},
            ]
        },
        photos
        | {
            "conversations": [
                {"from": "human", "value": "<image><image>Joint?"},
                {"from": "gpt", "value": "r,A"},
            ]
        },
    ]
    write_json(root / "test.json", rows)
    write_pictures(root, "a.png", "b.png")


def write_viewspatial(root: Path) -> None:
    row = {
        "question_type": "Camera perspective - Relative Direction",
        "image_path": ["one.jpg"],
        "question": "Where?",
    }
    write_json(
        root / "ViewSpatial-Bench.json",
        [row | {"answer": "B. left", "choices": "A. right\nB. left\nC. front\nD. back"}],
    )
    write_pictures(root, "one.jpg")


def write_mindcube(root: Path) -> None:
    row = {
        "id": "aroundnew_g1",
        "images": ["one.jpg", "two.jpg"],
        "question": "Where? A. TV B. Sofa",
        "gt_answer": "B",
    }
    write_json(root / "raw/MindCube_tinybench.jsonl", [row])
    write_pictures(root, "one.jpg", "two.jpg")


def write_all_angles(root: Path) -> None:
    row = {
        "index": 4,
        "category": "counting",
        "image_path": ["one.jpg"],
        "question": "?",
        "A": "1",
        "B": "2",
        "C": "3",
        "answer": "C",
    }
    write_json(root / "data.json", [row])
    write_pictures(root, "one.jpg")


def write_omnispatial(root: Path) -> None:
    row = {"id": "3_1", "question": "?", "options": ["a", "b"], "answer": 1}
    write_json(
        root / "data.json",
        [row | {"task_type": "Dynamic_Reasoning", "sub_task_type": "Manipulation"}],
    )
    write_pictures(root, "Dynamic_Reasoning/3.png")


def write_spatialeval(root: Path) -> None:
    write_parquet(
        root / "vqa.parquet",
        [
            {
                "id": "mazenav.vqa.0.1",
                "text": "How many turns?",
                "image": cell(),
                "oracle_answer": "2",
            }
        ],
    )


def write_omni3d(root: Path) -> None:
    kinds = [
        ("0", "yes", "str"),
        ("1", "chair", "str"),
        ("2", "3", "int"),
        ("3", "1.5", "float"),
    ]
    rows = [
        {"index": i, "image": b64(), "question": "?", "answer": a, "answer_type": t}
        for i, a, t in kinds
    ]
    write_tsv(root / "omni3dbench.tsv", rows)


def write_vsi(root: Path) -> None:
    base = {"dataset": "scannet", "scene_name": "s1"}
    direction = base | {
        "id": 1,
        "question_type": "object_rel_direction_easy",
        "question": "Where?",
        "options": ["A. left", "B. right"],
    }
    counting = base | {
        "id": 2,
        "question_type": "object_counting",
        "question": "How many?",
        "options": None,
        "ground_truth": "4",
    }
    write_json(root / "test.jsonl", [direction | {"ground_truth": "B"}, counting])
    write_pictures(root, *[f"frames/scannet/s1/{i:03d}.jpg" for i in range(40)])


def write_sti(root: Path) -> None:
    row = {
        "Video": "v1.mp4",
        "ID": 0,
        "Question": "How fast?",
        "Candidates": {"A": "1 m/s", "B": "2 m/s"},
        "Answer": "B",
        "Task": "Speed",
    }
    write_parquet(root / "qa.parquet", [row | {"time_start": 1, "time_end": 3}])
    write_pictures(root, *[f"frames/v1/{i:03d}.jpg" for i in range(40)])


def write_spar(root: Path) -> None:
    photos = {"image": [cell(), cell(1)]}
    motion = "move_right:1.0,rotate_left:20"
    rows = [
        photos
        | {
            "id": "a",
            "task": "depth_prediction_oc_mv",
            "question": "How deep?",
            "answer": "2.5",
        },
        photos
        | {"id": "b", "task": "view_change_infer", "question": "Motion?", "answer": motion},
        photos
        | {
            "id": "c",
            "task": "position_matching",
            "question": "Which box? A. (1,2) B. (3,4)",
            "answer": "B",
        },
    ]
    write_parquet(root / "test.parquet", rows)


def write_embspatial(root: Path) -> None:
    row = {"index": 0, "question": "How are the chair and the table placed?", "answer": "C"}
    row |= {"options": '["above", "below", "left", "right"]', "data_source": "mp3d"}
    write_tsv(root / "EmbSpatialBench.tsv", [row | {"image": b64()}])


def write_site(root: Path) -> None:
    """A question on two photos, one on a single photo with two options, one on a video."""
    row = {"index": 0, "category": "counting & existence", "answer": "B"}
    photos = [
        row
        | {
            "question": "Does <image> show what <image> shows?",
            "options": "['yes', 'no', 'part']",
        }
        | {"image_path": "['photos/a.jpg', 'photos/b.jpg']"},
        row
        | {"index": 1, "question": "Is it there?", "options": "['yes', \"it isn't\"]"}
        | {"image_path": "photos/a.jpg", "category": "3d information understanding"},
    ]
    video = row | {
        "question": "Where does it go?",
        "candidates": "['left', 'right', 'up', 'on']",
    }
    write_tsv(root / "SiteBenchImage.tsv", photos)
    write_tsv(root / "SiteBenchVideo.tsv", [video | {"video_path": "clips/v1.mp4"}])
    write_pictures(root, "photos/a.jpg", "photos/b.jpg")
    write_pictures(root, *[f"frames/clips/v1/{i:03d}.jpg" for i in range(40)])


ERQA_QUESTION = (
    "Which gripper holds the cup? Choices: A. The left one. B. The right one. C. Both. D. None "
    "of the above. Please answer directly with only the letter of the correct option and nothing "
    "else."
)


def write_erqa(root: Path) -> None:
    row = {"index": 0, "question": ERQA_QUESTION, "answer": "B", "visual_indices": "[0, 0]"}
    images = {"image": str([b64(), b64(1)])}
    write_tsv(root / "ERQA.tsv", [row | images | {"question_type": "State Estimation"}])


def write_spbench(root: Path) -> None:
    direction = {"index": 0, "question": "Where?", "candidates": "['A. left', 'B. right']"}
    direction |= {"question_type": "object_rel_direction", "answer": "B"}
    count = {"index": 1, "question": "How many?", "candidates": "", "answer": "4"}
    count |= {"question_type": "object_counting"}
    write_tsv(root / "SPBench-SI.tsv", [direction | {"image_path": "images/a.jpg"}])
    write_tsv(
        root / "SPBench-MV.tsv", [count | {"image_path": "['images/a.jpg', 'images/b.jpg']"}]
    )
    write_pictures(root, "images/a.jpg", "images/b.jpg")


def write_vsi_debiased(root: Path) -> None:
    write_vsi(root)
    (root / "test.jsonl").rename(root / "test_debiased.jsonl")


def write_mmsi_video(root: Path) -> None:
    """Two clips of 60 and 20 frames and a reference image."""
    clips = [
        [f"frames/{clip}/{i:03d}.jpg" for i in range(n)] for clip, n in (("a", 60), ("b", 20))
    ]
    row = {
        "index": 0,
        "system_prompt": "Watch.",
        "task_prompt": "Clips: <video> and <video>. ",
    }
    row |= {"user_prompt": "Is <image> there? Options: A. yes B. no C. partly ", "answer": "B"}
    row |= {"format_prompt": "Answer with a letter.", "image_path": str(clips)}
    row |= {"ref_images": "['ref_images/r.jpg']", "task_type": "Planning"}
    write_tsv(root / "MMSIVideoBench.tsv", [row | {"sub_task_type": "Planning"}])
    write_pictures(root, "ref_images/r.jpg", *clips[0], *clips[1])


def write_any_tsv(root: Path) -> None:
    row = {
        "index": 1,
        "question": "Q?",
        "A": "x",
        "B": "y",
        "C": "z",
        "answer": "B",
        "category": "c",
        "hint": "H",
        "image": b64(),
    }
    write_tsv(root / "s.tsv", [row])


def write_omnispatial_release(root: Path) -> None:
    """Options inside the question, two images in one cell."""
    question = "Where is it? Options: A. left B. right C. behind\nAnswer with the letter."
    row = {"index": 3, "question": question, "answer": "B", "task_type": "Perspective"}
    write_tsv(root / "omni_spatial_bench.tsv", [row | {"image": json.dumps([b64(), b64()])}])


def write_viewspatial_release(root: Path) -> None:
    """Options in columns, the answer as an option's text."""
    row = {"index": 0, "question": "Where?", "A": "left", "B": "right", "answer": "right"}
    row |= {"category": "Camera perspective - Relative Direction", "image": b64()}
    write_tsv(root / "view_spatial_bench.tsv", [row])


WRITERS: dict[str, Callable[[Path], None]] = {
    "viewpoint_100k": write_viewpoint,
    "sat": write_sat,
    "cv_bench": write_cv_bench,
    "blink": write_blink,
    "blink_all": lambda root: write_blink(root, SUBTASKS),
    "3dsrbench": write_3dsrbench,
    "mmsi": write_mmsi,
    "viewspatial": write_viewspatial,
    "mindcube": write_mindcube,
    "all_angles": write_all_angles,
    "omnispatial": write_omnispatial,
    "spatialeval": write_spatialeval,
    "omni3d": write_omni3d,
    "vsi": write_vsi,
    "sti": write_sti,
    "spar": write_spar,
    "vsi_debiased": write_vsi_debiased,
    "mmsi_video": write_mmsi_video,
    "embspatial": write_embspatial,
    "site": write_site,
    "erqa": write_erqa,
    "spbench": write_spbench,
    "omnispatial_release": write_omnispatial_release,
    "viewspatial_release": write_viewspatial_release,
    "tsv": write_any_tsv,
}
