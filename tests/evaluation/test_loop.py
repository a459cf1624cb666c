"""The evaluation loop and its log: nothing lost, nothing twice, whatever kills it."""

import json
import time
from dataclasses import replace

import numpy as np
import pytest
from support.records import view_pair
from support.scripted import ByteRenderer, FunctionSampler, letter_of, question

from actial.core.errors import UserError
from actial.core.records import Example, SamplingParams
from actial.evaluation.loop import evaluate_examples
from actial.grading.predictions import PredictionLog, angle_bin, read_predictions

PARAMS = SamplingParams(max_tokens=64)
KINDS = ("ego_translation", "object_translation", "ego_rotation")


def examples(n=5):
    image = np.zeros((4, 4, 3), np.uint8)
    return [
        Example(
            uid=f"e{i}",
            images=[image, image],
            questions=[
                question(f"e{i}/{kind}", f"{kind} {i}?", answer_index=i % 3, kind=kind)
                for kind in KINDS
            ],
            task="viewpoint",
            record=view_pair(-30.0 - 20 * i, class_name="mug"),
        )
        for i in range(n)
    ]


def always_left(images, text):
    return letter_of(text, "left")


def test_answers_come_back_in_order_with_their_grades(tmp_path):
    log = PredictionLog(tmp_path, {"model": "m"})
    rows = evaluate_examples(
        FunctionSampler(always_left), ByteRenderer(), examples(), PARAMS, log=log, batch_size=4
    )
    assert [p.uid for p in rows] == [f"e{i}/{kind}" for i in range(5) for kind in KINDS]
    assert [p.score for p in rows[::3]] == [1, 0, 0, 1, 0]
    assert rows[0].categories == {"class": "mug", "angle": "20-40"}
    assert rows[0].choice == "left"
    assert read_predictions(tmp_path / "predictions.jsonl") == rows


def test_killed_run_continues_without_loss_or_repeat(tmp_path):
    whole = evaluate_examples(FunctionSampler(always_left), ByteRenderer(), examples(), PARAMS)

    class Killed(FunctionSampler):
        def generate(self, prompts, n, params):
            if self.prompts >= 6:
                raise KeyboardInterrupt
            return super().generate(prompts, n, params)

    with pytest.raises(KeyboardInterrupt):
        evaluate_examples(
            Killed(always_left),
            ByteRenderer(),
            examples(),
            PARAMS,
            log=PredictionLog(tmp_path, {}),
            batch_size=3,
        )
    path = tmp_path / "predictions.jsonl"
    path.write_bytes(path.read_bytes()[:-7])  # the kill fell into the last write
    sampler = FunctionSampler(always_left)
    rows = evaluate_examples(
        sampler,
        ByteRenderer(),
        examples(),
        PARAMS,
        log=PredictionLog(tmp_path, {}),
        batch_size=3,
    )
    assert rows == whole
    assert sampler.prompts == 15 - 5
    assert sorted(json.loads(line)["uid"] for line in path.read_text().splitlines()) == sorted(
        p.uid for p in whole
    )


def test_cut_completion_is_truncated():
    rows = evaluate_examples(
        FunctionSampler(lambda *_: "<think>" + "x" * 100), ByteRenderer(), examples(1), PARAMS
    )
    assert {(p.outcome, p.finish, p.tokens) for p in rows} == {("truncated", "length", 64)}


def test_other_settings_are_refused(tmp_path):
    PredictionLog(tmp_path, {"model": "a", "n": 1}).append([])
    with pytest.raises(UserError, match=r"model=a, now model=b"):
        PredictionLog(tmp_path, {"model": "b", "n": 1})
    (tmp_path / "settings.json").unlink()
    with pytest.raises(UserError, match=r"settings\.json"):
        PredictionLog(tmp_path, {"model": "a", "n": 1})


def test_foreign_line_is_named(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"uid": 1}\n')
    with pytest.raises(UserError, match="line 1"):
        read_predictions(path)


@pytest.mark.parametrize(
    ("degrees", "name"),
    [
        (20, "20-40"),
        (39.9, "20-40"),
        (40, "40-60"),
        (100, "80-100"),
        (19, "other"),
        (101, "other"),
    ],
)
def test_angle_bin(degrees, name):
    assert angle_bin(degrees) == name


def test_number_question_is_scored_by_relative_accuracy():
    requested = replace(
        question("n", "How many degrees?", options=(), kind="rotation_number"), number=40.0
    )
    example = Example(uid="e", images=[], questions=[requested], task="viewpoint")
    [exact] = evaluate_examples(
        FunctionSampler(lambda *_: "<answer>40</answer>"), ByteRenderer(), [example], PARAMS
    )
    [near] = evaluate_examples(
        FunctionSampler(lambda *_: "50 degrees"), ByteRenderer(), [example], PARAMS
    )
    [none] = evaluate_examples(
        FunctionSampler(lambda *_: "no idea"), ByteRenderer(), [example], PARAMS
    )
    assert [p.score for p in (exact, near, none)] == [1.0, 0.6, 0.0]
    assert (none.outcome, near.choice) == ("no_answer", "50")


class Lazy(list):
    """Examples that are read one by one; the last cannot be."""

    def __init__(self, rows, broken=False):
        super().__init__(rows)
        self.read, self.broken = [], broken

    def __iter__(self):
        for row in super().__iter__():
            self.read.append(row.uid)
            if self.broken and len(self.read) == len(self):
                raise UserError("a picture of e4 cannot be read")
            yield row


def test_next_examples_are_read_while_the_model_answers():
    rows, read = Lazy(examples(8)), []

    class Watching(FunctionSampler):
        def generate(self, prompts, n, params):
            until = time.monotonic() + 10
            while len(rows.read) < min(8, 4 + 2 * len(read)) and time.monotonic() < until:
                time.sleep(0.001)
            read.append(len(rows.read))
            return super().generate(prompts, n, params)

    assert (
        len(
            evaluate_examples(
                Watching(always_left), ByteRenderer(), rows, PARAMS, batch_size=6
            )
        )
        == 24
    )
    assert read == [4, 6, 8, 8]  # one batch of two examples ahead, and no more


def test_pictures_bound_a_batch_and_unreadable_ones_keep_what_was_answered(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(
        "actial.evaluation.loop.BATCH_BYTES", 3 * 4 * 4 * 3
    )  # more than an example's two pictures, less than two examples'
    sampler = FunctionSampler(always_left)
    with pytest.raises(UserError, match="picture of e4"):
        evaluate_examples(
            sampler,
            ByteRenderer(),
            Lazy(examples(), broken=True),
            PARAMS,
            log=PredictionLog(tmp_path, {}),
        )
    assert sampler.prompts == len(read_predictions(tmp_path / "predictions.jsonl")) == 12
