"""4-bit frozen weights under adapters: counted without bitsandbytes, computed with it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from support.engine_world import load_policy, shake
from support.random_batches import random_batch
from support.tiny_models import tiny_config

from actial.config import FrozenWeights, LoraConfig, ModelConfig, Precision
from actial.core.errors import UserError
from actial.inference.weight_streams import PolicyStream
from actial.inference.weight_sync import weights_version
from actial.modeling.four_bit import BYTES_PER_NUMBER, FourBitLinear
from actial.modeling.policy import Policy
from actial.modeling.prefix_packing import pack

INSTALLED = importlib.util.find_spec("bitsandbytes") is not None
needs_bitsandbytes = pytest.mark.skipif(
    not INSTALLED, reason="bitsandbytes is not installed: pip install bitsandbytes"
)
SETTINGS = {
    "frozen_weights": FrozenWeights.nf4,
    "lora": LoraConfig(enabled=True, rank=4, alpha=8),
}


def test_full_training_is_refused() -> None:
    config = ModelConfig(path="x", frozen_weights=FrozenWeights.nf4)
    with pytest.raises(UserError, match=r"model\.frozen_weights=nf4 .*lora\.enabled=true"):
        config.check("model.")


@pytest.mark.skipif(INSTALLED, reason="bitsandbytes is installed")
def test_without_bitsandbytes_one_sentence_says_what_to_do(spread_model: Path) -> None:
    with pytest.raises(UserError, match=r"needs bitsandbytes .*pip install bitsandbytes"):
        load_policy(spread_model, **SETTINGS)


def test_memory_is_counted_on_the_meta_device_without_bitsandbytes() -> None:
    config = ModelConfig(path="tiny", precision=Precision.bf16, **SETTINGS)
    policy = Policy.from_config(tiny_config(), config)
    layers = [m for m in policy.modules() if isinstance(m, FourBitLinear)]
    assert len(layers) == 2 * 7  # of a block: query, key, value, output and three of the MLP
    numbers = sum(layer.in_features * layer.out_features for layer in layers)
    stored = sum(layer.weight.numel() * layer.weight.element_size() for layer in layers)
    assert stored == pytest.approx(BYTES_PER_NUMBER * numbers, rel=1e-3)
    names = [name for name, m in policy.core.named_modules() if isinstance(m, FourBitLinear)]
    assert all("language_model.layers" in name for name in names)


@needs_bitsandbytes
def test_training_saving_and_sending_use_the_unpacked_weights(
    spread_model: Path, tmp_path: Path
) -> None:
    policy = load_policy(spread_model, **SETTINGS).train()
    shake(policy, seed=1, scale=0.05)  # the adapters
    groups, images = random_batch(3, policy, counts=(0, 0))
    batch = pack(groups, images, policy.spec, 96)
    logprobs = policy.token_logprobs(batch).logprobs
    logprobs.sum().backward()
    for name, parameter in policy.core.named_parameters():
        assert (parameter.grad is not None) == (".lora_" in name and "visual" not in name)

    policy.save_pretrained(tmp_path / "model")
    config = ModelConfig(path=str(tmp_path / "model"), min_pixels=256, max_pixels=16384)
    saved = Policy.load(config)
    torch.testing.assert_close(
        saved.token_logprobs(batch).logprobs, logprobs, rtol=1e-5, atol=1e-5
    )
    state = saved.core.state_dict()
    stream = PolicyStream(policy, Precision.fp32)
    for name, tensor in stream:
        torch.testing.assert_close(tensor, state[name], rtol=1e-5, atol=1e-6)
    sent = [(name, t.dtype, tuple(t.shape)) for name, t in stream]
    assert stream.metadata() == sent
    before = weights_version(policy)
    shake(policy, seed=2, scale=0.01)
    assert weights_version(policy) != before


@needs_bitsandbytes
def test_packing_is_near_the_weights_and_its_gradient_exact() -> None:
    plain = torch.nn.Linear(128, 64)
    packed = FourBitLinear.of(plain)
    error = (packed.unpacked() - plain.weight).norm() / plain.weight.norm()
    assert error < 0.12
    x = torch.randn(5, 128, requires_grad=True)
    y = replace_weight(plain, packed.unpacked())(x)
    (expected,) = torch.autograd.grad(y.sum(), x)
    (actual,) = torch.autograd.grad(packed(x).sum(), x)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(packed(x), y)
    with torch.autocast("cpu", torch.bfloat16):
        assert packed(x).dtype is torch.bfloat16


def replace_weight(layer: torch.nn.Linear, weight: torch.Tensor) -> torch.nn.Linear:
    layer.weight = torch.nn.Parameter(weight)
    return layer
