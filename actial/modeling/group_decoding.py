"""Group decoding: keys and values of a prompt are computed once, however many samples continue it.

Axes: P prompts, G samples of each, K key heads, Q query heads per key head, T
prompt tokens, S sampled tokens, D head width. The text model is Hugging Face's
own; only where its attention looks for keys and values is replaced.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface

from actial.config import Attention
from actial.modeling.attention import SHARED_PREFIX_ATTENTION
from actial.modeling.families import encode_images, text_model, text_positions
from actial.modeling.gated_delta import DeltaStates
from actial.modeling.prefix_packing import PAD_SEGMENT, PackedBatch
from actial.modeling.vlm_forward import embed_packed, no_mask, plan_attention

GROUP_ATTENTION = "actial_group"

LayerCache = tuple[Tensor, Tensor]  # keys and values


class PrefillCache:
    """A cache, as transformers calls it, that stores the prompts' keys and values by layer."""

    def __init__(self) -> None:
        self.layers: dict[int, LayerCache] = {}
        self.delta_states: dict[int, DeltaStates] = {}  # of recurrent layers, by prompt

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any) -> LayerCache:
        """Store and return the (R, K, L, D) keys and values of a layer."""
        self.layers[layer] = (keys, values)
        return keys, values


class GroupCache:
    """Keys and values of P prompts, and of what their G samples have added so far."""

    def __init__(
        self,
        prefix: dict[int, LayerCache],
        prefix_mask: Tensor,
        group: int,
        capacity: int,
        delta_states: dict[int, DeltaStates],
    ) -> None:
        self.prefix = prefix  # per layer: 2 x (P, K, T, D)
        self.prefix_mask = prefix_mask  # (P, 1, 1, T), 0 or -inf
        self.group = group
        self.samples: dict[int, LayerCache] = {}  # per layer: 2 x (P, G, K, S, D)
        for layer, (keys, values) in prefix.items():
            shape = (keys.shape[0], group, keys.shape[1], capacity, keys.shape[3])
            self.samples[layer] = (keys.new_empty(shape), values.new_empty(shape))
        # Every sample starts from a copy of its prompt's states, (P * G, ..).
        owner = torch.arange(len(prefix_mask), device=prefix_mask.device)
        owner = owner.repeat_interleave(group)
        self.delta_states = {layer: states.of(owner) for layer, states in delta_states.items()}
        self.length = 0  # sampled tokens so far

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any) -> LayerCache:
        """Add one token per sample: (1, K, P * G, D) each."""
        for store, new in zip(self.samples[layer], (keys, values), strict=True):
            by_sample = new[0].transpose(0, 1).reshape(*store.shape[:3], -1)  # (P, G, K, D)
            store[:, :, :, self.length] = by_sample
        return keys, values

    def attend(self, query: Tensor, layer: int, scaling: float) -> Tensor:
        """(1, P * G, heads, D): queries (1, heads, P * G, D) over their prompt and their sample."""
        prefix_keys, prefix_values = self.prefix[layer]
        keys, values = (store[:, :, :, : self.length + 1] for store in self.samples[layer])
        prompts, group, heads, _, width = keys.shape
        # The samples of a prompt read its keys in one product: (G * Q, D) @ (D,
        # T) for each P, K. Their scores join those over the sample's own keys in
        # one softmax over T + S.
        own = (query[0] * scaling).transpose(0, 1)
        own = own.reshape(prompts, group, heads, -1, width)  # (P, G, K, Q, D)
        shared = own.permute(0, 2, 1, 3, 4).flatten(2, 3)  # (P, K, G * Q, D)
        on_prefix = (
            shared @ prefix_keys.transpose(-1, -2) + self.prefix_mask
        )  # (P, K, G * Q, T)
        on_sample = own @ keys.transpose(-1, -2)  # (P, G, K, Q, S)
        on_prefix = _by_sample(on_prefix, group)  # (P, G, K, Q, T)
        tokens = on_prefix.shape[-1]
        scores = torch.cat([on_prefix, on_sample], -1)
        weights = scores.float().softmax(-1).to(values.dtype)
        prefix_weights = (
            weights[..., :tokens].transpose(1, 2).flatten(2, 3)
        )  # (P, K, G * Q, T)
        from_prefix = _by_sample(prefix_weights @ prefix_values, group)  # (P, G, K, Q, D)
        out: Tensor = from_prefix + weights[..., tokens:] @ values
        return out.flatten(2, 3).flatten(0, 1)[None]

    def keep(self, prompts: Tensor, members: Tensor) -> None:
        """Reduce to some prompts (P',) and some members of each (P', G')."""
        self.prefix = {
            layer: (keys[prompts], values[prompts])
            for layer, (keys, values) in self.prefix.items()
        }
        self.prefix_mask = self.prefix_mask[prompts]
        rows = prompts[:, None]
        self.samples = {
            layer: (keys[rows, members], values[rows, members])
            for layer, (keys, values) in self.samples.items()
        }
        flat = (rows * self.group + members).flatten()
        self.delta_states = {
            layer: states.of(flat) for layer, states in self.delta_states.items()
        }
        self.group = members.shape[1]


def _by_sample(shared: Tensor, group: int) -> Tensor:
    """(P, K, G * Q, X) -> (P, G, K, Q, X)"""
    prompts, heads, _, width = shared.shape
    return shared.reshape(prompts, heads, group, -1, width).transpose(1, 2)


def group_attention(
    module: Any,
    query: Tensor,
    _key: Any,
    _value: Any,
    _mask: Any,
    *,
    scaling: float,
    group_cache: GroupCache,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention over a GroupCache, which already holds this token's key and value.

    The signature is that of transformers' attention functions.
    """
    return group_cache.attend(query, module.layer_idx, scaling), None


AttentionInterface.register(GROUP_ATTENTION, group_attention)


def prefill(
    model: Any, batch: PackedBatch, group: int, capacity: int
) -> tuple[GroupCache, Tensor, Tensor]:
    """One packed forward over prompts without completions.

    Returns the cache with room for `capacity` tokens in each of `group` samples,
    the hidden state (P, H) that predicts each prompt's first sampled token, and
    that token's position (P,).
    """
    embeds, options = embed_packed(model, batch, encode_images(model, batch))
    cache = PrefillCache()
    plan = plan_attention(model.config, batch, Attention.sdpa)
    options["layout"] = plan.attention
    if plan.delta is not None:
        options["delta"] = plan.delta
    with _attention(model, SHARED_PREFIX_ATTENTION):
        out = text_model(model)(
            inputs_embeds=embeds,
            attention_mask=no_mask(model.config, embeds),
            position_ids=text_positions(model.config, batch.position_ids),
            past_key_values=cache,
            use_cache=True,
            **options,
        )
    # `order` lists the flat positions of all tokens, grouped by prompt and in
    # order within one: prompt p owns order[starts[p] : starts[p] + lengths[p]].
    group_of = batch.group_of.flatten()
    lengths = group_of[group_of != PAD_SEGMENT].bincount()  # (P,)
    order = group_of.argsort(stable=True)[-int(lengths.sum()) :]  # padding sorts first
    starts = lengths.cumsum(0) - lengths
    steps = torch.arange(int(lengths.max()), device=order.device)
    present = steps < lengths[:, None]  # (P, T)
    take = order[(starts[:, None] + steps).clamp(max=len(order) - 1)]  # (P, T) flat positions

    def by_prompt(packed: Tensor) -> Tensor:
        """(R, K, L, D) -> (P, K, T, D)"""
        return packed.transpose(1, 2).flatten(0, 1)[take].transpose(1, 2).contiguous()

    mask = torch.zeros(present.shape, device=order.device).masked_fill(~present, -torch.inf)
    prefix = {
        layer: (by_prompt(keys), by_prompt(values))
        for layer, (keys, values) in cache.layers.items()
    }
    last = order[starts + lengths - 1]
    positions = batch.position_ids.flatten(1).amax(0)  # the largest of the three axes
    highest = torch.full_like(lengths, -1)
    highest = highest.scatter_reduce(0, group_of[order], positions[order], "amax")
    hidden = out.last_hidden_state.flatten(0, 1)[last]
    group_cache = GroupCache(prefix, mask[:, None, None], group, capacity, cache.delta_states)
    return group_cache, hidden, highest + 1


def decode_step(model: Any, cache: GroupCache, tokens: Tensor, positions: Tensor) -> Tensor:
    """(P, G, H) hidden states after one token per sample, (P, G) ids.

    `positions` (P,) are those of each prompt's first sampled token.
    """
    embeds = model.model.get_input_embeddings()(tokens.flatten())[None]  # (1, P * G, H)
    position_ids = (positions + cache.length)[:, None].expand_as(tokens)
    position_ids = position_ids.reshape(1, 1, -1).expand(3, 1, -1)
    with _attention(model, GROUP_ATTENTION):
        out = text_model(model)(
            inputs_embeds=embeds,
            attention_mask=no_mask(model.config, embeds),
            position_ids=text_positions(model.config, position_ids),
            past_key_values=cache,
            use_cache=True,
            group_cache=cache,
        )
    cache.length += 1
    hidden: Tensor = out.last_hidden_state[0]
    return hidden.reshape(*tokens.shape, -1)


@contextmanager
def _attention(model: Any, name: str) -> Iterator[None]:
    """Set the text model's attention function for the time of a call."""
    config = text_model(model).config
    usual = config._attn_implementation
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = usual
