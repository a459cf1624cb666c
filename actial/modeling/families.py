"""The model families that can be trained, and where each has its parts.

All take images, whose features replace placeholders of a prefix. They differ in the
names of their parts, in rotary positions, and in the images that they take.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from actial.modeling.image_patches import PackingSpec
from actial.modeling.prefix_packing import PackedBatch

# families with Qwen-VL's parts: any image size, positions along time, height and width
QWEN_VL = (
    "qwen2_5_vl",
    "qwen2_vl",
    "qwen3_vl",
    "qwen3_5",
)
HYBRID = ("qwen3_5",)  # some of the text model's layers are recurrent


@dataclass(frozen=True, slots=True, kw_only=True)
class TiledFamily:
    """A family whose vision encoder takes square images as pixels, with plain positions."""

    text_model: str  # attribute of the model's body
    vision_encoder: str
    batched: bool  # takes (1, images, 3, side, side) in place of (images, 3, side, side)


TILED = {
    "smolvlm": TiledFamily(
        text_model="text_model", vision_encoder="vision_model", batched=True
    ),
    "internvl": TiledFamily(
        text_model="language_model", vision_encoder="vision_tower", batched=False
    ),
}
FAMILIES = (*QWEN_VL, *TILED)

# parts of parameter names -> module group; what is named otherwise is the language model
VISION_NAMES = (".visual.", ".vision_model.", ".vision_tower.")
MERGER_NAMES = (
    ".merger.",
    ".deepstack_merger_list.",
    ".connector.",
    ".multi_modal_projector.",
)


def text_model(model: Any) -> Any:
    """The text model without its head."""
    tiled = TILED.get(model.config.model_type)
    return getattr(model.model, "language_model" if tiled is None else tiled.text_model)


def vision_encoder(model: Any) -> Any:
    """The vision encoder; in Qwen-VL's families with its merger."""
    tiled = TILED.get(model.config.model_type)
    return getattr(model.model, "visual" if tiled is None else tiled.vision_encoder)


def is_hybrid(hf_config: Any) -> bool:
    """Whether some of the text model's layers are recurrent (Gated DeltaNet)."""
    return hf_config.model_type in HYBRID


def text_positions(hf_config: Any, position_ids: Tensor) -> Tensor:
    """What the text model takes of positions (3, ..): all three axes, or (..) where they agree."""
    return position_ids[0] if hf_config.model_type in TILED else position_ids


def packing_spec(
    hf_config: Any,
    image_mean: tuple[float, float, float],
    image_std: tuple[float, float, float],
) -> PackingSpec:
    """The patch geometry of a model."""
    vision, family = hf_config.vision_config, hf_config.model_type
    merge_size, temporal = 0, 1
    if family == "smolvlm":
        merge_size = hf_config.scale_factor
    elif family == "internvl":
        merge_size = round(1 / hf_config.downsample_ratio)
    else:
        merge_size, temporal = vision.spatial_merge_size, vision.temporal_patch_size
    return PackingSpec(
        image_token_id=hf_config.image_token_id,
        patch_size=patch_side(vision),
        merge_size=merge_size,
        temporal_patch_size=temporal,
        image_mean=image_mean,
        image_std=image_std,
        tiled=family in TILED,
    )


def patch_side(vision_config: Any) -> int:
    """Pixels along a side of a patch; InternVL gives both sides, which are equal."""
    side = vision_config.patch_size
    return int(side if isinstance(side, int) else side[0])


def encode_images(model: Any, batch: PackedBatch) -> Any:
    """The vision encoder's output for the batch's unique images; None without images.

    `pooler_output` holds one (features, H) tensor for each image.
    """
    if not len(batch.grid_thw):
        return None
    tiled = TILED.get(model.config.model_type)
    if tiled is None:
        return model.model.get_image_features(
            batch.pixel_values, batch.grid_thw, return_dict=True
        )
    spec = packing_spec(model.config, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    features: list[Tensor] = [torch.empty(0)] * len(batch.grid_thw)
    sides = batch.grid_thw[:, 1].tolist()  # in patches
    by_image = torch.split(batch.pixel_values, [side**2 for side in sides])
    # images of one size run as one batch
    for side in sorted(set(sides)):
        members = [index for index, other in enumerate(sides) if other == side]
        pixels = _pixels(torch.stack([by_image[index] for index in members]), side, spec)
        pixels = pixels[None] if tiled.batched else pixels
        out = model.model.get_image_features(pixels, return_dict=True)
        for index, image_features in zip(members, out.pooler_output, strict=True):
            features[index] = image_features
    return SimpleNamespace(pooler_output=features, deepstack_features=None)


def _pixels(patches: Tensor, side: int, spec: PackingSpec) -> Tensor:
    """(n, 3, side * p, side * p) images from their patches (n, side ** 2, 3 * p * p)."""
    m, p = spec.merge_size, spec.patch_size
    # patches come in blocks of m x m: (n, block row, block column, m, m, 3, p, p)
    blocks = patches.view(len(patches), side // m, side // m, m, m, 3, p, p)
    pixels = blocks.permute(0, 5, 1, 3, 6, 2, 4, 7)  # (n, 3, row, m, p, column, m, p)
    return pixels.reshape(len(patches), 3, side * p, side * p)
