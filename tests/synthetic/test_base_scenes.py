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
    PromptConfig,
    SceneVisionConfig,
    SetConfig,
    SourceConfig,
    SourceKind,
    Task,
)
from actial.core.errors import UserError
from actial.core.paths import ASSETS
from actial.core.records import AnswerMode, Example, Question
from actial.core.seeding import Draw
from actial.data.datasets import open_set
from actial.data.shards import ShardSet
from actial.modeling.policy import Policy
from actial.modeling.prompt_renderer import PromptRenderer
from actial.synthetic.base_scenes import layout, write_scenes
from actial.synthetic.sat_writer import write_sat
from actial.synthetic.scene_comparisons import (
    ComparedWords,
    comparison_group,
    learn_comparisons,
)
from actial.synthetic.scene_questions import ask
from actial.synthetic.scene_vision import (
    IGNORED,
    Scenes,
    ground_in_scenes,
    token_labels,
    train_scene_vision,
)
from actial.synthetic.scenes import FOCAL
from actial.synthetic.vision_pretraining import load_photos
from actial.synthetic.word_grounding import tokens_of_words
from actial.viewpoint.scene_rules import read_description
from actial.viewpoint.vocabulary import PALETTE, SEEN

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
    data = DataConfig(exercises_per_pair=6)
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


def test_every_scene_is_told_as_a_list_of_facts_before_the_questions(scenes):
    for example in open_scenes(scenes):
        listing, *others = example.questions
        assert listing.type == "facts"
        assert listing.target.count("is on the") == listing.text.count(",") + 1
        assert all(question.options[1:] for question in others)


def test_of_two_scenes_every_question_names_the_photo(scenes):
    pairs = [example for example in open_scenes(scenes) if len(example.images) == 2]
    assert pairs
    for example in pairs:
        assert not np.array_equal(example.images[0], example.images[1])
        assert all(re.search(r"photo [12]", question.text) for question in example.questions)


def test_answer_forms_are_a_letter_a_short_chain_and_one_with_the_description(scenes):
    questions = [q for example in open_scenes(scenes) for q in example.questions[1:]]
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


def test_the_layout_shows_each_thing_where_the_camera_projects_it():
    checked = Counter()
    for index in range(12):
        scene = ask("static", ("layout", index), 96)[0].scene
        rows = layout(scene).split("/")
        assert [len(row) for row in rows] == [6] * 6
        order = np.argsort(scene.local[0, :, 0] / scene.local[0, :, 2])
        for line, thing in enumerate(order, 1):
            x, y, z = scene.local[0, thing]
            column = int(FOCAL * x / z * 6 + 3)
            row = int(FOCAL * y / z * 6 + 3)
            around = {
                rows[r][c]
                for r in range(max(row - 1, 0), row + 2)
                for c in range(max(column - 1, 0), min(column + 2, 6))
            }
            checked[str(line) in around] += 1
    # the rest is half hidden, or shares its cells with another thing
    assert checked[True] > 9 * checked[False]
    assert sum(checked.values()) > 24


def test_labels_of_a_token_are_those_of_the_thing_that_it_shows():
    lines = read_description("the red car 11 front.\nthe blue mug 85 back left.")
    labels = token_labels(lines, "1?/2.")
    red, blue = list(PALETTE).index("red"), list(PALETTE).index("blue")
    car, mug = SEEN.index("car"), SEEN.index("mug")
    np.testing.assert_equal(labels[0], [red, car, 0, 0, 0, 1])
    np.testing.assert_equal(labels[1], [IGNORED] * 6)
    np.testing.assert_equal(labels[2], [blue, mug, 7, 4, 3, 1])
    np.testing.assert_equal(labels[3], [IGNORED] * 5 + [0])


def test_scenes_without_a_layout_are_refused_with_the_remedy(tmp_path):
    list(write_sat(tmp_path / "SAT_train.parquet", "train", 9, seed=3, size=SIZE, workers=1))
    with pytest.raises(UserError, match=r"without description and layout: .*base_scenes"):
        Scenes.load(ShardSet(built(tmp_path), "train"))


def test_scene_vision_lowers_the_loss_and_changes_the_vision_encoder_alone(scenes, tmp_path):
    pairs = tiny_world.write_pairs(tmp_path / "pairs")
    policy, renderer = opened(ASSETS / "tiny_base")
    before = {name: value.detach().clone() for name, value in policy.named_parameters()}
    steps = trained(policy, renderer, scenes, pairs)
    assert steps[-1]["loss"] < 0.9 * steps[0]["loss"]
    assert steps[-1]["covered"] > steps[0]["covered"] + 0.1
    assert steps[0]["photo_change"] == 0.0
    assert 0 < steps[-1]["photo_change"] < 1
    changed = {
        name
        for name, value in policy.named_parameters()
        if not torch.equal(value, before[name])
    }
    assert changed
    assert all("visual" in name for name in changed)


def test_scene_vision_refuses_a_tokenizer_that_cuts_the_words_of_scenes(scenes, tmp_path):
    pairs = tiny_world.write_pairs(tmp_path / "pairs")
    questions = tiny_world.write_questions(tmp_path / "sat")
    tiny_world.write_model(tmp_path / "model", pairs, questions)
    policy, renderer = opened(tmp_path / "model")
    with pytest.raises(UserError, match=r"cuts the word '\w+': start from a model of"):
        trained(policy, renderer, scenes, pairs)


def test_grounding_turns_the_attention_of_a_word_to_the_thing_that_it_names(scenes):
    policy, renderer = opened(ASSETS / "tiny_base")
    before = {name: value.detach().clone() for name, value in policy.named_parameters()}
    loaded = Scenes.load(ShardSet(scenes, "train"))
    config = SceneVisionConfig(start="", scenes="", pairs="", out="", grounding_steps=120)
    config.batch_size = 7
    assert ground_in_scenes(policy, renderer.tokenizer, loaded, config) > 0.5
    changed = {
        name
        for name, value in policy.named_parameters()
        if not torch.equal(value, before[name])
    }
    assert changed
    assert all(re.search(r"layers\.0\.self_attn\.[qk]_proj", name) for name in changed)


def test_the_tokens_of_a_word_are_those_that_show_a_thing_of_that_name():
    labels = torch.tensor([[[1, 0, 9, 1], [IGNORED, IGNORED, IGNORED, 0], [0, 2, 9, 1]]])
    owned = tokens_of_words(labels, (2, 3))
    assert owned.shape == (1, 5, 3)
    assert [tuple(row) for row in owned[0].nonzero().tolist()] == [
        (0, 2),
        (1, 0),
        (2, 0),
        (4, 2),
    ]


def test_comparisons_supervise_the_words_that_need_a_look_and_leave_the_vision_encoder(scenes):
    policy, renderer = opened(ASSETS / "tiny_base")
    described = Scenes.load(ShardSet(scenes, "train")).described(40)
    words = ComparedWords(renderer.tokenizer)
    group = comparison_group(renderer, words, described[0], 0, Draw("a test"))
    for continuation in group.continuations:
        answer = renderer.tokenizer.decode(continuation.input_ids).split("assistant\n")[1]
        marked = [
            renderer.tokenizer.decode([token])
            for token, compared in zip(
                continuation.input_ids, continuation.loss_mask, strict=True
            )
            if compared
        ]
        wanted = re.finditer(r" \w+ \w+(?= is closer)| (?:left|right)\b", answer)
        assert marked
        assert "".join(marked) == "".join(match[0] for match in wanted)
    before = {name: value.detach().clone() for name, value in policy.named_parameters()}
    right = list(
        learn_comparisons(policy, renderer, described, steps=40, scenes_per_step=6, seed=0)
    )
    assert np.mean(right[-5:]) > np.mean(right[:5]) + 0.1
    changed = {
        name
        for name, value in policy.named_parameters()
        if not torch.equal(value, before[name])
    }
    assert changed
    assert not any("visual" in name for name in changed)


def opened(folder: Path) -> tuple[Policy, PromptRenderer]:
    model = ModelConfig(path=str(folder), min_pixels=256, max_pixels=4096)
    return Policy.load(model), PromptRenderer.load(model, PromptConfig())


def trained(
    policy: Policy, renderer: PromptRenderer, scenes: Path, pairs: ShardSet
) -> list[dict[str, float]]:
    config = SceneVisionConfig(start="", scenes="", pairs="", out="", steps=16, photo_batch=4)
    config.batch_size = 12
    photos = load_photos(pairs).images
    loaded = Scenes.load(ShardSet(scenes, "train"))
    steps = train_scene_vision(policy, renderer.tokenizer, loaded, photos, config)
    return list(steps)
