"""Linear layers in float32 on the CPU, with the matrix products of oneDNN.

torch computes float32 products with MKL, which has only a generic kernel for
processors other than Intel's. oneDNN uses AVX-512 on those too, and is 2.2 times as
fast on an AMD EPYC. Its calls take longer, and two threads share little of a small
product: decoding stays with torch.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed.tensor import DTensor
from torch.nn import functional

# Multiplications of a product from which on oneDNN is faster: its calls take 10 us more.
WORTH_IT = 2**20
HAS_ONEDNN = bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


def prepare_linears(model: Any) -> None:
    """Have the linear layers of a model compute by `linear`."""
    for module in model.modules():
        if type(module) is nn.Linear:
            # a bound method follows a deep copy
            module.forward = MethodType(_forward, module)  # type: ignore[method-assign]


def _forward(layer: Any, x: Tensor) -> Tensor:
    return linear(x, layer.weight, layer.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """As torch's: (.., I), (O, I), (O,) -> (.., O)."""
    if not _by_onednn(x.numel() * weight.shape[0], x, weight):
        return functional.linear(x, weight, bias)
    # The output of a function must not be a view: library code may write into it.
    out: Tensor = _Linear.apply(x.reshape(-1, x.shape[-1]), weight, bias)
    return out.view(*x.shape[:-1], -1)


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """(M, I) @ (I, N), for the inside of backward passes: it has no gradient of its own."""
    return _product(a, b.T) if _by_onednn(a.numel() * b.shape[1], a, b) else a @ b


def _by_onednn(multiplications: int, x: Tensor, weight: Tensor) -> bool:
    return (
        multiplications >= WORTH_IT
        and x.device.type == weight.device.type == "cpu"
        and x.dtype is weight.dtype is torch.float32
        and not torch.is_autocast_enabled("cpu")
        and not isinstance(weight, DTensor)
        and HAS_ONEDNN
    )


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """(N, I), (O, I), (O,) -> (N, O) without a gradient."""
    # torch.compile's own way to oneDNN, without compiling: torch has no public one
    out: Tensor = torch.ops.mkldnn._linear_pointwise.default(x, weight, bias, "none", [], "")
    return out


class _Linear(torch.autograd.Function):
    """x (N, I) @ weight (O, I).T + bias (O,)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        to_x, to_weight, to_bias = ctx.needs_input_grad
        return (
            matmul(grad, weight) if to_x else None,
            weight_gradient(grad, x).contiguous() if to_weight else None,
            grad.sum(0) if to_bias else None,
        )


def weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """(O, I) of the weight, from (N, O) of the outputs and the inputs (N, I)."""
    outputs, inputs = grad.shape[1], x.shape[1]
    # the product with fewer rows than columns is the faster one
    if outputs > inputs and _by_onednn(x.numel() * outputs, grad, x):
        return _product(x.T, grad.T).T
    return matmul(grad.T, x)
