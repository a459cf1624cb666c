"""The norm with fewer operations equals the library's, value and gradients, in every family."""

from __future__ import annotations

import pytest
import torch
from support.random_batches import FAMILIES
from support.tiny_models import tiny_policy

from actial.modeling.fused_norm import NORMS

OTHERS = {"Qwen3_5RMSNorm", "Qwen3_5RMSNormGated", "InternVLVisionRMSNorm"}


@pytest.mark.parametrize("family", FAMILIES)
def test_values_and_gradients_equal_the_librarys(family):
    policy = tiny_policy(family)
    seen = set()
    for norm in policy.core.modules():
        name = type(norm).__name__
        if "RMSNorm" not in name or name in seen:
            continue
        seen.add(name)
        if name not in NORMS:
            assert name in OTHERS
            continue
        norm.weight.data = 1 + 0.3 * torch.randn_like(norm.weight)
        hidden = 3 * torch.randn(2, 5, len(norm.weight))
        upstream = torch.randn_like(hidden)
        results = []
        for forward in (norm, lambda x, norm=norm: type(norm).forward(norm, x)):
            x = hidden.clone().requires_grad_()
            out = forward(x)
            assert out.grad_fn is not None
            gradients = torch.autograd.grad(out, (x, norm.weight), upstream)
            results.append((out, *gradients))
        assert "RMSNorm" in results[0][0].grad_fn.name()
        for ours, librarys in zip(*results, strict=True):
            torch.testing.assert_close(ours, librarys, rtol=1e-5, atol=1e-6)
        half = hidden.bfloat16()
        assert torch.equal(norm(half), type(norm).forward(norm, half))
    assert seen or family == "internvl"
