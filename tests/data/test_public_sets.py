"""Published sets: records of each set's own schema take one form and build into shards."""

import base64
import io
import json
import time

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
    PairConfig,
    QuestionConfig,
    SourceConfig,
    SourceKind,
)
from actial.core.errors import UserError
from actial.data.qa.public_sets import NAMED, adapt, without_letter_request
from actial.data.qa.sat_rows import Unusable
from actial.data.shards import ShardSet

ASKED = "Which way did the camera move? A. Left B. Right"


def llava(*turns: str, **fields) -> dict:
    return {
        "conversations": [
            {"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(turns)
        ],
        **fields,
    }


RECORDS = {
    "mindcube_train": {
        "id": "m1",
        "category": ["P-P"],
        "type": "rotation",
        "question": ASKED,
        "images": ["a.png", "b.png"],
        "gt_answer": "B",
    },
    "spar_7m": llava(
        f"<image>\n<image>\n{ASKED}\nAnswer with the option's letter.",
        "B",
        id="s1",
        image=["a.png", "b.png"],
        type="rotation",
    ),
    "vsi_590k": llava(
        f"<image>{ASKED}", "B. Right", id=7, image="a.png", question_type="rotation"
    ),
    "vsi_100k": llava(f"<image>{ASKED}", "B", id=7, image="a.png", question_type="rotation"),
    "multispa": llava(
        f"<image><image>{ASKED}",
        "(B)",
        id="p1",
        image=["a.png", "b.png"],
        question_type="rotation",
        gt_value="right",
    ),
    "spatialladder_26k": {
        "id": 3,
        "question": "Which way did the camera move?",
        "options": ("Left", "Right"),
        "answer": "Right",
        "images": ["a.png"],
        "type": "rotation",
    },
    "vica_322k": llava(f"<image>{ASKED}", "B", image="a.png", type="rotation"),
    "mv_stride": {
        "messages": [
            {"role": "system", "content": "Think."},
            {"role": "user", "content": f"<image>{ASKED}"},
            {"role": "assistant", "content": "B"},
        ],
        "images": ["a.png"],
        "category": "rotation",
    },
    "molmo2_er_vst_p": llava(ASKED, "B", id="v", images=[{"bytes": b"..."}], type="rotation"),
    "sensenova_si_8m": llava(f"<image>\n{ASKED}", "B", id=4, image="a.png", type="rotation"),
    "viewpoint_100k": llava(
        f"<image><image>{ASKED}\nPlease output only the letter of the option.",
        "<think>It went to its right.</think><answer>B</answer>",
        image=["a.png", "b.png"],
        question_type="rotation",
    ),
    "llava": llava(
        f"<image>\n<image>\n{ASKED}",
        "B. Right",
        id=4,
        image=["a.png", "b.png"],
        type="rotation",
    ),
    "joyai_openspatial": llava(ASKED, "B", id="j", image=["a.png"], task="rotation"),
    "mulset": {
        "id": 1,
        "question": "Which way did the camera move?",
        "choices": ("Left", "Right"),
        "answer": "Right",
        "images": ["a.png"],
        "task": "rotation",
    },
}


@pytest.mark.parametrize("name", NAMED)
def test_each_schema_becomes_the_same_question(name):
    (row,) = adapt(name, RECORDS[name], 0)
    assert (row.question, row.options, row.answer_index) == (
        "Which way did the camera move?",
        ("Left", "Right"),
        1,
    )
    # a release's own types are ours, read off the wording
    kind = "ego_translation" if NAMED[name].released else "rotation"
    assert (row.answer_kind, row.types) == ("mcq", (kind,))
    assert len(row.images) in (1, 2)


def test_a_record_with_several_types_keeps_them_all():
    def types(turns: int, field: object) -> list[tuple[str, ...]]:
        texts = [ASKED, "B"] * turns
        return [q.types for q in adapt("spar_7m", llava(*texts, image="a.png", type=field), 0)]

    assert types(1, ["rotation", "depth"]) == [("rotation", "depth")]
    assert types(2, ["rotation", "depth"]) == [("rotation",), ("depth",)]
    assert types(3, ["rotation", "depth"]) == [("rotation", "depth")] * 3
    assert types(2, "rotation") == [("rotation",)] * 2
    assert types(1, []) == types(1, None) == [("unknown",)]
    assert types(2, [["a", "b"], "c"]) == [("a", "b"), ("c",)]


def test_answers_without_options_are_told_apart():
    def kinds(question, answer):
        return [
            (r.answer_kind, r.options, r.answer_index)
            for r in adapt("spar_7m", llava(question, answer, image=["a.png"]), 0)
        ]

    assert kinds("Is it nearer?", "no.") == [("yesno", ("Yes", "No"), 1)]
    assert kinds("How many degrees?", "35.5") == [("number", (), -1)]
    assert kinds("What is it?", "a chair by the door") == [("open", (), -1)]
    with pytest.raises(ValueError, match="option"):
        kinds(ASKED, "C")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Which side? Answer with the option's letter.", "Which side?"),
        ("Which side?\nPlease reply with a letter", "Which side?"),
        ("Which side? Select one. It is an option", "Which side? Select one. It is an option"),
        ("Which letter answers it?", "Which letter answers it?"),
        ("Answer. Option", "Answer. Option"),
    ],
)
def test_a_request_for_a_letter_is_left_out(text, expected):
    assert without_letter_request(text).strip() == expected


@pytest.mark.parametrize(
    "text", ["answer option " * 20_000 + "\nx", "x" + " " * 300_000 + "y"]
)
def test_a_long_question_is_read_in_linear_time(text):
    started = time.process_time()
    without_letter_request(text)
    assert time.process_time() - started < 0.5


COLUMNS = {  # a column of options -> what is asked, None where it cannot be known
    "list": (["Left", "Right"], ("Left", "Right")),
    "lettered": (["A. Left", "(B) Right"], ("Left", "Right")),
    "letters alone": (["A", "B"], ("A", "B")),
    "mapping": ({"B": "Right", "A": "Left", "C": None}, ("Left", "Right")),
    "JSON": ('["Left", "Right"]', ("Left", "Right")),
    "text": ("A. Left B. Right", ("Left", "Right")),
    "empty cells behind": (["Left", "Right", None, float("nan")], ("Left", "Right")),
    "a letter within": (["Go to B. then stop", "Stay"], ("Go to B. then stop", "Stay")),
    "an empty cell between": (["Left", None, "Right"], None),
    "letters with a gap": ({"B": "Left", "C": "Right"}, None),
    "the right one twice": (["Right", "right"], None),
}


@pytest.mark.parametrize("name", ["spatialladder_26k", "viewpoint_100k"])
@pytest.mark.parametrize("form", COLUMNS)
def test_options_of_a_column_are_taken_as_they_are(name, form):
    column, options = COLUMNS[form]
    record = {"question": "Which way?", "options": column, "answer": "B", "images": ["a.png"]}
    if options is None:
        with pytest.raises((Unusable, ValueError)):
            list(adapt(name, record, 0))
        return
    (row,) = adapt(name, record, 0)
    assert (row.question, row.options, row.answer_index) == ("Which way?", options, 1)


@pytest.mark.parametrize("name", ["spatialladder_26k", "viewpoint_100k"])
def test_options_that_stand_in_the_question_too_are_taken_out_of_it(name):
    """They are shuffled later, and would stand in the question under other letters."""
    record = {
        "question": ASKED,
        "options": ["Left", "Right"],
        "answer": "b",
        "images": ["a.png"],
    }
    (row,) = adapt(name, record, 0)
    assert row.question == "Which way did the camera move?"
    assert (row.options, row.answer_index) == (("Left", "Right"), 1)


def test_infinite_numbers_and_empty_questions_are_not_trained_on():
    record = {"question": "How far?", "answer": "nan", "images": ["a.png"]}
    assert next(adapt("spatialladder_26k", record, 0)).answer_kind == "open"
    for field in ("question", "answer"):
        with pytest.raises(KeyError, match=field):
            list(adapt("spatialladder_26k", record | {field: None}, 0))
    with pytest.raises(Unusable, match="no question"):
        list(adapt("spatialladder_26k", record | {"question": "<image> "}, 0))


def test_several_turns_are_several_questions():
    rows = list(
        adapt(
            "joyai_openspatial",
            llava(f"<image>{ASKED}", "A", "Is it red?", "Yes", id="j", image=["a.png"]),
            0,
        )
    )
    assert [(row.id, row.answer_kind, row.answer_index) for row in rows] == [
        ("j", "mcq", 0),
        ("j/1", "yesno", 0),
    ]


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(
        np.random.default_rng(seed).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    ).save(buffer, "PNG")
    return buffer.getvalue()


def config(root, out, name, **settings) -> BuildConfig:
    return BuildConfig(
        source=SourceConfig(kind=SourceKind.named, name=name, root=str(root)),
        pairs=PairConfig(val_fraction=0.3),
        image=ImageConfig(max_pixels=1024, multiple=8, format=ImageFormat.png),
        out=str(out),
        workers=1,
        **settings,
    )


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "mindcube"
    (folder / "scene0011").mkdir(parents=True)
    lines = []
    for i in range(12):
        images = [f"{i}a.png", f"{i}b.png"] if i else ["scene0011/0a.png", "scene0011/0b.png"]
        for k, name in enumerate(images):
            (folder / name).write_bytes(png(10 * i + k))
        lines.append(
            {
                "id": f"m{i}",
                "type": "rotation",
                "question": ASKED,
                "images": images,
                "gt_answer": "AB"[i % 2],
            }
        )
    lines += [
        {**lines[1], "id": "other question", "question": "Is it red? A. Yes B. No"},
        {**lines[1], "id": "outside", "images": ["../secret.png"]},
        {**lines[1], "id": "gone", "images": ["none.png"]},
        {**lines[1], "id": "no option", "gt_answer": "F"},
        {**lines[1], "id": "number", "question": "How far?", "gt_answer": "3.5"},
        {"id": "no fields"},
        {**lines[1], "id": "empty", "question": None},
    ]
    (folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "barred.txt").write_text("scene0011\n\n")
    return folder


def test_a_set_builds_into_shards_and_counts_what_it_leaves_out(root, tmp_path):
    build(
        config(
            root,
            tmp_path / "out",
            "mindcube_train",
            qa=QuestionConfig(blacklist=str(tmp_path / "barred.txt")),
        )
    )
    rejects = json.loads((tmp_path / "out" / "rejects.json").read_text())["questions"]
    expected = {
        "seen": 19,
        "written": 12,
        "scene of a benchmark": 1,
        "picture unreadable": 2,
        "number answer": 1,
        "a field is missing": 2,
        "answer is not exactly one option": 1,
    }
    assert {name: rejects[name] for name in expected} == expected
    train, val = (ShardSet(tmp_path / "out", split) for split in ("train", "val"))
    assert len(train) + len(val) == 12
    assert not {row.group for row in train.records} & {row.group for row in val.records}
    row = next(
        row for row in [*train.records, *val.records] if row.uid == "mindcube_train:train:m3"
    )
    assert row.options[row.answer_index] == "Right"
    shards = train if row.split == "train" else val
    assert [pixels.shape for pixels in shards.images(row)] == [(32, 32, 3)] * 2
    build(
        config(
            root,
            tmp_path / "again",
            "mindcube_train",
            qa=QuestionConfig(blacklist=str(tmp_path / "barred.txt")),
        )
    )
    assert content(tmp_path / "out") == content(tmp_path / "again")


def test_records_of_one_id_are_questions_of_their_own_and_the_license_is_the_set_s(tmp_path):
    """LLaVA's form often has the scene as id."""
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "a.png").write_bytes(png(1))
    option_texts = ("A. Left B. Right", "A. Up B. Down", "A. In B. Out")
    records = [
        llava(
            f"Which way? {options}", "AB"[i % 2], id="scene0000_00", image=["a.png"], type="x"
        )
        for i, options in enumerate(option_texts)
    ]
    (folder / "train.json").write_text(json.dumps(records))
    (folder / "._train.json").write_bytes(b"\0\5\x16\7 of a disk of macOS")
    build(config(folder, tmp_path / "out", "spar_7m"))
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["licence"] == NAMED["spar_7m"].license != "unknown"
    rows = [
        row for split in manifest["rows"] for row in ShardSet(tmp_path / "out", split).records
    ]
    assert {row.uid: row.options for row in rows} == {
        "spar_7m:train:scene0000_00": ("Left", "Right"),
        "spar_7m:train:scene0000_00~2": ("Up", "Down"),
        "spar_7m:train:scene0000_00~3": ("In", "Out"),
    }
    (folder / "train.jsonl").write_text("")
    with pytest.raises(
        UserError,
        match=r"train\.json and .*train\.jsonl would give their questions the same ids",
    ):
        build(config(folder, tmp_path / "again", "spar_7m"))


def test_parquet_with_pictures_inside(tmp_path):
    rows = [
        {
            **llava(ASKED, "B", id=f"v{i}", type="rotation"),
            "images": [{"bytes": png(i), "path": None}],
        }
        for i in range(6)
    ]
    (tmp_path / "set" / "data").mkdir(parents=True)
    pq.write_table(
        pa.Table.from_pylist(rows), tmp_path / "set" / "data" / "train-00000.parquet"
    )
    build(config(tmp_path / "set", tmp_path / "out", "molmo2_er_vst_p"))
    assert sum(len(ShardSet(tmp_path / "out", split)) for split in ("train", "val")) == 6


@pytest.mark.parametrize("name", ["spatialladder_26k", "viewpoint_100k"])
def test_a_list_of_images_may_be_kept_as_text(name):
    record = {"question": ASKED, "answer": "B", "images": '["a.png", "b.png"]'}
    assert next(adapt(name, record, 0)).images == ("a.png", "b.png")
    assert next(adapt(name, record | {"images": "[1] a.png"}, 0)).images == ("[1] a.png",)


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_files_with_a_byte_order_mark_and_arrays_of_any_name_are_read(tmp_path, suffix):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.png").write_bytes(png(1))
    (tmp_path / "set" / f"train.{suffix}").write_text(
        json.dumps([llava(ASKED, "B", image="a.png")]), encoding="utf-8-sig"
    )
    build(config(tmp_path / "set", tmp_path / "out", "llava"))
    assert json.loads((tmp_path / "out" / "rejects.json").read_text())["questions"]["written"]


def test_images_may_stand_in_the_row_or_have_a_path_of_windows(tmp_path):
    (tmp_path / "set" / "photos").mkdir(parents=True)
    (tmp_path / "set" / "photos" / "a.png").write_bytes(png(0))
    text = base64.b64encode(png(1)).decode()
    cells = [
        "photos\\a.png",
        {"path": "photos/a.png", "bytes": None},
        text,
        f"data:image/png;base64,{text}",
        {"bytes": text},
        "/elsewhere/a.png",
    ]
    records = [llava(ASKED, "B", id=i, image=[cell]) for i, cell in enumerate(cells)]
    (tmp_path / "set" / "train.json").write_text(json.dumps(records))
    build(config(tmp_path / "set", tmp_path / "out", "llava"))
    counts = json.loads((tmp_path / "out" / "rejects.json").read_text())["questions"]
    assert (counts["written"], counts["picture unreadable"]) == (5, 1)
    assert any("train:5: frame_name: /elsewhere/a.png" in cause for cause in counts)


def test_unknown_sets_empty_folders_and_broken_files_are_one_sentence(root, tmp_path):
    with pytest.raises(UserError, match=r"source\.name=mindcub is unknown: use one of"):
        build(config(root, tmp_path / "out", "mindcub"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"holds no \.jsonl"):
        build(config(tmp_path / "empty", tmp_path / "out", "mindcube_train"))
    with pytest.raises(UserError, match="blacklist"):
        build(
            config(
                root,
                tmp_path / "out",
                "mindcube_train",
                qa=QuestionConfig(blacklist=str(tmp_path / "none")),
            )
        )
    (tmp_path / "barred.txt").write_bytes("Café\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"qa\.blacklist=.* is no text in UTF-8"):
        build(
            config(
                root,
                tmp_path / "out",
                "mindcube_train",
                qa=QuestionConfig(blacklist=str(tmp_path / "barred.txt")),
            )
        )
    (root / "train.jsonl").write_text('{"id": "m1", ')
    with pytest.raises(UserError, match=r"train\.jsonl cannot be read"):
        build(config(root, tmp_path / "out", "mindcube_train"))
    assert not (tmp_path / "out").exists()
