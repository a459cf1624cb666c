"""Root-mean-square norm with half of the library's passes over memory, forward and backward."""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# of the library's norms, those that multiply the normalized input by their weight
NORMS = (
    "LlamaRMSNorm",
    "Qwen2RMSNorm",
    "Qwen2VLRMSNorm",
    "Qwen2_5_VLRMSNorm",
    "Qwen3RMSNorm",
    "Qwen3VLTextRMSNorm",
)


def prepare_norms(model: Any) -> None:
    """Have the norms of a model compute by `RMSNorm`."""
    for module in model.modules():
        if type(module).__name__ in NORMS:
            module.forward = MethodType(_forward, module)  # a bound method follows a deep copy


def _forward(norm: Any, hidden: Tensor) -> Tensor:
    """As the library's, which other types than float32 go to."""
    if hidden.dtype is not torch.float32 or norm.weight.dtype is not torch.float32:
        plain: Tensor = type(norm).forward(norm, hidden)
        return plain
    out: Tensor = RMSNorm.apply(hidden, norm.weight, norm.variance_epsilon)
    return out


class RMSNorm(torch.autograd.Function):
    """weight (H,) * x / sqrt(mean(x ** 2) + epsilon), for x (.., H).

    It saves the normalized input alone. With n = x / r the gradient of x is
    (g - n * mean(g * n)) / r, where g is that of the output times the weight.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        square: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_()
        inverse = square.div_(x.shape[-1]).add_(epsilon).rsqrt_()  # (.., 1)
        normed = x * inverse
        ctx.save_for_backward(normed, inverse, weight)
        return normed * weight

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        normed, inverse, weight = ctx.saved_tensors
        product = grad * normed
        to_x, to_weight = None, None
        if ctx.needs_input_grad[0]:
            mean = torch.matmul(product, weight[:, None]).div_(weight.shape[0])
            to_x = torch.addcmul(grad * weight, normed, mean, value=-1).mul_(inverse)
        if ctx.needs_input_grad[1]:
            to_weight = product.flatten(0, -2).sum(0)
        return to_x, to_weight, None
