"""Control conditions: planted policies gain from thinking or from images what was planted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from support.records import view_pair
from support.scripted import ByteRenderer, FunctionSampler, letter_of

from actial.core.records import AnswerMode, Example, SamplingParams
from actial.core.set_records import MotionLabels, QuestionType
from actial.evaluation.controls import measure_controls, turning_examples
from actial.evaluation.diagnostics import opposite
from actial.evaluation.loop import evaluate_examples
from actial.evaluation.results import Controls
from actial.evaluation.tasks import Task
from actial.reporting.report_tables import Head, controls_table
from actial.viewpoint.questions import viewpoint_question
from actial.viewpoint.symmetry import variant


def pair_examples(mode: AnswerMode, count: int = 60) -> list[Example]:
    """View pairs whose last image is brighter where the camera went to the right."""
    examples = []
    for i in range(count):
        side, other = ("right", "left") if i % 2 else ("left", "right")
        labels = MotionLabels(
            ego_translation=side, object_translation=other, ego_rotation=other
        )
        pair = view_pair(30 if i % 2 else -30, uid=f"p{i}", labels=labels, object_id=f"o{i}")
        images = [
            np.full((16, 16, 3), level, np.uint8) for level in (100, 150 if i % 2 else 50)
        ]
        questions = [
            viewpoint_question(pair, kind, mode)
            for kind in (QuestionType.EGO_TRANSLATION, QuestionType.EGO_ROTATION)
        ]
        examples.append(
            Example(uid=pair.uid, images=images, questions=questions, task="v", record=pair)
        )
    return examples


def task_of(by_mode: dict[AnswerMode, list[Example]], main: AnswerMode) -> Task:
    return Task(
        name="pairs",
        examples=by_mode[main],
        settings={},
        score=lambda predictions: {},
        random_order=range(len(by_mode[main])),
        reworded=lambda i, mode: by_mode[mode][i],
        outline=by_mode[main].__getitem__,
        chance=1 / 3,
        prompt="",
    )


def letter_for(text: str, side: str) -> str:
    if "turn about" in text:
        side = opposite(side)
    verb = "Rotate" if f"Rotate to the {side}" in text else "Move"
    return letter_of(text, f"{verb} to the {side}")


def looks(images, text):
    if len(images) < 2:
        return "none"
    return letter_for(text, "right" if images[1].mean() > images[0].mean() else "left")


def always_left(images, text):
    return letter_for(text, "left")


def thinks_wrongly(images, text):
    right = looks(images, text)
    if "letter" in text.lower():  # the wording that asks for a direct answer
        return right
    return "<think>It is blurred.</think><answer>not sure</answer>"


def measured(policy, main=AnswerMode.THINK, count=100) -> tuple[Controls, list[str]]:
    task = task_of({mode: pair_examples(mode) for mode in AnswerMode}, main)
    requested: list[str] = []

    def answer(examples, condition="as scored"):
        requested.extend(q.uid for e in examples for q in e.questions)
        return evaluate_examples(
            FunctionSampler(policy), ByteRenderer(), examples, SamplingParams(max_tokens=200)
        )

    predictions = answer(task.examples)
    controls = measure_controls(answer, task, predictions, count)
    assert controls
    assert len(set(requested)) == len(requested)
    return controls, requested


def test_a_policy_that_looks_gains_from_images_and_not_from_thinking():
    controls, _ = measured(looks)
    assert {name: float(cell.value) for name, cell in controls.accuracy.items()} == {
        "thinking": 1,
        "direct answer": 1,
        "no image": 0,
        "swapped images": 1,
    }
    assert controls.gains["images"].value == controls.gains["images"].low == 1
    assert (controls.gains["thinking"].low, controls.gains["thinking"].high) == (0, 0)
    assert all(cell.n == 100 for cell in controls.accuracy.values())


def test_a_policy_that_does_not_look_gains_nothing_from_images():
    controls, _ = measured(always_left)
    gain = controls.gains["images"]
    assert (gain.value, gain.low, gain.high) == (0, 0, 0)
    assert float(controls.accuracy["swapped images"].value) == pytest.approx(0.5, abs=0.02)


def test_chains_of_thought_that_cost_accuracy_show():
    controls, _ = measured(thinks_wrongly)
    gain = controls.gains["thinking"]
    assert gain.value == gain.high == -1
    assert controls.tokens["direct answer"] < controls.tokens["thinking"]


@pytest.mark.parametrize("main", list(AnswerMode))
def test_only_the_other_wording_is_asked_anew(main):
    _, requested = measured(looks, main)
    other = "direct" if main is AnswerMode.THINK else "thinking"
    kinds = {uid.partition("#")[2] for uid in requested}
    assert kinds == {"", other, "blind", "swap"}


def test_scores_in_another_wording_stand_beside_both():
    by_mode = {mode: pair_examples(mode) for mode in AnswerMode}
    published = [
        replace(e, questions=[replace(q, text=f"Look. {q.text}") for q in e.questions])
        for e in by_mode[AnswerMode.THINK]
    ]
    task = replace(
        task_of(by_mode, AnswerMode.THINK), examples=published, outline=published.__getitem__
    )

    def answer(examples, condition="as scored"):
        return evaluate_examples(
            FunctionSampler(looks), ByteRenderer(), examples, SamplingParams(max_tokens=200)
        )

    controls = measure_controls(answer, task, answer(published), 20)
    assert controls
    assert set(controls.accuracy) >= {"as scored", "thinking", "direct answer"}


def test_questions_without_two_wordings_have_no_controls():
    same = pair_examples(AnswerMode.DIRECT)
    task = task_of(dict.fromkeys(AnswerMode, same), AnswerMode.DIRECT)

    def answer(examples, condition="as scored"):
        return evaluate_examples(
            FunctionSampler(looks), ByteRenderer(), examples, SamplingParams()
        )

    assert measure_controls(answer, task, answer(same), 10) is None


def test_turning_questions_are_gathered_from_the_whole_set():
    """A set whose first examples do not turn still yields as many as asked for."""
    examples = pair_examples(AnswerMode.THINK)
    still = [
        variant(e, "still", e.images, [replace(q, type="count") for q in e.questions])
        for e in examples
    ]
    task = task_of(dict.fromkeys(AnswerMode, still + examples), AnswerMode.THINK)
    indices = turning_examples(task, 10, 100)
    assert indices == list(range(60, 110))  # two questions each
    assert len(turning_examples(task, 55, 100)) == 55
    assert len(turning_examples(task, 10, 1000)) == 60


def test_the_report_says_what_thinking_and_images_add():
    controls, _ = measured(looks)
    read = Controls.from_json(controls.to_json())
    table = controls_table("pairs", {"m": read}, {"m": Head("m", "#000")})
    rows = {row.name: row for row in table.rows}
    assert rows["what the images add"].cells[0].value == "100.0"
    assert rows["what thinking adds"].cells[0].interval == "0.0 to 0.0"
    assert rows["direct answer"].n == "100"
