"""Rows -> examples -> prompts and supervised trunks, on a small data set of the procedural world
and an untrained tiny model.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from support import tiny_world
from transformers import AutoProcessor

from actial.config import (
    ColdStartConfig,
    DataConfig,
    EpochRule,
    MixConfig,
    ModelConfig,
    PromptConfig,
    SetConfig,
    Task,
)
from actial.core.errors import UserError
from actial.core.records import AnswerMode, Example
from actial.data.datasets import open_set
from actial.data.mixture import Mixture
from actial.modeling.policy import Policy
from actial.modeling.prompt_renderer import PromptRenderer
from actial.synthetic.vision_pretraining import load_photos, pretrain_vision_encoder
from actial.viewpoint.rationale_verifier import contradictions


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    pairs, questions = (
        tiny_world.write_pairs(root / "pairs"),
        tiny_world.write_questions(root / "sat"),
    )
    tiny_world.write_model(root / "model", pairs, questions)
    return root


@pytest.fixture(scope="module")
def renderer(world):
    return PromptRenderer.load(model_config(world), PromptConfig())


def model_config(world) -> ModelConfig:
    return ModelConfig(path=str(world / "model"), min_pixels=256, max_pixels=4096)


def open_task(
    world,
    task: Task,
    *,
    ratio: float = 0.1,
    supervised: bool = True,
    mode: AnswerMode | None = None,
    **data,
):
    root = {Task.qa: "sat", Task.clock: ""}.get(task, "pairs")
    config = SetConfig(task=task, root=str(world / root))
    return open_set(
        config,
        "train",
        DataConfig(**data),
        ColdStartConfig(ratio=ratio),
        supervised=supervised,
        mode=mode,
    )


# ---------------------------------------------------------------- examples


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_pair_gives_one_to_three_questions_of_distinct_types(world, count):
    example = open_task(world, Task.viewpoint, questions_per_pair=count).example(0, 0)
    assert len({question.type for question in example.questions}) == count
    assert [image.shape for image in example.images] == [(32, 32, 3)] * 2


def test_the_cold_start_ratio_is_the_share_of_pairs_with_chains(world):
    for ratio, modes in ((0.0, {AnswerMode.DIRECT}), (1.0, {AnswerMode.THINK})):
        task = open_task(world, Task.viewpoint, ratio=ratio)
        assert {task.example(i, 0).questions[0].mode for i in range(len(task))} == modes
    task = open_task(world, Task.viewpoint, ratio=0.3)
    draws = [
        task.example(i, epoch).questions[0].mode is AnswerMode.THINK
        for i in range(len(task))
        for epoch in range(20)
    ]
    assert 0.2 < np.mean(draws) < 0.4


def test_chains_are_true_and_end_with_the_right_letter(world):
    task = open_task(world, Task.viewpoint, ratio=1.0, questions_per_pair=3)
    for index in range(len(task)):
        example = task.example(index, 0)
        for question in example.questions:
            assert question.target is not None
            assert contradictions(question.target, example.record) == []
            assert f"<answer>{question.answer_letter}</answer>" in question.target


def test_a_forced_mode_has_no_target_unless_supervised(world):
    question = (
        open_task(world, Task.qa, supervised=False, mode=AnswerMode.THINK)
        .example(0, 0)
        .questions[0]
    )
    assert question.mode is AnswerMode.THINK
    assert question.target is None


def test_a_type_that_a_set_does_not_have_is_named(world):
    config = SetConfig(task=Task.qa, root=str(world / "sat"), types=["perspective"])
    with pytest.raises(UserError, match=r"perspective.*goal_aim.*static"):
        open_set(config, "train", DataConfig(), ColdStartConfig(), supervised=True)


def test_the_mixture_is_a_function_of_the_position(world):
    def mixture(seed: int) -> Mixture:
        sets = {"a": open_task(world, Task.viewpoint), "b": open_task(world, Task.clock)}
        return Mixture(sets, MixConfig(weights={"a": 0.7, "b": 0.3}), seed)

    first = [mixture(0).example(p).uid for p in range(60)]
    assert first == [mixture(0).example(p).uid for p in range(60)]
    assert first != [mixture(1).example(p).uid for p in range(60)]
    pairs = [uid for uid in first if not uid.startswith("clock")]
    assert len(set(pairs[:18])) == 18  # the whole set before any row returns


def test_a_mixture_over_an_unknown_set_is_refused(world):
    with pytest.raises(UserError, match=r"names c, but data.sets has only a"):
        Mixture(
            {"a": open_task(world, Task.viewpoint)}, MixConfig(weights={"a": 1.0, "c": 1.0}), 0
        )


def test_weights_are_shares_of_the_draws_and_the_epoch_rule_says_what_an_epoch_is(world):
    sets = {
        "qa": open_task(world, Task.qa),
        "pairs": open_task(world, Task.viewpoint),
    }  # 8 and 18 rows
    weights = {"qa": 1.8, "pairs": 0.2}
    first = Mixture(sets, MixConfig(weights=weights), 0).schedule(1000)
    assert first["sets"] == {
        "qa": {"share": 0.9, "rows": 8, "passes": 112.5},
        "pairs": {"share": 0.1, "rows": 18, "passes": pytest.approx(5.5556)},
    }
    assert (first["epoch_draws"], first["epochs"]) == (
        9,
        pytest.approx(111.1111),
    )  # 8 / 0.9 draws go through the first set once
    counted = Mixture(
        sets, MixConfig(weights=weights, epoch_rule=EpochRule.draws, epoch_draws=250), 0
    ).schedule(1000)
    assert (counted["epoch_rule"], counted["epoch_draws"], counted["epochs"]) == (
        "draws",
        250,
        4.0,
    )
    mixture = Mixture(sets, MixConfig(weights=weights), 0)
    drawn = [mixture.example(p).task for p in range(1000)]
    assert drawn.count("qa") / 1000 == pytest.approx(0.9, abs=0.03)


# ---------------------------------------------------------------- prompts


def test_both_id_lists_are_what_the_library_makes_of_the_prompt(world, renderer):
    example = open_task(world, Task.viewpoint).example(0, 0)
    prompt = renderer.prompt(example, example.questions[0])
    text = renderer.tokenizer.decode(prompt.engine_ids)
    processor = AutoProcessor.from_pretrained(world / "model")
    images = [Image.fromarray(image) for image in example.images]
    assert (
        prompt.input_ids
        == processor(text=[text], images=images, do_resize=False)["input_ids"][0]
    )
    assert prompt.engine_ids.count(renderer.image_token_id) == 2
    assert prompt.input_ids.count(renderer.image_token_id) == 2 * 4


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_trunk_and_branch_join_to_the_prompt_and_only_the_answer_is_scored(
    world, renderer, ratio
):
    example = open_task(world, Task.viewpoint, ratio=ratio, questions_per_pair=3).example(1, 0)
    prefix_group = renderer.supervised_group(example, first_image=4)
    assert prefix_group.images == [4, 5]
    for question, continuation in zip(
        example.questions, prefix_group.continuations, strict=True
    ):
        answer = [
            token
            for token, scored in zip(
                continuation.input_ids, continuation.loss_mask, strict=True
            )
            if scored
        ]
        prompt = renderer.prompt(example, question).input_ids
        assert prefix_group.input_ids + continuation.input_ids == prompt + answer
        assert answer[-1] == renderer.stop_id
        assert renderer.decode(answer) == question.target


def test_text_only_examples_render_without_images(world, renderer):
    example = open_task(world, Task.clock).example(0, 0)
    prefix_group = renderer.supervised_group(example)
    assert prefix_group.images == []
    assert (
        prefix_group.input_ids + prefix_group.continuations[0].input_ids[:3]
        == renderer.prompt(example, example.questions[0]).input_ids[
            : len(prefix_group.input_ids) + 3
        ]
    )


def test_an_image_of_a_size_the_model_does_not_see_is_refused_with_the_remedy(renderer):
    example = Example(
        uid="odd", images=[np.zeros((30, 32, 3), np.uint8)], questions=[], task="viewpoint"
    )
    with pytest.raises(UserError, match=r"odd is 32x30.*image.multiple=16"):
        renderer._expand([renderer.image_token_id], example.images, example.uid)


def test_the_fingerprint_tells_system_prompts_apart(world, renderer):
    other = PromptRenderer.load(model_config(world), PromptConfig(system_prompt="paraphrase"))
    changed = {
        key for key, value in renderer.fingerprint.items() if other.fingerprint[key] != value
    }
    assert {"chat_template", "system_prompt"} == changed


# ---------------------------------------------------------------- tower


def test_the_tower_learns_from_each_photo_once_and_by_seed_alone(world):
    pairs = open_task(world, Task.viewpoint).shards
    assert len(load_photos(pairs).images) == 6 * 4

    def losses() -> list[float]:
        policy = Policy.load(model_config(world))
        return [
            m["loss"]
            for m in pretrain_vision_encoder(
                policy, pairs, steps=30, batch_size=24, lr=3e-3, seed=5
            )
        ]

    first = losses()
    assert first == losses()
    assert np.mean(first[-3:]) < 0.8 * np.mean(first[:3])


def test_supervised_questions_need_a_target(world, renderer):
    example = open_task(world, Task.viewpoint).example(0, 0)
    with pytest.raises(UserError, match="has no target"):
        renderer.supervised_group(
            replace(example, questions=[replace(example.questions[0], target=None)])
        )


def test_training_can_be_kept_to_some_angles_and_questions_while_scoring_sees_all(
    tiny_set,
) -> None:
    def opened(split: str, **settings):
        config = SetConfig(task=Task.viewpoint, root=str(tiny_set), **settings)
        return open_set(
            config, split, DataConfig(questions_per_pair=3), ColdStartConfig(), supervised=True
        )

    def angles(task) -> list[float]:
        return [abs(task.example(i, 0).record.geometry.alpha_deg) for i in range(len(task))]

    everything, near = opened("train"), opened("train", angles=[20, 50])
    assert angles(near) == [angle for angle in angles(everything) if angle <= 50]
    assert 0 < len(near) < len(everything)
    assert len(opened("test", angles=[20, 50])) == len(opened("test"))
    turning = opened("train", types=["ego_rotation"])
    assert {
        question.type
        for i in range(len(turning))
        for question in turning.example(i, 0).questions
    } == {"ego_rotation"}
    assert len(opened("test", types=["ego_rotation"]).example(0, 0).questions) == 3
    with pytest.raises(UserError, match="no pair 170 to 175 degrees apart"):
        opened("train", angles=[170, 175])
