"""The shipped GPU experiments fit their devices, on the meta device and by arithmetic alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import hydra
import pytest
import torch
from support.qwen_shapes import released
from transformers import AutoModelForImageTextToText

from actial.config import FrozenWeights, StageName, TrainConfig, register
from actial.config.hydra_app import typed
from actial.core.paths import CONF
from actial.modeling.cost_model import Load, step_memory
from actial.modeling.policy import Policy
from actial.pipeline.doctor_checks import _trainer_memory
from actial.pipeline.memory_plan import GIB, MemoryPlan, alternatives, engine_gib, plan_memory

ONE_CARD = ("qwen2_5_vl_3b", "qwen3_vl_2b", "qwen3_vl_4b")


def compose(
    experiment: str, folder: Path, *overrides: str, model: str = "qwen2_5_vl_7b"
) -> TrainConfig:
    released(model).save_pretrained(folder)
    register()
    settings = [f"+experiment={experiment}", f"model={model}", f"model.path={folder}"]
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return typed(hydra.compose("train", [*settings, *overrides]))


def load_of_stage(config: TrainConfig, stage: StageName, *, patch: int = 14) -> Load:
    """32 prefixes of 1,500 tokens with two images of the largest size, and what follows them."""
    prompt = 1500
    group, length = 3, 80
    if stage is StageName.grpo:
        group, length = config.grpo.group_size, config.grpo.max_tokens
    tokens = prompt + group * length
    pairs = prompt * prompt // 2 + group * (prompt * length + length**2 // 2)
    return Load(
        tokens=32 * tokens,
        longest_group=tokens,
        attention_pairs=32 * pairs,
        gathered_keys=32 * group * (prompt + length),
        supervised_tokens=32 * group * length,
        patches=[config.model.max_pixels // patch**2] * 64,
    )


def plan(config: TrainConfig, stage: StageName) -> MemoryPlan:
    policy = Policy.from_hub_config(config.model)
    load = load_of_stage(config, stage, patch=policy.spec.patch_size)
    memory = _trainer_memory(config, stage, policy, load)
    available = config.trainer.memory_gib
    assert available is not None
    return plan_memory(config, stage, memory, available)


@pytest.mark.parametrize(
    ("experiment", "limit"),
    [("actial_7b", 79.1), ("actial_7b_lora_1gpu", 75.0)],
)
def test_shipped_gpu_experiments_fit_their_devices(experiment, limit, tmp_path):
    config = compose(experiment, tmp_path)
    for stage in config.stages:
        phases = plan(config, stage)
        print(experiment, stage.name, phases.describe())
        assert phases.peak <= limit, phases.describe()


@pytest.mark.parametrize("model", ONE_CARD)
def test_one_card_of_24_gb_takes_each_small_model(model, tmp_path):
    """With 4-bit blocks under adapters, the engine's 0.6 of the card, and its sleep."""
    config = compose("actial_24gb", tmp_path, model=model)
    assert config.model.frozen_weights is FrozenWeights.nf4
    assert config.model.lora.enabled
    assert config.sampler.engine["enable_sleep_mode"]
    assert config.sampler.engine["gpu_memory_utilization"] == 0.6
    for stage in config.stages:
        phases = plan(config, stage)
        print(model, stage.name, phases.describe())
        assert phases.peak <= 22.5, phases.describe()


@pytest.mark.parametrize("model", ONE_CARD)
def test_the_engine_s_share_of_24_gb_holds_weights_and_keys(model, tmp_path):
    """Weights in bf16, 1.5 GiB to work in, and keys and values of eight whole contexts."""
    config = compose("actial_24gb", tmp_path, model=model)
    available = config.trainer.memory_gib
    assert available is not None
    with torch.device("meta"):
        whole_model = AutoModelForImageTextToText.from_config(released(model))
    weights = 2 * sum(p.numel() for p in whole_model.parameters())
    text = whole_model.config.text_config
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    per_token = 2 * 2 * text.num_hidden_layers * text.num_key_value_heads * width
    contexts = 8 * per_token * config.sampler.engine["max_model_len"]
    assert (weights + contexts) / GIB + 1.5 < engine_gib(config, available)


@pytest.mark.parametrize(
    ("model", "billions", "multiple"),
    [("qwen3_vl_2b", 2.127, 32), ("qwen3_vl_4b", 4.438, 32), ("qwen2_5_vl_3b", 3.755, 28)],
)
def test_small_models_have_their_published_sizes(model, billions, multiple, tmp_path):
    """Parameters of the released checkpoints, and pixels along a visual token."""
    config = compose("actial_24gb", tmp_path, model=model)
    with torch.device("meta"):
        whole_model = AutoModelForImageTextToText.from_config(released(model))
    count = sum(p.numel() for p in whole_model.parameters())
    assert count / 1e9 == pytest.approx(billions, rel=0.001)
    assert Policy.from_hub_config(config.model).spec.factor == multiple


def test_what_does_not_fit_is_refused_with_settings_that_do(tmp_path):
    """The engine's share and a trainer that hold more than the card: sleeping makes room."""
    settings = ["enable_sleep_mode=false", "gpu_memory_utilization=0.6"]
    config = compose(
        "actial_7b_lora_1gpu", tmp_path, *(f"sampler.engine.{setting}" for setting in settings)
    )
    grpo = StageName.grpo
    assert not plan(config, grpo).fits
    fitting = []
    for settings, smaller in alternatives(config, load_of_stage(config, grpo)):
        if plan(smaller, grpo).fits:
            fitting.append(settings)
    assert fitting
    assert "+sampler.engine.enable_sleep_mode=true" in fitting[0]


def test_the_engine_is_counted_beside_the_trainer(tmp_path):
    config = compose("actial_7b_lora_1gpu", tmp_path, "sampler.engine.enable_sleep_mode=false")
    phases = plan(config, StageName.grpo).phases
    engine = 0.5 * 79.1
    policy = Policy.from_hub_config(config.model)
    memory = step_memory(policy, load_of_stage(config, StageName.grpo))
    assert phases["update"] == pytest.approx(memory.total / 2**30 + engine + 1.5)
    asleep = {**config.sampler.engine, "enable_sleep_mode": True}
    sleeping = replace(config, sampler=replace(config.sampler, engine=asleep))
    assert plan(sleeping, StageName.grpo).phases["update"] == pytest.approx(
        memory.total / 2**30 + 2.5
    )


def test_frozen_weights_of_the_7b_take_two_bytes(tmp_path):
    config = compose("actial_7b_lora_1gpu", tmp_path)
    policy = Policy.from_hub_config(config.model)
    frozen = [p for p in policy.parameters() if not p.requires_grad]
    stored = sum(p.numel() * p.element_size() for p in frozen)
    assert stored < 0.6 * 4 * sum(p.numel() for p in frozen)


def test_fsdp2_counts_the_unsharded_root_and_its_gradients(tmp_path):
    """Embedding and head of policy and reference in bf16, and float32 gradients of the policy's."""
    config = compose("actial_7b", tmp_path)
    policy = Policy.from_hub_config(config.model)
    load = load_of_stage(config, StageName.grpo)
    memory = step_memory(policy, load, frozen_copy=True, shards=8)
    assert memory.gathered == pytest.approx(4.4e9, rel=0.1)
    assert memory.reduced == pytest.approx(4.4e9, rel=0.1)
    assert memory.state == pytest.approx(18.4 * 2**30, rel=0.15)
