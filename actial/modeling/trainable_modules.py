"""The module groups of a vision-language model that train separately, and its preparation."""

from __future__ import annotations

import copy
from types import MethodType
from typing import Any

import torch
from torch import nn

from actial.config import Attention, ModelConfig, ModuleGroupConfig
from actial.core.errors import UserError
from actial.modeling.attention import SHARED_PREFIX_ATTENTION, VISION_ATTENTION
from actial.modeling.families import (
    MERGER_NAMES,
    TILED,
    VISION_NAMES,
    is_hybrid,
    text_model,
    vision_encoder,
)
from actial.modeling.flex_attention import FLEX_ATTENTION
from actial.modeling.four_bit import FourBitLinear
from actial.modeling.fused_norm import prepare_norms
from actial.modeling.gated_delta import prepare_delta_layers
from actial.modeling.onednn_linear import linear, prepare_linears

ALL_LINEAR = "all-linear"  # of model.lora.target
MODULE_GROUPS = ("vision", "merger", "language")


def module_group_of(name: str) -> str:
    """The group of a parameter of the Hugging Face model.

    "vision" is the vision encoder without its merger, "language" the text model
    and its head.
    """
    path = f".{name}"
    if any(part in path for part in MERGER_NAMES):
        return "merger"
    return "vision" if any(part in path for part in VISION_NAMES) else "language"


def group_settings(config: ModelConfig, group: str) -> ModuleGroupConfig:
    """The settings of a module group."""
    settings: ModuleGroupConfig = getattr(config, group)
    return settings


TEXT_ATTENTION = {
    Attention.sdpa: SHARED_PREFIX_ATTENTION,
    Attention.flex: FLEX_ATTENTION,
}


def prepare(model: Any, attention: Attention) -> None:
    """Install shared-prefix attention and a faster vision encoder in a loaded model.

    The model is one loaded with "sdpa": transformers refuses "flex_attention" for these families.

    Norms take fewer operations, and products on the CPU a faster library. The windows
    of the vision encoder run as one batch, and its patches are embedded by a matrix
    product: its Conv3d has stride = kernel, so the result is the same, several times
    faster on a CPU.
    """
    text_model(model).config._attn_implementation = TEXT_ATTENTION[attention]
    prepare_norms(model)
    prepare_linears(model)
    if is_hybrid(model.config):
        prepare_delta_layers(text_model(model))
    if model.config.model_type in TILED:
        return  # their images run as one batch already
    encoder = vision_encoder(model)
    for module in encoder.modules():
        if hasattr(module, "config"):
            module.config._attn_implementation = VISION_ATTENTION
    embed = encoder.patch_embed
    embed.forward = MethodType(_embed_patches, embed)  # a bound method follows a deep copy


def _embed_patches(embed: Any, pixels: torch.Tensor) -> torch.Tensor:
    weight = embed.proj.weight
    return linear(pixels.to(weight.dtype), weight.flatten(1), embed.proj.bias)


def add_lora(model: Any, config: ModelConfig) -> Any:
    """The model with adapters on the linear layers of the groups that train, all else frozen."""
    from peft import LoraConfig, get_peft_model

    lora = config.lora
    targets = _lora_targets(model, config)
    if not targets:
        raise UserError(
            f"model.lora.target={lora.target} matches no linear layer of a module group that "
            "trains: use model.lora.target=all-linear."
        )
    adapters = LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=targets
    )
    return get_peft_model(model, adapters)


def _lora_targets(model: Any, config: ModelConfig) -> list[str]:
    """Return the names of the linear layers that get an adapter; the head never does.

    Raises UserError when a name of model.lora.target matches none of them.
    """
    linears = _trained_linears(model, config)
    endings = {ending.strip() for ending in config.lora.target.split(",")} - {""}
    if endings == {ALL_LINEAR}:
        return linears
    if ALL_LINEAR in endings:
        raise UserError(
            f"model.lora.target={config.lora.target} names layers beside {ALL_LINEAR}, which has "
            "them all: give one or the other."
        )
    targets = [name for name in linears if name.rsplit(".", 1)[-1] in endings]
    last_names = {name.rsplit(".", 1)[-1] for name in linears}
    if targets and endings - last_names:
        raise UserError(
            f"model.lora.target={config.lora.target}: {sorted(endings - last_names)[0]!r} matches "
            f"no linear layer that trains: name some of {', '.join(sorted(last_names))}, or use "
            f"{ALL_LINEAR}."
        )
    return targets


def _trained_linears(model: Any, config: ModelConfig) -> list[str]:
    """Return the names of the linear layers of the module groups that train, but the head."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and name != "lm_head"
        and group_settings(config, module_group_of(name)).train
    ]


def halve_frozen_weights(model: Any) -> None:
    """Store in bf16 the linear layers that are frozen, which saves half of their memory.

    Under autocast nothing changes: their products are computed in bf16 anyway.
    Embeddings and norms stay in float32, for they act on the float32 residual stream.
    So does what lies outside the transformer blocks in full training: FSDP2 wants one
    type where some weights train.
    """
    with_adapters = any(".lora_" in name for name, _ in model.named_parameters())
    embedding = model.get_input_embeddings().weight
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear) or module.weight is embedding:
            continue
        if isinstance(module, FourBitLinear):
            continue
        frozen = not any(p.requires_grad for p in module.parameters(recurse=False))
        if frozen and (with_adapters or in_block(name)):
            module.to(torch.bfloat16)


def in_block(name: str) -> bool:
    """Whether a parameter or module belongs to a transformer block: FSDP2 shards these apart."""
    return any(blocks in name for blocks in (".layers.", ".blocks.", ".layer."))


def in_text_block(name: str) -> bool:
    """Whether a module belongs to a transformer block of the text model."""
    return in_block(name) and module_group_of(name) == "language"


def frozen_copy_bytes(model: Any, *, half: bool) -> float:
    """Bytes of the parameters of `frozen_copy`."""
    total, seen = 0, set()
    for name, module in model.named_modules():
        to_half = half and isinstance(module, nn.Linear) and in_block(name)
        for parameter in module.parameters(recurse=False):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                total += parameter.numel() * (2 if to_half else parameter.element_size())
    return float(total)


def frozen_copy(model: Any, *, half: bool) -> Any:
    """A frozen copy of the model in evaluation mode; `half` as `halve_frozen_weights`.

    Parameters are copied one at a time into their final type: the peak is that of the copy, not of
    a second float32 model.
    """
    shared = {id(parameter): parameter for parameter in model.parameters()}
    duplicate = copy.deepcopy(model, dict(shared))
    copies: dict[int, nn.Parameter] = {}
    for name, module in duplicate.named_modules():
        to_half = half and isinstance(module, nn.Linear) and in_block(name)
        for key, parameter in list(module.named_parameters(recurse=False)):
            if id(parameter) not in copies:
                dtype = torch.bfloat16 if to_half else parameter.dtype
                data = parameter.detach().to(dtype, copy=True)
                copies[id(parameter)] = nn.Parameter(data, requires_grad=False)
            setattr(module, key, copies[id(parameter)])
    return duplicate.eval()
