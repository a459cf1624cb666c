"""Operations and memory of Gated DeltaNet layers, beside those of attention in cost_model.

Segments are computed in chunks of 64 tokens, to which shorter ones are padded.
"""

from __future__ import annotations

from typing import Any

from actial.modeling.gated_delta import CHUNK


def layer_counts(text_config: Any) -> tuple[int, int]:
    """(attention layers, recurrent layers) of a text model."""
    layers = int(text_config.num_hidden_layers)
    types = getattr(text_config, "layer_types", None) or []
    recurrent = types.count("linear_attention")
    return layers - recurrent, recurrent


def chunks_of(segment_tokens: int) -> int:
    """Chunks that a prefix or a continuation is computed in."""
    return -(-segment_tokens // CHUNK)


def recurrence_flops(text_config: Any, chunks: int) -> float:
    """Forward operations of one layer's recurrence over chunks; its projections are counted apart.

    In a chunk of c tokens a head multiplies (c, d) with (d, c) for keys with
    keys and with queries, (c, c) with values, and three times with its d x d
    state.
    """
    key, value = text_config.linear_key_head_dim, text_config.linear_value_head_dim
    pairs = 2 * CHUNK**2 * key + CHUNK**2 * value
    state = 3 * CHUNK * key * value
    heads = text_config.linear_num_value_heads
    return float(2 * chunks * heads * (pairs + state))


def recurrent_floats(text_config: Any, tokens: int, chunks: int) -> float:
    """float32 numbers that one layer saves for its backward pass.

    The factors were measured with saved-tensor hooks on 80 random layers (30 to 1,500
    tokens, widths 8 to 64, with and without autocast); the sum is within 15 % of each
    of them.
    """
    heads = text_config.linear_num_value_heads
    key, value = text_config.linear_key_head_dim, text_config.linear_value_head_dim
    channels = 2 * text_config.linear_num_key_heads * key + heads * value
    by_token = 1.5 * text_config.hidden_size + 5.0 * heads * value
    by_padded_token = 1.3 * channels + heads * (8.4 * key + 4.5 * value + 5.0 * CHUNK)
    states = 0.7 * chunks * heads * key * value
    return float(tokens * by_token + chunks * CHUNK * by_padded_token + states)
