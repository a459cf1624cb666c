"""Group decoding: what samples of one prompt have in common is computed once.

That is the prompt itself, and the tokens in which samples agree: samples with one
history share a row of the batch until they draw different tokens.

Axes: P prompts, N rows (distinct histories), M the most rows that one prompt has,
K key heads, Q query heads per key head, T prompt tokens, S sampled tokens, D head
width, H hidden width. The text model is Hugging Face's own; only where its attention
looks for keys and values is replaced.
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
ANY_TOKEN = 2**32  # more than any vocabulary has
WORTH_KEEPING = 0.8  # rows are moved together where at most this share of them is still in use


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
    """Keys and values of P prompts, and of the N histories that samples have added so far.

    `positions` (P,) are those of the first sampled tokens. Layers whose state is recurrent have
    one state per row in `delta_states`.
    """

    def __init__(
        self,
        prefix: dict[int, LayerCache],
        prefix_mask: Tensor,
        positions: Tensor,
        group: int,
        capacity: int,
        delta_states: dict[int, DeltaStates],
    ) -> None:
        prompts = len(prefix_mask)
        self.prefix = prefix  # per layer: (P, K, D, T) keys, (P, K, T, D) values
        self.prefix_mask = prefix_mask  # (P, T), 0 or -inf
        self.positions = positions
        self.delta_states = delta_states  # per layer: (N, ..)
        self.length = 0  # sampled tokens so far
        # The first N rows of each store are in use. Every sample may end with a row of its own.
        # Token 0 stands for the prompt: its key and value are zero, see `attend`.
        self.key_heads = 1
        # Per layer: keys and values (2, P * group, K, 1 + capacity, D).
        self.stores: dict[int, Tensor] = {}
        for layer, (_, values) in prefix.items():
            self.key_heads, _, width = values.shape[1:]
            shape = (2, prompts * group, self.key_heads, 1 + capacity, width)
            self.stores[layer] = values.new_empty(shape)
            self.stores[layer][:, :, :, 0] = 0.0
        self.capacity = capacity
        # (N,) index into the prompts that remain
        self.prompt_of = torch.arange(prompts, device=prefix_mask.device)
        self.apart = group == 1  # whether every sample has a row of its own
        self._index_rows()

    def _index_rows(self) -> None:
        """Set the mask by key head, and the indices between rows and rows grouped by prompt.

        `slot` (N * K,) is the place of row and head (n, k) in a rectangle (P, K,
        M); `member` (P * K * M,) is the inverse, 0 where a prompt has fewer than M
        rows.
        """
        mask = self.prefix_mask.repeat_interleave(self.key_heads, dim=0)
        self.mask_by_head = mask[:, None]  # (P * K, 1, T)
        counts = self.prompt_of.bincount(minlength=len(self.prefix_mask))  # (P,)
        starts = counts.cumsum(0) - counts
        order = self.prompt_of.argsort(stable=True)
        numbers = torch.arange(len(order), device=order.device)
        rank = torch.empty_like(order)  # of a row among those of its prompt
        rank[order] = numbers - starts[self.prompt_of[order]]
        most = int(counts.max())
        heads = torch.arange(self.key_heads, device=order.device)
        by_prompt = self.prompt_of[:, None] * self.key_heads + heads  # (N, K)
        self.slot = (by_prompt * most + rank[:, None]).flatten()
        self.member = self.slot.new_zeros(len(counts) * self.key_heads * most)
        self.member[self.slot] = torch.arange(len(self.slot), device=order.device)

    @property
    def last_position(self) -> int:
        """The position of the last token for which there is room."""
        return int(self.positions.max()) + self.capacity - 1

    def next_positions(self) -> Tensor:
        """(N,) positions of the tokens that are decoded next."""
        return self.positions[self.prompt_of] + self.length

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any) -> LayerCache:
        """Add one token per row: (1, K, N, D) each, as transformers calls it."""
        self.add(keys[0].transpose(0, 1), values[0].transpose(0, 1), layer)
        return keys, values

    def add(self, keys: Tensor, values: Tensor, layer: int) -> None:
        """Add one token per row: (N, K, D) each."""
        slots = self.stores[layer][:, : len(keys), :, self.length + 1]
        slots[0], slots[1] = keys, values

    def attend(self, query: Tensor, layer: int) -> Tensor:
        """(N, heads * D): scaled queries (N, heads, D) over their prompt and their history."""
        # A row's prompt enters the softmax over its own tokens as one token more: its score is
        # the logsumexp of the scores over the prompt, its value what was attended there.
        count, _, width = query.shape
        history = self.stores[layer][:, :count, :, : self.length + 2]
        keys, values = history.flatten(1, 2).unbind()  # (N * K, 1 + S, D) each
        own = query.to(values.dtype).reshape(len(keys), -1, width)  # (N * K, Q, D)
        from_prompt, logsumexp = self._attend_to_prompts(own, layer)
        scores = torch.bmm(own, keys.transpose(1, 2)).float()  # (N * K, Q, 1 + S)
        scores[:, :, 0] = logsumexp
        weights = scores.softmax(-1).to(values.dtype)
        out = torch.baddbmm(from_prompt * weights[:, :, :1], weights, values)
        return out.view(count, -1)

    def _attend_to_prompts(self, own: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Outputs (N * K, Q, D) and logsumexp (N * K, Q) of queries over their prompts."""
        # The rows of a prompt read its keys in one product: (M * Q, D) @ (D, T) for each P, K.
        keys, values = (x.flatten(0, 1) for x in self.prefix[layer])
        _, queries, width = own.shape
        grouped = own.index_select(0, self.member).view(len(keys), -1, width)
        scores = torch.baddbmm(self.mask_by_head, grouped, keys).float()  # (P * K, M * Q, T)
        weights = scores.softmax(-1)
        logsumexp = scores.amax(-1) - weights.amax(-1).log()
        out = torch.bmm(weights.to(values.dtype), values).view(-1, queries, width)
        logsumexp = logsumexp.view(-1, queries)
        return out.index_select(0, self.slot), logsumexp.index_select(0, self.slot)

    def branch(self, rows: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return each sample's next row (B,), and the token (N,) that is decoded in each row.

        `rows` (B,) are those in which the samples that go on have drawn `tokens` (B,).
        """
        # One row per distinct (row, token). The first child of a row stays in it; further ones
        # get a copy of its history, in a row that no sample uses any more or in a new one.
        row, child_of, drawn = rows, None, tokens  # of each child
        if not self.apart:
            distinct, child_of = torch.unique(rows * ANY_TOKEN + tokens, return_inverse=True)
            parent, drawn = distinct // ANY_TOKEN, distinct % ANY_TOKEN
            further = (parent[1:] == parent[:-1]).nonzero()[:, 0] + 1
            row = parent.clone()
            if len(further):
                row[further] = self._copy(parent, parent[further])
            self.apart = len(row) == len(rows)
        if len(row) <= WORTH_KEEPING * len(self.prompt_of):
            order = row.argsort()
            self._keep(row[order])
            row = torch.empty_like(row)
            row[order] = torch.arange(len(row), device=row.device)
        decoded = torch.zeros_like(self.prompt_of)
        decoded[row] = drawn
        return row if child_of is None else row[child_of], decoded

    def _copy(self, used: Tensor, sources: Tensor) -> Tensor:
        """Copy the histories of rows `sources` to rows other than `used`, and return those."""
        count = len(self.prompt_of)
        unused = torch.ones(count + len(sources), dtype=torch.bool, device=used.device)
        unused[used] = False
        targets = unused.nonzero()[: len(sources), 0]
        span = slice(1, self.length + 1)
        for store in self.stores.values():
            store[:, targets, :, span] = store[:, sources, :, span]
        # Of each row, the one that it was before.
        before = torch.arange(max(count, int(targets[-1]) + 1), device=used.device)
        before[targets] = sources
        self.prompt_of = self.prompt_of[before]
        self.delta_states = {k: states.of(before) for k, states in self.delta_states.items()}
        self._index_rows()
        return targets

    def _keep(self, rows: Tensor) -> None:
        """Reduce to some rows (N',), in ascending order, and to the prompts that they have."""
        prompts, self.prompt_of = torch.unique(self.prompt_of[rows], return_inverse=True)
        if len(prompts) < len(self.prefix_mask):
            self.prefix = {
                layer: (keys[prompts], values[prompts])
                for layer, (keys, values) in self.prefix.items()
            }
            by_prompt = (self.prefix_mask, self.positions)
            self.prefix_mask, self.positions = (x[prompts] for x in by_prompt)
        span = slice(1, self.length + 1)
        for store in self.stores.values():
            store[:, : len(rows), :, span] = store[:, rows, :, span]
        self.delta_states = {k: states.of(rows) for k, states in self.delta_states.items()}
        self._index_rows()


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
    scaled = query[0].transpose(0, 1) * scaling  # (N, heads, D)
    attended = group_cache.attend(scaled, module.layer_idx)
    return attended.view(1, *scaled.shape), None


AttentionInterface.register(GROUP_ATTENTION, group_attention)


def prefill(
    model: Any, batch: PackedBatch, group: int, capacity: int
) -> tuple[GroupCache, Tensor]:
    """One packed forward over prompts without completions.

    Returns the cache, of one row per prompt, with room for `capacity` tokens in
    each of `group` samples, and the hidden state (P, H) that predicts the first
    sampled token.
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

    dtype = _compute_dtype(embeds)

    def by_prompt(packed: Tensor) -> Tensor:
        """(R, K, L, D) -> (P, K, T, D)"""
        flat = packed.transpose(1, 2).flatten(0, 1)
        return flat[take].transpose(1, 2).to(dtype).contiguous()

    mask = torch.zeros(present.shape, dtype=dtype, device=order.device)
    mask = mask.masked_fill(~present, -torch.inf)
    prefix: dict[int, LayerCache] = {}
    for layer, (keys, values) in cache.layers.items():
        transposed = by_prompt(keys).transpose(-1, -2).contiguous()  # (P, K, D, T)
        prefix[layer] = (transposed, by_prompt(values))
    last = order[starts + lengths - 1]
    positions = batch.position_ids.flatten(1).amax(0)  # the largest of the three axes
    highest = torch.full_like(lengths, -1)
    highest = highest.scatter_reduce(0, group_of[order], positions[order], "amax")
    hidden = out.last_hidden_state.flatten(0, 1)[last]
    states = cache.delta_states
    return GroupCache(prefix, mask, highest + 1, group, capacity, states), hidden


def decode_step(model: Any, cache: GroupCache, tokens: Tensor) -> Tensor:
    """(N, H) hidden states after one token in each row, (N,) ids."""
    embeds = model.model.get_input_embeddings()(tokens)[None]  # (1, N, H)
    position_ids = cache.next_positions().expand(3, 1, -1)
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
    return hidden


def _compute_dtype(like: Tensor) -> torch.dtype:
    """The dtype to which autocast would cast keys and values at every step; else that of `like`."""
    device = like.device.type
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return like.dtype


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
