"""Sets in EASI's tables, against files written here in their published form."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from support import benchmark_files as files
from support.predictions import prediction

from actial.core.errors import UserError
from actial.evaluation.benchmarks import BENCHMARKS
from actial.evaluation.benchmarks.base import Source
from actial.evaluation.benchmarks.easi_tables import score_site
from actial.evaluation.benchmarks.mmsi_video import sample_frames
from actial.evaluation.benchmarks.prompts import prompt_text
from actial.evaluation.benchmarks.tables import listed


def load(name, root, split=""):
    benchmark = BENCHMARKS[name]
    files.WRITERS[name](root)
    split = split or benchmark.split
    return benchmark.load(Source(name=name, hub="", root=Path(root), split=split))


def asked(name, item):
    return prompt_text(item, BENCHMARKS[name].style)


def test_embspatial_in_both_forms(tmp_path):
    (item,) = load("embspatial", tmp_path / "table")
    assert (item.options[item.answer_index], item.type) == ("left", "mp3d")
    assert asked("embspatial", item) == (
        "Question: How are the chair and the table placed?\nOptions:\nA: above\nB: below\n"
        "C: left\nD: right\nGive me the answer letter directly. The best answer is:"
    )
    row = {"question_id": "mp3d_0", "question": item.question, "data_source": "mp3d"}
    row |= {"answer_options": list(item.options), "answer": 2, "relation": "left"}
    files.write_parquet(tmp_path / "copy/test.parquet", [row | {"image": files.cell()}])
    source = Source(name="embspatial", hub="", root=tmp_path / "copy")
    (copied,) = BENCHMARKS["embspatial"].load(source)
    assert (copied.options, copied.answer_index) == (item.options, item.answer_index)
    assert copied.images == item.images
    assert copied.categories == {"data_source": "mp3d", "relation": "left"}


def test_site_images_and_videos(tmp_path):
    two, single, video = load("site", tmp_path)
    assert [len(item.images) for item in (two, single, video)] == [2, 1, 32]
    assert two.question == "Does [image 1] show what [image 2] shows?"
    assert single.options == ("yes", "it isn't")
    assert [item.categories["options"] for item in (two, single, video)] == ["3", "2", "4"]
    assert [item.uid for item in (two, video)] == ["site/image/0", "site/video/0"]
    assert asked("site", video) == (
        "Select the best answer to the following multiple-choice question based on the video. "
        "Respond with only the letter of the correct option.\nQuestion: Where does it go?\n"
        "Options:\nA: left\nB: right\nC: up\nD: on\n"
        "Give me the answer letter directly. The best answer is:"
    )
    assert [item.uid for item in load("site", tmp_path, split="video")] == ["site/video/0"]


def test_site_is_adjusted_for_chance():
    """Of 2, 4 and 4 options two are right: (2 - 1) / (3 - 1)."""
    rows = [
        prediction(str(i), right, categories={"options": n, "category": kind})
        for i, (right, n, kind) in enumerate([(1, "2", "a"), (1, "4", "b"), (0, "4", "b")])
    ]
    scores = score_site(rows)
    assert scores["overall"].value == Fraction(1, 2)
    assert scores["accuracy"].value == Fraction(2, 3)
    assert scores["category"]["a"].value == 1
    assert scores["category"]["b"].value == Fraction(1, 3)
    assert scores["overall"].low < 0.5 < scores["overall"].high < 1.0
    wrong = score_site([prediction("0", 0, categories={"options": "2", "category": "a"})])
    assert wrong["overall"].value == -1


def test_erqa_options_end_before_the_request(tmp_path):
    (item,) = load("erqa", tmp_path)
    assert item.options == ("The left one.", "The right one.", "Both.", "None of the above.")
    assert (item.answer_index, len(item.images)) == (1, 2)
    assert asked("erqa", item) == files.ERQA_QUESTION


def test_spbench_parts(tmp_path):
    direction, count = load("spbench", tmp_path)
    assert (direction.options, direction.answer_index) == (("left", "right"), 1)
    assert (count.open, len(count.images)) == ({"metric": "mra_token", "answer": "4"}, 2)
    assert asked("spbench", count).endswith("a numerical value (e.g., 42 or 3.1) directly.")
    rows = [prediction("0", 1, categories={"part": "SI"}, kind="object_rel_direction")]
    rows += [
        prediction(str(i), right, categories={"part": "MV"}, kind=kind)
        for i, (right, kind) in enumerate([(1, "object_counting"), (0, "x"), (0, "x")])
    ]
    scores = BENCHMARKS["spbench"].score(rows)
    assert [float(scores[part]["overall"].value) for part in ("SI", "MV")] == [1.0, 0.5]


def test_debiased_questions_are_not_taken_for_the_whole_set(tmp_path):
    assert len(load("vsi_debiased", tmp_path)) == 2
    with pytest.raises(UserError, match=r"has none of test\.jsonl, test\.parquet"):
        BENCHMARKS["vsi"].load(Source(name="vsi", hub="", root=tmp_path, split="test"))


def test_mmsi_video_frames_and_placeholders(tmp_path):
    (item,) = load("mmsi_video", tmp_path)
    assert len(item.images) == 51
    names = [str(path.relative_to(tmp_path)) for path in item.images]
    assert (names[0], names[49]) == ("frames/a/000.jpg", "frames/b/019.jpg")
    assert names[50] == "ref_images/r.jpg"
    first = sum(name.startswith("frames/a") for name in names)
    assert asked("mmsi_video", item) == (
        f"Watch.\nClips: [images 1 to {first}] and [images {first + 1} to 50]. "
        "Is [image 51] there? Options: A. yes B. no C. partly Answer with a letter."
    )
    assert item.options == ("yes", "no", "partly")


@pytest.mark.parametrize("lengths", [[60, 20], [3], [1, 1, 1], [200, 0, 1], [50], [51, 2]])
def test_frames_are_spaced_over_all_clips(lengths):
    sampled = sample_frames(lengths, 50)
    starts = np.cumsum([0, *lengths])
    joined = [start + i for start, clip in zip(starts, sampled, strict=False) for i in clip]
    total = sum(lengths)
    step = (total - 1) / (min(50, total) - 1)
    assert joined == [int(i * step + 1e-9) for i in range(min(50, total))]
    assert len(sampled) == len(lengths)


def test_a_cell_that_is_no_list_is_refused():
    assert listed('["a", 1]', Path("t")) == listed("['a', 1]", Path("t")) == ["a", 1]
    assert listed("", Path("t")) == listed("nan", Path("t")) == []
    for cell in ("a, b", "{'a': 1}", "7"):
        with pytest.raises(UserError, match=r"is no list: fetch the file again"):
            listed(cell, Path("t"))
