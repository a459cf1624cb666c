"""The separately switched parts of a vision-language model, and what is changed in a loaded one before it trains."""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import nn

from actial.config import ModelConfig, ModuleGroupConfig
from actial.core.errors import UserError
from actial.modeling.attention import SHARED_PREFIX_ATTENTION, VISION_ATTENTION

MODULE_GROUPS = ("vision", "merger", "language")


def module_group_of(name: str) -> str:
    """Which switch rules a parameter of the Hugging Face model: tower, its merger, or text model and head."""
    if ".visual." not in f".{name}":
        return "language"
    return "merger" if "merger" in name else "vision"


def switch(config: ModelConfig, part: str) -> ModuleGroupConfig:
    found: ModuleGroupConfig = getattr(config, part)
    return found


def prepare(model: Any) -> None:
    """Attention by trunks and branches in place of SDPA; the tower's windows batched, its patches embedded by a matrix product.

    The tower's Conv3d has stride = kernel, so a product is the same and several times faster on a CPU.
    """
    text = model.model.language_model.config
    if text._attn_implementation == "sdpa":
        text._attn_implementation = SHARED_PREFIX_ATTENTION
    vision_encoder = model.model.visual
    for module in vision_encoder.modules():
        if hasattr(module, "config"):
            module.config._attn_implementation = VISION_ATTENTION
    vision_encoder.patch_embed.forward = MethodType(
        _embed_patches, vision_encoder.patch_embed
    )  # a bound method follows a deep copy


def _embed_patches(embed: Any, pixels: torch.Tensor) -> torch.Tensor:
    weight = embed.proj.weight
    return nn.functional.linear(pixels.to(weight.dtype), weight.flatten(1), embed.proj.bias)


def add_lora(model: Any, config: ModelConfig) -> Any:
    """Adapters on the linear layers of the parts that train; everything else is frozen."""
    from peft import LoraConfig, get_peft_model

    wanted = config.lora.target
    targets = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and name != "lm_head"
        and switch(config, module_group_of(name)).train
        and (wanted == "all-linear" or name.rsplit(".", 1)[-1] in wanted.split(","))
    ]
    if not targets:
        raise UserError(
            f"model.lora.target={wanted} matches no linear layer of a part that trains; use all-linear."
        )
    lora = config.lora
    return get_peft_model(
        model,
        LoraConfig(
            r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=targets
        ),
    )
