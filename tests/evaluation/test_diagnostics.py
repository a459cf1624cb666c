"""Planted policies: an honest one passes every diagnostic, and each kind of cheat is caught by the one made for it.

The pictures carry their viewpoint in the open: the colour of a square (red channel = azimuth of the camera), and the square's place.
"""

from dataclasses import replace

import numpy as np
import pytest
from support.benchmark_files import write_blink
from support.records import view_pair
from support.scripted import ByteRenderer, FunctionSampler, letter_of

from actial.config import BenchmarkConfig
from actial.core.records import AnswerMode, Example, SamplingParams
from actial.core.seeding import hash_unit
from actial.core.set_records import PAPER_QUESTIONS, MotionLabels
from actial.evaluation import diagnostics as D
from actial.evaluation.benchmark_examples import BenchmarkExamples
from actial.evaluation.benchmark_results import open_benchmark
from actial.evaluation.benchmarks.base import Style
from actial.evaluation.loop import evaluate_examples
from actial.viewpoint.questions import viewpoint_question
from actial.viewpoint.shortcut_probes import centroid, centroid_probe
from actial.viewpoint.symmetry import answer_turns, option_layout

BACK = 20


def photo(azimuth: float, x: float, y: float) -> np.ndarray:
    """A square whose left half is as bright as the azimuth is low: mirroring exchanges the halves, as it negates an azimuth."""
    image = np.full((32, 32, 3), BACK, np.uint8)
    level = int(110 + azimuth)
    row, col = int(13 + 8 * y), int(13 + 8 * x)
    image[row : row + 6, col : col + 3] = 220 - level
    image[row : row + 6, col + 3 : col + 6] = level
    return image


def azimuth_of(image: np.ndarray) -> float:
    inside = np.argwhere((image != BACK).any(axis=2))
    if not len(inside):
        return 0.0
    return float(image[inside[0][0], inside[-1][1], 0]) - 110.0


def pairs(n=120, leak=False):
    """`leak`: the square moves against the camera, as it does when the camera does not aim at the object."""
    actual = []
    for i in range(n):
        first = 180 * hash_unit("first", i) - 90
        alpha = (1 if hash_unit("side", i) < 0.5 else -1) * (20 + 80 * hash_unit("size", i))
        places = [[2 * hash_unit(i, v, axis) - 1 for axis in "xy"] for v in (1, 2)]
        if leak:
            places[0][0] *= 0.4
            places[1][0] = places[0][0] - np.sign(alpha) * 0.4
        side, other = ("right", "left") if alpha > 0 else ("left", "right")
        labels = MotionLabels(
            ego_translation=side, object_translation=other, ego_rotation=other
        )
        row = view_pair(
            alpha, uid=f"p{i}", labels=labels, object_id=f"o{i // 2}", class_name="box"
        )
        # the azimuth is stored at a third of its size, so that it fits the brightness range
        images = [photo(first / 3, *places[0]), photo((first + alpha) / 3, *places[1])]
        questions = [
            viewpoint_question(row, kind, AnswerMode.DIRECT) for kind in PAPER_QUESTIONS
        ]
        actual.append(
            Example(
                uid=row.uid, images=images, questions=questions, task="viewpoint", record=row
            )
        )
    return actual


def reply(text: str, side: str) -> str:
    """The letter for a camera that went to `side`, whichever question is asked."""
    if "Seen from the object" in text or "turn about" in text:
        side = D.opposite(side)
    return letter_of(
        text,
        next(
            f"{verb} to the {side}"
            for verb in ("Move", "Rotate")
            if f"{verb} to the {side}" in text
        ),
    )


def honest(images, text):
    if len(images) < 2:
        return "A"
    return reply(text, "right" if azimuth_of(images[1]) > azimuth_of(images[0]) else "left")


def by_centroid(images, text):
    if len(images) < 2:
        return "A"
    return reply(text, "right" if centroid(images[1])[0] < centroid(images[0])[0] else "left")


def run(policy, examples, **options):
    def answer(requested, condition):
        return evaluate_examples(
            FunctionSampler(policy), ByteRenderer(), requested, SamplingParams()
        )

    report = D.diagnose(answer, examples, **options)
    return report.to_json() if report else {}


def test_honest_policy_passes():
    report = run(honest, pairs())
    assert report["accuracy"]["value"] == 1
    assert [
        report[k]["consistent_correct"]["value"]
        for k in ("swap", "mirror", "options", "three questions")
    ] == [1, 1, 1, 1]
    assert all(cell["value"] < 0.75 for cell in report["shortcuts"].values())
    assert report["above best shortcut"]["low"] > 0.2
    assert list(report["by angle"]) == ["20-40", "40-60", "60-80", "80-100"]
    assert sum(cell["n"] for cell in report["by angle"].values()) == 360


def test_centroid_policy_is_exposed():
    report = run(by_centroid, pairs(leak=True))
    assert report["accuracy"]["value"] == 1  # accuracy and every symmetry look perfect
    assert (
        report["swap"]["consistent_correct"]["value"]
        == report["mirror"]["consistent_correct"]["value"]
        == 1
    )
    assert report["shortcuts"]["2-D centroid"]["value"] > 0.98
    assert report["above best shortcut"]["shortcut"] == "2-D centroid"
    assert report["above best shortcut"]["value"] < 0.02
    assert run(by_centroid, pairs())["accuracy"]["value"] == pytest.approx(
        0.5, abs=0.1
    )  # nothing left where the square's place is random


def test_answer_prior_policy_is_exposed():
    report = run(lambda images, text: "A", pairs())
    assert report["options"]["consistent"]["value"] == 0
    assert report["shortcuts"]["blind"]["value"] == report["accuracy"]["value"]
    assert report["above best shortcut"]["value"] <= 0
    report = run(lambda images, text: reply(text, "left"), pairs())
    assert (
        report["swap"]["consistent"]["value"] == report["mirror"]["consistent"]["value"] == 0
    )
    assert report["three questions"]["consistent"]["value"] == 1
    assert report["three questions"]["consistent_correct"]["value"] == pytest.approx(
        0.5, abs=0.1
    )


def test_inconsistent_types_are_exposed():
    def same_word(images, text):  # takes "left" for left, whoever looks
        return letter_of(
            text, next(o for o in ("Move to the left", "Rotate to the left") if o in text)
        )

    assert run(same_word, pairs(60))["three questions"]["consistent"]["value"] == 0


def test_centroid_probe_is_at_chance_on_a_clean_set():
    cell = centroid_probe(pairs(400))
    assert cell.n == 1200
    assert abs(float(cell.value) - 0.5) < 0.08


def test_transformations_carry_the_truth():
    example = pairs(1)[0]
    original = example.questions[0]
    for turned in (D.swap_views(example), D.mirror_views(example)):
        question = turned.questions[0]
        assert question.options[question.answer_index] == D.opposite(
            original.options[original.answer_index]
        )
        assert question.text == original.text
    assert (D.swap_views(example).images[0] == example.images[1]).all()
    assert (D.mirror_views(example).images[1][:, 0] == example.images[1][:, -1]).all()
    shifted = D.rotate_options(example, 1).questions[0]
    assert shifted.options == (original.options[2], original.options[0], original.options[1])
    assert shifted.options[shifted.answer_index] == original.options[original.answer_index]
    assert f"B: {original.options[0]}" in shifted.text
    assert D.without_images(example).images == []
    first_only = D.masked(example, [0]).images
    assert (first_only[0] == example.images[0]).all()
    assert (first_only[1] == D.GRAY).all()


def test_wrong_pairs_never_keep_their_own_second_view():
    examples = pairs(40)
    own = {e.uid: e.images[1] for e in examples}
    wrong = D.wrong_pairs(examples)
    assert len(wrong) == 40
    assert not any(e.images[1] is own[e.uid.split("#")[0]] for e in wrong)
    assert D.wrong_pairs(examples[:1]) == []


def test_visual_dependence_is_the_drop_in_log_probability():
    def score(examples):
        return [
            -0.5 if e.images[0].std() else -1.5
            for e in examples
            for q in e.questions
            if q.target in "ABC"
        ]

    got = run(honest, pairs(4), score=score)["visual dependence"]
    assert (got["n"], got["value"], got["low"]) == (12, 1.0, 1.0)


def test_questions_that_do_not_turn_are_left_out():
    example = pairs(1)[0]
    q = example.questions[0]
    assert answer_turns(q)
    assert not answer_turns(replace(q, type="goal_aim"))
    assert not answer_turns(replace(q, text="Facing left. " + q.text))
    assert not answer_turns(replace(q, options=(*q.options[:2], "up")))
    requested = type(q)(
        uid="x",
        type="count",
        text="How many?\nA: 1 B: 2",
        options=("1", "2"),
        answer_index=0,
        mode=q.mode,
    )
    assert not answer_turns(requested)
    assert (
        run(
            honest, [Example(uid="e", images=example.images, questions=[requested], task="qa")]
        )
        == {}
    )


@pytest.mark.parametrize("style", ["dataset", "vlmeval", "mmsi", "think", "letter"])
def test_published_sets_are_diagnosed_in_every_style(tmp_path, style):
    """BLINK's question offers both sides in its wording, and shows its options in a layout of its own."""
    write_blink(tmp_path)
    _, _, items = open_benchmark(BenchmarkConfig(name="blink", root=str(tmp_path)))
    if style != "dataset":
        items = [replace(item, raw_prompt=None) for item in items]
    examples = BenchmarkExamples(
        items, Style(style), multiple=16, min_pixels=256, max_pixels=4096
    )
    assert [answer_turns(e.questions[0]) for e in examples] == [
        True,
        False,
        False,
    ]  # the two others are about one photo
    requested = [D.rotate_options(e, 1).questions[0] for e in examples[:1]]
    assert requested[0].options == ("right", "left")
    assert requested[0].text != examples[0].questions[0].text

    def picks_right(images, text):
        return next(
            letter
            for letter in "AB"
            if any(f"{letter}{mark} right" in text for mark in (":", ".", ")"))
        )

    report = run(picks_right, list(examples))
    assert report["options"]["consistent"]["value"] == 1
    assert report["swap"]["consistent"]["value"] == 0
    report = run(lambda images, text: "B", list(examples))
    assert report["options"]["consistent"]["value"] == 0


def test_unknown_layout_of_options_is_left_out():
    question = pairs(1)[0].questions[0]
    assert option_layout(question)
    assert not answer_turns(
        replace(question, text="The options are " + " / ".join(question.options))
    )
    assert D.opposite("Left of the right chair") == "Right of the left chair"
