"""The scenes of the tiny base model: descriptions agree with the questions, no word of motion."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from support import tiny_world

from actial.build import build
from actial.config import (
    BaseScenesConfig,
    BuildConfig,
    ColdStartConfig,
    DataConfig,
    ImageConfig,
    ImageFormat,
    ModelConfig,
    SceneVisionConfig,
    SetConfig,
    SourceConfig,
    SourceKind,
    Task,
)
from actial.core.errors import UserError
from actial.core.records import AnswerMode, Example, Question
from actial.data.datasets import open_set
from actial.data.shards import ShardSet
from actial.modeling.policy import Policy
from actial.synthetic.base_scenes import write_scenes
from actial.synthetic.sat_writer import write_sat
from actial.synthetic.scene_vision import WORDS, Scenes, column_labels, train_scene_vision
from actial.synthetic.vision_pretraining import load_photos
from actial.viewpoint.scene_rules import read_description

SIZE = 64
MOTION = re.compile(r"\b(moved?|turn\w*|step\w*|walk\w*|rotat\w*|went|will|if i|own front)\b")


def built(folder: Path) -> Path:
    source = SourceConfig(kind=SourceKind.sat, root=str(folder))
    image = ImageConfig(max_pixels=SIZE * SIZE, multiple=16, format=ImageFormat.png)
    build(BuildConfig(source=source, image=image, out=str(folder / "set"), workers=1))
    return folder / "set"


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    config = BaseScenesConfig(out=str(folder), scenes=24, size=SIZE, seed=5, workers=1)
    assert sum(write_scenes(config)) == 24
    return built(folder)


def open_scenes(root: Path) -> list[Example]:
    config = SetConfig(task=Task.scenes, root=str(root))
    data = DataConfig(exercises_per_pair=5)
    examples = open_set(config, "train", data, ColdStartConfig(), supervised=True)
    return [examples.example(i, epoch) for epoch in range(2) for i in range(len(examples))]


def described_questions(examples: list[Example]) -> list[Question]:
    questions = [question for example in examples for question in example.questions]
    return [question for question in questions if question.target.startswith("<think>\nthe")]


def test_no_photo_exercise_speaks_of_motion(scenes):
    for example in open_scenes(scenes):
        for question in example.questions:
            assert not MOTION.search(f"{question.text} {question.target}".lower())


def test_the_facts_of_a_chain_give_its_answer(scenes):
    checked = Counter()
    for question in described_questions(open_scenes(scenes)):
        chain = question.target.removeprefix("<think>\n").split("\nSo ")[0]
        answer = question.options[question.answer_index]
        if question.type == "depth" and "closer" in chain:
            assert f"{answer} is closer." in chain
        elif question.type == "relation" and "of the photo" in question.text:
            assert f"is on the {answer}." in chain
        elif question.type == "relation" and "to the" in chain:
            a, b = re.search(
                r"is (.*) to the left or .* of (the \w+ \w+)\?", question.text
            ).groups()
            mirrored = "right" if answer == "left" else "left"
            assert f"{b} is to the {mirrored} of {a}." in chain
        elif "which side" in question.text:
            assert f"shows {answer}." in chain
        checked[question.type] += 1
    assert checked["depth"] > 5
    assert checked["relation"] > 5
    assert checked["count"] == 0


def test_of_two_scenes_every_question_names_the_photo(scenes):
    pairs = [example for example in open_scenes(scenes) if len(example.images) == 2]
    assert pairs
    for example in pairs:
        assert not np.array_equal(example.images[0], example.images[1])
        assert all(re.search(r"photo [12]", question.text) for question in example.questions)


def test_answer_forms_are_a_letter_a_short_chain_and_one_with_the_description(scenes):
    questions = [q for example in open_scenes(scenes) for q in example.questions]
    direct = [q for q in questions if q.mode is AnswerMode.DIRECT]
    described = described_questions(open_scenes(scenes))
    assert 0.15 < len(direct) / len(questions) < 0.45
    assert described
    assert len(direct) + len(described) < len(questions)
    assert all(q.target == q.answer_letter for q in direct)


def test_a_set_without_descriptions_is_refused_with_the_remedy(tmp_path):
    list(write_sat(tmp_path / "SAT_train.parquet", "train", 9, seed=3, size=SIZE, workers=1))
    with pytest.raises(UserError, match=r"without a description: .*base_scenes"):
        open_scenes(built(tmp_path))


# ---------------------------------------------------------------- the vision encoder on scenes


def test_a_thing_is_expected_in_the_column_of_tokens_that_shows_it():
    lines = read_description("the red car 11 front.\nthe blue mug 85 back left.")
    labels = column_labels(lines, 6)
    red, mug, green = (WORDS.index(word) for word in ("red", "mug", "green"))
    unclear = np.nan
    np.testing.assert_equal(labels[:, red], [1, 1, unclear, 0, 0, 0])
    np.testing.assert_equal(labels[:, mug], [0, 0, 0, unclear, 1, 1])
    assert (labels[:, green] == 0).all()


def test_scene_vision_lowers_the_loss_and_changes_the_vision_encoder_alone(scenes, tmp_path):
    shards, pairs = ShardSet(scenes, "train"), tiny_world.write_pairs(tmp_path / "pairs")
    tiny_world.write_model(
        tmp_path / "model", pairs, tiny_world.write_questions(tmp_path / "sat")
    )
    policy = Policy.load(
        ModelConfig(path=str(tmp_path / "model"), min_pixels=256, max_pixels=4096)
    )
    before = {name: value.detach().clone() for name, value in policy.named_parameters()}
    config = SceneVisionConfig(start="", scenes="", pairs="", out="", steps=24, batch_size=8)
    loaded = Scenes.load(shards)
    steps = list(train_scene_vision(policy, loaded, load_photos(pairs), config))
    assert steps[-1]["loss"] < 0.8 * steps[0]["loss"]
    changed = {
        name
        for name, value in policy.named_parameters()
        if not torch.equal(value, before[name])
    }
    assert changed
    assert all("visual" in name for name in changed)
