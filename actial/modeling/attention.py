"""Attention over packed sequences, and inside the windows of the vision encoder.

A prefix attends causally to itself, a continuation to its prefix and causally to
itself. On the CPU the segments of a batch are sorted into buckets of similar
length, each of which is one call of scaled_dot_product_attention.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from actial.modeling.prefix_packing import PackedBatch

SHARED_PREFIX_ATTENTION = "actial_shared_prefix"
# transformers hands all windows of the vision encoder to implementations named
# "*flash*" in one call, and to all others one by one
VISION_ATTENTION = "actial_grouped_flash"
LENGTH_RATIO = 1.5  # lengths within this factor share a bucket


@dataclass(slots=True)
class Bucket:
    """n segments of similar length as one padded batch: flat positions of their queries and keys.

    `mask` is added to the scores (0 or -inf). None means causal attention, with
    the queries' positions as keys.
    """

    query: Tensor  # (n, Q)
    key: Tensor  # (n, K)
    mask: Tensor | None  # (n, 1, heads per key head * Q, K)


@dataclass(slots=True)
class AttentionLayout:
    """The buckets of a batch; `back` (R * L,) finds each position in their concatenated outputs."""

    buckets: list[Bucket]
    back: Tensor


def attention_layout(batch: PackedBatch, heads_per_key: int) -> AttentionLayout:
    """Buckets that visit each visible (query, key) pair once, up to padding within a bucket.

    A continuation is never paired with keys of its siblings. `heads_per_key`:
    query heads that share a key head.
    """
    starts, lengths, prefix_segment = batch.segments.T  # (S,) each
    is_prefix = prefix_segment == torch.arange(len(prefix_segment))
    length_class = (lengths.clamp(min=1).log() / math.log(LENGTH_RATIO)).ceil().long()
    # One bucket per (prefix?, length class of the prefix, length class of the
    # segment): the segments of a bucket are padded to the longest and attended as
    # one batch. A prefix has no other prefix behind it, so its second entry is
    # the same for all.
    prefix_class = torch.where(is_prefix, 0, length_class[prefix_segment])
    bucket_key = torch.stack([(~is_prefix).long(), prefix_class, length_class], dim=1)
    occupied = lengths > 0
    buckets: list[Bucket] = []
    back = torch.zeros(batch.input_ids.numel(), dtype=torch.long)
    offset = 0
    for key in torch.unique(bucket_key[occupied], dim=0):
        members = ((bucket_key == key).all(dim=1) & occupied).nonzero()[:, 0]
        query, valid = segment_positions(starts[members], lengths[members])  # (n, Q) each
        slots = (torch.arange(query.numel()) + offset).view(query.shape)
        back[query[valid]] = slots[valid]
        offset += query.numel()
        if is_prefix[members[0]]:
            bucket = Bucket(query, query, None)
        else:
            owner = prefix_segment[members]
            bucket = _continuation_bucket(query, starts[owner], lengths[owner], heads_per_key)
        buckets.append(_on_device(bucket, batch.input_ids.device))
    return AttentionLayout(buckets, back.to(batch.input_ids.device))


def _continuation_bucket(
    query: Tensor, starts: Tensor, lengths: Tensor, heads_per_key: int
) -> Bucket:
    """Queries (n, Q) over keys (n, K = P + Q): prefixes at `starts` (n,) of `lengths` (n,)."""
    count, width = query.shape
    prefix, present = segment_positions(starts, lengths)  # (n, P)
    # Every query of a continuation sees its whole prefix (padding of shorter
    # prefixes excepted), and of itself a lower triangle: (n, Q, P) beside (n, Q,
    # Q).
    own = torch.ones(width, width, dtype=torch.bool).tril().expand(count, -1, -1)
    visible = torch.cat([present[:, None].expand(-1, width, -1), own], dim=2)
    mask = torch.zeros(visible.shape).masked_fill(~visible, -torch.inf)
    # Query heads of one key head are laid along the query axis: no key is
    # repeated in memory.
    mask = mask.repeat(1, heads_per_key, 1)[:, None]
    return Bucket(query, torch.cat([prefix, query], dim=1), mask)


def _on_device(bucket: Bucket, device: torch.device) -> Bucket:
    mask = None if bucket.mask is None else bucket.mask.to(device)
    return Bucket(bucket.query.to(device), bucket.key.to(device), mask)


def segment_positions(starts: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """(n, longest) positions start, start + 1, ..., and which of them are no padding.

    Padding repeats a segment's last position.
    """
    steps = torch.arange(int(lengths.max()))
    return starts[:, None] + steps.minimum(lengths[:, None] - 1), steps < lengths[:, None]


def take(x: Tensor, positions: Tensor) -> Tensor:
    """x[positions]: (S, ..), (n, Q) -> (n, Q, ..), whose gradient is several times as fast."""
    return x.index_select(0, positions.flatten()).view(*positions.shape, *x.shape[1:])


def shared_prefix_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    layout: AttentionLayout | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """(R, heads, L, d) -> (R, L, heads, d); without a layout, transformers' own SDPA.

    The signature is that of transformers' attention functions.
    """
    if layout is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **options
        )
    sequences, heads, length, width = query.shape
    flat_query, flat_key, flat_value = (
        x.transpose(1, 2).flatten(0, 1) for x in (query, key, value)
    )
    outputs = [
        _attend_bucket(flat_query, flat_key, flat_value, bucket, scaling)
        for bucket in layout.buckets
    ]
    out = torch.cat(outputs).index_select(0, layout.back)
    return out.view(sequences, length, heads, width), None


def _attend_bucket(
    query: Tensor, key: Tensor, value: Tensor, bucket: Bucket, scaling: float
) -> Tensor:
    """(n * Q, heads, d) outputs of a bucket from flat (R * L, heads or key heads, d) inputs."""
    heads, key_heads = query.shape[1], key.shape[1]
    # (n, Q, heads, d) -> (n, key heads, heads per key head, Q, d); keys -> (n,
    # key heads, K, d)
    q = take(query, bucket.query).reshape(
        *bucket.query.shape, key_heads, heads // key_heads, -1
    )
    q = q.permute(0, 2, 3, 1, 4)
    k, v = (take(x, bucket.key).transpose(1, 2) for x in (key, value))
    if bucket.mask is None:
        k, v = (x.repeat_interleave(heads // key_heads, dim=1) for x in (k, v))
        out = scaled_dot_product_attention(
            q.flatten(1, 2), k, v, is_causal=True, scale=scaling
        )
    else:
        mask = bucket.mask.to(q.dtype)
        out = scaled_dot_product_attention(
            q.flatten(2, 3), k, v, attn_mask=mask, scale=scaling
        )
    return out.reshape(q.shape).permute(0, 3, 1, 2, 4).reshape(-1, heads, q.shape[-1])


AttentionInterface.register(SHARED_PREFIX_ATTENTION, shared_prefix_attention)
AttentionMaskInterface.register(SHARED_PREFIX_ATTENTION, sdpa_mask)


# ---------------------------------------------------------------- vision encoder


def grouped_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    cu_seq_lens_q: Tensor,
    scaling: float,
    **_: object,
) -> tuple[Tensor, None]:
    """(1, S, heads, d): full attention inside each window of a packed (1, heads, S, d) sequence.

    Windows of one length run as one batch. `cu_seq_lens_q` (windows + 1,) are
    their boundaries.
    """
    lengths = cu_seq_lens_q.diff()
    distinct = torch.unique(lengths).tolist()
    if len(distinct) == 1:
        return _attend_windows(query, key, value, distinct[0], scaling)[None], None
    window_length = lengths.repeat_interleave(lengths)  # (S,) of the window each patch is in
    out = torch.empty_like(query[0].transpose(0, 1))  # (S, heads, d)
    for length in distinct:
        members = (window_length == length).nonzero()[:, 0]
        q, k, v = (x[:, :, members] for x in (query, key, value))
        out = out.index_copy(0, members, _attend_windows(q, k, v, length, scaling))
    return out[None], None


def _attend_windows(
    query: Tensor, key: Tensor, value: Tensor, length: int, scaling: float
) -> Tensor:
    """(S, heads, d) from (1, heads, S, d) made of windows of one length."""
    heads, width = query.shape[1], query.shape[-1]
    # (heads, S, d) -> (windows, heads, length, d)
    q, k, v = (
        x[0].reshape(heads, -1, length, width).transpose(0, 1) for x in (query, key, value)
    )
    return scaled_dot_product_attention(q, k, v, scale=scaling).transpose(1, 2).flatten(0, 1)


AttentionInterface.register(VISION_ATTENTION, grouped_attention)
