"""Shared-prefix attention by FlexAttention: one kernel over all groups of a micro-batch.

The packed sequences are laid behind each other, padded to a multiple of `BLOCK`
tokens, as one sequence of S tokens. A block mask says which blocks of 128 x 128
(query, key) pairs are computed at all; it is built from the segments, in O(blocks),
and never as an S x S mask. Grouped key heads are read as they are (`enable_gqa`).

FlexAttention has no backward pass on a CPU. There, the same block mask is expanded
and given to scaled_dot_product_attention: the form in which tests and CPU runs of a
CUDA configuration train.

Flash attention with variable lengths cannot express "prefix and own tokens" in one
call. Two calls, merged by their log-sum-exp, read the prefix once per continuation;
FlexAttention reads each key block once per query block, whichever group it is of.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_mask, flex_attention
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from actial.modeling.prefix_packing import PAD_SEGMENT, PackedBatch

FLEX_ATTENTION = "actial_flex"
BLOCK = 128  # tokens along each side of a block
RECOMPILE_LIMIT = 64  # variants of the compiled kernel before an error


@dataclass(slots=True)
class FlatSequence:
    """All packed sequences as one padded sequence, and the mask of its blocks."""

    length: int  # S, a multiple of BLOCK
    mask: BlockMask


def flatten_batch(batch: PackedBatch) -> FlatSequence:
    """The flat sequence of a batch: flat position r * L + l keeps its number."""
    tokens = batch.input_ids.numel()
    length = -(-tokens // BLOCK) * BLOCK
    mask = _block_mask(batch, length)
    return FlatSequence(length, mask)


def flatten_rows(x: Tensor, length: int) -> Tensor:
    """(.., R, L) -> (.., 1, length), padded with zeros."""
    flat = x.flatten(-2)
    return pad(flat, (0, length - flat.shape[-1])).unsqueeze(-2)


def mask_rule(group_of: Tensor, continuation_of: Tensor) -> Callable[..., Tensor]:
    """Which query sees which key of one sequence, pair by pair: FlexAttention's mask_mod.

    `group_of` and `continuation_of` are (S,). Padding sees padding before it, so that
    no query is without a key.
    """

    def visible(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        same_group = group_of[query] == group_of[key]
        in_prefix = continuation_of[key] == 0
        same_continuation = continuation_of[query] == continuation_of[key]
        return same_group & (in_prefix | same_continuation) & (query >= key)

    return visible


def _block_mask(batch: PackedBatch, length: int) -> BlockMask:
    """The block mask of a flat sequence of `length` tokens, from the batch's segments."""
    group_of = batch.group_of.flatten()
    group_of = pad(group_of, (0, length - len(group_of)), value=PAD_SEGMENT)
    continuation_of = batch.continuation_of.flatten()
    continuation_of = pad(continuation_of, (0, length - len(continuation_of)))
    segments = batch.segments.tolist()
    padded = (group_of == PAD_SEGMENT).cpu().numpy()
    visited, full = _blocks(segments, padded, length // BLOCK)
    partial = visited & ~full
    device = group_of.device
    return BlockMask.from_kv_blocks(
        *_indices(partial, device),
        *_indices(full, device),
        BLOCK_SIZE=BLOCK,
        mask_mod=mask_rule(group_of, continuation_of),
        seq_lengths=(length, length),
    )


def _blocks(
    segments: list[list[int]], padded: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """(count, count) bool each, (query block, key block): visited, and visible as a whole.

    A block is full where all its queries are of one segment and all its keys in that
    segment's prefix, or in the segment itself and before the queries' block.
    """
    visited = np.zeros((count, count), dtype=bool)
    full = np.zeros((count, count), dtype=bool)
    for start, length, prefix_segment in segments:
        if not length:
            continue
        first, last = start // BLOCK, (start + length - 1) // BLOCK
        prefix_start, prefix_length, _ = segments[prefix_segment]
        # blocks that lie in the segment, and in its prefix, as a whole: [inner, outer)
        inner, outer = -(-start // BLOCK), (start + length) // BLOCK
        prefix_inner = -(-prefix_start // BLOCK)
        prefix_outer = (prefix_start + prefix_length) // BLOCK
        prefix_last = (prefix_start + prefix_length - 1) // BLOCK
        is_prefix = prefix_start == start
        for block in range(first, last + 1):
            visited[block, first : block + 1] = True
            if not is_prefix:
                visited[block, prefix_start // BLOCK : prefix_last + 1] = True
            if inner <= block < outer:
                full[block, inner:block] = True
                if not is_prefix:
                    full[block, prefix_inner:prefix_outer] = True
    # Padding at the ends of the packed sequences forms a group of its own: causal.
    pad_blocks = np.flatnonzero(padded.reshape(count, BLOCK).any(axis=1))
    visited[np.ix_(pad_blocks, pad_blocks)] |= pad_blocks[:, None] >= pad_blocks[None, :]
    return visited, full


def _indices(blocks: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
    """(1, 1, rows) number of blocks and (1, 1, rows, columns) their columns, these first."""
    numbers = blocks.sum(axis=1, dtype=np.int32)
    order = np.argsort(~blocks, axis=1, kind="stable").astype(np.int32)
    both = torch.from_numpy(numbers)[None, None], torch.from_numpy(order)[None, None]
    return both[0].to(device), both[1].to(device)


@cache
def compiled_flex_attention() -> Callable[..., Tensor]:
    """FlexAttention, compiled for any length; more than RECOMPILE_LIMIT variants are an error.

    Dynamo's usual answer to too many variants is the uncompiled function, which holds
    S x S scores. `fullgraph` makes it an error.
    """
    compile_function: Any = torch.compile
    compiled: Callable[..., Tensor] = compile_function(
        flex_attention,
        dynamic=True,
        fullgraph=True,
        recompile_limit=RECOMPILE_LIMIT,
        isolate_recompiles=True,
    )
    return compiled


def flex_shared_prefix_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    block_mask: BlockMask | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """(1, heads, S, d) -> (1, S, heads, d); without a block mask, transformers' own SDPA.

    The signature is that of transformers' attention functions.
    """
    if block_mask is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **options
        )
    # Rotary embedding returns float32 under autocast, the projection of values bf16.
    query, key = query.to(value.dtype), key.to(value.dtype)
    if value.device.type == "cpu":
        out = masked_attention(query, key, value, block_mask, scaling)
    else:
        out = compiled_flex_attention()(
            query, key, value, block_mask=block_mask, scale=scaling, enable_gqa=True
        )
    return out.transpose(1, 2).contiguous(), None


def masked_attention(
    query: Tensor, key: Tensor, value: Tensor, block_mask: BlockMask, scaling: float
) -> Tensor:
    """What FlexAttention computes with `block_mask`, by an S x S mask, in any device's SDPA."""
    mask = expand_mask(block_mask)
    return scaled_dot_product_attention(
        query, key, value, attn_mask=mask, scale=scaling, enable_gqa=True
    )


def expand_mask(block_mask: BlockMask) -> Tensor:
    """(S, S) bool: the pairs that FlexAttention computes with a block mask.

    Pairs of partial blocks are masked one by one, those of full blocks not at all, and
    those of other blocks never visited.
    """
    queries, keys = block_mask.seq_lengths
    device = block_mask.kv_indices.device
    rule = create_mask(block_mask.mask_mod, 1, 1, queries, keys, device=device)[0, 0]
    partial = _dense(block_mask.kv_num_blocks, block_mask.kv_indices)
    assert block_mask.full_kv_num_blocks is not None
    assert block_mask.full_kv_indices is not None
    full = _dense(block_mask.full_kv_num_blocks, block_mask.full_kv_indices)
    return (rule & partial) | full


def _dense(numbers: Tensor, indices: Tensor) -> Tensor:
    """(S, S) bool of the pairs in the listed blocks."""
    columns = torch.arange(indices.shape[-1], device=indices.device)
    listed = columns < numbers[0, 0][:, None]
    blocks = torch.zeros_like(listed).scatter_(1, indices[0, 0].long(), listed)
    return blocks.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)


AttentionInterface.register(FLEX_ATTENTION, flex_shared_prefix_attention)
AttentionMaskInterface.register(FLEX_ATTENTION, sdpa_mask)
