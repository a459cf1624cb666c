"""Loaders against files written here in the published formats."""

import io
import json
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import benchmark_files as files
from support.benchmark_files import (
    EN,
    b64,
    threedsr_rows,
    write_json,
    write_parquet,
    write_tsv,
)

from actial.config import BenchmarkConfig, ImageConfig, ModelConfig, PromptConfig
from actial.core.errors import UserError
from actial.core.multiple_choice_format import answer_position, clean_options, inline_options
from actial.evaluation.benchmark_examples import BenchmarkExamples, decode, fit
from actial.evaluation.benchmark_results import benchmark_scores, beside_paper, open_benchmark
from actial.evaluation.benchmarks import BENCHMARKS
from actial.evaluation.benchmarks.base import Item, Source, Style, rotated
from actial.evaluation.benchmarks.mmsi import category_name
from actial.evaluation.benchmarks.prompts import prompt_text
from actial.evaluation.benchmarks.tables import json_rows
from actial.evaluation.server_client import chat_messages
from actial.grading.predictions import predict
from actial.modeling.prompt_renderer import PromptRenderer


def load(name, root, **options):
    benchmark = BENCHMARKS[name]
    source = Source(
        name=name,
        hub=benchmark.hub,
        root=Path(root),
        split=options.pop("split", benchmark.split),
    )
    return benchmark.load(source), source


def right(item):
    return item.options[item.answer_index]


# ---------------------------------------------------------------- answers and options


@pytest.mark.parametrize(
    ("answer", "position"),
    [
        ("(C)", 2),
        ("C", 2),
        ("C.", 2),
        ("C. up", 2),
        ("C) up", 2),
        ("(c)", 2),
        (2, 2),
        ("up", 2),
        (" Up ", 2),
        ("a b", 3),
    ],
)
def test_answer_conventions(answer, position):
    assert answer_position(answer, ("left", "right", "up", "a b"), "x") == position


def test_a_small_letter_is_an_option_s_text_before_it_is_its_letter():
    assert answer_position("b", ("a", "c", "b"), "x") == 2
    assert answer_position("b", ("left", "right"), "x") == 1


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
        (
            "Where? Options: A: Left, B: Right, C: In front, near, D: Behind",
            "Where?",
            ("Left", "Right", "In front, near", "Behind"),
        ),
        ("Where?\nA. A sofa\nB. The wall", "Where?", ("A sofa", "The wall")),
        (
            "I stand at view 1. What is left? A. TV B. Wooden dining table C. Sofa",
            "I stand at view 1. What is left?",
            ("TV", "Wooden dining table", "Sofa"),
        ),
        ("What did Mr. A. do?", "What did Mr. A. do?", ()),
        (
            "The robot stands at point A. Where is the cup? Choices: A. left. B. right. C. front.",
            "The robot stands at point A. Where is the cup?",
            ("left.", "right.", "front."),
        ),
        (
            "I am at viewpoint A. What is to my left? A. chair B. table C. sofa",
            "I am at viewpoint A. What is to my left?",
            ("chair", "table", "sofa"),
        ),
        (
            "I see vitamin A. Where is it?\nA. left\nB. right of C. then\nC. up",
            "I see vitamin A. Where is it?",
            ("left", "right of C. then", "up"),
        ),
        (
            "Which? Options: A: Building B: tall, B: Building A: short, C: none, D: both",
            "Which?",
            ("Building B: tall", "Building A: short", "none", "both"),
        ),
        ("It moved. Options: A. to B. B. to A. C. no", "It moved.", ("to B.", "to A.", "no")),
        ("哪里\uff1f选项\uff1aA. 左 B. 右", "哪里\uff1f", ("左", "右")),
        ("Which? (A) left; (B) right; (C) up", "Which?", ("left", "right", "up")),
        ("Which?\n\nA) left B) right", "Which?", ("left", "right")),
        ("No options here", "No options here", ()),
    ],
)
def test_inline_options(text, stem, options):
    assert inline_options(text) == (stem, options)


@pytest.mark.parametrize(
    ("options", "texts"),
    [
        ("['A. x', 'B. y, z']", ("x", "y, z")),
        (["A. x", "B. y"], ("x", "y")),
        (["St. John", "Dr. No"], ("St. John", "Dr. No")),
        (["J. Smith", "A. Jones"], ("J. Smith", "A. Jones")),
    ],
)
def test_options_of_vsi_bench_in_every_dress(options, texts, tmp_path):
    files.WRITERS["vsi"](tmp_path)
    row = json.loads((tmp_path / "test.jsonl").read_text().splitlines()[0])
    (tmp_path / "test.jsonl").write_text(json.dumps(row | {"options": options}))
    (item,), _ = load("vsi", tmp_path)
    assert (item.options, item.answer_index) == (texts, 1)


@pytest.mark.parametrize(
    ("option", "named"),
    [
        *((text, True) for text in ("Both A and B", "A and C", "A, B", "Neither (A) nor (B)")),
        *(
            (text, True)
            for text in ("None of the above", "all of above", "Option B", "B or C")
        ),
        *((text, False) for text in ("A is closer", "above the sofa", "Above", "A sofa")),
        *((text, False) for text in ("B", "Both sides", "a and b", "TV and sofa")),
    ],
)
def test_options_that_name_others_keep_their_order(option, named):
    """With the options turned, "Both A and B" would mean others than the author did."""
    item = Item(uid="u", images=[], question="?", options=("x", "y", option), answer_index=2)
    turned = rotated([item])
    assert len(turned) == (1 if named else 3)
    assert {i.circular["rotations"] for i in turned} == {len(turned)}
    assert right(turned[0]) == option
    assert not named or turned[0].options == item.options


def test_rotations_keep_the_right_option(tmp_path):
    write_tsv(
        tmp_path / "s.tsv",
        [
            {
                "index": 1,
                "question": "?",
                "A": "x",
                "B": "y",
                "C": "z",
                "answer": "B",
                "category": "c",
                "image": b64(),
            }
        ],
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
    buffer = io.BytesIO()
    gray = np.array([[0, 100], [200, 250]], np.uint16)
    Image.fromarray(gray * 257).save(buffer, "PNG")
    assert np.array_equal(decode(buffer.getvalue(), "x")[..., 1], gray)
    with pytest.raises(UserError, match="picture of x"):
        decode(b"no image", "x")
    buffer = io.BytesIO()
    Image.new("1", (20_000, 10_000)).save(buffer, "PNG")  # 25 kB that would fill 600 MB
    with pytest.raises(UserError, match=r"picture of x cannot be read .*decompression bomb"):
        decode(buffer.getvalue(), "x")


@pytest.mark.parametrize(
    ("size", "limits", "want"),
    [
        ((100, 60), (28, 784, 10_000), (112, 56)),
        ((1000, 500), (28, 784, 20_000), (196, 84)),
        ((5, 5), (28, 3136, 10_000), (56, 56)),
    ],
)
def test_fit_respects_the_limits(size, limits, want):
    multiple, low, high = limits
    sizes = ImageConfig(multiple=multiple, max_pixels=high)
    got = fit(np.zeros((size[1], size[0], 3), np.uint8), sizes, low)
    assert (got.shape[1], got.shape[0]) == want
    assert low <= got.shape[0] * got.shape[1] <= high
    assert got.shape[0] % multiple == got.shape[1] % multiple == 0


# ---------------------------------------------------------------- one benchmark each


def test_threedsrbench(tmp_path):
    files.write_3dsrbench(tmp_path)
    items, source = load("3dsrbench", tmp_path)
    assert [i.uid.split("/")[1] for i in items][:4] == [
        "ABCDEFG1",
        "ABCDEFG1-1",
        "ABCDEFG1-flip",
        "ABCDEFG1-flip-1",
    ]
    assert [i.circular["rotations"] for i in items] == [2] * 4 + [4] * 4
    assert [(i.circular["rotation"], i.circular["flip"]) for i in items[:4]] == [
        (0, False),
        (1, False),
        (0, True),
        (1, True),
    ]
    assert [right(i) for i in items[:4]] == ["u", "u", "v", "v"]
    assert items[3].images == items[0].images  # vector (f): a reference resolves
    assert items[4].images != items[0].images
    assert len(source.hashes["3dsrbench_v1_vlmevalkit_circular.tsv"]) == 64
    examples = BenchmarkExamples(
        items, Style.VLMEVAL, multiple=28, min_pixels=784, max_pixels=100_000
    )
    scores = BENCHMARKS["3dsrbench"].score([predict(e, e.questions[0], "A") for e in examples])
    assert (
        scores["random"]["overall"].value
        == (Fraction(1, 4) + Fraction(1, 4) + Fraction(1, 4**4)) / 3
    )  # k options: 1 / k^k
    assert scores["random"]["orientation_viewpoint"].value == Fraction(1, 4**4)


def test_threedsrbench_without_rotations_has_no_circular_figure(tmp_path):
    """Always "A" earns its share of the plain rows; the published figure needs all rotations, which benchmark.circular makes."""
    plain = [row for row in threedsr_rows() if row["qid"].removesuffix("-flip")[-2] != "-"]
    write_tsv(tmp_path / "3dsrbench_v1_vlmevalkit.tsv", plain)
    for circular in (False, True):
        config = BenchmarkConfig(name="3dsrbench", root=str(tmp_path), circular=circular)
        benchmark, source, items = open_benchmark(config)
        assert len(items) == (
            sum(len(item.options) for item in load("3dsrbench", tmp_path)[0])
            if circular
            else len(plain)
        )
        assert len({(item.circular["base"], item.circular["flip"]) for item in items}) == len(
            plain
        )
        examples = BenchmarkExamples(
            items, Style.VLMEVAL, multiple=28, min_pixels=784, max_pixels=100_000
        )
        actual = benchmark_scores(
            benchmark, source, [predict(e, e.questions[0], "A") for e in examples]
        )
        assert set(actual.scores) == {"vanilla", "flip"} | (
            {"circ", "flip_circ", "random"} if circular else set()
        )
        assert any("no options were rotated" in note for note in actual.notes) is not circular
        if circular:
            assert actual.scores["circ"]["overall"]["value"] == 0
        else:
            assert beside_paper("3dsrbench", actual).ours[0] is None


def test_threedsrbench_refuses_other_qids(tmp_path):
    write_tsv(tmp_path / "3DSRBench.tsv", [threedsr_rows()[0] | {"qid": "SHORT"}])
    with pytest.raises(UserError, match="qid SHORT"):
        load("3dsrbench", tmp_path)


def test_reference_to_a_missing_row_is_refused(tmp_path):
    write_tsv(tmp_path / "3DSRBench.tsv", [threedsr_rows()[1] | {"image": "99"}])
    with pytest.raises(UserError, match="picture row 99"):
        load("3dsrbench", tmp_path)


def test_cv_bench(tmp_path):
    files.write_cv_bench(tmp_path)
    items, _ = load("cv_bench", tmp_path)
    assert [(i.uid, right(i), i.categories) for i in items] == [
        ("cv_bench/2d/0", "4", {"task": "Count", "source": "COCO"}),
        ("cv_bench/2d/1", "above", {"task": "Relation", "source": "ADE20K"}),
        ("cv_bench/3d/2", "a", {"task": "Depth", "source": "Omni3D"}),
        ("cv_bench/3d/3", "a", {"task": "Distance", "source": "Omni3D"}),
    ]
    assert (
        prompt_text(items[0], Style.DATASET)
        == "How many? Select from the following choices.\n(A) 2\n(B) 1\n(C) 4"
    )
    assert len(load("cv_bench", tmp_path, split="3d")[0]) == 2


def test_blink(tmp_path):
    files.write_blink(tmp_path)
    items, _ = load("blink", tmp_path)
    assert [len(i.images) for i in items] == [2, 1, 1]
    assert {right(i) for i in items} == {"right"}
    files.write_blink(tmp_path, split="test", answer="hidden")
    with pytest.raises(UserError, match=r"hidden.*split=val"):
        load("blink", tmp_path, split="test")
    with pytest.raises(UserError, match="Art_Style"):
        load("blink_all", tmp_path)


def test_mmsi_in_both_releases(tmp_path):
    files.write_mmsi(tmp_path / "p")
    files.write_mmsi_tsv(tmp_path / "t")
    (one,), (other,) = load("mmsi", tmp_path / "p")[0], load("mmsi", tmp_path / "t")[0]
    assert one.images == other.images
    assert (one.categories, one.options, one.answer_index) == (
        other.categories,
        other.options,
        3,
    )  # vector (g)
    assert category_name(f"a{EN}b") == "a-b"
    assert prompt_text(one, Style.MMSI) == files.MMSI_QUESTION + (
        "\nAnswer with the option's letter from the given choices directly. Enclose the option's letter within ``."
    )


def test_sat(tmp_path):
    files.write_sat(tmp_path)
    items, source = load("sat", tmp_path)
    assert [i.type for i in items] == ["ego_motion"] * 2 + ["goal_aim"] * 2 + ["static"] * 3
    assert {right(i) for i in items} == {"moved left", "no"}
    assert items[0].options == items[1].options[::-1]
    assert sum(source.dropped.values()) == 1
    again, _ = load("sat", tmp_path)
    assert [i.options for i in again] == [i.options for i in items]


def test_viewpoint_100k_in_both_forms(tmp_path):
    files.write_viewpoint(tmp_path)
    items, _ = load("viewpoint_100k", tmp_path)
    assert (items[0].type, right(items[0]), len(items[0].images)) == (
        "object_translation",
        "Move to the left",
        2,
    )
    assert items[0].question.endswith("where did the camera move?")
    assert (items[1].options, items[1].open) == ((), {"metric": "joint", "answer": "r,A"})
    (tmp_path / "b.png").unlink()
    with pytest.raises(UserError, match=r"b\.png is missing"):
        load("viewpoint_100k", tmp_path)


ONE_LINE = "<image><image>Fixed. From the camera's perspective, how did it turn? A: Rotate to the left "
ONE_LINE += "B: Rotate to the right C: No rotation. Please output only the option letter."


def test_viewpoint_100k_on_one_line_is_asked_for_a_letter_once(tmp_path):
    """The paper's wording has question, options and request on one line."""
    files.write_pictures(tmp_path, "a.png", "b.png")
    turns = [{"from": "human", "value": ONE_LINE}, {"from": "gpt", "value": "A"}]
    rows = [{"image": ["a.png", "b.png"], "conversations": turns}]
    files.write_json(tmp_path / "test.json", rows)
    (item,), _ = load("viewpoint_100k", tmp_path)
    assert item.options == ("Rotate to the left", "Rotate to the right", "No rotation")
    assert (item.type, right(item)) == ("ego_rotation", "Rotate to the left")
    text = prompt_text(item, Style.LETTER)
    assert "output only" not in text
    assert text.lower().count("letter") == 1
    files.write_json(tmp_path / "test.json", [{"photo": "a.png", "text": "?"}])
    with pytest.raises(
        UserError, match=r"test\.json: a row has the columns photo, text: the turns"
    ):
        load("viewpoint_100k", tmp_path)


def test_tables_of_the_release_have_options_in_columns_or_in_the_question(tmp_path):
    files.write_omnispatial_release(tmp_path)
    (item,), _ = load("omnispatial_release", tmp_path)
    assert (item.options, right(item), len(item.images)) == (
        ("left", "right", "behind"),
        "right",
        2,
    )
    assert (item.question, item.type) == ("Where is it?", "Perspective")
    assert "Answer with the letter." in prompt_text(item, Style.DATASET)
    assert "Answer with the letter." not in prompt_text(item, Style.VLMEVAL)
    files.write_viewspatial_release(tmp_path)
    (item,), _ = load("viewspatial_release", tmp_path)
    assert (item.options, right(item)) == (("left", "right"), "right")


def test_view_sets(tmp_path):
    for name in ("viewspatial", "mindcube", "all_angles"):
        files.WRITERS[name](tmp_path)
    (view,), (cube,), (angles,) = (
        load(name, tmp_path)[0] for name in ("viewspatial", "mindcube", "all_angles")
    )
    assert (right(view), view.options) == ("left", ("right", "left", "front", "back"))
    assert prompt_text(view, Style.VIEWSPATIAL).endswith(
        "D. back\nReply only to the corresponding option.\nAnswer:"
    )
    assert (right(cube), cube.type, len(cube.images)) == ("Sofa", "around", 2)
    assert (right(angles), angles.type) == ("3", "counting")


def test_single_image_sets(tmp_path):
    for name in ("omnispatial", "spatialeval", "omni3d"):
        files.WRITERS[name](tmp_path)
    (omni,), (maze,) = load("omnispatial", tmp_path)[0], load("spatialeval", tmp_path)[0]
    assert (right(omni), omni.categories["sub_task_type"]) == ("b", "Manipulation")
    assert (maze.type, maze.open) == ("mazenav", {"metric": "contains", "answer": "2"})
    assert [i.open["metric"] for i in load("omni3d", tmp_path)[0]] == [
        "yes_no",
        "exact",
        "count",
        "mra_strict",
    ]


def test_video_sets(tmp_path):
    files.write_vsi(tmp_path)
    files.write_sti(tmp_path)
    (first, second), (speed,) = load("vsi", tmp_path)[0], load("sti", tmp_path)[0]
    assert (right(first), len(first.images), first.images[0].name, first.images[-1].name) == (
        "right",
        32,
        "000.jpg",
        "039.jpg",
    )
    assert second.open == {"metric": "mra_token", "answer": "4"}
    assert prompt_text(second, Style.FRAMES).startswith(
        "These are frames of a video.\nHow many?\n"
    )
    assert (right(speed), speed.question, len(speed.images)) == (
        "2 m/s",
        "From 1 seconds to 3 seconds. How fast?",
        30,
    )
    gone = {
        "id": 1,
        "dataset": "scannet",
        "scene_name": "gone",
        "question_type": "t",
        "question": "?",
        "options": None,
        "ground_truth": "4",
    }
    write_json(tmp_path / "test.jsonl", [gone | {"ground_truth": "4"}])
    with pytest.raises(UserError, match=r"no frames in .*gone"):
        load("vsi", tmp_path)


def test_spar(tmp_path):
    files.write_spar(tmp_path)
    items, _ = load("spar", tmp_path)
    assert [i.open.get("metric") for i in items] == ["mra_last", "view_change", None]
    assert right(items[2]) == "(3,4)"
    assert "0-1000 scale" in prompt_text(items[2], Style.FRAMES)


# ---------------------------------------------------------------- refusals and examples


def test_missing_file_and_changed_columns(tmp_path):
    with pytest.raises(
        UserError,
        match=r"none of test_2d.parquet \(columns idx, .*, source\): download it from the hub data set nyu-visionx",
    ):
        load("cv_bench", tmp_path)
    write_parquet(tmp_path / "test_2d.parquet", [{"idx": 0, "question": "?"}])
    with pytest.raises(UserError, match=r"lacks the columns type, task, image, choices"):
        load("cv_bench", tmp_path)
    write_tsv(
        tmp_path / "s.tsv",
        [
            {
                "index": 1,
                "question": "?",
                "A": "x",
                "answer": "A",
                "category": "c",
                "image": b64(),
            }
        ],
    )
    with pytest.raises(UserError, match="lacks the columns B"):
        load("tsv", tmp_path, split="s")
    (tmp_path / "data.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        load("omnispatial", tmp_path)
    (tmp_path / "data.json").write_text('{"a": 1}')
    with pytest.raises(UserError, match="is no list of records"):
        load("omnispatial", tmp_path)
    for content in (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
        b"PAR1 cut short",
    ):
        (tmp_path / "test_2d.parquet").write_bytes(content)
        with pytest.raises(
            UserError, match=r"test_2d\.parquet cannot be read as parquet .*: fetch it again"
        ):
            load("cv_bench", tmp_path)


def test_a_line_of_json_ends_where_the_file_says_so(tmp_path):
    """U+2028 within a text is no line's end."""
    (tmp_path / "rows.jsonl").write_text(
        '{"text": "a\u2028b"}\n\n{"text": "c"}\n', encoding="utf-8"
    )
    assert [row["text"] for row in json_rows(tmp_path / "rows.jsonl", ("text",))] == [
        "a\u2028b",
        "c",
    ]


@pytest.mark.parametrize("name", sorted(BENCHMARKS))
def test_a_missing_file_is_refused_with_its_columns(name, tmp_path):
    with pytest.raises(
        UserError, match=rf"^{name}: .* has none of .* \(columns .*\): download it"
    ):
        load(name, tmp_path)


def test_groups_of_a_circular_tsv(tmp_path):
    offset = 10**6
    row = {"question": "?", "category": "c", "image": b64()}
    rows = [
        row | {"index": 0, "g_index": 0, "A": "x", "B": "y", "answer": "A"},
        row
        | {
            "index": 1,
            "g_index": 1,
            "A": "A or B",
            "B": "z",
            "answer": "B",
        },  # letters inside an option: it stays unrotated
        row | {"index": offset, "g_index": 0, "A": "y", "B": "x", "answer": "B", "image": "0"},
    ]
    write_tsv(tmp_path / "s.tsv", rows)
    items, source = load("tsv", tmp_path, split="s")
    assert [right(item) for item in items] == ["x", "z", "x"]
    places = [
        (item.circular["base"], item.circular["rotation"], item.circular["rotations"])
        for item in items
    ]
    assert places == [("0", 0, 2), ("1", 0, 1), ("0", 1, 2)]
    examples = BenchmarkExamples(
        items, Style.VLMEVAL, multiple=28, min_pixels=784, max_pixels=100_000
    )
    answers = [
        predict(e, e.questions[0], letter)
        for e, letter in zip(examples, ("A", "B", "A"), strict=True)
    ]
    scores = benchmark_scores(BENCHMARKS["tsv"], source, answers).scores
    assert (scores["overall"]["n"], scores["overall"]["value"]) == (3, pytest.approx(2 / 3))
    assert (scores["circular"]["n"], scores["circular"]["value"]) == (2, 0.5)
    write_tsv(tmp_path / "s.tsv", rows[1:])
    with pytest.raises(UserError, match="group 0 lacks its first row"):
        load("tsv", tmp_path, split="s")
    write_tsv(tmp_path / "s.tsv", [row | {"C": "w"} for row in rows])
    with pytest.raises(
        UserError, match="group 0 has 2 rows for the 3 rotations of its options"
    ):
        load("tsv", tmp_path, split="s")


def test_the_text_may_come_before_the_pictures(tmp_path, untrained_model):
    files.write_blink(tmp_path)
    items, _ = load("blink", tmp_path)
    renderer = PromptRenderer.load(
        ModelConfig(path=str(untrained_model), min_pixels=256, max_pixels=16384),
        PromptConfig(),
    )
    limits = renderer.limits
    requested = {}
    for style in (Style.DATASET, Style.DATASET_TEXT_FIRST):
        examples = BenchmarkExamples(
            items, style, multiple=limits.multiple, min_pixels=256, max_pixels=16384
        )
        example = examples[0]
        text = renderer.decode(renderer.prompt(example, example.questions[0]).engine_ids)
        kinds = [
            part["type"]
            for part in chat_messages(example, example.questions[0], None)[0]["content"]
        ]
        requested[style] = (
            text.index(items[0].raw_prompt) < text.index("<|image_pad|>"),
            kinds,
        )
        assert text.count("<|image_pad|>") == len(items[0].images)
    pictures = ["image_url"] * len(items[0].images)
    assert requested == {
        Style.DATASET: (False, [*pictures, "text"]),
        Style.DATASET_TEXT_FIRST: (True, ["text", *pictures]),
    }


def test_examples_load_lazily_and_carry_what_scoring_needs(tmp_path):
    write_tsv(
        tmp_path / "s.tsv",
        [
            {
                "index": 1,
                "question": "Q?",
                "A": "x",
                "B": "y",
                "answer": "B",
                "category": "c",
                "hint": "H",
                "image": b64(),
            }
        ],
    )
    items, _ = load("tsv", tmp_path, split="s")
    examples = BenchmarkExamples(
        items, Style.VLMEVAL, multiple=28, min_pixels=784, max_pixels=100_000
    )
    example = examples[0]
    assert example.images[0].shape == (56, 84, 3)
    assert example.questions[0].text == (
        "Hint: H\nQuestion: Q?\nOptions:\nA. x\nB. y\nPlease select the correct answer from the options above. \n"
    )
    assert example.record.categories == {"category": "c"}
    with pytest.raises(UserError, match="no prompt of its own"):
        prompt_text(items[0], Style.DATASET)


# ---------------------------------------------------------------- the hub


def test_hub_ids_are_read_from_the_hubs_own_cache(tmp_path):
    """Offline, with the cache that a download leaves behind: the first published name that is there is taken, at the revision given."""
    commit, cache = (
        "0123456789abcdef0123456789abcdef01234567",
        tmp_path / "hub/datasets--RunsenXu--MMSI-Bench",
    )
    files.write_mmsi_tsv(cache / "snapshots" / commit)
    (cache / "refs").mkdir()
    (cache / "refs/main").write_text(commit)
    code = (
        "from actial.evaluation.benchmark_results import open_benchmark\nfrom actial.config import BenchmarkConfig\n"
        "from actial.core.errors import UserError\nimport sys\n"
        "try:\n    _, source, items = open_benchmark(BenchmarkConfig(name=sys.argv[1], revision=sys.argv[2] or None))\n"
        "    print(items[0].uid, *source.hashes)\nexcept UserError as error:\n    print(error)\n"
    )

    def opened(name, revision=""):
        environment = os.environ | {
            "HF_HUB_OFFLINE": "1",
            "HF_HUB_CACHE": str(tmp_path / "hub"),
        }
        done = subprocess.run(
            [sys.executable, "-c", code, name, revision],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    assert opened("mmsi") == opened("mmsi", commit) == "mmsi/7 MMSI_bench.tsv"
    assert (
        "MMSI_Bench.parquet or MMSI_bench.tsv or MMSI_Bench.tsv of RunsenXu/MMSI-Bench cannot be fetched"
        in opened("mmsi", "v2")
    )
    assert "give benchmark.root=FOLDER" in opened("cv_bench")
    assert "no place on the hub" in opened("tsv")
