"""SAT's releases with every known trap of their rows, read and built into shards of questions."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from actial.build import build
from actial.config import (
    BuildConfig,
    ImageConfig,
    ImageFormat,
    QuestionConfig,
    SourceConfig,
    SourceKind,
)
from actial.core.errors import UserError
from actial.core.set_records import QuestionRecord
from actial.data.qa.question_shards import balanced
from actial.data.qa.sat_rows import Unusable, encoded_images, find_files, parse_row
from actial.data.shards import ShardSet


def picture(
    seed: int, size: tuple[int, int] = (48, 32), orientation: int | None = None
) -> bytes:
    """A JPEG whose left half is bright; a careless reader would obey its EXIF `orientation`."""
    pixels = np.full((size[1], size[0], 3), seed % 100, np.uint8)
    pixels[:, : size[0] // 2] += 120
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95, exif=exif)
    return buffer.getvalue()


def v1(
    images: list[bytes], question: str, answers: list[str], correct: str, kind: str = "other"
) -> dict:
    return {
        "image_bytes": images,
        "question": question,
        "answers": answers,
        "question_type": kind,
        "correct_answer": correct,
    }


def write(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=len(rows))


def configured(root: Path, out: Path, **qa: object) -> BuildConfig:
    source = SourceConfig(kind=SourceKind.sat, root=str(root), license="MIT")
    image = ImageConfig(max_pixels=48 * 32, multiple=16, format=ImageFormat.png)
    return BuildConfig(
        source=source,
        image=image,
        qa=QuestionConfig(**qa),
        out=str(out),
        groups_per_shard=2,
        workers=1,
    )


# ---------------------------------------------------------------- one row


def test_the_answer_is_a_text_and_letter_case_does_not_matter() -> None:
    sat_question = parse_row(
        v1([], " Which side? ", ["Left", "no, it would stay the same"], "left")
    )
    assert (sat_question.question, sat_question.options, sat_question.answer_index) == (
        "Which side?",
        ("Left", "no, it would stay the same"),
        0,
    )


@pytest.mark.parametrize("correct", ["the chair", "the chair in the first frame"])
def test_the_stray_first_frame_goes_from_options_and_answer(correct: str) -> None:
    sat_question = parse_row(
        v1([], "q", ["the lamp in the first frame", "the chair in the first frame"], correct)
    )
    assert (sat_question.options, sat_question.answer_index) == (("the lamp", "the chair"), 1)


def test_equal_distractors_become_one_option() -> None:
    sat_question = parse_row(v1([], "q", ["right", "left", "Right"], "left"))
    assert (sat_question.options, sat_question.answer_index) == (("right", "left"), 1)


@pytest.mark.parametrize(
    ("answers", "correct"),
    [
        (["left", "right"], "up"),
        (["left", "LEFT", "right"], "left"),
        (["left"], "left"),
        ([], "left"),
        (["left", "right"], None),
    ],
)
def test_an_answer_that_is_not_exactly_one_of_several_options_makes_no_question(
    answers: list[str], correct: str | None
) -> None:
    with pytest.raises(Unusable):
        parse_row(v1([], "q", answers, correct))


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        ("other", "static"),
        ("action_sequence", "ego_motion"),
        ("ego_movement", "ego_motion"),
        ("obj_movement", "obj_motion"),
        ("action_consequence", "action_conseq"),
        ("action_conseq", "action_conseq"),
        ("goal_aim", "goal_aim"),
        ("perspective", "perspective"),
        ("something new", "something new"),
    ],
)
def test_type_names_of_all_splits_are_one(raw: str, kind: str) -> None:
    assert parse_row(v1([], "q", ["a", "b"], "a", raw)).type == kind


@pytest.mark.parametrize(
    ("question", "answers", "kind"),
    [
        ("How many chairs are there?", ["3", "4"], "count"),
        ("Which is closer to the camera, the red (A) or the blue (B)?", ["A", "B"], "depth"),
        ("Is the lamp to the left of the bed?", ["yes", "no"], "relation"),
    ],
)
def test_kinds_of_static_rows_are_read_off_the_wording(
    question: str, answers: list[str], kind: str
) -> None:
    assert parse_row(v1([], question, answers, answers[0])).subtype == kind


def test_pictures_come_as_bytes_as_hub_structs_and_as_pil() -> None:
    data = picture(1)
    assert encoded_images({"image_bytes": [data, data]}) == [data, data]
    assert encoded_images({"images": [{"bytes": data, "path": "x.jpg"}]}) == [data]
    (encoded,) = encoded_images({"images": Image.open(io.BytesIO(data))})
    assert (
        np.asarray(Image.open(io.BytesIO(encoded))) == np.asarray(Image.open(io.BytesIO(data)))
    ).all()
    with pytest.raises(Unusable):
        encoded_images({"images": [{"bytes": None, "path": "x.jpg"}]})


def verl(images: list[bytes], content: str, truth: str) -> dict:
    return {
        "prompt": [
            {"role": "system", "content": "Think."},
            {"role": "user", "content": content},
        ],
        "images": [{"bytes": data} for data in images],
        "data_source": "sat",
        "reward_model": {"ground_truth": truth},
        "extra_info": {"index": 3},
    }


@pytest.mark.parametrize("truth", ["B", "moved left"])
def test_rows_of_verls_layout(truth: str) -> None:
    sat_question = parse_row(
        verl(
            [], "<image><image>How did it move? Options: A: moved right, B: moved left", truth
        )
    )
    assert (sat_question.question, sat_question.options, sat_question.answer_index) == (
        "How did it move?",
        ("moved right", "moved left"),
        1,
    )
    with pytest.raises(Unusable):
        parse_row(verl([], "<image>How did it move?", truth))


# ---------------------------------------------------------------- files


def test_static_file_is_left_out_beside_train_and_an_empty_folder_is_refused(
    tmp_path: Path,
) -> None:
    with pytest.raises(UserError, match=r"holds no SAT_train\.parquet"):
        find_files(tmp_path)
    for name in ("SAT_static", "SAT_train", "SAT_test"):
        (tmp_path / f"{name}.parquet").touch()
    assert {
        split: [p.name for p in paths] for split, paths in find_files(tmp_path).items()
    } == {
        "train": ["SAT_train.parquet"],
        "test": ["SAT_test.parquet"],
    }
    (tmp_path / "SAT_train.parquet").unlink()
    assert find_files(tmp_path)["train"][0].name == "SAT_static.parquet"


def test_one_giant_row_group_is_never_held_as_a_whole(tmp_path: Path) -> None:
    """40 MB in one row group, in small pages; the measured process does nothing but read."""
    rows = {
        "image_bytes": [[np.random.default_rng(i).bytes(20_000)] for i in range(2000)],
        "question": ["q"] * 2000,
    }
    path = tmp_path / "SAT_train.parquet"
    pq.write_table(
        pa.table(rows), path, row_group_size=2000, write_batch_size=32, use_dictionary=False
    )
    assert pq.ParquetFile(path).metadata.num_row_groups == 1
    code = (
        "import sys, pathlib, pyarrow; from actial.core.parquet import stream\n"
        "rows = sum(row['question'] == 'q' for row in stream(pathlib.Path(sys.argv[1])));"
        "print(rows, pyarrow.default_memory_pool().max_memory())"
    )
    count, peak = subprocess.run(
        [sys.executable, "-c", code, str(path)], check=True, capture_output=True, text=True
    ).stdout.split()
    assert int(count) == 2000
    assert int(peak) < 16e6


def test_a_broken_file_ends_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "SAT_train.parquet").write_bytes(b"PAR1 not parquet")
    with pytest.raises(UserError, match="cannot be read as parquet"):
        build(configured(tmp_path, tmp_path / "out"))


def test_a_file_damaged_in_its_pages_ends_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "sat" / "SAT_train.parquet"
    write(path, [v1([picture(i)], "q", ["left", "right"], "left") for i in range(40)])
    data = bytearray(path.read_bytes())
    data[100:400] = b"\xff" * 300
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"SAT_train\.parquet is damaged"):
        build(configured(tmp_path / "sat", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("question", None, "no question"),
        ("question", " ", "no question"),
        ("answers", None, "answer is not exactly one option"),
        ("answers", ["left", None], "an option is missing"),
        ("image_bytes", None, "picture missing"),
        ("image_bytes", [None], "picture missing"),
    ],
)
def test_a_row_with_an_empty_field_is_counted(
    tmp_path: Path, field: str, value: object, reason: str
) -> None:
    good = [v1([picture(i)], "q", ["left", "right"], "left") for i in range(2)]
    write(tmp_path / "sat" / "SAT_train.parquet", [*good, {**good[0], field: value}])
    build(configured(tmp_path / "sat", tmp_path / "out"))
    counts = json.loads((tmp_path / "out" / "rejects.json").read_text())["questions"]
    assert (counts["written"], counts[reason]) == (2, 1)


def test_foreign_columns_end_in_one_sentence(tmp_path: Path) -> None:
    write(
        tmp_path / "sat" / "SAT_train.parquet",
        [{"image_bytes": [picture(1)], "question": "q"}],
    )
    with pytest.raises(UserError, match="SAT's columns or verl's"):
        build(configured(tmp_path / "sat", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- the build


def release(root: Path) -> None:
    """Train (static first), val and test; one train image is also in test, one is truncated."""
    train = [v1([picture(i)], "how many?", ["1", "2", "3"], "2") for i in range(6)]
    train += [
        v1([picture(0)], "which is closer, a or b?", ["a", "b"], "a")
    ]  # a second question about the first picture
    train += [
        v1(
            [picture(i), picture(i + 1)],
            "moved?",
            ["left", "right"],
            "left",
            "action_sequence",
        )
        for i in (10, 20, 30)
    ]
    train += [v1([picture(90)], "leak?", ["left", "right"], "left", "goal_aim")]
    train += [v1([picture(41)[:300]], "broken?", ["left", "right"], "left", "goal_aim")]
    train += [v1([picture(42)], "unmatched?", ["left", "right"], "up", "goal_aim")]
    write(root / "SAT_train.parquet", train)
    write(
        root / "SAT_val.parquet",
        [v1([picture(80, orientation=6)], "q", ["left", "right"], "right", "goal_aim")],
    )
    write(
        root / "SAT_test.parquet",
        [v1([picture(90)], "q", ["left", "right"], "left", "perspective")],
    )


def test_a_release_becomes_shards(tmp_path: Path) -> None:
    release(tmp_path / "sat")
    build(configured(tmp_path / "sat", tmp_path / "out"))
    train = ShardSet(tmp_path / "out", "train")
    assert sorted(row.uid for row in train.records) == sorted(
        f"sat:train:{i}" for i in range(10)
    )
    first = next(row for row in train.records if row.uid == "sat:train:0")
    again = next(row for row in train.records if row.uid == "sat:train:6")
    assert isinstance(first, QuestionRecord)
    assert (first.type, first.subtype, first.raw_type) == ("static", "count", "other")
    assert (first.options, first.answer_index) == (("1", "2", "3"), 1)
    assert (first.group, first.images) == (
        again.group,
        again.images,
    )  # one picture, stored once, two questions
    two = next(row for row in train.records if row.uid == "sat:train:7")
    left, right = train.images(two)
    assert left.shape == right.shape == (32, 48, 3)
    assert left[16, 40].mean() == pytest.approx(10, abs=2)
    assert right[16, 40].mean() == pytest.approx(11, abs=2)
    counts = json.loads((tmp_path / "out" / "rejects.json").read_text())["questions"]
    assert counts == {
        "answer is not exactly one option": 1,
        "beyond the shares or max_rows": 0,
        "picture also in a held-out split": 1,
        "picture unreadable": 1,
        "rows without a readable picture": 1,
        "seen": 15,
        "written": 12,
    }
    assert "<b>2</b>" in (tmp_path / "out" / "audit.html").read_text()


def test_an_orientation_tag_turns_nothing_and_is_not_kept(tmp_path: Path) -> None:
    release(tmp_path / "sat")
    config = configured(tmp_path / "sat", tmp_path / "out")
    config.image.format = ImageFormat.jpg
    build(config)
    val = ShardSet(tmp_path / "out", "val")
    (pixels,) = val.images(val.records[0])
    assert pixels.shape == (32, 48, 3)
    assert pixels[:, :20].mean() > pixels[:, 28:].mean() + 80
    raw = Image.open(io.BytesIO(val._read(val.records[0], val.records[0].images[0])))
    assert 0x0112 not in raw.getexif()


def test_hub_shards_are_one_split_and_give_the_rows_of_the_single_file(tmp_path: Path) -> None:
    rows = [v1([picture(i)], "q", ["left", "right"], "left") for i in range(5)]
    write(tmp_path / "one" / "SAT_train.parquet", rows)
    hub = [
        {
            **{k: v for k, v in row.items() if k != "image_bytes"},
            "images": [{"bytes": row["image_bytes"][0], "path": None}],
        }
        for row in rows
    ]
    write(tmp_path / "two" / "data" / "train-00000-of-00002.parquet", hub[:3])
    write(tmp_path / "two" / "data" / "train-00001-of-00002.parquet", hub[3:])
    for name in ("one", "two"):
        build(configured(tmp_path / name, tmp_path / f"{name}-out"))
    one, two = (ShardSet(tmp_path / f"{name}-out", "train").records for name in ("one", "two"))
    assert one == two


def test_verl_files_build_too(tmp_path: Path) -> None:
    rows = [
        verl([picture(1), picture(2)], "<image><image>Moved? Options: A: left, B: right", "B")
    ]
    write(tmp_path / "sat" / "train-00000-of-00001.parquet", rows)
    build(configured(tmp_path / "sat", tmp_path / "out"))
    (row,) = ShardSet(tmp_path / "out", "train").records
    assert (row.options, row.answer_index, len(row.images)) == (("left", "right"), 1, 2)


def test_a_second_run_does_nothing_and_another_configuration_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    release(tmp_path / "sat")
    build(configured(tmp_path / "sat", tmp_path / "out"))
    build(configured(tmp_path / "sat", tmp_path / "out"))
    assert "nothing to do" in capsys.readouterr().out
    with pytest.raises(UserError, match="another configuration"):
        build(configured(tmp_path / "sat", tmp_path / "out", max_rows=1))


# ---------------------------------------------------------------- balance


def many() -> list[dict]:
    """100 static rows, then 20 of one dynamic type and 10 of another, as in the original."""
    kinds = ["static"] * 100 + ["ego_motion"] * 20 + ["goal_aim"] * 10
    return [{"uid": f"sat:train:{i}", "type": kind} for i, kind in enumerate(kinds)]


def kept(**qa: object) -> dict[str, int]:
    rows = balanced(many(), QuestionConfig(**qa))
    return {
        kind: sum(row["type"] == kind for row in rows)
        for kind in ("static", "ego_motion", "goal_aim")
    }


def test_shares_down_weight_static_rows_and_the_scarcest_type_decides() -> None:
    assert kept() == {"static": 100, "ego_motion": 20, "goal_aim": 10}
    assert kept(shares={"static": 2, "ego_motion": 1, "goal_aim": 1}) == {
        "static": 20,
        "ego_motion": 10,
        "goal_aim": 10,
    }
    assert kept(shares={"static": 2, "ego_motion": 1, "goal_aim": 1}, max_rows=20) == {
        "static": 10,
        "ego_motion": 5,
        "goal_aim": 5,
    }
    assert kept(shares={"ego_motion": 1, "static": 0}) == {
        "static": 0,
        "ego_motion": 20,
        "goal_aim": 0,
    }


def test_a_cap_draws_from_the_whole_ordered_file() -> None:
    counts = kept(max_rows=65)
    assert sum(counts.values()) == 65
    assert (
        counts["ego_motion"] + counts["goal_aim"] > 8
    )  # the head of the file would give none


def test_a_share_for_a_type_that_is_not_there_is_refused() -> None:
    with pytest.raises(UserError, match="perspective"):
        kept(shares={"perspective": 1})


def test_a_bad_share_leaves_nothing_behind_and_can_be_mended(tmp_path: Path) -> None:
    release(tmp_path / "sat")
    with pytest.raises(UserError, match="perspective"):
        build(configured(tmp_path / "sat", tmp_path / "out", shares={"perspective": 1.0}))
    build(
        configured(
            tmp_path / "sat", tmp_path / "out", shares={"static": 1.0, "ego_motion": 1.0}
        )
    )
    assert (
        sorted(row.type for row in ShardSet(tmp_path / "out", "train").records)
        == ["ego_motion"] * 3 + ["static"] * 3
    )


def test_a_killed_build_is_taken_up_and_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release(tmp_path / "sat")
    build(configured(tmp_path / "sat", tmp_path / "whole"))
    with monkeypatch.context() as patch:
        patch.setattr(
            "actial.data.qa.build_sat.write_shards",
            lambda *_: (_ for _ in ()).throw(KeyboardInterrupt),
        )
        with pytest.raises(KeyboardInterrupt):
            build(configured(tmp_path / "sat", tmp_path / "cut"))
    build(configured(tmp_path / "sat", tmp_path / "cut"))
    names = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "cut").iterdir())
    for name in names:
        assert (tmp_path / "whole" / name).read_bytes() == (
            tmp_path / "cut" / name
        ).read_bytes()
