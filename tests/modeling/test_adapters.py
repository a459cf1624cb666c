"""LoRA adapters as PEFT folders: saved beside a merged model, joined over stages, a start again."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from support.engine_world import load_policy, open_renderer, shake
from transformers import AutoModelForImageTextToText

from actial.config import LoraConfig, ModelConfig, PromptConfig
from actial.core.errors import UserError
from actial.modeling.adapter_folder import CONFIG, WEIGHTS, adapter_settings, base_of
from actial.modeling.hf_checkpoint import fingerprint
from actial.modeling.policy import Policy
from actial.modeling.prompt_renderer import PromptRenderer

LORA = LoraConfig(enabled=True, rank=4, alpha=8)
IDS = torch.arange(5, 25)[None]


def train_stage(source: Path, stage: Path, seed: int) -> Policy:
    """What a stage with adapters leaves: STAGE/adapter and STAGE/model, and its policy."""
    policy = load_policy(source, lora=LORA)
    shake(policy, seed, 0.05)
    policy.save_adapter(stage / "adapter", {"actial.json": "{}"})
    policy.save_pretrained(stage / "model")
    return policy


@torch.no_grad()
def logits(model) -> torch.Tensor:
    return model.eval()(input_ids=IDS).logits


@pytest.fixture(scope="module")
def stages(spread_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("run")
    train_stage(spread_model, root / "sft", 1)
    train_stage(root / "sft" / "model", root / "grpo", 2)
    return root


def loaded(folder: Path) -> torch.Tensor:
    return logits(Policy.load(ModelConfig(path=str(folder))).core)


def plain(folder: Path) -> torch.Tensor:
    """Logits of a full model folder in plain transformers, nothing of ours."""
    return logits(AutoModelForImageTextToText.from_pretrained(folder))


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_an_adapter_on_the_first_base_is_the_merged_model(
    stages: Path, spread_model: Path, stage: str
) -> None:
    """Of the second stage, too: its adapter holds the first stage's."""
    adapter = stages / stage / "adapter"
    assert base_of(adapter) == (str(spread_model), None)
    assert adapter_settings(adapter)["r"] == {"sft": 4, "grpo": 8}[stage]
    ours, merged = loaded(adapter), plain(stages / stage / "model")
    torch.testing.assert_close(ours, merged, rtol=0, atol=2e-5)
    assert (ours - plain(spread_model)).abs().max() > 1e-2
    base = AutoModelForImageTextToText.from_pretrained(spread_model)
    theirs = logits(PeftModel.from_pretrained(base, str(adapter)))  # PEFT's own reader
    torch.testing.assert_close(theirs, merged, rtol=0, atol=2e-5)


def test_an_adapter_is_small_beside_its_model(stages: Path) -> None:
    adapter_bytes = (stages / "sft" / "adapter" / WEIGHTS).stat().st_size
    model_bytes = (stages / "sft" / "model" / "model.safetensors").stat().st_size
    assert adapter_bytes < model_bytes / 4
    assert {file.name for file in (stages / "sft" / "adapter").iterdir()} == {
        CONFIG,
        WEIGHTS,
        "actial.json",
        "SHA256SUMS",
    }


def test_training_goes_on_from_an_adapter_and_saves_one_of_the_same_base(
    stages: Path, spread_model: Path, tmp_path: Path
) -> None:
    policy = train_stage(stages / "sft" / "adapter", tmp_path, 3)
    assert base_of(tmp_path / "adapter")[0] == str(spread_model)
    merged = plain(tmp_path / "model")
    torch.testing.assert_close(logits(policy.model), merged, rtol=0, atol=2e-5)
    torch.testing.assert_close(loaded(tmp_path / "adapter"), merged, rtol=0, atol=2e-5)


def test_prompts_of_an_adapter_are_those_of_its_base(stages: Path, spread_model: Path) -> None:
    config = ModelConfig(
        path=str(stages / "sft" / "adapter"), min_pixels=256, max_pixels=16384
    )
    of_adapter = PromptRenderer.load(config, PromptConfig())
    assert of_adapter.fingerprint == open_renderer(spread_model).fingerprint


def test_fingerprints_tell_adapters_and_their_bases_apart(
    stages: Path, untrained_model: Path, tmp_path: Path
) -> None:
    copied = tmp_path / "adapter"
    shutil.copytree(stages / "sft" / "adapter", copied)

    def digest() -> str:
        return fingerprint(ModelConfig(path=str(copied))).rpartition("@")[2]

    first = digest()
    settings = json.loads((copied / CONFIG).read_text())
    for change in ({"base_model_name_or_path": str(untrained_model)}, {"lora_alpha": 99}):
        (copied / CONFIG).write_text(json.dumps(settings | change))
        assert digest() != first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type=IA3"),
        ({"base_model_name_or_path": None}, "names its base model"),
        ({"base_model_name_or_path": "/nowhere/at/all"}, "model.path=/nowhere/at/all"),
        ({"target_modules": ["no_such_layer"]}, "does not fit its base"),
    ],
)
def test_adapters_that_cannot_be_loaded_say_why(
    stages: Path, tmp_path: Path, change: dict, message: str
) -> None:
    copied = tmp_path / "adapter"
    shutil.copytree(stages / "sft" / "adapter", copied)
    settings = json.loads((copied / CONFIG).read_text())
    (copied / CONFIG).write_text(json.dumps(settings | change))
    with pytest.raises(UserError, match=message):
        Policy.load(ModelConfig(path=str(copied)))


def rewritten(folder: Path, out: Path, change: Callable[[dict], dict], **settings) -> Path:
    """A copy of an adapter folder with other tensors and settings."""
    shutil.copytree(folder, out)
    save_file(change(load_file(folder / WEIGHTS)), out / WEIGHTS, {"format": "pt"})
    stored = json.loads((folder / CONFIG).read_text())
    (out / CONFIG).write_text(json.dumps(stored | settings))
    return out


@pytest.mark.parametrize(
    ("present", "earlier"),
    [
        ("base_model.model.model.language_model.", "base_model.model.model."),
        ("base_model.model.", ""),
        ("base_model.model.model.language_model.", "model."),
    ],
)
def test_adapters_under_earlier_names_are_the_same(
    stages: Path, tmp_path: Path, present: str, earlier: str
) -> None:
    adapter = stages / "sft" / "adapter"

    def renamed(tensors: dict) -> dict:
        return {name.replace(present, earlier): t for name, t in tensors.items()}

    copied = rewritten(adapter, tmp_path / "renamed", renamed)
    assert load_file(copied / WEIGHTS).keys() != load_file(adapter / WEIGHTS).keys()
    torch.testing.assert_close(loaded(copied), loaded(adapter), rtol=0, atol=0)
    train_stage(copied, tmp_path / "next", 3)  # joined under today's names
    names = load_file(tmp_path / "next" / "adapter" / WEIGHTS).keys()
    assert names == load_file(stages / "grpo" / "adapter" / WEIGHTS).keys()


LAYER = "base_model.model.model.language_model.layers.0.mlp.down_proj"


@pytest.mark.parametrize(
    ("without", "more", "settings", "message"),
    [
        (LAYER, (), {}, rf"it lacks {LAYER}.lora_A.weight and 1 more"),
        (
            "-",
            ("x.lora_A.weight",),
            {},
            r"the base has no place for base_model.model.x.lora_A.weight\)",
        ),
        ("-", (), {"use_dora": True}, r"it lacks .*\.lora_magnitude_vector and \d+ more"),
        ("-", (), {"modules_to_save": ["lm_head"]}, r"it lacks .*lm_head\.weight"),
    ],
)
def test_adapters_whose_tensors_are_not_the_model_s_are_refused(
    stages: Path, tmp_path: Path, without: str, more: tuple, settings: dict, message: str
) -> None:
    def changed(tensors: dict) -> dict:
        rest = {name: t for name, t in tensors.items() if not name.startswith(without)}
        return rest | {name: torch.zeros(4, 4) for name in more}

    copied = rewritten(stages / "sft" / "adapter", tmp_path / "changed", changed, **settings)
    with pytest.raises(UserError, match=rf"does not fit its base \({message}"):
        Policy.load(ModelConfig(path=str(copied)))


def test_a_cut_adapter_is_named(stages: Path, tmp_path: Path) -> None:
    copied = tmp_path / "adapter"
    shutil.copytree(stages / "sft" / "adapter", copied)
    os.truncate(copied / WEIGHTS, 2000)
    with pytest.raises(UserError, match=rf"{WEIGHTS} cannot be read .*: restore it"):
        Policy.load(ModelConfig(path=str(copied)))


def test_adapters_of_other_variants_are_not_joined(stages: Path, tmp_path: Path) -> None:
    copied = tmp_path / "adapter"
    shutil.copytree(stages / "sft" / "adapter", copied)
    settings = json.loads((copied / CONFIG).read_text())
    (copied / CONFIG).write_text(json.dumps(settings | {"use_dora": True}))
    policy = load_policy(stages / "sft" / "model", lora=LORA)
    policy.config.path = str(copied)
    with pytest.raises(UserError, match="use_dora=True"):
        policy.save_adapter(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_tensors_have_peft_s_names(stages: Path) -> None:
    names = list(load_file(stages / "grpo" / "adapter" / WEIGHTS))
    prefix = "base_model.model.model."
    assert all(name.startswith(prefix) for name in names)
    assert all(name.endswith((".lora_A.weight", ".lora_B.weight")) for name in names)
