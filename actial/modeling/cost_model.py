"""What one optimiser step costs a rank before it is run: floating-point operations, and bytes of state, activations and logits.

A multiply-add counts as two operations. Only matrix products are counted: they are all but everything in models of this kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from actial.config import Attention, Precision
from actial.modeling.policy import Policy
from actial.modeling.prefix_packing import PrefixGroup
from actial.modeling.trainable_modules import MODULE_GROUPS, module_group_of

FP32 = 4  # bytes


@dataclass(slots=True, kw_only=True)
class Load:
    """The tokens of one micro-batch or step of one rank."""

    tokens: int  # of the text model: every trunk once, and all branches
    longest: int  # of them, in one trunk with its branches: no micro-batch is smaller
    pairs: int  # (query, key) positions that the text model's attention visits
    keys: int  # positions that the branches of SDPA's form gather: each its trunk and itself
    scored: int  # tokens whose log-probability is wanted
    patches: list[int]  # of each distinct image


def load_of(
    prefix_groups: Sequence[PrefixGroup], images: Sequence[np.ndarray], policy: Policy
) -> Load:
    used = dict.fromkeys(index for prefix_group in prefix_groups for index in prefix_group.images)
    pairs = 0
    for prefix_group in prefix_groups:
        prompt = len(prefix_group.input_ids)
        pairs += prompt * (prompt + 1) // 2
        pairs += sum(
            n * prompt + n * (n + 1) // 2
            for n in (len(continuation.input_ids) for continuation in prefix_group.continuations)
        )
    return Load(
        tokens=sum(prefix_group.num_tokens for prefix_group in prefix_groups),
        longest=max((prefix_group.num_tokens for prefix_group in prefix_groups), default=0),
        pairs=pairs,
        keys=sum(
            len(prefix_group.input_ids) + len(continuation.input_ids)
            for prefix_group in prefix_groups
            for continuation in prefix_group.continuations
        ),
        scored=sum(
            sum(continuation.loss_mask)
            for prefix_group in prefix_groups
            for continuation in prefix_group.continuations
        ),
        patches=[
            images[i].shape[0] * images[i].shape[1] // policy.spec.patch_size**2 for i in used
        ],
    )


@dataclass(slots=True, kw_only=True)
class Flops:
    """Of one part in one step; `again` is forward work repeated in the backward pass to save memory."""

    forward: float
    backward: float
    again: float

    @property
    def total(self) -> float:
        return self.forward + self.backward + self.again


def step_flops(policy: Policy, load: Load, *, reference: bool = False) -> dict[str, Flops]:
    """Per part ("vision", "merger", "language", "head") for a forward and backward pass; `reference` adds a forward without gradient."""
    text, config = policy.hf_config.text_config, policy.config
    sizes = _matrix_sizes(policy)
    patches = sum(load.patches)
    text_width = text.num_attention_heads * (
        getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    )
    forward = {
        "vision": 2.0 * sizes["vision"] * patches
        + 4.0 * _vision_width(policy) * _vision_pairs(policy, load.patches),
        "merger": 2.0 * sizes["merger"] * patches / policy.spec.merge_size**2,
        "language": 2.0 * sizes["language"] * load.tokens
        + 4.0 * text_width * text.num_hidden_layers * load.pairs,
        "head": 2.0 * text.hidden_size * text.vocab_size * load.scored,
    }
    trains = {part: getattr(config, part).train for part in MODULE_GROUPS}
    found, flows = {}, False  # whether a gradient must go on through a part
    for part, operations in forward.items():
        own = trains["language" if part == "head" else part]
        flows = flows or own
        weights = (
            own and not config.lora.enabled
        )  # an adapter's own products are small, and are not counted
        checkpointed = config.gradient_checkpointing and flows and part != "merger"
        repeats = load.scored > config.head_chunk_tokens if part == "head" else checkpointed
        compares = reference and (part in ("language", "head") or policy.vision_encoder_trains)
        found[part] = Flops(
            forward=operations * (1 + compares),
            backward=operations * (flows + weights),
            again=operations * repeats,
        )
    return found


def _matrix_sizes(policy: Policy) -> dict[str, int]:
    """Weights that each patch, merged patch or token is multiplied with, head and adapters excluded."""
    sizes = dict.fromkeys(MODULE_GROUPS, 0)
    for name, module in policy.core.named_modules():
        if isinstance(module, nn.Linear | nn.Conv3d) and name != "lm_head" and "lora_" not in name:
            sizes[module_group_of(f"{name}.weight")] += module.weight.numel()
    return sizes


def _vision_width(policy: Policy) -> int:
    vision = policy.hf_config.vision_config
    return int(getattr(vision, "embed_dim", None) or vision.hidden_size)


def _vision_pairs(policy: Policy, patches: Sequence[int]) -> int:
    """Over all blocks: every patch sees its image, in windowed blocks its window."""
    vision = policy.hf_config.vision_config
    whole = getattr(vision, "fullatt_block_indexes", None)
    full = vision.depth if whole is None else len(whole)
    window = (getattr(vision, "window_size", 0) // vision.patch_size) ** 2
    return sum(full * n * n + (vision.depth - full) * n * min(n, window) for n in patches)


@dataclass(slots=True, kw_only=True)
class Memory:
    """Bytes of one rank at its peak."""

    state: float  # weights, gradients, Adam's moments, a frozen copy
    activations: float  # what a micro-batch keeps for its backward pass
    head: float  # logits of a chunk and their gradients

    @property
    def total(self) -> float:
        return self.state + self.activations + self.head


def step_memory(
    policy: Policy, load: Load, *, frozen_copy: bool = False, shards: int = 1
) -> Memory:
    """For micro-batches cut from `load` by the configured token budget; `shards` = ranks that FSDP2 spreads the state over.

    Activations are counted from what autograd keeps in a block: norms their input and normalised value, linear layers their input,
    attention its queries, keys, values and output. It is an estimate: allocators round, and libraries keep buffers of their own.
    """
    config, text, vision = (
        policy.config,
        policy.hf_config.text_config,
        policy.hf_config.vision_config,
    )
    weights = sum(p.numel() for p in policy.parameters())
    trained = sum(p.numel() for p in policy.parameters() if p.requires_grad)
    share = min(1.0, max(config.micro_batch_tokens, load.longest) / max(load.tokens, 1))
    half = config.precision is Precision.bf16
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    block = _Block(
        width=text.hidden_size, heads=text.num_attention_heads * head_dim, keys=2 * text.num_key_value_heads * head_dim,
        inner=text.intermediate_size, gated=True, normed_keys=policy.hf_config.model_type == "qwen3_vl", half=half,
    )  # fmt: skip
    gathered = block.keys * (load.keys if config.attention is Attention.sdpa else load.tokens)
    kept = block.kept(
        load.tokens, gathered, text.num_hidden_layers, checkpointed=config.gradient_checkpointing
    )
    if config.vision.train:
        width = _vision_width(policy)
        inner = getattr(vision, "intermediate_size", None) or int(width * vision.mlp_ratio)
        gated = policy.hf_config.model_type == "qwen2_5_vl"
        block = _Block(
            width=width,
            heads=width,
            keys=2 * width,
            inner=inner,
            gated=gated,
            normed_keys=False,
            half=half,
        )
        patches = sum(load.patches)
        kept += block.kept(
            patches, block.keys * patches, vision.depth, checkpointed=config.gradient_checkpointing
        )
    pixels = (
        FP32 * sum(load.patches) * 3 * policy.spec.temporal_patch_size * policy.spec.patch_size**2
    )
    casts = (
        FP32 / 2 * sum(_matrix_sizes(policy).values())
        if half and not config.gradient_checkpointing
        else 0.0
    )
    return Memory(
        state=FP32 * (weights * (1 + frozen_copy) + 3 * trained) / shards + casts,
        activations=(kept + pixels) * share,
        head=5.0 * FP32 * min(config.head_chunk_tokens, load.scored) * text.vocab_size,
    )


@dataclass(slots=True, kw_only=True)
class _Block:
    """Widths of one transformer block, and what it keeps for the backward pass."""

    width: int
    heads: int  # of queries and of attention's output
    keys: int  # keys and values together
    inner: int
    gated: bool
    normed_keys: bool  # a norm on queries and keys
    half: bool  # linear layers and attention in bf16

    def kept(self, rows: float, gathered: float, depth: int, *, checkpointed: bool) -> float:
        """Bytes for so many tokens or patches; `gathered`: elements of the keys and values as attention takes them.

        Checkpointed, there are each block's input and one whole block.
        """
        small = FP32 / 2 if self.half else FP32
        norms = 2 * (2 if self.gated else 1) * self.width + self.normed_keys * (
            2 * self.heads + self.keys
        )
        copies = (
            5 if self.half else 2
        )  # autocast casts the input of each of the five projections by itself
        inputs = copies * self.width + self.heads + (4 if self.gated else 2) * self.inner
        one = rows * (FP32 * norms + small * (inputs + 2 * self.heads)) + small * gathered
        return rows * depth * FP32 * self.width + one if checkpointed else depth * one
