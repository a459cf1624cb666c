"""Attention masks of packed rows, and batched window attention for the vision tower."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from actial.trunk import TrunkBatch

# transformers hands all windows of the tower to implementations named "*flash*" in one call, to others one by one
VISION_ATTENTION = "actial_grouped_flash"


def dense_mask(batch: TrunkBatch) -> torch.Tensor:
    """(R, 1, L, L) bool, True where query may see key: same trunk, not later, and key on the trunk or the query's branch."""
    trunk, branch = batch.trunk_of, batch.branch_of
    same_trunk = trunk[:, :, None] == trunk[:, None, :]
    visible = (branch[:, None, :] == 0) | (branch[:, :, None] == branch[:, None, :])
    return (same_trunk & visible).tril_()[:, None]


def mask_rule(batch: TrunkBatch) -> Callable[..., torch.Tensor]:
    """The same rule, element by element, as FlexAttention wants it."""
    trunk, branch = batch.trunk_of, batch.branch_of

    def allowed(row: torch.Tensor, _head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        same_trunk = trunk[row, query] == trunk[row, key]
        visible = (branch[row, key] == 0) | (branch[row, query] == branch[row, key])
        return same_trunk & visible & (query >= key)

    return allowed


def block_mask(batch: TrunkBatch, *, compiled: bool = True) -> BlockMask:
    """FlexAttention's block mask of the rows: blocks in which no query sees a key are skipped."""
    rows, length = batch.ids.shape
    return create_block_mask(mask_rule(batch), rows, None, length, length, device=batch.ids.device, _compile=compiled)


def grouped_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    cu_seq_lens_q: torch.Tensor,
    scaling: float,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """Full attention inside each segment of a packed (1, heads, S, d) sequence; equally long segments run as one batch."""
    lengths = cu_seq_lens_q.diff()
    distinct = lengths.unique().tolist()
    if len(distinct) == 1:
        return _attend(query, key, value, distinct[0], scaling)[None], None
    segment_length = lengths.repeat_interleave(lengths)
    out = torch.empty_like(query[0].transpose(0, 1))  # (S, heads, d)
    for length in distinct:
        chosen = (segment_length == length).nonzero()[:, 0]
        part = _attend(query[:, :, chosen], key[:, :, chosen], value[:, :, chosen], length, scaling)
        out = out.index_copy(0, chosen, part)
    return out[None], None


def _attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, length: int, scaling: float) -> torch.Tensor:
    """(S, heads, d) from (1, heads, S, d) made of segments of one length."""
    q, k, v = (x[0].unflatten(1, (-1, length)).transpose(0, 1) for x in (query, key, value))
    return scaled_dot_product_attention(q, k, v, scale=scaling).transpose(1, 2).flatten(0, 1)


AttentionInterface.register(VISION_ATTENTION, grouped_attention)
