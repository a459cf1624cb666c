"""Configurations of the real models, without their weights."""

from __future__ import annotations

from transformers import Qwen2_5_VLConfig

TEXT = {
    "3b": {
        "hidden_size": 2048,
        "intermediate_size": 11_008,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "vocab_size": 151_936,
    },
    "7b": {
        "hidden_size": 3584,
        "intermediate_size": 18_944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152_064,
    },
}


def qwen2_5_vl(size: str) -> Qwen2_5_VLConfig:
    """The shapes of Qwen2.5-VL-3B-Instruct or -7B-Instruct."""
    text = TEXT[size]
    vision = {
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "out_hidden_size": text["hidden_size"],
    }
    return Qwen2_5_VLConfig(
        text_config=dict(text), vision_config=vision, tie_word_embeddings=size == "3b"
    )
