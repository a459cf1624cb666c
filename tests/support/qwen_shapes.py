"""Configurations of the real models, without their weights."""

from __future__ import annotations

from transformers import PretrainedConfig, Qwen2_5_VLConfig, Qwen3VLConfig

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
# of Qwen3-VL; heads are 128 wide, 8 of keys and values
QWEN3_TEXT = {
    "2b": {
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
    },
    "4b": {
        "hidden_size": 2560,
        "intermediate_size": 9728,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
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


def qwen3_vl(size: str) -> Qwen3VLConfig:
    """The shapes of Qwen3-VL-2B-Instruct or -4B-Instruct; both tie the head to the embedding."""
    text = {
        **QWEN3_TEXT[size],
        "head_dim": 128,
        "num_key_value_heads": 8,
        "vocab_size": 151_936,
        "max_position_embeddings": 262_144,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 5_000_000,
            "mrope_section": [24, 20, 20],
            "mrope_interleaved": True,
        },
        "tie_word_embeddings": True,
    }
    vision = {
        "depth": 24,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_heads": 16,
        "patch_size": 16,
        "out_hidden_size": text["hidden_size"],
        "num_position_embeddings": 2304,
        "deepstack_visual_indexes": [5, 11, 17],
    }
    return Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True)


def released(name: str) -> PretrainedConfig:
    """The shapes of the model that conf/model/NAME.yaml names."""
    family, _, size = name.rpartition("_")
    return {"qwen2_5_vl": qwen2_5_vl, "qwen3_vl": qwen3_vl}[family](size)
