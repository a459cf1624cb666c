"""Forward passes of a Hugging Face vision-language model on packed sequences.

The vision encoder runs once per unique image, the text model once per packed
sequence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from actial.config import Attention
from actial.modeling.attention import AttentionLayout, attention_layout
from actial.modeling.families import is_hybrid, text_model, text_positions
from actial.modeling.flex_attention import FlatSequence, flatten_batch, flatten_rows
from actial.modeling.gated_delta import DeltaLayout, delta_layout
from actial.modeling.prefix_packing import PackedBatch


@dataclass(slots=True)
class AttentionPlan:
    """What the text model's layers need to know of a batch."""

    attention: AttentionLayout | FlatSequence
    delta: DeltaLayout | None  # of recurrent layers, where there are some


def plan_attention(hf_config: Any, batch: PackedBatch, attention: Attention) -> AttentionPlan:
    """The plan of a batch, for policy and reference."""
    length = batch.input_ids.numel()
    layout: AttentionLayout | FlatSequence
    if attention is Attention.flex:
        layout = flatten_batch(batch)
        length = layout.length
    else:
        text = hf_config.text_config
        heads_per_key = text.num_attention_heads // text.num_key_value_heads
        layout = attention_layout(batch, heads_per_key)
    delta = delta_layout(batch, length) if is_hybrid(hf_config) else None
    return AttentionPlan(layout, delta)


def hidden_states_at_targets(
    model: Any, batch: PackedBatch, plan: AttentionPlan, image_features: Any
) -> Tensor:
    """(N, H) final hidden states that predict the supervised tokens.

    `image_features` come from `families.encode_images`, `plan` from `plan_attention`.
    """
    embeds, options = embed_packed(model, batch, image_features)
    position_ids = text_positions(model.config, batch.position_ids)
    layout = plan.attention
    if isinstance(layout, FlatSequence):
        # (R, L, ..) -> (1, S, ..): flat positions stay what they are
        padding = layout.length - batch.input_ids.numel()
        embeds = pad(embeds.flatten(0, 1), (0, 0, 0, padding))[None]
        position_ids = flatten_rows(position_ids, layout.length)
        if "visual_pos_masks" in options:
            options["visual_pos_masks"] = flatten_rows(
                options["visual_pos_masks"], layout.length
            )
        options["block_mask"] = layout.mask
    else:
        options["layout"] = layout
    if plan.delta is not None:
        options["delta"] = plan.delta
    out = text_model(model)(
        inputs_embeds=embeds,
        attention_mask=no_mask(model.config, embeds),
        position_ids=position_ids,
        use_cache=False,
        **options,
    )
    hidden: Tensor = out.last_hidden_state  # (R, L, H) or (1, S, H)
    return hidden.flatten(0, 1).index_select(0, batch.source_position)


def no_mask(hf_config: Any, embeds: Tensor) -> Any:
    """An empty 4-D mask, which keeps transformers from building one of its own."""
    mask = embeds.new_empty(1, 1, 1, 1)
    if not is_hybrid(hf_config):
        return mask
    return {"full_attention": mask, "linear_attention": None}


def embed_packed(
    model: Any, batch: PackedBatch, image_features: Any
) -> tuple[Tensor, dict[str, Any]]:
    """(R, L, H) embeddings, and further arguments of the text model.

    Image features replace the placeholders of prefixes only: a placeholder id in
    a continuation stays text.
    """
    embeds: Tensor = model.model.get_input_embeddings()(batch.input_ids)
    if image_features is None:
        return embeds, {}
    features = torch.cat(tuple(image_features.pooler_output)).to(embeds.dtype)  # (features, H)
    layers = getattr(image_features, "deepstack_features", None) or []
    deepstack = [torch.cat(tuple(layer)) for layer in layers]
    if not len(batch.feature_slot):
        # A blank image that only keeps the vision encoder running on every rank:
        # it has no effect on the values, but gives all parameters a gradient.
        unused = sum((layer.sum() for layer in deepstack), start=features.sum())
        return embeds + 0.0 * unused, {}
    flat = embeds.flatten(0, 1).index_copy(
        0, batch.feature_slot, features.index_select(0, batch.feature_index)
    )
    options: dict[str, Any] = {}
    if deepstack:
        # Qwen3-VL adds features to the hidden states after its first layers. It
        # takes them in the order of the flat positions that `visual_pos_masks`
        # (R, L) marks.
        visual = torch.zeros(flat.shape[0], dtype=torch.bool, device=flat.device)
        visual[batch.feature_slot] = True
        order = batch.feature_index[batch.feature_slot.argsort()]
        options["visual_pos_masks"] = visual.view(embeds.shape[:2])
        options["deepstack_visual_embeds"] = [
            layer.index_select(0, order) for layer in deepstack
        ]
    return flat.view(embeds.shape), options
