"""The wording of the viewpoint questions from a file of the user's."""

from __future__ import annotations

from pathlib import Path

import pytest

from actial.config import ColdStartConfig, DataConfig, SetConfig, Task
from actial.core.errors import UserError
from actial.core.records import AnswerMode
from actial.data.datasets import open_set
from actial.viewpoint.wording import read_wording

FILE = """
questions:
  ego_translation: "Camera from 1 to {last}?"
  object_translation: "Object from 1 to {last}?"
  ego_rotation: "Turn from 1 to {last}?"
options:
  ego_rotation: {left: turned left, right: turned right, none: did not turn}
layout: "{question} {options}"
direct_layout: "{question} {options} {instruction}"
instruction: "Letter, please."
"""


def test_questions_are_asked_in_the_words_of_the_file(tiny_set: Path, tmp_path: Path) -> None:
    path = tmp_path / "wording.yaml"
    path.write_text(FILE)
    source = SetConfig(task=Task.viewpoint, root=str(tiny_set))
    ours, theirs = (
        open_set(
            source,
            "train",
            DataConfig(wording=wording, questions_per_pair=3),
            ColdStartConfig(),
            supervised=False,
            mode=AnswerMode.DIRECT,
        )
        for wording in ("ours", f"file:{path}")
    )
    for own, other in zip(
        ours.example(0, 0).questions, theirs.example(0, 0).questions, strict=True
    ):
        assert other.answer_index == own.answer_index
        assert other.text.startswith(
            ("Camera from 1 to 2?", "Object from", "Turn from 1 to 2?")
        )
        assert other.text.endswith("Letter, please.")
        assert ("turned left" in other.options) == (other.type == "ego_rotation")
        assert "\n" not in other.text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("colors: {}", "its keys must be among questions, options"),
        (
            "options: {ego_rotation: {left: a}}",
            "options of ego_rotation must be left, none, right",
        ),
        (
            "options: {ego_rotation: {left: a, right: right, none: no}}",
            "the option 'a' of ego_rotation does not say left",
        ),
        ("questions: {sideways: x}", "'sideways' is not a valid QuestionType"),
    ],
)
def test_other_files_are_refused_with_the_reason(
    text: str, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "wording.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=reason):
        read_wording(f"file:{path}")


def test_missing_file_names_the_command_that_writes_it() -> None:
    with pytest.raises(UserError, match=r"actial\.import_release"):
        read_wording("file:no/such.yaml")
