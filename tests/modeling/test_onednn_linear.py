"""Linear layers by oneDNN equal torch's, value and gradients, and step aside where they do not
apply.
"""

from __future__ import annotations

import copy

import pytest
import torch
from support.random_batches import FAMILIES
from support.tiny_models import tiny_policy
from torch import nn
from torch.profiler import ProfilerActivity, profile

from actial.modeling.onednn_linear import WORTH_IT, linear, matmul, prepare_linears


def products(function) -> int:
    """How many products of oneDNN a call makes."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        function()
    return sum(event.name == "mkldnn::_linear_pointwise" for event in profiler.events())


def layers(wide: int, narrow: int, *, bias: bool) -> tuple[nn.Linear, nn.Linear]:
    """One layer as torch has it, and its copy that computes by oneDNN."""
    torch.manual_seed(0)
    plain = nn.Linear(wide, narrow, bias=bias)
    prepared = copy.deepcopy(plain)
    prepare_linears(prepared)
    return plain, prepared


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(700, 128), (2, 350, 128), (2, 5, 70, 128)])
@pytest.mark.parametrize("outputs", [64, 384])
def test_values_and_gradients_equal_torchs(shape, outputs, bias):
    inputs = torch.randn(shape, requires_grad=True)
    upstream = torch.randn(*shape[:-1], outputs)
    results = []
    for layer in layers(128, outputs, bias=bias):
        out = layer(inputs)
        gradients = torch.autograd.grad(out, (inputs, *layer.parameters()), upstream)
        assert all(gradient.is_contiguous() for gradient in gradients)
        results.append((out, *gradients))
    for torchs, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, torchs, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("frozen", ["input", "weight", "bias"])
def test_what_is_frozen_gets_no_gradient_and_costs_no_product(frozen):
    _, layer = layers(128, 384, bias=True)
    inputs = torch.randn(700, 128, requires_grad=frozen != "input")
    if frozen != "input":
        getattr(layer, frozen).requires_grad_(False)
    assert products(lambda: layer(inputs).sum().backward()) == (3 if frozen == "bias" else 2)
    parameters = {"input": inputs, "weight": layer.weight, "bias": layer.bias}
    assert {name for name, one in parameters.items() if one.grad is None} == {frozen}


def test_a_bias_that_trains_alone_gets_its_gradient():
    _, layer = layers(128, 384, bias=True)
    layer.weight.requires_grad_(False)
    layer(torch.randn(700, 128)).sum().backward()
    torch.testing.assert_close(layer.bias.grad, torch.full((384,), 700.0))


def test_one_vector_without_a_batch():
    plain, layer = layers(1024, 1025, bias=True)
    inputs = torch.randn(1024)
    assert products(lambda: layer(inputs)) == 1
    torch.testing.assert_close(layer(inputs), plain(inputs), rtol=1e-5, atol=1e-5)


def test_the_result_may_be_written_into():
    plain, layer = layers(128, 384, bias=True)
    inputs = torch.randn(2, 350, 128)
    for one in (plain, layer):
        one(inputs).mul_(2).sum().backward()
    torch.testing.assert_close(layer.weight.grad, plain.weight.grad, rtol=1e-5, atol=1e-3)


def test_small_products_half_precision_and_autocast_stay_torchs():
    plain, layer = layers(128, 384, bias=True)
    rows = WORTH_IT // (128 * 384)
    inputs = torch.randn(rows + 1, 128)
    assert products(lambda: layer(inputs)) == 1
    assert products(lambda: layer(inputs[:rows])) == 0
    assert torch.equal(layer(inputs[:rows]), plain(inputs[:rows]))
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(inputs).dtype is torch.bfloat16
        assert torch.equal(layer(inputs), plain(inputs))
    half, plain_half = layer.bfloat16(), plain.bfloat16()
    assert torch.equal(half(inputs.bfloat16()), plain_half(inputs.bfloat16()))


@pytest.mark.parametrize("shapes", [((500, 128), (128, 384)), ((384, 500), (500, 128))])
def test_products_of_any_layout(shapes):
    a, b = (torch.randn(shape) for shape in shapes)
    for left in (a, a.T.contiguous().T):
        for right in (b, b.T.contiguous().T):
            assert products(lambda left=left, right=right: matmul(left, right)) == 1
            torch.testing.assert_close(matmul(left, right), a @ b, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_linear_layer_of_a_policy_and_of_its_copies_is_prepared(family):
    policy = tiny_policy(family)
    for model in (policy.core, copy.deepcopy(policy.core)):
        for module in model.modules():
            if type(module) is nn.Linear:
                assert module.forward.__self__ is module
                assert module.forward.__func__.__module__ == linear.__module__
