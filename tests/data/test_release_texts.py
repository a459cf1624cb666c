"""Texts of a release: the prompt as it stands in a script, the questions from rows."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actial.config import ImportReleaseConfig, PromptConfig
from actial.core.errors import UserError
from actial.core.records import AnswerMode
from actial.core.set_records import QuestionType
from actial.data.release_texts import import_release, user_texts
from actial.modeling.system_prompts import system_prompt_text
from actial.viewpoint.wording import read_wording

PROMPT = "|\nActial thinks: <think> it </think><answer> it </answer>"
STEMS = {
    "ego_translation": (
        "It stood still. Where did the camera go?",
        "Move to the",
        "No movement",
    ),
    "object_translation": (
        "It stood still. From the object, where did the camera go?",
        "Move to the",
        "No movement",
    ),
    "ego_rotation": ("It stood still. How did it turn?", "Rotate to the", "No rotation"),
}
REQUEST = "The letter alone, please."


def text_of(kind: str) -> str:
    stem, verb, none = STEMS[kind]
    return f"<image><image>{stem} A: {verb} left B: {none} C: {verb} right\n{REQUEST}"


def rows_in(form: str) -> list[dict]:
    if form == "conversations":
        return [
            {"conversations": [{"from": "human", "value": text_of(kind)}]} for kind in STEMS
        ]
    system = {"role": "system", "content": "x"}
    return [{form: [system, {"role": "user", "content": text_of(kind)}]} for kind in STEMS]


@pytest.fixture
def release(tmp_path: Path) -> Path:
    (tmp_path / "clone" / "run").mkdir(parents=True)
    script = f'python -m trainer data.system_prompt="{PROMPT}" data.lr=1'
    (tmp_path / "clone" / "run" / "train.sh").write_text(script)
    (tmp_path / "clone" / "config.py").write_text(
        'X = "Actial <think></think><answer></answer>"'
    )
    return tmp_path / "clone"


@pytest.mark.parametrize("form", ["messages", "conversations", "prompt"])
def test_texts_are_taken_and_asked_as_they_stand(
    form: str, release: Path, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(rows_in(form)), rows)
    out = tmp_path / "release"
    import_release(ImportReleaseConfig(release=str(release), rows=str(rows), out=str(out)))
    prompt = PromptConfig(system_prompt=f"file:{out / 'system_prompt.txt'}")
    assert system_prompt_text(prompt) == PROMPT
    wording = read_wording(f"file:{out / 'wording.yaml'}")
    assert wording is not None
    for kind, (stem, verb, none) in STEMS.items():
        assert wording.questions[QuestionType(kind)] == stem
        options = f"A: {verb} left B: {none} C: {verb} right"
        for mode in AnswerMode:
            question_text = wording.text(stem, options, mode, "ours")
            assert question_text == text_of(kind).removeprefix("<image><image>")
    assert set(json.loads((out / "release.json").read_text())) == {"system_prompt", "wording"}


def test_folder_without_the_prompt_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give a clone of"):
        import_release(ImportReleaseConfig(release=str(tmp_path), out=str(tmp_path / "out")))


def test_rows_of_another_form_are_refused_with_their_columns(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"question": "?", "answer": "A"}))
    with pytest.raises(UserError, match="has the columns answer, question"):
        user_texts(path)
    path.write_text("{")
    with pytest.raises(UserError, match=r"rows\.jsonl cannot be read"):
        user_texts(path)


def test_rows_that_lack_a_question_are_refused(release: Path, tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows_in("messages")[:1]))
    config = ImportReleaseConfig(
        release=str(release), rows=str(path), out=str(tmp_path / "out")
    )
    with pytest.raises(UserError, match="do not show the three questions"):
        import_release(config)
