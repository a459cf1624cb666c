"""Loaders against files written here in the published formats."""

import base64
import csv
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from actial.benchmarks import BENCHMARKS
from actial.benchmarks.base import Source, Style, answer_position, clean_options, inline_options, rotated
from actial.benchmarks.examples import BenchmarkExamples, decode, fit
from actial.benchmarks.mmsi import category_name
from actial.benchmarks.prompts import prompt_text
from actial.errors import UserError

EN = "\N{EN DASH}"


def picture(level=0, size=(80, 60), form="PNG"):
    buffer = io.BytesIO()
    noise = np.arange(size[0] * size[1] * 3, dtype=np.uint32).reshape(size[1], size[0], 3)
    Image.fromarray(((noise * 7 + level) % 256).astype(np.uint8)).save(buffer, form)
    return buffer.getvalue()


def cell(level=0):
    return {"bytes": picture(level), "path": None}


def b64(level=0):
    return base64.b64encode(picture(level)).decode()


def write_tsv(path: Path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t", quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(rows)


def write_parquet(path: Path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def write_json(path: Path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in rows) if path.suffix == ".jsonl" else json.dumps(rows))


def load(name, root, **options):
    benchmark = BENCHMARKS[name]
    source = Source(name=name, hub=benchmark.hub, root=Path(root), split=options.pop("split", benchmark.split))
    return benchmark.load(source), source


def right(item):
    return item.options[item.answer_index]


# ---------------------------------------------------------------- answers and options


@pytest.mark.parametrize(
    ("answer", "position"), [("(C)", 2), ("C", 2), ("C.", 2), ("C. up", 2), ("C) up", 2), (2, 2), ("up", 2), (" Up ", 2), ("a b", 3)]
)
def test_answer_conventions(answer, position):
    assert answer_position(answer, ("left", "right", "up", "a b"), "x") == position


def test_viewspatial_answer_vector_h():
    assert answer_position("A. right", ("right", "left"), "x") == 0


@pytest.mark.parametrize("answer", ["down", "E", 4, "", True])
def test_answers_that_name_no_option_are_refused(answer):
    with pytest.raises(UserError, match="names 0 of the options"):
        answer_position(answer, ("left", "right", "up", "here"), "x")


def test_answer_text_of_two_options_is_refused():
    with pytest.raises(UserError, match="names 2"):
        answer_position("left", ("left", "Left"), "x")


def test_clean_options_drops_only_trailing_blanks():
    assert clean_options(["a", "", "b", None, float("nan"), "nan", " "]) == ("a", "", "b")


@pytest.mark.parametrize(
    ("text", "stem", "options"),
    [
        ("Where? Options: A: Left, B: Right, C: In front, near, D: Behind", "Where?", ("Left", "Right", "In front, near", "Behind")),
        ("Where?\nA. A sofa\nB. The wall", "Where?", ("A sofa", "The wall")),
        (
            "I stand at view 1. What is left? A. TV B. Wooden dining table C. Sofa",
            "I stand at view 1. What is left?",
            ("TV", "Wooden dining table", "Sofa"),
        ),
        ("What did Mr. A. do?", "What did Mr. A. do?", ()),
        ("No options here", "No options here", ()),
    ],
)
def test_inline_options(text, stem, options):
    assert inline_options(text) == (stem, options)


def test_rotations_keep_the_right_option(tmp_path):
    write_tsv(
        tmp_path / "s.tsv", [{"index": 1, "question": "?", "A": "x", "B": "y", "C": "z", "answer": "B", "category": "c", "image": b64()}]
    )
    items, _ = load("tsv", tmp_path, split="s")
    turned = rotated(items)
    assert [right(i) for i in turned] == ["y"] * 3
    assert [i.options for i in turned] == [("x", "y", "z"), ("y", "z", "x"), ("z", "x", "y")]
    assert [i.circular["rotation"] for i in turned] == [0, 1, 2]


# ---------------------------------------------------------------- pictures


def test_exif_rotation_and_transparency():
    buffer = io.BytesIO()
    image = Image.fromarray(np.zeros((4, 8, 3), np.uint8))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(buffer, "JPEG", exif=exif)
    assert decode(buffer.getvalue(), "x").shape == (8, 4, 3)
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((2, 2, 4), np.uint8)).save(buffer, "PNG")
    assert (decode(buffer.getvalue(), "x") == 255).all()
    with pytest.raises(UserError, match="picture of x"):
        decode(b"no image", "x")


@pytest.mark.parametrize(
    ("size", "limits", "want"),
    [((100, 60), (28, 784, 10_000), (112, 56)), ((1000, 500), (28, 784, 20_000), (196, 84)), ((5, 5), (28, 3136, 10_000), (56, 56))],
)
def test_fit_respects_the_limits(size, limits, want):
    multiple, low, high = limits
    got = fit(np.zeros((size[1], size[0], 3), np.uint8), *limits)
    assert (got.shape[1], got.shape[0]) == want
    assert low <= got.shape[0] * got.shape[1] <= high
    assert got.shape[0] % multiple == got.shape[1] % multiple == 0


# ---------------------------------------------------------------- one benchmark each


def threedsr_rows():
    base = {"question": "Which is higher?", "C": "", "D": "", "category": "height_higher"}
    four = {"A": "l", "B": "r", "C": "f", "D": "b", "question": "Facing?", "category": "orientation_viewpoint"}
    rows = [base | {"qid": f"ABCDEFG1{s}", "A": a, "B": b, "answer": x} for s, a, b, x in [("", "u", "v", "A"), ("-1", "v", "u", "B")]]
    rows += [
        base | {"qid": f"ABCDEFG1-flip{s}", "A": a, "B": b, "answer": x} for s, a, b, x in [("", "u", "v", "B"), ("-1", "v", "u", "A")]
    ]
    rows += [four | {"qid": f"ABCDEFG2{s}", "answer": x} for s, x in zip(("", "-1", "-2", "-3"), "ABCD", strict=True)]
    return [{"index": i, **row, "image": b64() if i == 0 else ("0" if i < 4 else b64(1))} for i, row in enumerate(rows)]


def test_threedsrbench(tmp_path):
    write_tsv(tmp_path / "3dsrbench_v1_vlmevalkit_circular.tsv", threedsr_rows())
    items, source = load("3dsrbench", tmp_path)
    assert [i.uid.split("/")[1] for i in items][:4] == ["ABCDEFG1", "ABCDEFG1-1", "ABCDEFG1-flip", "ABCDEFG1-flip-1"]
    assert [i.circular["rotations"] for i in items] == [2] * 4 + [4] * 4
    assert [(i.circular["rotation"], i.circular["flip"]) for i in items[:4]] == [(0, False), (1, False), (0, True), (1, True)]
    assert [right(i) for i in items[:4]] == ["u", "u", "v", "v"]
    assert items[3].images == items[0].images  # vector (f): a reference resolves
    assert items[4].images != items[0].images
    assert len(source.hashes["3dsrbench_v1_vlmevalkit_circular.tsv"]) == 64


def test_threedsrbench_refuses_other_qids(tmp_path):
    write_tsv(tmp_path / "3DSRBench.tsv", [threedsr_rows()[0] | {"qid": "SHORT"}])
    with pytest.raises(UserError, match="qid SHORT"):
        load("3dsrbench", tmp_path)


def test_reference_to_a_missing_row_is_refused(tmp_path):
    write_tsv(tmp_path / "3DSRBench.tsv", [threedsr_rows()[1] | {"image": "99"}])
    with pytest.raises(UserError, match="picture row 99"):
        load("3dsrbench", tmp_path)


def test_cv_bench(tmp_path):
    row = {"type": "2D", "task": "Count", "image": cell(), "question": "How many?", "choices": ["2", "1", "4"], "answer": "(C)"}
    row |= {"prompt": "How many? Select from the following choices.\n(A) 2\n(B) 1\n(C) 4", "source": "COCO", "filename": "f"}
    write_parquet(tmp_path / "test_2d.parquet", [row | {"idx": 0}])
    write_parquet(
        tmp_path / "test_3d.parquet", [row | {"idx": 0, "task": "Depth", "source": "Omni3D", "choices": ["a", "b"], "answer": "(A)"}]
    )
    items, _ = load("cv_bench", tmp_path)
    assert [(i.uid, right(i), i.categories) for i in items] == [
        ("cv_bench/2d/0", "4", {"task": "Count", "source": "COCO"}),
        ("cv_bench/3d/0", "a", {"task": "Depth", "source": "Omni3D"}),
    ]
    assert prompt_text(items[0], Style.DATASET) == row["prompt"]
    assert len(load("cv_bench", tmp_path, split="3d")[0]) == 1


def test_blink(tmp_path):
    for subtask in ("Multi-view_Reasoning", "Relative_Depth", "Spatial_Relation"):
        row = {
            "idx": f"val_{subtask}_1",
            "question": "?",
            "sub_task": subtask,
            "choices": ["left", "right"],
            "answer": "(B)",
            "prompt": "p",
        }
        row |= {"image_1": cell(), "image_2": cell(1) if subtask.startswith("Multi") else None, "image_3": None, "image_4": None}
        write_parquet(tmp_path / subtask / "val-00000-of-00001.parquet", [row])
    items, _ = load("blink", tmp_path)
    assert [len(i.images) for i in items] == [2, 1, 1]
    assert {right(i) for i in items} == {"right"}
    write_parquet(tmp_path / "Multi-view_Reasoning" / "test-00000-of-00001.parquet", [row | {"answer": "hidden"}])
    with pytest.raises(UserError, match=r"hidden.*split=val"):
        load("blink", tmp_path, split="test")
    with pytest.raises(UserError, match="Art_Style"):
        load("blink_all", tmp_path)


def test_mmsi_in_both_releases(tmp_path):
    question = "Photo 1 then 2. Where did I go?\nOptions: A: Left, B: Right, C: Up, D: Down"
    kind = f"Positional Relationship (Cam.{EN}Cam.)"
    row = {
        "id": 7,
        "images": [picture(), picture(1)],
        "question_type": kind,
        "question": question,
        "answer": "D",
        "thought": "",
        "difficulty": "",
    }
    write_parquet(tmp_path / "p" / "MMSI_Bench.parquet", [row])
    tsv = {"index": 7, "image": str([b64(), b64(1)]), "question": question, "answer": "D", "category": kind.replace(EN, "-")}
    write_tsv(tmp_path / "t" / "MMSI_bench.tsv", [tsv])
    (one,), (other,) = load("mmsi", tmp_path / "p")[0], load("mmsi", tmp_path / "t")[0]
    assert one.images == other.images
    assert (one.categories, one.options, one.answer_index) == (other.categories, other.options, 3)  # vector (g)
    assert category_name(f"a{EN}b") == "a-b"
    assert prompt_text(one, Style.MMSI) == question + (
        "\nAnswer with the option's letter from the given choices directly. Enclose the option's letter within ``."
    )


def test_sat(tmp_path):
    base = {"image_bytes": [picture()], "question": "Which way?", "question_type": "ego_movement", "correct_answer": "moved left"}
    rows = [
        base | {"answers": ["moved left", "moved right"]},
        base | {"answers": ["same", "moved left in the first frame"], "question_type": "goal_aim"},
        base | {"answers": ["moved left", "Moved Left"]},
        base | {"answers": ["no", "no, it would stay", "maybe"], "correct_answer": "no", "question_type": "other"},
    ]
    write_parquet(tmp_path / "SAT_test.parquet", rows)
    items, source = load("sat", tmp_path)
    assert [i.type for i in items] == ["ego_motion"] * 2 + ["goal_aim"] * 2 + ["static"] * 3
    assert {right(i) for i in items} == {"moved left", "no"}
    assert items[0].options == items[1].options[::-1]
    assert sum(source.dropped.values()) == 1
    again, _ = load("sat", tmp_path)
    assert [i.options for i in again] == [i.options for i in items]


def test_viewpoint_100k_in_both_forms(tmp_path):
    asked = "<image><image>The object is static. From the object's view, where did the camera move?\n"
    asked += "A: Move to the right B: No movement C: Move to the left\nLetter only."
    rows = [
        {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": "C"}], "images": ["a.png", "b.png"]},
        {
            "conversations": [{"from": "human", "value": "<image><image>Joint?"}, {"from": "gpt", "value": "r,A"}],
            "images": ["a.png", "b.png"],
        },
    ]
    write_json(tmp_path / "test.json", rows)
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(picture())
    items, _ = load("viewpoint_100k", tmp_path)
    assert (items[0].type, right(items[0]), len(items[0].images)) == ("object_translation", "Move to the left", 2)
    assert items[0].question.endswith("where did the camera move?")
    assert (items[1].options, items[1].open) == ((), {"metric": "joint", "answer": "r,A"})
    (tmp_path / "b.png").unlink()
    with pytest.raises(UserError, match=r"b\.png is missing"):
        load("viewpoint_100k", tmp_path)


def test_view_sets(tmp_path):
    for name in ("one.jpg", "two.jpg"):
        (tmp_path / name).write_bytes(picture(form="JPEG"))
    row = {"question_type": "Camera perspective - Relative Direction", "image_path": ["one.jpg"], "question": "Where?"}
    write_json(tmp_path / "ViewSpatial-Bench.json", [row | {"answer": "B. left", "choices": "A. right\nB. left\nC. front\nD. back"}])
    write_json(
        tmp_path / "raw/MindCube_tinybench.jsonl",
        [{"id": "aroundnew_g1", "images": ["one.jpg", "two.jpg"], "question": "Where? A. TV B. Sofa", "gt_answer": "B"}],
    )
    all_angles = {
        "index": 4,
        "category": "counting",
        "image_path": ["one.jpg"],
        "question": "?",
        "A": "1",
        "B": "2",
        "C": "3",
        "answer": "C",
    }
    write_json(tmp_path / "data.json", [all_angles])
    (view,), (cube,), (angles,) = (load(name, tmp_path)[0] for name in ("viewspatial", "mindcube", "all_angles"))
    assert (right(view), view.options) == ("left", ("right", "left", "front", "back"))
    assert prompt_text(view, Style.VIEWSPATIAL).endswith("D. back\nReply only to the corresponding option.\nAnswer:")
    assert (right(cube), cube.type, len(cube.images)) == ("Sofa", "around", 2)
    assert (right(angles), angles.type) == ("3", "counting")


def test_single_image_sets(tmp_path):
    (tmp_path / "Dynamic_Reasoning").mkdir()
    (tmp_path / "Dynamic_Reasoning/3.png").write_bytes(picture())
    row = {
        "id": "3_1",
        "question": "?",
        "options": ["a", "b"],
        "answer": 1,
        "task_type": "Dynamic_Reasoning",
        "sub_task_type": "Manipulation",
    }
    write_json(tmp_path / "data.json", [row])
    write_parquet(tmp_path / "vqa.parquet", [{"id": "mazenav.vqa.0.1", "text": "How many turns?", "image": cell(), "oracle_answer": "2"}])
    kinds = [("0", "yes", "str"), ("1", "chair", "str"), ("2", "3", "int"), ("3", "1.5", "float")]
    write_tsv(
        tmp_path / "omni3dbench.tsv", [{"index": i, "image": b64(), "question": "?", "answer": a, "answer_type": t} for i, a, t in kinds]
    )
    (omni,), (maze,) = load("omnispatial", tmp_path)[0], load("spatialeval", tmp_path)[0]
    assert (right(omni), omni.categories["sub_task_type"]) == ("b", "Manipulation")
    assert (maze.type, maze.open) == ("mazenav", {"metric": "contains", "answer": "2"})
    assert [i.open["metric"] for i in load("omni3d", tmp_path)[0]] == ["yes_no", "exact", "count", "mra_strict"]


def test_video_sets(tmp_path):
    for folder in ("frames/scannet/s1", "frames/v1"):
        (tmp_path / folder).mkdir(parents=True)
        for i in range(40):
            (tmp_path / folder / f"{i:03d}.jpg").write_bytes(picture(i, form="JPEG"))
    base = {"dataset": "scannet", "scene_name": "s1"}
    direction = base | {"id": 1, "question_type": "object_rel_direction_easy", "question": "Where?", "options": ["A. left", "B. right"]}
    counting = base | {"id": 2, "question_type": "object_counting", "question": "How many?", "options": None, "ground_truth": "4"}
    write_json(tmp_path / "test.jsonl", [direction | {"ground_truth": "B"}, counting])
    sti = {"Video": "v1.mp4", "ID": 0, "Question": "How fast?", "Candidates": {"A": "1 m/s", "B": "2 m/s"}, "Answer": "B", "Task": "Speed"}
    write_parquet(tmp_path / "qa.parquet", [sti | {"time_start": 1, "time_end": 3}])
    (first, second), (speed,) = load("vsi", tmp_path)[0], load("sti", tmp_path)[0]
    assert (right(first), len(first.images), first.images[0].name, first.images[-1].name) == ("right", 32, "000.jpg", "039.jpg")
    assert second.open == {"metric": "mra_first", "answer": "4"}
    assert prompt_text(second, Style.FRAMES).startswith("These are frames of a video.\nHow many?\n")
    assert (right(speed), speed.question, len(speed.images)) == ("2 m/s", "From 1 seconds to 3 seconds. How fast?", 30)
    write_json(tmp_path / "test.jsonl", [counting | {"scene_name": "gone"}])
    with pytest.raises(UserError, match=r"no frames in .*gone"):
        load("vsi", tmp_path)


def test_spar(tmp_path):
    rows = [
        {"id": "a", "task": "depth_prediction_oc_mv", "question": "How deep?", "answer": "2.5", "image": [cell(), cell(1)]},
        {
            "id": "b",
            "task": "view_change_infer",
            "question": "Motion?",
            "answer": "move_right:1.0,rotate_left:20",
            "image": [cell(), cell(1)],
        },
        {"id": "c", "task": "position_matching", "question": "Which box? A. (1,2) B. (3,4)", "answer": "B", "image": [cell(), cell(1)]},
    ]
    write_parquet(tmp_path / "test.parquet", rows)
    items, _ = load("spar", tmp_path)
    assert [i.open.get("metric") for i in items] == ["mra_last", "view_change", None]
    assert right(items[2]) == "(3,4)"
    assert "0-1000 scale" in prompt_text(items[2], Style.FRAMES)


# ---------------------------------------------------------------- refusals and examples


def test_missing_file_and_changed_columns(tmp_path):
    with pytest.raises(UserError, match=r"has none of test_2d.parquet: download it from the hub data set nyu-visionx/CV-Bench"):
        load("cv_bench", tmp_path)
    write_parquet(tmp_path / "test_2d.parquet", [{"idx": 0, "question": "?"}])
    with pytest.raises(UserError, match=r"lacks the columns type, task, image, choices"):
        load("cv_bench", tmp_path)
    write_tsv(tmp_path / "s.tsv", [{"index": 1, "question": "?", "A": "x", "answer": "A", "category": "c", "image": b64()}])
    with pytest.raises(UserError, match="lacks the columns B"):
        load("tsv", tmp_path, split="s")
    (tmp_path / "data.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        load("omnispatial", tmp_path)


def test_examples_load_lazily_and_carry_what_scoring_needs(tmp_path):
    write_tsv(
        tmp_path / "s.tsv",
        [{"index": 1, "question": "Q?", "A": "x", "B": "y", "answer": "B", "category": "c", "hint": "H", "image": b64()}],
    )
    items, _ = load("tsv", tmp_path, split="s")
    examples = BenchmarkExamples(items, Style.VLMEVAL, multiple=28, min_pixels=784, max_pixels=100_000)
    example = examples[0]
    assert example.images[0].shape == (56, 84, 3)
    assert example.questions[0].text == (
        "Hint: H\nQuestion: Q?\nOptions:\nA. x\nB. y\nPlease select the correct answer from the options above. \n"
    )
    assert example.row["categories"] == {"category": "c"}
    with pytest.raises(UserError, match="no prompt of its own"):
        prompt_text(items[0], Style.DATASET)
