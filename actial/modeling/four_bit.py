"""Frozen matrices in 4-bit NormalFloat (QLoRA, https://arxiv.org/abs/2305.14314), under adapters.

bitsandbytes packs and unpacks; a matrix is unpacked for the time of a product,
forward and backward, and never kept. What is saved or sent to an engine is the
unpacked matrix with its adapter merged: engine and checkpoint compute what the
trainer computes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from actial.core.errors import UserError

BLOCK = 64  # numbers that share a scale
# half a byte a number, a byte for each block's scale, and a float for each 256 scales
BYTES_PER_NUMBER = 0.5 + 1 / BLOCK + 4 / (256 * BLOCK)


def bitsandbytes() -> Any:
    """bitsandbytes.functional. Raises UserError where it is not installed."""
    try:
        import bitsandbytes.functional as functional
    except ImportError as error:
        raise UserError(
            f"model.frozen_weights=nf4 needs bitsandbytes ({error}): pip install bitsandbytes, or "
            "set model.frozen_weights=half, which takes 2 bytes a weight in place of 0.52."
        ) from error
    return functional


class FourBitLinear(nn.Linear):
    """A frozen linear layer whose weight is packed; `weight` holds the packed bytes.

    On the meta device it has the bytes and nothing else, so that memory can be counted without
    bitsandbytes.
    """

    state: Any  # scales of the packed weight

    @classmethod
    def of(cls, layer: nn.Linear) -> FourBitLinear:
        """Pack the weight of a linear layer."""
        packed = cls.__new__(cls)
        nn.Module.__init__(packed)
        packed.in_features, packed.out_features = layer.in_features, layer.out_features
        packed.bias = layer.bias
        weight = layer.weight.detach()
        if weight.is_meta:
            size = math.ceil(weight.numel() * BYTES_PER_NUMBER)
            data, packed.state = torch.empty(size, dtype=torch.uint8, device="meta"), None
        else:
            data, packed.state = bitsandbytes().quantize_4bit(
                weight.float().contiguous(),
                blocksize=BLOCK,
                compress_statistics=True,
                quant_type="nf4",
            )
        packed.weight = nn.Parameter(data, requires_grad=False)
        return packed

    def unpacked(self) -> Tensor:
        """The weight (out, in) in float32."""
        weight: Tensor = bitsandbytes().dequantize_4bit(self.weight.data, self.state)
        return weight.view(self.out_features, self.in_features)

    def forward(self, x: Tensor) -> Tensor:
        """(.., out) from (.., in), in autocast's type."""
        device = x.device.type
        if torch.is_autocast_enabled(device):
            x = x.to(torch.get_autocast_dtype(device))
        out: Tensor = _Product.apply(x, self)
        return out if self.bias is None else out + self.bias.to(out.dtype)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        parent: Any = super()
        parent._apply(fn, recurse)
        if self.state is not None:
            self.state.to(self.weight.device)
        return self


class _Product(torch.autograd.Function):
    """x @ weight.T; the backward pass unpacks the weight again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: FourBitLinear) -> Tensor:
        ctx.layer = layer
        with torch.autocast(x.device.type, enabled=False):
            return nn.functional.linear(x, layer.unpacked().to(x.dtype))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        with torch.autocast(grad.device.type, enabled=False):
            return grad @ ctx.layer.unpacked().to(grad.dtype), None


def pack_frozen(model: Any, selects: Callable[[str], bool]) -> None:
    """Replace the linear layers whose names `selects` accepts by packed ones, one at a time."""
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and selects(name):
            _replace(model, name, FourBitLinear.of(module))


def unpack_all(model: Any) -> None:
    """Replace packed layers by plain ones in float32."""
    for name, module in list(model.named_modules()):
        if isinstance(module, FourBitLinear):
            plain = nn.Linear(module.in_features, module.out_features, module.bias is not None)
            plain.weight = nn.Parameter(module.unpacked(), requires_grad=False)
            plain.bias = module.bias
            _replace(model, name, plain)


def _replace(model: Any, name: str, layer: nn.Module) -> None:
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, layer)
