"""Random-weight models of each family and their inputs, small enough to differentiate often."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import torch
from transformers import (
    AutoModelForImageTextToText,
    InternVLConfig,
    Qwen2_5_VLConfig,
    Qwen2VLConfig,
    Qwen3_5Config,
    Qwen3VLConfig,
    SmolVLMConfig,
)

from actial.config import ModelConfig, Reference
from actial.modeling.image_patches import num_features, patch_grid
from actial.modeling.policy import Policy
from actial.modeling.prefix_packing import Continuation, PrefixGroup

VOCAB, ALIAS, IMAGE, VIDEO, VISION_START, VISION_END, EOS = 300, 289, 290, 291, 292, 293, 299
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

_TEXT = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": None,
    "eos_token_id": EOS,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "mrope_section": [2, 3, 3],
    },
}
_IDS = {
    "image_token_id": IMAGE,
    "video_token_id": VIDEO,
    "vision_start_token_id": VISION_START,
    "vision_end_token_id": VISION_END,
}


def tiny_config(family: str = "qwen2_5_vl", *, patch: int = 8):
    if family == "qwen2_5_vl":
        vision = {
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "patch_size": patch,
            "window_size": 4 * patch,
            "out_hidden_size": 64,
            "fullatt_block_indexes": [1],
        }
        return Qwen2_5_VLConfig(text_config=dict(_TEXT), vision_config=vision, **_IDS)
    if family == "qwen2_vl":
        vision = {
            "depth": 2,
            "embed_dim": 32,
            "num_heads": 2,
            "patch_size": patch,
            "hidden_size": 64,
            "mlp_ratio": 2,
        }
        return Qwen2VLConfig(text_config=dict(_TEXT), vision_config=vision, **_IDS)
    if family in ("smolvlm", "internvl"):
        return _tiled_config(family, patch)
    vision = {
        "depth": 3,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "patch_size": patch,
        "out_hidden_size": 64,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0, 1],
    }
    rope = {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "mrope_section": [2, 3, 3],
        "mrope_interleaved": True,
    }
    text = {**_TEXT, "head_dim": 16, "rope_parameters": rope, "pad_token_id": None}
    if family == "qwen3_5":
        del vision["deepstack_visual_indexes"]
        return Qwen3_5Config(text_config=text | _HYBRID, vision_config=vision, **_IDS)
    return Qwen3VLConfig(text_config=text, vision_config=vision, **_IDS)


# two recurrent layers for each of attention, query heads that share keys, rotation of a part
_HYBRID = {
    "num_hidden_layers": 3,
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 12,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "mrope_section": [1, 2, 1],
        "mrope_interleaved": True,
        "partial_rotary_factor": 0.5,
    },
}


def _tiled_config(family: str, patch: int):
    """SmolVLM over a Llama, InternVL over a Qwen3; images of up to 8 x 8 patches."""
    vision = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 8 * patch,
        "patch_size": patch,
    }
    text = {**_TEXT, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}
    if family == "smolvlm":
        text |= {"model_type": "llama", "pad_token_id": None}
        return SmolVLMConfig(
            text_config=text, vision_config=vision, image_token_id=IMAGE, pad_token_id=None
        )
    text |= {"model_type": "qwen3", "head_dim": 16}
    return InternVLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=IMAGE,
        tie_word_embeddings=False,
    )


def tiny_model(family: str = "qwen2_5_vl", *, seed: int = 0, patch: int = 8):
    """Weights spread more widely than the library's default, so that attention is far from
    uniform.
    """
    torch.manual_seed(seed)
    model = AutoModelForImageTextToText.from_config(
        tiny_config(family, patch=patch), attn_implementation="sdpa"
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model.eval()


def tiny_policy(
    family: str = "qwen2_5_vl",
    *,
    seed: int = 0,
    patch: int = 8,
    reference: Reference = Reference.none,
    **settings,
) -> Policy:
    config = ModelConfig(
        path="tiny", **{"sequence_tokens": 96, "head_chunk_tokens": 16, **settings}
    )
    model = tiny_model(family, seed=seed, patch=patch)
    return Policy(model, config, image_mean=CLIP_MEAN, image_std=CLIP_STD, reference=reference)


def random_image(rng: random.Random, policy: Policy, rows: int, columns: int) -> np.ndarray:
    """Noise of rows x columns visual tokens; a square of the rows where the family wants one."""
    factor = policy.spec.factor
    columns = rows if policy.spec.tiled else columns
    noise = np.random.RandomState(rng.randrange(2**31))
    return noise.randint(0, 256, (rows * factor, columns * factor, 3), dtype=np.uint8)


def make_group(
    uid: str,
    policy: Policy,
    images: Sequence[np.ndarray],
    indices: Sequence[int],
    text: list[int],
    continuations: list[Continuation],
) -> PrefixGroup:
    """Text before, between and after the images, each image between vision marks."""
    ids = list(text)
    for index in indices:
        count = num_features(patch_grid(images[index], policy.spec), policy.spec)
        ids += [VISION_START, *[IMAGE] * count, VISION_END, text[0]]
    return PrefixGroup(uid, [*ids, *text], list(indices), continuations)


def random_continuation(
    rng: random.Random, length: int, *, stray: bool = False
) -> Continuation:
    """`stray` puts an image placeholder among the sampled tokens."""
    ids = [rng.randrange(ALIAS) for _ in range(length)]
    if stray and length:
        ids[rng.randrange(length)] = IMAGE
    return Continuation(ids, [rng.random() < 0.8 for _ in range(length)])
