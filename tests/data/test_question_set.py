"""Question sets as training examples: letters, numbers, and the chains of thought they have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support import tiny_world

from actial.config import ColdStartConfig, DataConfig, SetConfig, Task
from actial.core.records import AnswerMode
from actial.core.seeding import hash_unit
from actial.data.datasets import open_set
from actial.data.images import encode
from actial.data.question_set import QuestionSet
from actial.data.shards import Sample, write_set
from actial.grading.predictions import read_answer


def opened(
    root: Path, *, ratio: float = 0.1, supervised: bool = True, **settings
) -> QuestionSet:
    source = SetConfig(task=Task.qa, root=str(root), **settings)
    mode = None if supervised else AnswerMode.THINK
    task = open_set(
        source,
        "train",
        DataConfig(),
        ColdStartConfig(ratio=ratio),
        supervised=supervised,
        mode=mode,
    )
    assert isinstance(task, QuestionSet)
    return task


def drawn(task: QuestionSet, epochs: int):
    examples = [task.example(i, epoch) for epoch in range(epochs) for i in range(len(task))]
    return [question for example in examples for question in example.questions]


@pytest.fixture(scope="module")
def sat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sat") / "set"
    tiny_world.write_questions(root)
    return root


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 questions answered by a letter, 3 of which have a chain of thought beside it, 4 numbers."""
    root = tmp_path_factory.mktemp("taught") / "set"
    samples = []
    for number in range(20):
        row = {
            "uid": f"q{number}",
            "kind": "qa",
            "split": "train",
            "type": "ego_translation",
            "question": "Where did the camera move?",
            "options": ["Move to the left", "Move to the right", "No movement"],
            "answer_index": number % 2,
            "group": str(number),
            "images": ["f000.png"],
        }
        rows = [row]
        if number < 3:
            chain = f"Things come into view, which option {'AB'[number % 2]} says."
            rows.append(row | {"uid": f"q{number}~2", "chain": chain})
        if number >= 16:
            rows = [
                row
                | {"options": [], "answer_index": -1, "number": number + 0.5, "type": "far"}
            ]
        image = encode(np.full((32, 32, 3), 8 * number, np.uint8), tiny_world.IMAGES)
        samples.append(Sample(key=f"k{number}", images={"f000.png": image}, rows=rows))
    write_set(root, {"train": samples}, 4, {})
    return root


@pytest.mark.parametrize("ratio", [0.0, 0.1, 1.0])
def test_a_set_without_chains_is_answered_by_letters_whatever_the_ratio(
    sat: Path, ratio: float
) -> None:
    for question in drawn(opened(sat, ratio=ratio), 10):
        assert question.mode is AnswerMode.DIRECT
        assert question.target == question.answer_letter


def test_the_share_of_weighed_answers_is_the_base_models_own_setting(sat: Path) -> None:
    task = opened(sat, ratio=0.0, weighed_share=0.5)
    thinks = 0
    for epoch in range(10):
        for index in range(len(task)):
            (question,) = task.example(index, epoch).questions
            weighed = hash_unit("mode", question.uid, epoch) < 0.5
            thinks += weighed
            assert (question.mode is AnswerMode.THINK) == weighed
            if weighed:
                answer = question.options[question.answer_index]
                assert question.target.startswith(f"<think>\nSo {answer}.\nA: ")
                assert question.target.endswith(f"<answer>{question.answer_letter}</answer>")
    assert 0 < thinks < 10 * len(task)


@pytest.mark.parametrize("ratio", [0.0, 0.25, 1.0])
def test_chains_of_the_set_take_the_ratio_of_the_draws(taught: Path, ratio: float) -> None:
    task = opened(taught, ratio=ratio)
    assert len(task) == 20  # the rows with a chain are drawn by the ratio, not by themselves
    questions = drawn(task, 60)
    chains = [question for question in questions if question.mode is AnswerMode.THINK]
    assert len(chains) / len(questions) == pytest.approx(ratio, abs=0.04)
    for question in chains:
        # the chain names a letter, so the options have the order of the set
        assert question.options[0] == "Move to the left"
        assert f"option {question.answer_letter} says." in question.target
        assert question.target.endswith(f"<answer>{question.answer_letter}</answer>")
    letters = [question for question in questions if question.mode is AnswerMode.DIRECT]
    assert all(
        q.target == (q.answer_letter if q.options else f"{q.number:g}") for q in letters
    )


def test_numbers_are_learned_as_the_set_writes_them(taught: Path) -> None:
    questions = drawn(opened(taught, ratio=0.0, types=["far"]), 1)
    assert [question.target for question in questions] == ["16.5", "17.5", "18.5", "19.5"]
    assert all(question.text.endswith("Reply with the number only.") for question in questions)
    prompts = drawn(opened(taught, supervised=False, types=["far"]), 1)
    assert [question.number for question in prompts] == [16.5, 17.5, 18.5, 19.5]
    assert all(question.target is None for question in prompts)
    grade, _ = read_answer(None, prompts[0], "<think>Far.</think><answer>16.5</answer>")
    assert grade.value == 1.0  # GRPO is paid by relative accuracy
    grade, _ = read_answer(None, prompts[0], "<think>Far.</think><answer>12</answer>")
    assert 0.0 < grade.value < 1.0
