"""Attention over packed rows: each trunk causally over itself, each branch over its trunk and itself; windows of the tower."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from actial.modeling.prefix_packing import PackedBatch

SHARED_PREFIX_ATTENTION = "actial_trunk"
# transformers hands all windows of the tower to implementations named "*flash*" in one call, to others one by one
VISION_ATTENTION = "actial_grouped_flash"
SPREAD = 1.5  # lengths within this factor share a bucket


@dataclass(slots=True)
class Bucket:
    """Segments of similar length as one padded batch of n: flat row positions of their queries and keys."""

    query: torch.Tensor  # (n, Q)
    key: torch.Tensor  # (n, K)
    mask: (
        torch.Tensor | None
    )  # (n, 1, heads per key head * Q, K), 0 or -inf; None = causal, keys are the queries' positions


@dataclass(slots=True)
class AttentionLayout:
    """How a batch's rows fall into buckets; `back` (R * L,) finds each position in the buckets' concatenated outputs."""

    buckets: list[Bucket]
    back: torch.Tensor


def attention_layout(batch: PackedBatch, heads_per_key: int) -> AttentionLayout:
    """Nothing but visible pairs is computed, up to padding within a bucket: a branch never meets its siblings' keys."""
    starts, lengths, prefix_group = batch.segments.T
    device = batch.input_ids.device
    is_prefix = prefix_group == torch.arange(len(prefix_group))
    size = (lengths.clamp(min=1).log() / math.log(SPREAD)).ceil().long()
    kind = torch.where(is_prefix, -1, size[prefix_group]) * 1000 + size
    back = torch.zeros(batch.input_ids.numel(), dtype=torch.long)
    buckets, offset = [], 0
    for number in kind[lengths > 0].unique().tolist():
        chosen = ((kind == number) & (lengths > 0)).nonzero()[:, 0]
        query, valid = _spans(starts[chosen], lengths[chosen])
        back[query[valid]] = (torch.arange(query.numel()) + offset).view(query.shape)[valid]
        offset += query.numel()
        if is_prefix[chosen[0]]:
            buckets.append(Bucket(query.to(device), query.to(device), None))
            continue
        prefix, seen = _spans(starts[prefix_group[chosen]], lengths[prefix_group[chosen]])
        width = query.shape[1]
        own = torch.ones(width, width, dtype=torch.bool).tril().expand(len(chosen), -1, -1)
        visible = torch.cat([seen[:, None].expand(-1, width, -1), own], dim=2)
        mask = (
            torch.zeros(visible.shape)
            .masked_fill(~visible, -torch.inf)
            .repeat(1, heads_per_key, 1)[:, None]
        )
        buckets.append(
            Bucket(query.to(device), torch.cat([prefix, query], dim=1).to(device), mask.to(device))
        )
    return AttentionLayout(buckets, back.to(device))


def _spans(starts: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(n, longest) positions start, start + 1, .., padded with the last one, and which are no padding."""
    steps = torch.arange(int(lengths.max()))
    return starts[:, None] + steps.minimum(lengths[:, None] - 1), steps < lengths[:, None]


def shared_prefix_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float,
    layout: AttentionLayout | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """(R, heads, L, d) -> (R, L, heads, d); without a layout, transformers' own SDPA."""
    if layout is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **options
        )
    rows, heads, length, width = query.shape
    key_heads = key.shape[1]
    q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (query, key, value))  # (R * L, heads, d)
    outputs = []
    for bucket in layout.buckets:
        qs = (
            q[bucket.query].unflatten(2, (key_heads, -1)).permute(0, 2, 3, 1, 4)
        )  # (n, key heads, heads per key head, Q, d)
        ks, vs = (x[bucket.key].transpose(1, 2) for x in (k, v))  # (n, key heads, K, d)
        if bucket.mask is None:
            ks, vs = (x.repeat_interleave(heads // key_heads, dim=1) for x in (ks, vs))
            out = scaled_dot_product_attention(
                qs.flatten(1, 2), ks, vs, is_causal=True, scale=scaling
            )
        else:
            mask = bucket.mask.to(qs.dtype)
            out = scaled_dot_product_attention(
                qs.flatten(2, 3), ks, vs, attn_mask=mask, scale=scaling
            )
        outputs.append(out.reshape(qs.shape).permute(0, 3, 1, 2, 4).reshape(-1, heads, width))
    return torch.cat(outputs)[layout.back].view(rows, length, heads, width), None


AttentionInterface.register(SHARED_PREFIX_ATTENTION, shared_prefix_attention)
AttentionMaskInterface.register(SHARED_PREFIX_ATTENTION, sdpa_mask)


def mask_rule(batch: PackedBatch) -> Callable[..., torch.Tensor]:
    """Which query sees which key, element by element, as FlexAttention wants it."""
    prefix_group, continuation = batch.group_of, batch.continuation_of

    def allowed(
        row: torch.Tensor, _head: torch.Tensor, query: torch.Tensor, key: torch.Tensor
    ) -> torch.Tensor:
        same_group = prefix_group[row, query] == prefix_group[row, key]
        visible = (continuation[row, key] == 0) | (
            continuation[row, query] == continuation[row, key]
        )
        return same_group & visible & (query >= key)

    return allowed


def block_mask(batch: PackedBatch, *, compiled: bool = True) -> BlockMask:
    """FlexAttention's block mask of the rows: blocks in which no query sees a key are skipped."""
    rows, length = batch.input_ids.shape
    return create_block_mask(
        mask_rule(batch),
        rows,
        None,
        length,
        length,
        device=batch.input_ids.device,
        _compile=compiled,
    )


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


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, length: int, scaling: float
) -> torch.Tensor:
    """(S, heads, d) from (1, heads, S, d) made of segments of one length."""
    q, k, v = (x[0].unflatten(1, (-1, length)).transpose(0, 1) for x in (query, key, value))
    return scaled_dot_product_attention(q, k, v, scale=scaling).transpose(1, 2).flatten(0, 1)


AttentionInterface.register(VISION_ATTENTION, grouped_attention)
