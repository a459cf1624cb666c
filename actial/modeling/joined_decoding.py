"""A decoding step of a small text model in few operations.

A tiny model spends its decoding time between operations, not in them. Here projections
of one input are one product, the weights of norms are multiplied into the projections
behind them, and rotary angles are looked up: a third of the operations of the library's
layers, with the same results up to rounding.

Axes as in `group_decoding`: N rows, K key heads, D head width, H hidden width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from actial.modeling.families import text_model, text_positions
from actial.modeling.group_decoding import GroupCache, decode_step

# families whose decoder layers are norm, attention, norm and gated MLP
FAMILIES = ("qwen2_5_vl", "qwen2_vl", "qwen3_vl", "smolvlm", "internvl")
# in larger models the products take the time, and copies of weights would take memory
MOST_PARAMETERS = 50_000_000

DecodeStep = Callable[[Tensor], Tensor]  # tokens (N,) -> hidden states (N, H)


def open_decoder(model: Any, cache: GroupCache) -> DecodeStep:
    """The step that decodes one token in each row of the cache, with the weights as they are.

    It is `JoinedDecoder` where that applies, else the library's layers (`decode_step`).
    """
    if can_be_joined(model):
        return JoinedDecoder(model, cache)
    return partial(decode_step, model, cache)


def can_be_joined(model: Any) -> bool:
    """Whether `JoinedDecoder` computes what the model does.

    That is a text model of `FAMILIES` with at most `MOST_PARAMETERS`, in
    float32, without adapters, packed weights or angles that depend on the
    length.
    """
    if model.config.model_type not in FAMILIES:
        return False
    text = text_model(model)
    device = next(text.parameters()).device.type
    size = sum(parameter.numel() for parameter in text.parameters())
    if size > MOST_PARAMETERS or torch.is_autocast_enabled(device):
        return False
    if text.rotary_emb.rope_type in ("dynamic", "longrope"):
        return False
    return all(_is_plain(layer) for layer in text.layers)


def _is_plain(layer: Any) -> bool:
    attention, mlp = layer.self_attn, layer.mlp
    without_bias = (attention.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj)
    projections = (attention.q_proj, attention.k_proj, attention.v_proj, *without_bias)
    float32 = all(
        type(one) is nn.Linear and one.weight.dtype is torch.float32 for one in projections
    )
    return float32 and all(one.bias is None for one in without_bias)


class JoinedDecoder:
    """Decodes one token in each row of a cache, with copies of the weights."""

    def __init__(self, model: Any, cache: GroupCache) -> None:
        text = text_model(model)
        self.cache = cache
        self.embedding = model.model.get_input_embeddings().weight
        self.layers = [JoinedLayer.of(layer) for layer in text.layers]
        self.norm: Tensor = text.norm.weight
        self.epsilon = self.norm.new_tensor(text.norm.variance_epsilon)
        # Sampled tokens are text: their three positions are one number.
        positions = torch.arange(cache.last_position + 1, device=self.embedding.device)
        angles = text_positions(model.config, positions.expand(3, 1, -1))
        cos, sin = (x[0].chunk(2, dim=-1)[0] for x in text.rotary_emb(self.embedding, angles))
        self.cos = cos[:, None, None]  # (positions, 1, 1, D / 2)
        self.sin = torch.stack([-sin, sin], dim=1)[:, None]  # (positions, 1, 2, D / 2)

    def __call__(self, tokens: Tensor) -> Tensor:
        """(N, H) hidden states after one token in each row, (N,) ids."""
        cache = self.cache
        positions = cache.next_positions()
        cos, sin = self.cos[positions], self.sin[positions]
        hidden = self.embedding[tokens]
        for index, layer in enumerate(self.layers):
            joined = torch.addmm(layer.qkv_bias, self._normed(hidden), layer.qkv)
            # (N, heads, 2, D / 2): halves of a head rotate together
            heads = joined.view(len(tokens), -1, 2, cos.shape[-1])
            num_rotated = heads.shape[1] - cache.key_heads
            num_queries = num_rotated - cache.key_heads
            halves = heads[:, :num_rotated]
            if layer.head_norm is not None:
                halves = layer.head_norm * self._normed(halves.flatten(2))
                halves = halves.view(len(tokens), num_rotated, 2, -1)
            torch.addcmul(halves * cos, halves.flip(2), sin, out=heads[:, :num_rotated])
            query, keys_values = heads.flatten(2).tensor_split([num_queries], dim=1)
            keys, values = keys_values.chunk(2, dim=1)
            cache.add(keys, values, index)
            attended = cache.attend(query, index)
            hidden.addmm_(attended, layer.out)
            gate, up = torch.mm(self._normed(hidden), layer.gate_up).chunk(2, dim=-1)
            hidden.addmm_(layer.activation(gate).mul_(up), layer.down)
        cache.length += 1
        return self._normed(hidden) * self.norm

    def _normed(self, hidden: Tensor) -> Tensor:
        """Root-mean-square norm of the last axis, without weights."""
        norm: Tensor = torch.linalg.vector_norm(hidden, dim=-1, keepdim=True)
        mean_square = torch.addcmul(self.epsilon, norm, norm, value=1 / hidden.shape[-1])
        return hidden * mean_square.rsqrt_()


@dataclass(slots=True)
class JoinedLayer:
    """Weights of a decoder layer, (inputs, outputs) each."""

    qkv: Tensor  # queries, keys and values; queries are scaled
    qkv_bias: Tensor
    head_norm: Tensor | None  # (query and key heads, D), where these are normed
    out: Tensor
    gate_up: Tensor
    down: Tensor
    activation: Any

    @classmethod
    def of(cls, layer: Any) -> JoinedLayer:
        """Join the weights of one of the library's layers."""
        attention, mlp = layer.self_attn, layer.mlp
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        weights = [one.weight for one in projections]
        zeros = torch.zeros_like
        biases = [
            zeros(w[:, 0]) if p.bias is None else p.bias
            for p, w in zip(projections, weights, strict=True)
        ]
        head_norm = None
        if hasattr(attention, "q_norm"):
            width = attention.head_dim
            query = (attention.q_norm.weight * attention.scaling).expand(
                len(weights[0]) // width, -1
            )
            key = attention.k_norm.weight.expand(len(weights[1]) // width, -1)
            head_norm = torch.cat([query, key])
        else:
            weights[0], biases[0] = (
                weights[0] * attention.scaling,
                biases[0] * attention.scaling,
            )
        gate_up = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])
        return cls(
            qkv=_behind(layer.input_layernorm, torch.cat(weights)),
            qkv_bias=torch.cat(biases),
            head_norm=head_norm,
            out=attention.o_proj.weight.T,
            gate_up=_behind(layer.post_attention_layernorm, gate_up),
            down=mlp.down_proj.weight.T,
            activation=mlp.act_fn,
        )


def _behind(norm: Any, weight: Tensor) -> Tensor:
    """(inputs, outputs) of a projection (outputs, inputs) and the norm before it."""
    joined: Tensor = (weight * norm.weight).T.contiguous()
    return joined
