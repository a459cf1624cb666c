"""SmolVLM and InternVL: square images, one placeholder per visual token, marks around them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from support.tiny_models import tiny_config
from transformers import AutoModelForImageTextToText, AutoTokenizer

from actial.config import (
    ImageConfig,
    ModelConfig,
    PromptConfig,
    SamplerConfig,
    SamplerKind,
)
from actial.core.errors import UserError
from actial.core.records import AnswerMode, Example, Question, SamplingParams
from actial.data.images import fitted_size
from actial.inference.open_sampler import open_sampler
from actial.modeling.image_marks import INTERNVL, SMOLVLM
from actial.modeling.policy import Policy
from actial.modeling.prefix_packing import pack
from actial.modeling.prompt_renderer import PromptRenderer

MARKS = {"smolvlm": SMOLVLM, "internvl": INTERNVL}
SIDE = 64
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}IMAGE"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{{ 'END\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@pytest.fixture(params=sorted(MARKS))
def settings(request, tmp_path: Path, untrained_model: Path) -> ModelConfig:
    """A folder with random weights and the family's own tokens."""
    family, marks = request.param, MARKS[request.param]
    tokenizer = AutoTokenizer.from_pretrained(untrained_model)
    added = {*marks.before, *marks.after, *marks.banned, marks.end_of_turn}
    tokenizer.add_special_tokens({"additional_special_tokens": sorted(added)})
    template = TEMPLATE.replace("IMAGE", marks.placeholder).replace("END", marks.end_of_turn)
    tokenizer.chat_template = template
    config = tiny_config(family)
    config.text_config.vocab_size = len(tokenizer)
    config.image_token_id = tokenizer.convert_tokens_to_ids(marks.placeholder)
    torch.manual_seed(0)
    folder = tmp_path / family
    AutoModelForImageTextToText.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return ModelConfig(path=str(folder), min_pixels=256, max_pixels=SIDE**2)


def example(*sides: tuple[int, int]) -> Example:
    question = Question(
        uid="q",
        type="t",
        text="Which side?",
        options=("left", "right"),
        answer_index=0,
        mode=AnswerMode.THINK,
        target="<answer>A</answer>",
    )
    images = [np.full((*side, 3), 10 * n, np.uint8) for n, side in enumerate(sides)]
    return Example(uid="e", images=images, questions=[question], task="sat")


def test_a_folder_is_trained_sampled_and_saved(settings: ModelConfig, tmp_path: Path) -> None:
    renderer = PromptRenderer.load(settings, PromptConfig())
    policy = Policy.load(settings)
    both = example((SIDE, SIDE), (32, 32))
    group = renderer.supervised_group(both)
    marks = MARKS[policy.hf_config.model_type]
    text = renderer.tokenizer.decode(group.input_ids)
    for count in (SIDE // policy.spec.factor, 32 // policy.spec.factor):
        image = marks.placeholder * count**2
        assert "".join(marks.before) + image + "".join(marks.after) in text
    assert group.continuations[0].input_ids[-1] == renderer.stop_id
    batch = pack([group], both.images, policy.spec, 512)
    policy.token_logprobs(batch).logprobs.sum().backward()
    missing = [n for n, p in policy.core.named_parameters() if p.grad is None]
    assert not missing
    sampler = open_sampler(SamplerConfig(kind=SamplerKind.hf), policy, renderer)
    prompt = renderer.prompt(both, both.questions[0])
    ((completion,),) = sampler.generate([prompt], 1, SamplingParams(max_tokens=6))
    assert not set(completion.token_ids) & set(renderer.banned_ids)
    policy.save_pretrained(tmp_path / "saved")
    again = Policy.load(
        ModelConfig(path=str(tmp_path / "saved"), min_pixels=256, max_pixels=SIDE**2)
    )
    with torch.no_grad():
        expected = policy.token_logprobs(batch).logprobs
        assert torch.equal(again.token_logprobs(batch).logprobs, expected)
    shutil.rmtree(tmp_path / "saved")


def test_what_these_families_lack_is_refused_by_name(settings: ModelConfig) -> None:
    renderer = PromptRenderer.load(settings, PromptConfig())
    wide = example((32, SIDE))
    with pytest.raises(UserError, match=r"image of e is 64x32.*square.*image\.square=true"):
        renderer.supervised_group(wide)
    policy = Policy.load(settings)
    family = policy.hf_config.model_type
    with pytest.raises(UserError, match=rf"sampler\.kind=vllm .*{family}.*sampler=hf"):
        open_sampler(SamplerConfig(kind=SamplerKind.vllm), policy, renderer)


def test_square_images_of_a_data_set_are_what_these_families_take() -> None:
    sizes = ImageConfig(multiple=16, max_pixels=SIDE**2, square=True)
    assert fitted_size(1920, 1080, sizes) == (SIDE, SIDE)
    assert fitted_size(40, 300, sizes) == (32, 32)
    assert fitted_size(9, 300, sizes) == (16, 16)
