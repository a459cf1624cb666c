"""Shared prefixes in Gated DeltaNet layers, the recurrent layers of Qwen3.5.

Such a layer has no keys to attend to. All that it knows of a prefix is a convolution
state (the last inputs of a short causal convolution) and a recurrent state (a matrix
per head). A prefix is computed once; each of its continuations starts from a copy of
both states, and gradients add up in the states that they share.

Source of the layer: Gated Delta Networks, https://arxiv.org/abs/2412.06464.

Axes: S flat positions, n segments of a bucket, T tokens of the longest of them, P
prefixes, G samples of each, C convolved channels, K taps of the convolution, V heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus
from transformers.models.qwen3_5.modeling_qwen3_5 import (
    Qwen3_5GatedDeltaNet,
    causal_conv1d_fn,
    torch_chunk_gated_delta_rule,
    torch_recurrent_gated_delta_rule,
)

from actial.modeling.attention import segment_positions, take
from actial.modeling.prefix_packing import PackedBatch

CHUNK = (
    64  # tokens that the chunked delta rule computes together; shorter ones are padded to it
)


@dataclass(slots=True)
class DeltaStates:
    """What a layer knows of n sequences: `convolution` (n, C, K - 1), `recurrent` (n, V, d, d)."""

    convolution: Tensor
    recurrent: Tensor

    def of(self, rows: Tensor) -> DeltaStates:
        """Copies of the states of some sequences (m,); each may be copied several times."""
        return DeltaStates(self.convolution[rows], self.recurrent[rows])


@dataclass(slots=True)
class DeltaBucket:
    """n segments of similar length as one padded batch."""

    positions: Tensor  # (n, T) flat; padding repeats a segment's last position
    present: Tensor  # (n, T) False on padding
    lengths: Tensor  # (n,)
    prefix: Tensor | None  # (n,) which prefix a continuation starts from; None for prefixes


@dataclass(slots=True)
class DeltaLayout:
    """The buckets of a batch; `back` (S,) finds each position in their concatenated outputs."""

    prefixes: list[DeltaBucket]
    prefix_rows: Tensor  # (P,) row of each prefix in the states of all prefix buckets
    continuations: list[DeltaBucket]
    back: Tensor


def delta_layout(batch: PackedBatch, length: int) -> DeltaLayout:
    """Buckets that compute each prefix and each continuation once.

    `length`: S, the number of flat positions, those that only pad included.
    """
    device = batch.input_ids.device
    starts, lengths, prefix_segment = batch.segments.T  # (segments,) each
    is_prefix = prefix_segment == torch.arange(len(prefix_segment))
    # segments are numbered through; prefixes by themselves, in the order of groups
    prefix_number = is_prefix.long().cumsum(0) - 1
    back = torch.zeros(length, dtype=torch.long)
    buckets: dict[bool, list[DeltaBucket]] = {True: [], False: []}
    order: list[Tensor] = []  # of the prefixes, as their buckets come
    offset = 0
    for prefixes in (True, False):
        candidates = (is_prefix == prefixes) & (lengths > 0)
        chunks = -(-lengths // CHUNK)
        for count in torch.unique(chunks[candidates]):
            members = (candidates & (chunks == count)).nonzero()[:, 0]
            positions, present = segment_positions(starts[members], lengths[members])
            slots = torch.arange(positions.numel()).view(positions.shape) + offset
            back[positions[present]] = slots[present]
            offset += positions.numel()
            owner = None
            if prefixes:
                order.append(prefix_number[members])
            else:
                owner = prefix_number[prefix_segment[members]].to(device)
            buckets[prefixes].append(
                DeltaBucket(
                    positions.to(device),
                    present.to(device),
                    lengths[members].to(device),
                    owner,
                )
            )
    rows = torch.cat(order).argsort()
    return DeltaLayout(buckets[True], rows.to(device), buckets[False], back.to(device))


def prepare_delta_layers(text_model: Any) -> None:
    """Have every Gated DeltaNet layer of a text model compute by shared prefixes."""
    for module in text_model.modules():
        if isinstance(module, Qwen3_5GatedDeltaNet):
            # a bound method follows a deep copy
            module.forward = MethodType(_forward, module)


def _forward(
    layer: Any,
    hidden_states: Tensor,
    cache_params: Any = None,
    attention_mask: Tensor | None = None,
    *,
    delta: DeltaLayout | None = None,
    **options: Any,
) -> Tensor:
    """The layer's output (R, L, H); without a layout and states, the library's own forward.

    `cache_params` is that of group decoding: it takes the prefixes' states, and gives
    those of samples.
    """
    if delta is not None:
        return _packed_forward(layer, hidden_states, delta, cache_params)
    if hasattr(cache_params, "delta_states"):
        return _decode_forward(layer, hidden_states, cache_params)
    plain: Tensor = type(layer).forward(
        layer, hidden_states, cache_params, attention_mask, **options
    )
    return plain


def _packed_forward(layer: Any, hidden: Tensor, layout: DeltaLayout, cache: Any) -> Tensor:
    """(R, L, H) from (R, L, H): all prefixes, then all continuations from their states."""
    # The four projections see each position once. Buckets only gather their rows.
    flat = hidden.flatten(0, 1)  # (S, H)
    mixed = layer.in_proj_qkv(flat)  # (S, C)
    decay, beta = _gates(layer, flat)  # (S, V) each
    outputs: list[Tensor] = []
    ends: list[DeltaStates] = []
    for bucket in layout.prefixes:
        output, states = _run_bucket(layer, mixed, decay, beta, bucket, None)
        outputs.append(output)
        ends.append(states)
    states = DeltaStates(
        torch.cat([end.convolution for end in ends]),
        torch.cat([end.recurrent for end in ends]),
    )
    states = states.of(layout.prefix_rows)
    if cache is not None:
        cache.delta_states[layer.layer_idx] = states
    for bucket in layout.continuations:
        assert bucket.prefix is not None
        branch = states.of(bucket.prefix)
        outputs.append(_run_bucket(layer, mixed, decay, beta, bucket, branch)[0])
    core = torch.cat([output.flatten(0, 1) for output in outputs])
    core = core.index_select(0, layout.back)  # (S, V, d)
    return _finish(layer, core, flat).view(hidden.shape)


def _run_bucket(
    layer: Any,
    mixed: Tensor,
    decay: Tensor,
    beta: Tensor,
    bucket: DeltaBucket,
    start: DeltaStates | None,
) -> tuple[Tensor, DeltaStates]:
    """(n, T, V, d) outputs of a bucket, and the states behind its last tokens."""
    # Padding neither decays a state (log of 1) nor writes to it (beta 0): the state behind
    # it is that of the last token.
    count, taps = len(bucket.lengths), layer.conv_kernel_size - 1
    padded = ~bucket.present[..., None]
    bucket_decay = take(decay, bucket.positions).masked_fill(padded, 0.0)
    bucket_beta = take(beta, bucket.positions).masked_fill(padded, 0.0)
    inputs = take(mixed, bucket.positions).transpose(1, 2)  # (n, C, T)
    before = inputs.new_zeros(count, inputs.shape[1], taps)
    if start is not None:
        before = start.convolution.to(inputs.dtype)
    inputs = torch.cat([before, inputs], dim=2)  # (n, C, K - 1 + T)
    query, key, value = _convolve(layer, inputs, taps)
    with torch.autocast(inputs.device.type, enabled=False):  # the recurrence is in float32
        output, recurrent = torch_chunk_gated_delta_rule(
            query,
            key,
            value,
            g=bucket_decay,
            beta=bucket_beta,
            chunk_size=CHUNK,
            initial_state=None if start is None else start.recurrent,
            output_final_state=start is None,
            use_qk_l2norm_in_kernel=True,
        )
    last = bucket.lengths[:, None] + torch.arange(taps, device=inputs.device)  # (n, K - 1)
    ending = inputs.gather(2, last[:, None].expand(-1, inputs.shape[1], -1))
    return output, DeltaStates(ending, recurrent)


def _gates(layer: Any, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """(.., V) log of the decay and rate of writing, from hidden states (.., H)."""
    step = softplus(layer.in_proj_a(hidden).float() + layer.dt_bias)
    return -layer.A_log.float().exp() * step, layer.in_proj_b(hidden).sigmoid()


def _convolve(layer: Any, inputs: Tensor, taps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values (n, T, V, d) from inputs (n, C, taps + T)."""
    convolution = layer.conv1d
    mixed = causal_conv1d_fn(
        inputs, convolution.weight.squeeze(1), convolution.bias, activation=layer.activation
    )
    mixed = mixed[:, :, taps:].transpose(1, 2)
    widths = [layer.key_dim, layer.key_dim, layer.value_dim]
    query, key, value = mixed.split(widths, dim=-1)
    repeats = layer.num_v_heads // layer.num_k_heads
    query, key = (
        x.unflatten(-1, (-1, layer.head_k_dim)).repeat_interleave(repeats, dim=2)
        for x in (query, key)
    )
    return query, key, value.unflatten(-1, (-1, layer.head_v_dim))


def _finish(layer: Any, core: Tensor, hidden: Tensor) -> Tensor:
    """(.., H) from the recurrence's outputs (.., V, d) and the layer's input (.., H)."""
    gate = layer.in_proj_z(hidden).unflatten(-1, (-1, layer.head_v_dim))
    normed = layer.norm(core.reshape(-1, core.shape[-1]), gate.reshape(-1, gate.shape[-1]))
    output: Tensor = layer.out_proj(normed.view(*hidden.shape[:-1], -1))
    return output


def _decode_forward(layer: Any, hidden: Tensor, cache: Any) -> Tensor:
    """(1, n, H) from one token (1, n, H) of each of n samples, whose states go one on."""
    states = cache.delta_states[layer.layer_idx]
    tokens = hidden[0][:, None]  # (n, 1, H)
    mixed = layer.in_proj_qkv(tokens).transpose(1, 2)  # (n, C, 1)
    inputs = torch.cat([states.convolution.to(mixed.dtype), mixed], dim=2)
    query, key, value = _convolve(layer, inputs, layer.conv_kernel_size - 1)
    decay, beta = _gates(layer, tokens)
    with torch.autocast(hidden.device.type, enabled=False):
        core, recurrent = torch_recurrent_gated_delta_rule(
            query,
            key,
            value,
            g=decay,
            beta=beta,
            initial_state=states.recurrent,
            output_final_state=True,
            use_qk_l2norm_in_kernel=True,
        )
    cache.delta_states[layer.layer_idx] = DeltaStates(inputs[:, :, 1:], recurrent)
    return _finish(layer, core, tokens).transpose(0, 1)
