"""Forward passes of a Hugging Face Qwen-VL model on packed rows: the tower once per image, the text model once per row."""

from __future__ import annotations

from typing import Any

import torch

from actial.config import Attention
from actial.modeling.attention import attention_layout, block_mask
from actial.modeling.prefix_packing import PackedBatch


def encode_images(model: Any, batch: PackedBatch) -> Any:
    """The tower's output for the batch's unique images; None without images."""
    if not len(batch.grid_thw):
        return None
    return model.model.get_image_features(batch.pixel_values, batch.grid_thw, return_dict=True)


def hidden_states_at_targets(
    model: Any, batch: PackedBatch, attention: Attention, vision: Any
) -> torch.Tensor:
    """(N, H) final hidden states at the predictors of the scored tokens; `vision` comes from `see`."""
    embeds, extra = embed_packed(model, batch, vision)
    if attention is Attention.flex:
        extra["attention_mask"] = block_mask(batch)
    else:
        extra |= layout_options(model, batch, embeds)
    out = model.model.language_model(
        inputs_embeds=embeds, position_ids=batch.position_ids, use_cache=False, **extra
    )
    return out.last_hidden_state.flatten(0, 1)[batch.source_position]


def layout_options(model: Any, batch: PackedBatch, embeds: torch.Tensor) -> dict[str, Any]:
    """What makes the text model attend by trunks and branches; the 4-D mask only keeps it from building one itself."""
    text = model.config.text_config
    layout = attention_layout(batch, text.num_attention_heads // text.num_key_value_heads)
    return {"attention_mask": embeds.new_empty(1, 1, 1, 1), "layout": layout}


def embed_packed(
    model: Any, batch: PackedBatch, vision: Any
) -> tuple[torch.Tensor, dict[str, Any]]:
    """(R, L, H) embeddings, and what else the text model wants.

    Image features go to the trunks' placeholder positions only: a placeholder id in a branch stays plain text.
    """
    embeds = model.model.get_input_embeddings()(batch.input_ids)
    if vision is None:
        return embeds, {}
    features = torch.cat(tuple(vision.pooler_output)).to(embeds.dtype)
    deep = [torch.cat(tuple(layer)) for layer in getattr(vision, "deepstack_features", None) or []]
    if not len(
        batch.feature_slot
    ):  # an image shown only so that every rank runs the tower: no weight, but a gradient path
        return embeds + 0.0 * sum((layer.sum() for layer in deep), start=features.sum()), {}
    flat = embeds.flatten(0, 1).index_copy(0, batch.feature_slot, features[batch.feature_index])
    extra: dict[str, Any] = {}
    if deep:  # Qwen3-VL adds features after its first layers
        visual = torch.zeros(flat.shape[0], dtype=torch.bool, device=flat.device)
        visual[batch.feature_slot] = True
        order = batch.feature_slot.argsort()
        extra["visual_pos_masks"] = visual.view(embeds.shape[:2])
        extra["deepstack_visual_embeds"] = [layer[batch.feature_index][order] for layer in deep]
    return flat.view(embeds.shape), extra
