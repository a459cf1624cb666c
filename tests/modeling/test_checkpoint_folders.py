"""Model folders as people have them: templates, end-of-turn ids, generation configs, leftovers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoProcessor, AutoTokenizer

from actial.config import LoraConfig, ModelConfig, ModuleGroupConfig, PromptConfig
from actial.core.errors import UserError
from actial.core.records import AnswerMode, Example, Question
from actial.modeling.base_model import check_weights
from actial.modeling.policy import Policy
from actial.modeling.prompt_renderer import PromptRenderer


@pytest.fixture
def folder(tmp_path: Path, untrained_model: Path) -> Path:
    return Path(shutil.copytree(untrained_model, tmp_path / "base"))


def renderer_of(folder: Path) -> PromptRenderer:
    return PromptRenderer.load(ModelConfig(path=str(folder)), PromptConfig())


def saved(folder: Path, out: Path) -> Path:
    Policy.load(ModelConfig(path=str(folder))).save_pretrained(out)
    return out


def load_folder(path: str) -> Policy:
    return Policy.load(ModelConfig(path=path))


def supervised(renderer: PromptRenderer, target: str) -> list[int]:
    side = renderer.limits.multiple * 4
    question = Question(
        uid="q",
        type="t",
        text="Which side?",
        options=("left", "right"),
        answer_index=0,
        mode=AnswerMode.THINK,
        target=target,
    )
    images = [np.zeros((side, side, 3), np.uint8)]
    group = renderer.supervised_group(
        Example(uid="e", images=images, questions=[question], task="sat")
    )
    (continuation,) = group.continuations
    return continuation.input_ids


def test_a_saved_model_has_what_transformers_4_57_looks_for(
    folder: Path, tmp_path: Path
) -> None:
    model = saved(folder, tmp_path / "saved")
    config = json.loads((model / "config.json").read_text())["text_config"]
    assert (
        config["rope_scaling"]["mrope_section"] == config["rope_parameters"]["mrope_section"]
    )
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"]
    tokenizer = json.loads((model / "tokenizer_config.json").read_text())
    assert "<|image_pad|>" in tokenizer["additional_special_tokens"]
    assert not isinstance(tokenizer.get("extra_special_tokens"), list)
    processor = json.loads((model / "preprocessor_config.json").read_text())
    assert processor["max_pixels"] == processor["size"]["longest_edge"]
    # Version 5 reads what it read before.
    before, after = (
        (
            AutoConfig.from_pretrained(path).text_config.rope_parameters,
            AutoTokenizer.from_pretrained(path).all_special_tokens,
            AutoProcessor.from_pretrained(path).image_processor.to_dict(),
        )
        for path in (folder, model)
    )
    assert before == after


def test_every_end_of_turn_id_of_the_generation_config_stops(folder: Path) -> None:
    before = renderer_of(folder)
    other = before.tokenizer.convert_tokens_to_ids("<|endoftext|>")
    path = folder / "generation_config.json"
    values = json.loads(path.read_text()) | {"eos_token_id": [before.stop_id, other]}
    path.write_text(json.dumps(values))
    renderer = renderer_of(folder)
    assert (before.stop_ids, renderer.stop_ids) == ([before.stop_id], [before.stop_id, other])
    ids = renderer.tokenizer.encode("A")
    assert renderer.decode([*ids, other]) == renderer.decode([*ids, renderer.stop_id]) == "A"


def test_a_think_tag_of_the_template_counts_as_said(folder: Path) -> None:
    plain = renderer_of(folder)
    template = folder / "chat_template.jinja"
    text = template.read_text()
    opened = text.replace("<|im_start|>assistant\\n", "<|im_start|>assistant\\n<think>\\n")
    assert opened != text
    template.write_text(opened)
    renderer = renderer_of(folder)
    said = "so</think><answer>A</answer>"
    assert renderer.decode(renderer.tokenizer.encode(said)) == f"<think>\n{said}"
    assert plain.decode(plain.tokenizer.encode(said)) == said
    trained = renderer.tokenizer.decode(supervised(renderer, f"<think>{said}"))
    assert trained.count("<think>") == 1
    assert trained.endswith(f"<think>\n{said}<|im_end|>")
    direct = renderer.tokenizer.decode(supervised(renderer, "A"))
    assert direct.endswith("<think>\n\n</think>\n\nA<|im_end|>")


@pytest.mark.parametrize("block", ["<think>\\n\\n</think>\\n\\n", "<think></think>"])
def test_an_empty_think_block_of_the_template_counts_as_said(folder: Path, block: str) -> None:
    template = folder / "chat_template.jinja"
    text = template.read_text()
    template.write_text(
        text.replace("<|im_start|>assistant\\n", f"<|im_start|>assistant\\n{block}")
    )
    renderer = renderer_of(folder)
    written = block.replace("\\n", "\n")
    said = "<answer>A</answer>"
    assert renderer.decode(renderer.tokenizer.encode(said)) == f"{written}{said}"
    assert renderer.tokenizer.decode(supervised(renderer, "A")).endswith(
        f"{written}A<|im_end|>"
    )
    with pytest.raises(UserError, match=r"empty think block .* cold_start\.ratio=0"):
        supervised(renderer, f"<think>so</think>{said}")


def test_a_template_in_chat_template_json_is_read_and_a_missing_one_is_named(
    folder: Path,
) -> None:
    text = renderer_of(folder).fingerprint["chat_template"]
    template = folder / "chat_template.jinja"
    (folder / "chat_template.json").write_text(
        json.dumps({"chat_template": template.read_text()})
    )
    template.unlink()
    assert renderer_of(folder).fingerprint["chat_template"] == text
    (folder / "chat_template.json").unlink()
    with pytest.raises(UserError, match="has no chat template"):
        renderer_of(folder)


def test_a_greedy_generation_config_with_a_temperature_is_saved(
    folder: Path, tmp_path: Path
) -> None:
    path = folder / "generation_config.json"
    values = json.loads(path.read_text()) | {"do_sample": False, "temperature": 1e-06}
    path.write_text(json.dumps(values))
    out = saved(folder, tmp_path / "out")
    written = json.loads((out / "generation_config.json").read_text())
    assert written.get("temperature") is None
    assert written["eos_token_id"] == values["eos_token_id"]
    Policy.load(ModelConfig(path=str(out)))


@pytest.mark.parametrize(
    "settings",
    [
        {"do_sample": False, "top_p": 0.001, "top_k": 1, "repetition_penalty": 1.05},
        {"do_sample": False, "num_beams": 1, "early_stopping": True, "length_penalty": 2.0},
        {"do_sample": True, "num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.0},
        {"do_sample": False, "return_dict_in_generate": False, "output_scores": True},
    ],
)
def test_any_generation_config_that_is_loaded_is_saved(
    folder: Path, tmp_path: Path, settings: dict
) -> None:
    path = folder / "generation_config.json"
    values = json.loads(path.read_text()) | settings
    path.write_text(json.dumps(values))
    saved(folder, tmp_path / "out")
    written = json.loads((tmp_path / "out/generation_config.json").read_text())
    assert written["eos_token_id"] == values["eos_token_id"]
    Policy.load(ModelConfig(path=str(tmp_path / "out")))


@pytest.mark.parametrize("name", ["num_return_sequences", "max_new_tokens"])
def test_a_generation_config_that_transformers_refuses_is_named(
    folder: Path, name: str
) -> None:
    path = folder / "generation_config.json"
    values = json.loads(path.read_text()) | {
        "do_sample": False,
        name: 3 if name[0] == "n" else -1,
    }
    path.write_text(json.dumps(values))
    with pytest.raises(
        UserError, match=rf"`{name}`.*: mend that setting in its .*config\.json"
    ):
        Policy.load(ModelConfig(path=str(folder)))


def test_a_saved_model_has_plain_permissions_and_no_files_of_a_trainer(
    folder: Path, tmp_path: Path
) -> None:
    for name in ("optimizer.pt", "rng_state_0.pth", "trainer_state.json", "training_args.bin"):
        (folder / name).write_bytes(b"{}")
    out = saved(folder, tmp_path / "out")
    names = {path.name for path in out.iterdir()}
    assert "model.safetensors" in names
    assert "chat_template.jinja" in names
    assert not names & {"optimizer.pt", "rng_state_0.pth", "trainer_state.json"}
    (tmp_path / "plain").write_text("")
    mode = (tmp_path / "plain").stat().st_mode
    assert {path.stat().st_mode for path in out.iterdir()} == {mode}


@pytest.mark.parametrize("target", ["q_proj,vproj", "qproj, v_proj"])
def test_a_misspelt_lora_target_is_named(folder: Path, target: str) -> None:
    lora = LoraConfig(enabled=True, rank=2, target=target)
    with pytest.raises(UserError, match=r"'(vproj|qproj)' matches no linear layer"):
        Policy.load(ModelConfig(path=str(folder), lora=lora))


def test_a_lora_target_that_does_not_train_is_refused_with_those_that_do(folder: Path) -> None:
    frozen = ModuleGroupConfig(train=False)
    lora = LoraConfig(enabled=True, rank=2, target="qkv,q_proj")
    model = ModelConfig(path=str(folder), lora=lora, vision=frozen, merger=frozen)
    names = "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj, or use all-linear"
    with pytest.raises(
        UserError, match=f"'qkv' matches no linear layer that trains: name some of {names}"
    ):
        Policy.load(model)


def test_all_linear_beside_other_lora_targets_is_refused(folder: Path) -> None:
    lora = LoraConfig(enabled=True, rank=2, target="all-linear,q_proj")
    with pytest.raises(UserError, match="names layers beside all-linear, which has them all"):
        Policy.load(ModelConfig(path=str(folder), lora=lora))


@pytest.mark.parametrize("target", ["q_proj, v_proj", "q_proj,v_proj,"])
def test_lora_targets_may_have_spaces_and_a_last_comma(folder: Path, target: str) -> None:
    lora = LoraConfig(enabled=True, rank=2, target=target)
    policy = Policy.load(ModelConfig(path=str(folder), lora=lora))
    trained = {name for name, p in policy.named_parameters() if p.requires_grad}
    adapted = {
        name.split(".lora_")[0].rsplit(".", 1)[-1] for name in trained if "lora_" in name
    }
    assert adapted == {"q_proj", "v_proj"}


DOWN = "model.language_model.layers.0.mlp.down_proj.weight"
STORED = "model.layers.0.mlp.down_proj.weight"  # under the name of the file


def change_weights(folder: Path, change: Callable[[dict], dict]) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file(weights | change(weights), folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("load", [load_folder, check_weights], ids=["load", "doctor"])
@pytest.mark.parametrize(("count", "others"), [(1, ""), (3, " and 2 more weights")])
def test_a_base_that_lacks_weights_is_refused(
    folder: Path, load: Callable, count: int, others: str
) -> None:
    weights = load_file(folder / "model.safetensors")
    for name in sorted(name for name in weights if "layers.0.mlp" in name)[:count]:
        del weights[name]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=f"lacks the weight {DOWN}{others}: restore"):
        load(str(folder))


@pytest.mark.parametrize("load", [load_folder, check_weights], ids=["load", "doctor"])
def test_weights_without_a_place_are_left_out_and_tied_heads_may_lack(
    folder: Path, load: Callable
) -> None:
    config = json.loads((folder / "config.json").read_text())
    assert config["tie_word_embeddings"]
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    change_weights(folder, lambda weights: {"mtp.weight": weights[STORED].clone()})
    load(str(folder))


@pytest.mark.parametrize("load", [load_folder, check_weights], ids=["load", "doctor"])
def test_a_weight_of_another_shape_is_named(folder: Path, load: Callable) -> None:
    change_weights(folder, lambda weights: {STORED: weights[STORED][:-1].contiguous()})
    with pytest.raises(
        UserError, match=rf"{DOWN} of shape \(\d+, \d+\) where its config.json"
    ):
        load(str(folder))


def test_a_weight_that_is_no_number_is_named(folder: Path) -> None:
    change_weights(folder, lambda weights: {STORED: weights[STORED] * float("nan")})
    with pytest.raises(UserError, match=f"holds NaN or infinity in {DOWN}: restore"):
        load_folder(str(folder))


@pytest.mark.parametrize("load", [load_folder, check_weights], ids=["load", "doctor"])
def test_a_cut_file_of_weights_is_named(folder: Path, load: Callable) -> None:
    os.truncate(folder / "model.safetensors", 200_000)
    with pytest.raises(UserError, match=r"\(model\.safetensors: Error .*\): restore"):
        load(str(folder))


@pytest.mark.parametrize(
    "name", ["tokenizer_config.json", "tokenizer.json", "generation_config.json"]
)
@pytest.mark.parametrize("content", ['{"a": ', "[]"])
def test_a_damaged_file_of_a_base_is_named(folder: Path, name: str, content: str) -> None:
    (folder / name).write_text(content)
    with pytest.raises(
        UserError, match=rf"{name} (cannot be read|holds no JSON object).*: rest"
    ):
        renderer_of(folder)


@pytest.mark.parametrize("content", ['{"a": ', "[]"])
def test_a_damaged_generation_config_is_named_without_a_renderer(
    folder: Path, content: str
) -> None:
    (folder / "generation_config.json").write_text(content)
    with pytest.raises(UserError, match=r"generation_config\.json .*: restore"):
        load_folder(str(folder))


def test_a_damaged_template_is_named(folder: Path) -> None:
    template = folder / "chat_template.jinja"
    whole = template.read_text()
    template.write_text(whole[: len(whole) // 2] + "{% if")
    damage = (
        r"the chat template of model.path=.*/base is damaged \(line \d+: .*\): restore its"
    )
    with pytest.raises(UserError, match=damage):
        renderer_of(folder).fingerprint  # noqa: B018
    template.unlink()
    (folder / "chat_template.json").write_text('{"chat_template": "cut')
    with pytest.raises(UserError, match=r"chat_template\.json cannot be read .*: restore"):
        renderer_of(folder)


def test_a_template_that_refuses_a_system_turn_is_named_with_the_way_out(folder: Path) -> None:
    template = folder / "chat_template.jinja"
    refusal = "{{ raise_exception('System role not supported') }}"
    rule = "{% if messages[0].role == 'system' %}" + refusal + "{% endif %}"
    template.write_text(rule + template.read_text())
    model = ModelConfig(path=str(folder))
    remedy = r"\(System role not supported\): set prompt\.system_prompt=none"
    with pytest.raises(UserError, match=remedy):
        PromptRenderer.load(model, PromptConfig(system_prompt="clean")).fingerprint  # noqa: B018
    assert PromptRenderer.load(model, PromptConfig(system_prompt="none")).fingerprint


OF_A_REVISION = """
from actial.config import ModelConfig, PromptConfig
from actial.inference.weight_sync import folder_weights
from actial.modeling.prompt_renderer import PromptRenderer

model = ModelConfig(path="some/tiny", revision="v1")
for path in (None, model.path):  # a stage names the folder it starts from
    assert 7 in PromptRenderer.load(model, PromptConfig(), path).stop_ids
assert not dict(folder_weights(model.path, model.revision))["lm_head.weight"].any()
"""


def test_prompts_and_weights_are_those_of_the_revision(folder: Path, tmp_path: Path) -> None:
    """A cache of the hub in which the revision has another end of turn, and zeros as weights."""
    cache = tmp_path / "hub" / "models--some--tiny"
    (cache / "refs").mkdir(parents=True)
    for revision, commit in (("main", 40 * "a"), ("v1", 40 * "b")):
        (cache / "refs" / revision).write_text(commit)
        snapshot = shutil.copytree(folder, cache / "snapshots" / commit)
    (snapshot / "generation_config.json").write_text('{"eos_token_id": 7}')
    weights = load_file(snapshot / "model.safetensors")
    zeros = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
    save_file(zeros, snapshot / "model.safetensors")
    offline = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, "-c", OF_A_REVISION], env=offline, check=True)
