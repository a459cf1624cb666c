"""The released Viewpoint-100K and SAT: rows of every plausible layout build into the same questions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.released import (
    LETTERS_ONLY,
    STEMS,
    answer_of,
    chain_of,
    photo,
    row,
    write_release,
)

from actial.build import build
from actial.config import (
    BuildConfig,
    ColdStartConfig,
    DataConfig,
    ImageConfig,
    ImageFormat,
    MixConfig,
    PairConfig,
    SetConfig,
    SourceConfig,
    SourceKind,
    Task,
)
from actial.core.errors import UserError
from actial.core.records import AnswerMode
from actial.data.datasets import open_set
from actial.data.qa.public_sets import adapt
from actial.data.qa.released_rows import UnknownColumns, split_chain, split_options
from actial.data.qa.sat_rows import parse_row
from actial.data.shards import ShardSet
from actial.data.streamed_mixture import open_streamed_mixture
from actial.viewpoint.recognized_types import recognize_type

MOVES = ("Move to the left", "Move to the right", "No movement")
QUESTION = (
    "<image><image>The object is fixed. From the camera's own perspective, which way did it go? "
    "A: Move to the left B: Move to the right C: No movement"
)
REQUESTS = (
    "",
    " Please output only the letter of the right option.",
    ". Answer with the option's letter from the given choices directly.",
    "\nYour reply must be one letter.",
    "\nA, B or C?",
)
CELLS: dict[str, Any] = {
    "images": ["a.png", "b.png"],
    "bytes": [{"bytes": b"1", "path": None}, {"bytes": b"2", "path": None}],
}


def columns(text: str) -> dict[str, dict[str, Any]]:
    """Return the layouts of a row whose user says `text` and whose answer is B."""
    turns = [("user", text), ("assistant", "B")]
    roles = [{"role": who, "content": said} for who, said in turns]
    froms = [{"from": {"user": "human"}.get(who, "gpt"), "value": said} for who, said in turns]
    parts = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": text}]
    stem = text.partition(" A: ")[0]
    photos = {"images": CELLS["images"]}
    system = [{"role": "system", "content": "Think. A: Wrong B: place"}]
    return {
        "messages": {**photos, "messages": [*system, *roles]},
        "conversations": {
            "image": CELLS["images"],
            "conversations": froms,
            "system": "Think.",
        },
        "conversations with roles": {**photos, "conversations": roles},
        "messages as text": {**photos, "messages": json.dumps(roles)},
        "parts": {
            "images": CELLS["bytes"],
            "messages": [{"role": "user", "content": parts}, roles[1]],
        },
        "a null column": {**photos, "messages": None, "conversations": froms},
        "verl": {
            "images": CELLS["bytes"],
            "prompt": [*system, roles[0]],
            "reward_model": {"ground_truth": "B", "style": "rule"},
        },
        "options": {
            **photos,
            "problem": stem,
            "options": list(MOVES),
            "solution": "<answer>B</answer>",
        },
        "lettered options": {
            **photos,
            "question": stem,
            "choices": ["A. Move to the left", "B. Move to the right", "C. No movement"],
            "answer": "B",
        },
        "option columns": {
            "image_1": "a.png",
            "image_2": "b.png",
            "question": stem,
            "A": MOVES[0],
            "B": MOVES[1],
            "C": MOVES[2],
            "answer": "Move to the right",
        },
        "alpaca": {**photos, "instruction": text, "input": "", "output": "B"},
    }


@pytest.mark.parametrize("layout", columns(QUESTION))
@pytest.mark.parametrize("request_text", REQUESTS)
def test_every_layout_and_request_is_the_same_question(layout: str, request_text: str) -> None:
    (question,) = adapt("viewpoint_100k", columns(QUESTION + request_text)[layout], 0)
    assert (question.options, question.answer_index) == (MOVES, 1)
    assert question.question.endswith(
        "From the camera's own perspective, which way did it go?"
    )
    assert question.types == ("ego_translation",)
    assert len(question.images) == 2
    assert question.chain == ""


@pytest.mark.parametrize(
    ("answer", "chain", "letter"),
    [
        ("B", "", "B"),
        ("B: Move to the right", "", "B: Move to the right"),
        ("The answer is B.", "", "The answer is B."),
        ("<think>\nIt went right.\n</think>\n<answer>B</answer>", "It went right.", "B"),
        ("<think> It went right. </think><answer> b </answer>", "It went right.", "b"),
        ("It went right.\n<answer>B</answer>", "It went right.", "B"),
        ("<answer>B</answer>", "", "B"),
        (f"{chain_of('right')}\nAnswer: B", f"{chain_of('right')}\nAnswer: B", "B"),
    ],
)
def test_the_chain_and_the_answer_of_a_reply(answer: str, chain: str, letter: str) -> None:
    assert split_chain(answer) == (chain, letter)


@pytest.mark.parametrize(
    ("question", "options", "kind"),
    [
        (STEMS["ego_translation"], MOVES, "ego_translation"),
        (STEMS["object_translation"], MOVES, "object_translation"),
        (STEMS["ego_rotation"], ("Rotate to the left", "Rotate to the right"), "ego_rotation"),
        ("Seen from the mug, where did the camera go?", MOVES, "object_translation"),
        ("In the handbag\u2019s view, how did it move?", MOVES, "object_translation"),
        ("From an object perspective, how did it move?", MOVES, "object_translation"),
        (
            "The position of the object is fixed. Where did the camera move?",
            MOVES,
            "ego_translation",
        ),
        ("From the viewpoint of the photographer, where to?", MOVES, "ego_translation"),
        ("By how much did it turn?", ("20", "-40", "60"), "rotation_degrees"),
        (
            "How did the height change?",
            ("Move up", "Move down", "No movement"),
            "ego_vertical",
        ),
        ("And the depth?", ("Move forward", "Move backward"), "ego_depth"),
        ("What is it?", ("a mug", "a cup"), None),
        ("What is it?", (), None),
    ],
)
def test_types_are_recognized(
    question: str, options: tuple[str, ...], kind: str | None
) -> None:
    recognized = recognize_type(question, options)
    assert (recognized.value if recognized else None) == kind


def test_an_option_that_begins_with_a_word_of_a_request_stays() -> None:
    assert split_options("Which? A: Only the chair B: Only the lamp")[1] == (
        "Only the chair",
        "Only the lamp",
    )


@pytest.mark.parametrize(
    "foreign",
    [
        {"images": ["a.png"], "caption": "a mug"},
        {"messages": [{"speaker": "user", "said": "q"}], "images": ["a.png"]},
        {
            "messages": [
                {"role": "user", "content": "q"},
                {"role": "assistant", "content": "A"},
            ]
        },
    ],
)
def test_an_implausible_layout_is_one_sentence_with_its_columns(
    foreign: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(UnknownColumns):
        list(adapt("viewpoint_100k", foreign, 0))
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.json").write_text(json.dumps([foreign]))
    expected = rf"train\.json, row 0, has the columns {', '.join(sorted(foreign))}: the turns"
    with pytest.raises(UserError, match=expected):
        build(configured(tmp_path / "set", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- built


def configured(root: Path, out: Path, **source: Any) -> BuildConfig:
    settings = {"kind": SourceKind.named, "name": "viewpoint_100k", "root": str(root)} | source
    return BuildConfig(
        source=SourceConfig(**settings),
        pairs=PairConfig(val_fraction=0.0),
        image=ImageConfig(max_pixels=1024, multiple=16, format=ImageFormat.png),
        out=str(out),
        workers=1,
    )


@pytest.mark.parametrize("form", ["parquet", "json", "jsonl"])
def test_a_release_builds_with_types_chains_and_its_test_file(
    form: str, tmp_path: Path
) -> None:
    write_release(tmp_path / "set", form, letters=12, chains=2, tests=3)
    (tmp_path / "set" / "dataset_info.json").write_text('{"viewpoint": {}}')
    build(configured(tmp_path / "set", tmp_path / "out"))
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert (manifest["rows"], manifest["chains"]) == ({"test": 3, "train": 14}, 2)
    train = ShardSet(tmp_path / "out", "train")
    records = train.question_records()
    assert {record.type for record in records} == set(STEMS)
    for record in records:
        number = int(record.uid.rpartition(":")[2].partition("~")[0])
        assert record.options[record.answer_index] == answer_of(number)
        assert [image.shape for image in train.images(record)] == [(32, 32, 3)] * 2
    assert sum(bool(record.chain) for record in records) == 2


def test_rows_that_cannot_be_used_are_counted(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    write_release(folder, "json", letters=3, chains=0, tests=0)
    rows = json.loads((folder / "train.json").read_text())
    joint = row(0) | {
        "messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "r,A"}]
    }
    rows += [joint, row(0) | {"messages": []}, row(0) | {"images": ["gone.png"]}]
    (folder / "train.json").write_text(json.dumps(rows))
    build(configured(folder, tmp_path / "out"))
    counts = json.loads((tmp_path / "out" / "rejects.json").read_text())["questions"]
    assert (counts["written"], counts["joint answer"]) == (3, 1)
    assert (counts["a field is missing"], counts["picture unreadable"]) == (1, 1)


def test_letters_and_chains_are_drawn_in_the_ratio(tmp_path: Path) -> None:
    write_release(tmp_path / "set", "parquet", letters=40, chains=4, tests=2)
    build(configured(tmp_path / "set", tmp_path / "out"))
    source = SetConfig(task=Task.qa, root=str(tmp_path / "out"))
    task = open_set(source, "train", DataConfig(), ColdStartConfig(ratio=0.1), supervised=True)
    assert len(task) == 40
    drawn = [task.example(i, epoch).questions[0] for epoch in range(50) for i in range(40)]
    chains = [question for question in drawn if question.mode is AnswerMode.THINK]
    assert len(chains) / len(drawn) == pytest.approx(0.1, abs=0.02)
    assert len({question.uid for question in chains}) == 4
    for question in drawn:
        if question.mode is AnswerMode.DIRECT:
            assert question.target == question.answer_letter
            assert (
                question.text.count(LETTERS_ONLY) == 0
            )  # the release's own request is not asked twice
        else:
            assert (
                chain_of("right" if "right" in answer_text(question) else "left")
                in question.target
            )


def test_a_stream_refuses_chains_that_are_drawn_by_index(tmp_path: Path) -> None:
    write_release(tmp_path / "set", "json", letters=4, chains=1, tests=0)
    build(configured(tmp_path / "set", tmp_path / "out"))
    sets = {"viewpoint": SetConfig(task=Task.qa, root=str(tmp_path / "out"))}
    mix = MixConfig(weights={"viewpoint": 1.0})
    with pytest.raises(UserError, match=r"root=.* has chains of thought.*data\.reader=index"):
        open_streamed_mixture(sets, mix, DataConfig(), ColdStartConfig(ratio=0.1), 0)
    letters = open_streamed_mixture(sets, mix, DataConfig(), ColdStartConfig(ratio=0.0), 0)
    targets = [example.questions[0].target for example in letters.head(8)]
    assert set(targets) <= {"A", "B", "C"}


def answer_text(question: Any) -> str:
    return question.options[question.answer_index]


def test_numbers_of_a_published_set_are_trained_on_where_they_are_wanted(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "a.png").write_bytes(photo(1))
    turns = [
        {"from": "human", "value": "<image>How far, in meters?"},
        {"from": "gpt", "value": "3.5"},
    ]
    record = {"id": 1, "image": "a.png", "type": "distance", "conversations": turns}
    (folder / "train.json").write_text(json.dumps([record]))
    build(configured(folder, tmp_path / "out", name="llava", numbers=True))
    (stored,) = ShardSet(tmp_path / "out", "train").question_records()
    assert (stored.number, stored.options, stored.answer_index) == (3.5, (), -1)
    assert "3.5" in (tmp_path / "out" / "audit.html").read_text()
    with pytest.raises(UserError, match="no question could be made"):
        build(configured(folder, tmp_path / "none", name="llava"))


# ---------------------------------------------------------------- SAT


@pytest.mark.parametrize(
    ("question", "kind", "subtype"),
    [
        (
            "How did the camera rotate from the first to the second frame?",
            "ego_motion",
            "ego_motion",
        ),
        ("Did the camera move left or right?", "ego_motion", "ego_motion"),
        ("Were any of the objects in the initial frame moved?", "obj_motion", "obj_motion"),
        ("I need to go to the sofa. Where to?", "goal_aim", "goal_aim"),
        ("If I turn left, will the lamp be nearer?", "action_conseq", "action_conseq"),
        ("If I move to the mark, is the lamp on my left?", "perspective", "perspective"),
        ("For someone at the mark, is the lamp on the left?", "perspective", "perspective"),
        ("Is the lamp left of the sofa?", "static", "relation"),
        ("Is the lamp closer than the sofa?", "static", "depth"),
    ],
)
def test_types_of_the_released_sat_are_read_off_its_wording(
    question: str, kind: str, subtype: str
) -> None:
    content = f"<image>{question} Options: A: yes, B: no"
    parsed = parse_row(
        {
            "prompt": [{"role": "user", "content": content}],
            "data_source": "INno0o/SAT",
            "reward_model": {"ground_truth": "B"},
            "extra_info": {"index": 3},
        }
    )
    assert (parsed.type, parsed.subtype, parsed.options) == (kind, subtype, ("yes", "no"))


def test_foreign_columns_of_sat_are_named(tmp_path: Path) -> None:
    (tmp_path / "sat").mkdir()
    table = pa.Table.from_pylist([{"picture": b"1", "text": "q"}])
    pq.write_table(table, tmp_path / "sat" / "train-0.parquet")
    with pytest.raises(
        UserError, match=r"row 0, has the columns picture, text .*SAT's columns"
    ):
        build(configured(tmp_path / "sat", tmp_path / "out", kind=SourceKind.sat))
