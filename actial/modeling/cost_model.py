"""Operations and memory of one optimizer step of a rank, before it is run.

A multiply-add counts as two operations. Only matrix products are counted: they
are nearly all of the work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import nn

from actial.config import Attention, Precision
from actial.modeling.policy import Policy
from actial.modeling.prefix_packing import PrefixGroup
from actial.modeling.recurrent_cost import (
    chunks_of,
    layer_counts,
    recurrence_flops,
    recurrent_floats,
)
from actial.modeling.trainable_modules import (
    MODULE_GROUPS,
    frozen_copy_bytes,
    group_settings,
    in_block,
    module_group_of,
)

FP32_BYTES = 4


@dataclass(slots=True, kw_only=True)
class Load:
    """Counts over one micro-batch or one step of one rank."""

    tokens: int  # of the text model: every prefix once, and all continuations
    longest_group: int  # tokens of the longest group: no micro-batch is smaller
    attention_pairs: int  # (query, key) positions that the text model's attention visits
    gathered_keys: int  # keys that SDPA's continuations gather: their prefix and their own
    supervised_tokens: int
    patches: list[int]  # of each distinct image
    recurrent_chunks: int = 0  # of 64 tokens, in which recurrent layers compute segments


def load_of(
    groups: Sequence[PrefixGroup], images: Sequence[np.ndarray], policy: Policy
) -> Load:
    """The counts of a batch of prefix groups; `images` are uint8 (H, W, 3)."""
    load = Load(
        tokens=0,
        longest_group=0,
        attention_pairs=0,
        gathered_keys=0,
        supervised_tokens=0,
        patches=[],
    )
    used: dict[int, None] = {}
    for group in groups:
        prefix = len(group.input_ids)
        load.tokens += group.num_tokens
        load.longest_group = max(load.longest_group, group.num_tokens)
        load.attention_pairs += prefix * (prefix + 1) // 2
        load.recurrent_chunks += chunks_of(prefix)
        for continuation in group.continuations:
            own = len(continuation.input_ids)
            load.attention_pairs += own * prefix + own * (own + 1) // 2
            load.gathered_keys += prefix + own
            load.recurrent_chunks += chunks_of(own)
            load.supervised_tokens += sum(continuation.loss_mask)
        used |= dict.fromkeys(group.images)
    for index in used:
        height, width = images[index].shape[:2]
        load.patches.append(height * width // policy.spec.patch_size**2)
    return load


# ---------------------------------------------------------------- operations


@dataclass(slots=True, kw_only=True)
class Flops:
    """Operations of a part of the model in one step.

    `recomputed` is forward work that the backward pass repeats to save memory.
    """

    forward: float
    backward: float
    recomputed: float

    @property
    def total(self) -> float:
        """All of them."""
        return self.forward + self.backward + self.recomputed


def step_flops(
    policy: Policy, load: Load, *, reference: bool = False, old_logprobs: bool = False
) -> dict[str, Flops]:
    """Operations of a forward and backward pass over "vision", "merger", "language" and "head".

    `reference` and `old_logprobs` add a forward pass without gradient each.
    """
    config = policy.config
    flops: dict[str, Flops] = {}
    gradient_flows = False  # into the part from the ones before it
    for part, operations in _forward_flops(policy, load).items():
        trains = group_settings(config, "language" if part == "head" else part).train
        gradient_flows = gradient_flows or trains
        # An adapter's own products are small and not counted: only full training
        # computes the gradient of a weight.
        weight_gradients = trains and not config.lora.enabled
        if part == "head":
            recomputes = load.supervised_tokens > config.head_chunk_tokens
        else:
            recomputes = config.gradient_checkpointing and gradient_flows and part != "merger"
        is_text = part in ("language", "head")
        compares = reference and (is_text or policy.vision_encoder_trains)
        flops[part] = Flops(
            forward=operations * (1 + compares + old_logprobs),
            backward=operations * (gradient_flows + weight_gradients),
            recomputed=operations * recomputes,
        )
    return flops


def _forward_flops(policy: Policy, load: Load) -> dict[str, float]:
    text = policy.hf_config.text_config
    weights = _matrix_sizes(policy)
    patches = sum(load.patches)
    visual_tokens = patches / policy.spec.merge_size**2
    # 2 for each weight and row; attention multiplies each pair with a key and
    # with a value
    vision_pairs = 4.0 * _vision_width(policy) * _vision_pairs(policy, load.patches)
    query_width = text.num_attention_heads * _head_dim(text)
    attending, recurrent = layer_counts(text)
    mixing = 4.0 * query_width * attending * load.attention_pairs
    if recurrent:
        mixing += recurrent * recurrence_flops(text, load.recurrent_chunks)
    return {
        "vision": 2.0 * weights["vision"] * patches + vision_pairs,
        "merger": 2.0 * weights["merger"] * visual_tokens,
        "language": 2.0 * weights["language"] * load.tokens + mixing,
        "head": 2.0 * text.hidden_size * text.vocab_size * load.supervised_tokens,
    }


def _matrix_sizes(policy: Policy) -> dict[str, int]:
    """Weights that each patch, visual token or token is multiplied with; no head, no adapters."""
    sizes = dict.fromkeys(MODULE_GROUPS, 0)
    for name, module in policy.core.named_modules():
        if (
            isinstance(module, nn.Linear | nn.Conv2d | nn.Conv3d)
            and name != "lm_head"
            and "lora_" not in name
        ):
            sizes[module_group_of(f"{name}.weight")] += _matrix_size(module)
    return sizes


def _matrix_size(module: nn.Linear | nn.Conv2d | nn.Conv3d) -> int:
    """Weights of a layer, packed ones counted as they were."""
    if isinstance(module, nn.Linear):
        return module.in_features * module.out_features
    return module.weight.numel()


def _head_dim(text: Any) -> int:
    head_dim = getattr(text, "head_dim", None)
    if head_dim is not None:
        return int(head_dim)
    return int(text.hidden_size // text.num_attention_heads)


def _vision_width(policy: Policy) -> int:
    vision = policy.hf_config.vision_config
    return int(getattr(vision, "embed_dim", None) or vision.hidden_size)


def _vision_pairs(policy: Policy, patches: Sequence[int]) -> int:
    """(query, key) pairs of all blocks: a patch sees its image, in windowed blocks its window."""
    vision = policy.hf_config.vision_config
    full_blocks = getattr(vision, "fullatt_block_indexes", None)
    depth = _vision_depth(vision)
    full = depth if full_blocks is None else len(full_blocks)
    window = (getattr(vision, "window_size", 0) // policy.spec.patch_size) ** 2
    pairs = 0
    for count in patches:
        pairs += full * count**2 + (depth - full) * count * min(count, window)
    return pairs


def _vision_depth(vision: Any) -> int:
    return int(getattr(vision, "depth", None) or vision.num_hidden_layers)


# ---------------------------------------------------------------- memory


@dataclass(slots=True, kw_only=True)
class Memory:
    """Bytes of the trainer on one rank during an update."""

    weights: float  # of the policy and of a frozen copy
    optimizer: float  # gradients and Adam's moments
    activations: float  # what a micro-batch keeps for its backward pass
    head: float  # logits of a chunk and their gradients
    gathered: float  # FSDP2: the root group (embeddings, head, merger), which stays unsharded
    reduced: float  # FSDP2: float32 gradients of the root group before they are scattered
    largest_tensor: float  # a checkpoint gathers one whole tensor at a time

    @property
    def state(self) -> float:
        """What stays between updates."""
        return self.weights + self.optimizer

    @property
    def total(self) -> float:
        """The peak of an update."""
        working = self.activations + self.head + self.gathered + self.reduced
        return self.state + working


def step_memory(
    policy: Policy, load: Load, *, frozen_copy: bool = False, shards: int = 1
) -> Memory:
    """Peak memory of micro-batches cut from `load` by the configured token budget.

    `shards`: ranks that FSDP2 spreads the state over. Activations are counted
    from what autograd keeps in a block: norms keep their normalized input,
    linear layers their input, attention its queries, keys, values and
    output. It is an estimate: allocators round, and libraries keep buffers of
    their own.
    """
    config, text = policy.config, policy.hf_config.text_config
    half = config.precision is Precision.bf16
    trained = [p for p in policy.parameters() if p.requires_grad]
    trained_elements = sum(p.numel() for p in trained)
    weights = float(sum(p.numel() * p.element_size() for p in policy.parameters()))
    if frozen_copy:
        weights += frozen_copy_bytes(policy.core, half=half)
    casts = 0.0
    if half and not config.gradient_checkpointing:
        # autocast keeps a bf16 cast of each float32 matrix until the backward pass
        casts = FP32_BYTES / 2 * sum(_matrix_sizes(policy).values())
    root = [p for name, p in policy.core.named_parameters() if not in_block(name)]
    gathered, reduced = 0.0, 0.0
    if shards > 1:
        root_elements = sum(p.numel() for p in root)
        compute_bytes = FP32_BYTES / 2 if half else FP32_BYTES
        gathered = compute_bytes * root_elements * (1 + frozen_copy)
        reduced = FP32_BYTES * sum(p.numel() for p in root if p.requires_grad)
    micro_batch = max(config.micro_batch_tokens, load.longest_group)
    fraction = min(1.0, micro_batch / max(load.tokens, 1))
    activations = _text_activations(policy, load) + _vision_activations(policy, load)
    chunk = min(config.head_chunk_tokens, load.supervised_tokens)
    return Memory(
        weights=weights / shards + casts,
        optimizer=FP32_BYTES * 3 * trained_elements / shards,
        activations=activations * fraction,
        head=5.0 * FP32_BYTES * chunk * text.vocab_size,
        gathered=gathered,
        reduced=reduced,
        largest_tensor=float(FP32_BYTES * max(p.numel() for p in policy.parameters())),
    )


def _text_activations(policy: Policy, load: Load) -> float:
    config, text = policy.config, policy.hf_config.text_config
    block = _Block(
        width=text.hidden_size,
        heads=text.num_attention_heads * _head_dim(text),
        keys=2 * text.num_key_value_heads * _head_dim(text),
        inner=text.intermediate_size,
        gated=True,
        normed_keys=text.model_type.startswith("qwen3"),
        half=config.precision is Precision.bf16,
    )
    keys = load.gathered_keys if config.attention is Attention.sdpa else load.tokens
    attending, recurrent = layer_counts(text)
    total = block.saved_bytes(
        load.tokens, block.keys * keys, attending, checkpointed=config.gradient_checkpointing
    )
    if not recurrent:
        return total
    mixing = FP32_BYTES * recurrent_floats(text, load.tokens, load.recurrent_chunks)
    # A recurrent layer's norms and MLP are those of a block without attention.
    mlp = replace(block, heads=0, keys=0, normed_keys=False)
    layer = mixing + mlp.saved_bytes(load.tokens, 0.0, 1, checkpointed=False)
    if not config.gradient_checkpointing:
        return total + recurrent * layer
    inputs = float(FP32_BYTES * load.tokens * text.hidden_size * recurrent)
    of_one_block = block.saved_bytes(load.tokens, block.keys * keys, 1, checkpointed=False)
    return total + inputs + max(0.0, layer - of_one_block)


def _vision_activations(policy: Policy, load: Load) -> float:
    config, vision, spec = policy.config, policy.hf_config.vision_config, policy.spec
    patches = sum(load.patches)
    pixels = FP32_BYTES * patches * 3 * spec.temporal_patch_size * spec.patch_size**2
    if not config.vision.train:
        return pixels
    width = _vision_width(policy)
    inner = getattr(vision, "intermediate_size", None) or int(width * vision.mlp_ratio)
    block = _Block(
        width=width,
        heads=width,
        keys=2 * width,
        inner=inner,
        gated=policy.hf_config.model_type == "qwen2_5_vl",
        normed_keys=False,
        half=config.precision is Precision.bf16,
    )
    return pixels + block.saved_bytes(
        patches,
        block.keys * patches,
        _vision_depth(vision),
        checkpointed=config.gradient_checkpointing,
    )


@dataclass(slots=True, kw_only=True)
class _Block:
    """Widths of one transformer block."""

    width: int
    heads: int  # of queries and of attention's output
    keys: int  # keys and values together
    inner: int
    gated: bool
    normed_keys: bool  # a norm on queries and keys
    half: bool  # linear layers and attention in bf16

    def saved_bytes(
        self, rows: float, gathered: float, depth: int, *, checkpointed: bool
    ) -> float:
        """Bytes that `depth` blocks save for the backward pass of `rows` tokens or patches.

        `gathered`: elements of the keys and values as attention takes them.
        Checkpointed, each block saves its input, and one block at a time all of
        it.
        """
        small = FP32_BYTES / 2 if self.half else FP32_BYTES
        norms: float = 2 * self.width
        if self.normed_keys:
            # in bf16 the library's norm, which keeps its input and the normalized value
            norms += (self.heads + self.keys / 2) * (2 if self.half else 1)
        # autocast casts the input of each of the five projections by itself
        copies = 5 if self.half else 2
        inputs = copies * self.width + self.heads + (4 if self.gated else 2) * self.inner
        block = (
            rows * (FP32_BYTES * norms + small * (inputs + 2 * self.heads)) + small * gathered
        )
        if checkpointed:
            return rows * depth * FP32_BYTES * self.width + block
        return depth * block
