"""Group decoding: every prompt's keys and values are computed and kept once, however many samples continue it.

Axes: P prompts, G samples of each, K key-value heads, Q query heads per key-value head, T prompt tokens, S sampled tokens,
D head width. The text model is Hugging Face's own; only where its attention looks for keys and values is replaced.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AttentionInterface

from actial.modeling.attention import SHARED_PREFIX_ATTENTION
from actial.modeling.prefix_packing import PAD_SEGMENT, PackedBatch
from actial.modeling.vlm_forward import embed_packed, encode_images, layout_options

GROUP_ATTENTION = "actial_group"


class PrefillCache:
    """Stands in for a cache during the packed forward over the prompts, and remembers each layer's keys and values."""

    def __init__(self) -> None:
        self.layers: list[tuple[torch.Tensor, torch.Tensor]] = []

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer: int, *_: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self.layers.append((keys, values))
        return keys, values


class GroupCache:
    """Keys and values of P prompts, and of what their G samples have added so far."""

    def __init__(
        self,
        prefix: list[tuple[torch.Tensor, torch.Tensor]],
        prefix_mask: torch.Tensor,
        group: int,
        capacity: int,
    ) -> None:
        self.prefix = prefix  # per layer: 2 x (P, K, T, D)
        self.prefix_mask = prefix_mask  # (P, 1, 1, T), 0 or -inf
        shape = (len(prefix_mask), group, prefix[0][0].shape[1], capacity, prefix[0][0].shape[3])
        self.samples = [
            (keys.new_empty(shape), values.new_empty(shape)) for keys, values in prefix
        ]  # (P, G, K, S, D)
        self.length = 0

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer: int, *_: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add one token per sample: (1, K, P * G, D) each."""
        for store, new in zip(self.samples[layer], (keys, values), strict=True):
            store[:, :, :, self.length] = new[0].transpose(0, 1).unflatten(0, store.shape[:2])
        return keys, values

    def attend(self, query: torch.Tensor, layer: int, scaling: float) -> torch.Tensor:
        """(1, heads, P * G, D) queries over their prompt and their own sample -> (1, P * G, heads, D)."""
        prefix_keys, prefix_values = self.prefix[layer]
        keys, values = (store[:, :, :, : self.length + 1] for store in self.samples[layer])
        prompts, group, heads = keys.shape[:3]
        own = (
            (query[0] * scaling)
            .transpose(0, 1)
            .unflatten(0, (prompts, group))
            .unflatten(2, (heads, -1))
        )  # (P, G, K, Q, D)
        shared = own.permute(0, 2, 1, 3, 4).flatten(2, 3)  # (P, K, G * Q, D)
        on_prefix = shared @ prefix_keys.transpose(-1, -2) + self.prefix_mask  # (P, K, G * Q, T)
        on_sample = own @ keys.transpose(-1, -2)  # (P, G, K, Q, S)
        width = on_prefix.shape[-1]
        on_prefix = on_prefix.unflatten(2, (group, -1)).transpose(1, 2)  # (P, G, K, Q, T)
        share = torch.cat([on_prefix, on_sample], -1).float().softmax(-1).to(values.dtype)
        from_prefix = (
            share[..., :width].transpose(1, 2).flatten(2, 3) @ prefix_values
        )  # (P, K, G * Q, D)
        from_prefix = from_prefix.unflatten(2, (group, -1)).transpose(1, 2)
        out = from_prefix + share[..., width:] @ values
        return out.flatten(2, 3).flatten(0, 1)[None]

    def keep(self, prompts: torch.Tensor, members: torch.Tensor) -> None:
        """Reduce to some prompts (P',) and some members of each (P', G')."""
        self.prefix = [(keys[prompts], values[prompts]) for keys, values in self.prefix]
        self.prefix_mask = self.prefix_mask[prompts]
        self.samples = [
            (keys[prompts[:, None], members], values[prompts[:, None], members])
            for keys, values in self.samples
        ]


def group_attention(
    module: Any,
    query: torch.Tensor,
    _key: Any,
    _value: Any,
    _mask: Any,
    *,
    scaling: float,
    group_cache: GroupCache,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention over a GroupCache, which already holds this token's key and value, in the form transformers calls."""
    return group_cache.attend(query, module.layer_idx, scaling), None


AttentionInterface.register(GROUP_ATTENTION, group_attention)


def prefill(
    model: Any, batch: PackedBatch, group: int, capacity: int
) -> tuple[GroupCache, torch.Tensor, torch.Tensor]:
    """One packed forward over prompts without branches.

    Returns the cache with room for `capacity` tokens in each of `group` samples, the hidden state (P, H) that predicts each
    prompt's first sampled token, and that token's position (P,).
    """
    embeds, extra = embed_packed(model, batch, encode_images(model, batch))
    cache = PrefillCache()
    extra |= layout_options(model, batch, embeds)
    with _attention(model, SHARED_PREFIX_ATTENTION):
        out = model.model.language_model(
            inputs_embeds=embeds,
            position_ids=batch.position_ids,
            past_key_values=cache,
            use_cache=True,
            **extra,
        )
    group_of = batch.group_of.flatten()
    lengths = group_of[group_of != PAD_SEGMENT].bincount()
    slots = group_of.argsort(stable=True)[-int(lengths.sum()) :]  # grouped by prompt, each in order
    starts = lengths.cumsum(0) - lengths
    steps = torch.arange(int(lengths.max()), device=slots.device)
    present = steps < lengths[:, None]  # (P, T)
    take = slots[(starts[:, None] + steps).clamp(max=len(slots) - 1)]

    def by_prompt(rows: torch.Tensor) -> torch.Tensor:
        """(R, K, L, D) -> (P, K, T, D)"""
        return rows.transpose(1, 2).flatten(0, 1)[take].transpose(1, 2).contiguous()

    mask = torch.zeros(present.shape, device=slots.device).masked_fill(~present, -torch.inf)[
        :, None, None
    ]
    prefix = [(by_prompt(keys), by_prompt(values)) for keys, values in cache.layers]
    last = slots[starts + lengths - 1]
    positions = batch.position_ids.flatten(1).amax(0)  # the three axes' largest
    highest = torch.full_like(lengths, -1).scatter_reduce(
        0, group_of[slots], positions[slots], "amax"
    )
    return (
        GroupCache(prefix, mask, group, capacity),
        out.last_hidden_state.flatten(0, 1)[last],
        highest + 1,
    )


def decode_step(
    model: Any, cache: GroupCache, tokens: torch.Tensor, positions: torch.Tensor
) -> torch.Tensor:
    """Feed one token per sample, (P, G) ids at positions (P,) + samples' length; hidden states (P, G, H)."""
    embeds = model.model.get_input_embeddings()(tokens.flatten())[None]
    places = (
        (positions + cache.length)[:, None].expand_as(tokens).reshape(1, 1, -1).expand(3, 1, -1)
    )
    prepared = embeds.new_empty(
        1, 1, 1, 1
    )  # a 4-D mask keeps the model from building its own; the cache needs none
    with _attention(model, GROUP_ATTENTION):
        out = model.model.language_model(
            inputs_embeds=embeds,
            attention_mask=prepared,
            position_ids=places,
            past_key_values=cache,
            use_cache=True,
            group_cache=cache,
        )
    cache.length += 1
    return out.last_hidden_state[0].unflatten(0, tokens.shape)


@contextmanager
def _attention(model: Any, name: str) -> Iterator[None]:
    config = model.model.language_model.config
    usual = config._attn_implementation
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = usual
